"""The wall clock jumps, or the node is offline for days: order, age and the cap hold, and every drop is told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from forewarn_edge_agent.spool import Batch, Spool, inspect
from tests.edge_agent.test_spool import HOUR_MS, MIB, NOW, Uptime, everything, gaps, held, opened, uptime

__all__ = ["opened", "uptime"]  # fixtures
DAY_MS = 24 * HOUR_MS
YEAR_MS = 365 * DAY_MS
Opener = Callable[..., Spool]


@pytest.mark.parametrize(
    "jump",
    [-HOUR_MS, HOUR_MS, -NOW, 3 * YEAR_MS, 2**31 * 1000 - NOW + DAY_MS, 80 * YEAR_MS],
    ids=["back 1 h", "forward 1 h", "to 1970", "forward 3 years", "beyond 2038", "beyond 2100"],
)
def test_fault_09_clock_jump_reorders_loses_and_drops_nothing(opened: Opener, uptime: Uptime, jump: int) -> None:
    spool = opened()
    for i in range(10):
        spool.append(Batch(telemetry=[b"%d" % i], advisories=[b"%d" % i]), now_ms=NOW + i)
        uptime.ms += 1000
    for i in range(10, 20):
        spool.append(Batch(telemetry=[b"%d" % i], advisories=[b"%d" % i]), now_ms=NOW + jump + i)
        uptime.ms += 1000
    spool.close()
    spool = opened()
    spool.append(Batch(telemetry=[b"20"], advisories=[b"20"]), now_ms=NOW + 20)
    for lane in ("telemetry", "advisory"):
        assert everything(spool, lane) == {i + 1: b"%d" % i for i in range(21)}
    assert gaps(spool) == []
    assert spool.acknowledge("telemetry", spool.epoch, 20)
    spool.append(Batch(assets=()), now_ms=NOW + jump)
    assert len(held(spool)) == 21, "nor does the archive age"
    spool.close()


def test_fault_10_offline_for_more_than_7_days_drops_the_oldest_telemetry_and_tells(
    opened: Opener, uptime: Uptime, tmp_path: Path
) -> None:
    """A record every 10 minutes for 9 days; advisories are not dropped by age."""
    spool = opened(max_days=7)
    spooled_at: dict[int, int] = {}
    for step in range(9 * 24 * 6):
        before = spool.last_seq("telemetry")
        spool.append(Batch(telemetry=[b"%d" % step], advisories=[b"a"] if step % 144 == 0 else []), now_ms=NOW)
        spooled_at[before + 1] = uptime.ms
        uptime.ms += 10 * 60_000
        if step % 300 == 0:
            spool.close()
            spool = opened(max_days=7)  # age survives a restart
    left = everything(spool)
    lost = set().union(*gaps(spool))
    assert set(left) | lost == set(range(1, spool.last_seq("telemetry") + 1))
    ages = [(uptime.ms - at) / DAY_MS for seq, at in spooled_at.items() if seq in left]
    assert 6.8 < max(ages) <= 7.1
    assert len(gaps(spool)) < 40, "each drop costs a record itself"
    assert len(everything(spool, "advisory")) == 9
    spool.close()
    found = inspect(tmp_path)
    assert found is not None
    assert found.lanes["telemetry"].dropped == len([seq for seq in spooled_at if seq not in left])


def test_fault_10_the_cap_holds_on_the_disk_with_the_write_ahead_log(tmp_path: Path) -> None:
    """Three times as much is appended; after each commit all files together are within the cap, and all is told."""
    cap = 16 * MIB
    spool = Spool.open(tmp_path, max_bytes=cap, now_ms=NOW)
    largest = 0
    for i in range(1000):
        spool.append(Batch(telemetry=[b"%d" % i * 200] * 40, advisories=[b"kept"] if i % 100 == 0 else []), now_ms=NOW)
        if i < 200:
            spool.acknowledge("telemetry", spool.epoch, spool.last_seq("telemetry"))
        largest = max(largest, sum(file.stat().st_size for file in tmp_path.iterdir()))
    assert cap * 0.8 < largest <= cap
    waiting, told = set(everything(spool)), set().union(*gaps(spool))
    unacknowledged = range(spool.acknowledged_seq("telemetry") + 1, spool.last_seq("telemetry") + 1)
    assert waiting | told >= set(unacknowledged)
    assert len(everything(spool, "advisory")) == 10
    spool.close()
