"""The spool: sequences, acknowledgement, the cap, damage, and one agent at a time."""

import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from forewarn_edge_agent.sources import Position
from forewarn_edge_agent.spool import (
    FILE_NAME,
    AssetRow,
    Batch,
    Spool,
    SpoolInUseError,
    SpoolVersionError,
    inspect,
    opening,
    room,
    store,
)
from forewarn_models import wire

MIB = 1024 * 1024
NOW = 1_700_000_000_000
HOUR_MS = 3_600_000
Opener = Callable[..., Spool]


class Uptime:
    """How long the process has run, as the test has it."""

    def __init__(self) -> None:
        self.ms = 0

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def uptime() -> Uptime:
    return Uptime()


@pytest.fixture
def opened(tmp_path: Path, uptime: Uptime) -> Opener:
    """Opens the spool of the test; one at a time."""

    def open_spool(max_bytes: int = 16 * MIB, **options: Any) -> Spool:
        return Spool.open(tmp_path, max_bytes=max_bytes, now_ms=NOW, running_ms=uptime, **options)

    return open_spool


def append(spool: Spool, *bodies: bytes, lane: str = "telemetry") -> None:
    batch = Batch(telemetry=list(bodies)) if lane == "telemetry" else Batch(advisories=list(bodies))
    spool.append(batch, now_ms=NOW)


def everything(spool: Spool, lane: wire.Lane = "telemetry") -> dict[int, bytes]:
    """All that waits to be acknowledged, by sequence."""
    found: dict[int, bytes] = {}
    after = 0
    while (chunk := spool.read(lane, after, max_records=7, max_bytes=MIB)) is not None:
        found |= dict(enumerate(chunk.bodies, chunk.seq))
        after = chunk.last_seq
    return found


def held(spool: Spool, lane: wire.Lane = "telemetry") -> dict[int, bytes]:
    """All that can still be sent, acknowledged or not."""
    found: dict[int, bytes] = {}
    first = 1
    while (chunk := spool.read_range(lane, first, wire.MAX_SEQ, max_records=7, max_bytes=MIB)) is not None:
        found |= dict(enumerate(chunk.bodies, chunk.seq))
        first = chunk.last_seq + 1
    return found


def gaps(spool: Spool, lane: wire.Lane = "telemetry") -> list[range]:
    """What the gap records that can be read say is lost."""
    found = []
    for chunk in spool.read_gaps(lane, 0):
        message = wire.encode_message(spool.epoch, chunk.seq, chunk.bodies)
        (received,) = wire.decode_message(lane, message, now_ms=NOW).records
        assert isinstance(received.record, wire.Gap)
        found.append(range(received.record.first_seq, received.record.last_seq + 1))
    return found


def a_row(asset: str = "pump-1", state: bytes = b"state") -> AssetRow:
    return AssetRow(
        asset=asset,
        asset_type="generic",
        signals=("a", "b"),
        state=state,
        memory=None,
        condition="NORMAL",
        maturity="LEARNING",
        health_index=1.0,
        observed_at_ms=NOW,
        samples=3,
    )


def test_each_lane_has_its_own_sequence(opened: Opener) -> None:
    spool = opened()
    append(spool, b"a", b"b")
    append(spool, b"c", lane="advisory")
    append(spool, b"d")
    assert everything(spool) == {1: b"a", 2: b"b", 3: b"d"}
    assert everything(spool, "advisory") == {1: b"c"}
    spool.close()


def test_a_chunk_is_bounded_but_never_empty(opened: Opener) -> None:
    spool = opened()
    append(spool, b"12345", b"12345", b"12345")
    chunk = spool.read("telemetry", 0, max_records=10, max_bytes=3)
    assert chunk is not None
    assert (chunk.seq, chunk.bodies) == (1, (b"12345",))
    chunk = spool.read("telemetry", 1, max_records=1, max_bytes=100)
    assert chunk is not None
    assert (chunk.seq, chunk.last_seq) == (2, 2)
    spool.close()


def test_what_was_appended_is_there_after_a_restart(opened: Opener) -> None:
    spool = opened()
    epoch = spool.epoch
    spool.append(
        Batch(
            telemetry=[b"a"],
            assets=(a_row(),),
            positions=(Position(source="s", row=4, shift_ms=-5),),
            reply=wire.Reply(schema=1, id="c1", ok=True),
            counters={"records": 2},
        ),
        now_ms=NOW,
    )
    spool.append(Batch(counters={"records": 1}), now_ms=NOW)
    spool.close()
    spool = opened()
    assert spool.epoch == epoch
    assert everything(spool) == {1: b"a"}
    assert spool.assets() == [a_row()]
    assert spool.position("s") == Position(source="s", row=4, shift_ms=-5)
    assert spool.position("t") is None
    assert spool.reply("c1") == wire.Reply(schema=1, id="c1", ok=True)
    assert spool.reply("c2") is None
    spool.close()


def test_a_sequence_is_never_given_twice_even_when_the_spool_ran_empty(opened: Opener) -> None:
    spool = opened(keep_acknowledged_hours=0)
    append(spool, b"a", lane="advisory")
    assert spool.acknowledge("advisory", spool.epoch, 1)
    assert held(spool, "advisory") == {}
    assert spool.first_seq("advisory") == 2
    spool.close()
    spool = opened()
    append(spool, b"b", lane="advisory")
    assert everything(spool, "advisory") == {2: b"b"}
    spool.close()


@pytest.mark.parametrize(("epoch", "seq"), [("other", 1), (None, 3), (None, 0), (None, -1)])
def test_an_acknowledgement_that_cannot_be_changes_nothing(opened: Opener, epoch: str | None, seq: int) -> None:
    spool = opened()
    append(spool, b"a", b"b")
    assert not spool.acknowledge("telemetry", epoch or spool.epoch, seq)
    assert everything(spool) == {1: b"a", 2: b"b"}
    spool.close()


def test_an_old_acknowledgement_does_not_go_back(opened: Opener) -> None:
    spool = opened()
    append(spool, b"a", b"b", b"c")
    assert spool.acknowledge("telemetry", spool.epoch, 2)
    assert not spool.acknowledge("telemetry", spool.epoch, 1)
    assert everything(spool) == {3: b"c"}
    spool.close()


def test_acknowledged_telemetry_stays_until_the_models_have_it_in_a_checkpoint(opened: Opener) -> None:
    spool = opened(keep_acknowledged_hours=0)
    append(spool, b"a", b"b")
    spool.acknowledge("telemetry", spool.epoch, 2)
    assert list(spool.records_since_checkpoint()) == [b"a", b"b"]
    assert everything(spool) == {}, "but it is not sent again"
    assert held(spool) == {1: b"a", 2: b"b"}
    spool.append(Batch(assets=(a_row(),)), now_ms=NOW)
    assert list(spool.records_since_checkpoint()) == []
    append(spool)
    assert held(spool) == {}
    spool.close()


def test_what_the_cloud_has_is_kept_for_a_while_and_can_be_read_again(opened: Opener, uptime: Uptime) -> None:
    spool = opened(keep_acknowledged_hours=24)
    append(spool, b"a", b"b")
    append(spool, b"c", lane="advisory")
    uptime.ms += HOUR_MS
    append(spool, b"d")
    spool.acknowledge("telemetry", spool.epoch, 2)
    spool.acknowledge("advisory", spool.epoch, 1)
    spool.append(Batch(assets=(a_row(),)), now_ms=NOW)
    assert (everything(spool), held(spool)) == ({3: b"d"}, {1: b"a", 2: b"b", 3: b"d"})
    assert (spool.first_seq("telemetry"), spool.first_seq("advisory")) == (1, 1)
    chunk = spool.read_range("telemetry", 2, 2, max_records=10, max_bytes=MIB)
    assert chunk is not None
    assert (chunk.epoch, chunk.seq, chunk.bodies, chunk.spooled_at_ms) == (spool.epoch, 2, (b"b",), NOW)
    uptime.ms += 23 * HOUR_MS
    append(spool)
    assert (held(spool), held(spool, "advisory")) == ({3: b"d"}, {})
    assert spool.first_seq("telemetry") == 3
    uptime.ms += 24 * HOUR_MS
    append(spool)
    assert held(spool) == {3: b"d"}, "what the cloud does not have is not forgotten"
    spool.close()


def test_the_archive_goes_in_pieces_so_that_no_commit_takes_long(
    opened: Opener, uptime: Uptime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "TRIMMED_AT_ONCE", 3)
    spool = opened()
    spool.append(Batch(advisories=[b"x"] * 10), now_ms=NOW)
    uptime.ms += 25 * HOUR_MS
    spool.acknowledge("advisory", spool.epoch, 8)
    left = [len(held(spool, "advisory"))]
    for _ in range(4):
        append(spool)
        left.append(len(held(spool, "advisory")))
    assert left == [7, 4, 2, 2, 2]
    spool.close()


def test_what_is_no_longer_held_of_a_range_is_told(opened: Opener, tmp_path: Path) -> None:
    spool = opened()
    append(spool, *[b"x"] * 9)
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("DELETE FROM telemetry WHERE seq IN (1, 2, 5)")
    connection.close()
    assert spool.held_ranges("telemetry", 1, 9) == [(3, 4), (6, 9)]
    assert spool.held_ranges("telemetry", 6, 7) == [(6, 7)]
    assert spool.held_ranges("telemetry", 1, 2) == []
    assert spool.tell_missing("telemetry", 2, 10**6, now_ms=NOW) == [(2, 2), (5, 5)]
    assert gaps(spool) == [range(2, 3), range(5, 6)]
    assert spool.tell_missing("telemetry", 6, 9, now_ms=NOW) == []
    spool.close()
    spool = opened()
    assert gaps(spool) == [range(2, 3), range(5, 6)]
    spool.close()


def test_the_last_records_can_be_recognised(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "KEPT_DIGESTS", 3)
    spool = opened()
    append(spool, b"a", b"b")
    append(spool, b"c", b"d")
    spool.close()
    spool = opened()
    assert spool.recent_digests() == [wire.digest(body) for body in (b"b", b"c", b"d")]
    spool.close()


def test_a_chunk_ends_at_a_hole(opened: Opener, tmp_path: Path) -> None:
    """None can come about; but numbering what follows wrongly would be the worst of errors."""
    spool = opened()
    append(spool, b"a", b"b", b"c")
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("DELETE FROM telemetry WHERE seq = 2")
    connection.close()
    assert everything(spool) == {1: b"a", 3: b"c"}
    spool.close()


def test_at_the_cap_the_oldest_telemetry_goes_and_the_cloud_is_told(opened: Opener, tmp_path: Path) -> None:
    spool = opened(max_bytes=MIB)
    append(spool, b"keep me", lane="advisory")
    sent = {seq: seq.to_bytes(2, "big") * 1000 for seq in range(1, 1501)}
    for seq in sent:
        append(spool, seq.to_bytes(2, "big") * 1000)
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= MIB
    left = everything(spool)
    told = gaps(spool)
    lost = set().union(*told)
    assert set(left) | lost == set(range(1, spool.last_seq("telemetry") + 1))
    assert lost, "3 MB do not fit into 1 MiB"
    assert max(lost) < max(left)
    assert everything(spool, "advisory") == {1: b"keep me"}
    spool.close()
    found = inspect(tmp_path)
    assert found is not None
    assert found.lanes["telemetry"].dropped == 1500 - len([body for body in left.values() if len(body) == 2000])
    assert found.gaps["telemetry"] == [(gap.start, gap.stop - 1) for gap in told]


def test_a_batch_that_is_larger_than_the_spool_keeps_its_end(opened: Opener) -> None:
    spool = opened(max_bytes=MIB)
    append(spool, *(seq.to_bytes(2, "big") * 1000 for seq in range(1, 1501)))
    left = everything(spool)
    assert left[1500] == (1500).to_bytes(2, "big") * 1000
    assert set(left) | set(*gaps(spool)) == set(range(1, 1502))
    spool.close()


def test_what_the_cloud_has_is_dropped_without_a_gap(opened: Opener, tmp_path: Path) -> None:
    spool = opened(max_bytes=MIB)
    for _ in range(150):
        append(spool, *[b"x" * 2000] * 10)
        spool.acknowledge("telemetry", spool.epoch, spool.last_seq("telemetry"))
    assert gaps(spool) == []
    spool.close()
    found = inspect(tmp_path)
    assert found is not None
    assert found.lanes["telemetry"].dropped == 0


def test_when_telemetry_is_gone_the_oldest_advisories_go(opened: Opener) -> None:
    spool = opened(max_bytes=MIB)
    for _ in range(100):
        append(spool, *[b"x" * 2000] * 8, lane="advisory")
    assert set(everything(spool, "advisory")) | set().union(*gaps(spool, "advisory")) == set(
        range(1, spool.last_seq("advisory") + 1)
    )
    assert gaps(spool, "advisory")
    spool.close()


def test_a_failed_append_leaves_nothing_behind(opened: Opener) -> None:
    spool = opened()
    append(spool, b"a")
    broken = a_row(state="no bytes")  # type: ignore[arg-type] # STRICT tables refuse it, as a full disk would
    with pytest.raises(sqlite3.IntegrityError):
        spool.append(Batch(telemetry=[b"b"], assets=(broken,), counters={"records": 1}), now_ms=NOW)
    append(spool, b"c")
    assert everything(spool) == {1: b"a", 2: b"c"}
    spool.close()


@pytest.mark.parametrize("damage", ["truncated", "zeros", "empty", "text"])
def test_a_damaged_file_is_kept_aside_and_a_new_epoch_begins(opened: Opener, tmp_path: Path, damage: str) -> None:
    spool = opened()
    epoch = spool.epoch
    append(spool, *[b"x" * 3000] * 100)
    spool.close()
    path = tmp_path / FILE_NAME
    good = path.read_bytes()
    path.write_bytes(
        {
            "truncated": good[: len(good) // 2],
            "zeros": good[:4096] + bytes(len(good) - 4096),
            "empty": b"",
            "text": b"this is no database " * 1000,
        }[damage]
    )
    spool = opened()
    assert spool.epoch != epoch
    append(spool, b"new")
    assert everything(spool)[spool.last_seq("telemetry")] == b"new"
    assert (tmp_path / f"{FILE_NAME}.damaged").exists()
    spool.close()
    found = inspect(tmp_path)
    assert found is not None
    assert found.counters == {"spool_damaged": 1}


def test_a_file_of_a_newer_agent_is_left_alone(opened: Opener, tmp_path: Path) -> None:
    opened().close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SpoolVersionError, match="a newer agent"):
        opened()
    assert not (tmp_path / f"{FILE_NAME}.damaged").exists()


VERSION_1 = """
CREATE TABLE spool (
    epoch TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    checkpoint_seq INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE lane (
    lane TEXT PRIMARY KEY CHECK (lane IN ('telemetry', 'advisory')),
    acknowledged_seq INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO lane (lane) VALUES ('telemetry'), ('advisory');
CREATE TABLE telemetry (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    spooled_at_ms INTEGER NOT NULL,
    is_gap INTEGER NOT NULL DEFAULT 0 CHECK (is_gap IN (0, 1)),
    body BLOB NOT NULL
) STRICT;
CREATE TABLE advisory (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    spooled_at_ms INTEGER NOT NULL,
    is_gap INTEGER NOT NULL DEFAULT 0 CHECK (is_gap IN (0, 1)),
    body BLOB NOT NULL
) STRICT;
CREATE TABLE recent (seq INTEGER PRIMARY KEY, digest BLOB NOT NULL) STRICT;
CREATE INDEX telemetry_gaps ON telemetry (seq) WHERE is_gap = 1;
CREATE INDEX advisory_gaps ON advisory (seq) WHERE is_gap = 1;
CREATE TABLE asset (
    asset TEXT PRIMARY KEY,
    asset_type TEXT NOT NULL,
    signals TEXT NOT NULL,
    state BLOB NOT NULL,
    memory BLOB,
    condition TEXT NOT NULL,
    maturity TEXT NOT NULL,
    health_index REAL,
    observed_at_ms INTEGER NOT NULL,
    samples INTEGER NOT NULL
) STRICT;
CREATE TABLE position (source TEXT PRIMARY KEY, row INTEGER NOT NULL, shift_ms INTEGER NOT NULL) STRICT;
CREATE TABLE command (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    reply BLOB NOT NULL
) STRICT;
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
INSERT INTO spool (epoch, created_at_ms, checkpoint_seq) VALUES ('0123456789abcdef', 1, 2);
INSERT INTO telemetry (spooled_at_ms, body) VALUES (1, x'61'), (1, x'62'), (1, x'63');
INSERT INTO recent VALUES (2, x'00'), (3, x'01');
INSERT INTO asset VALUES ('pump-1', 'generic', 'a b', x'7374617465', NULL, 'NORMAL', 'LEARNING', 1.0, 1700000000000, 3);
UPDATE lane SET acknowledged_seq = 1 WHERE lane = 'telemetry';
PRAGMA user_version = 1;
"""


def test_a_file_of_version_1_goes_on_as_it_was(opened: Opener, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.executescript(VERSION_1)
    connection.close()
    for _ in range(2):
        spool = opened()
        assert spool.epoch == "0123456789abcdef"
        assert everything(spool) == {2: b"b", 3: b"c"}
        assert (spool.assets(), list(spool.records_since_checkpoint())) == ([a_row()], [b"c"])
        assert spool.recent_digests() == [b"\0", b"\1"]
        spool.close()
    spool = opened()
    append(spool, b"d")
    assert everything(spool) == {2: b"b", 3: b"c", 4: b"d"}
    spool.close()


def test_two_agents_cannot_share_a_spool(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "LOCK_SECONDS", 0.1)
    first = opened()
    with pytest.raises(SpoolInUseError, match="another agent"):
        opened()
    first.close()
    opened().close()


def test_it_can_be_inspected_while_it_is_used(opened: Opener, tmp_path: Path) -> None:
    assert inspect(tmp_path) is None
    spool = opened()
    append(spool, b"a", b"b")
    spool.append(Batch(assets=(a_row(),)), now_ms=NOW)
    spool.acknowledge("telemetry", spool.epoch, 1)
    found = inspect(tmp_path)
    assert found is not None
    lane = found.lanes["telemetry"]
    assert (found.in_use, found.epoch) == (True, spool.epoch)
    assert (lane.last_seq, lane.acknowledged_seq, lane.depth, lane.oldest_at_ms) == (2, 1, 1, NOW)
    assert found.assets == [a_row()]
    append(spool, b"c")  # the reader does not stand in the way
    spool.close()
    found = inspect(tmp_path)
    assert found is not None
    assert (found.in_use, found.lanes["telemetry"].last_seq) == (False, 3)


def test_answered_commands_are_bounded(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "KEPT_COMMANDS", 3)
    spool = opened()
    for i in range(5):
        spool.append(Batch(reply=wire.Reply(schema=1, id=f"c{i}", ok=True)), now_ms=NOW)
    assert [spool.reply(f"c{i}") is not None for i in range(5)] == [False, False, True, True, True]
    spool.close()


class SpoolMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: what was appended and not acknowledged is there, or told as a gap."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.open()
        self.given: dict[int, bytes] = {}
        self.acknowledged = 0

    def open(self) -> None:
        self.spool = Spool.open(Path(self.folder.name), max_bytes=MIB, now_ms=NOW)

    @rule(sizes=st.lists(st.integers(1, 60_000), min_size=1, max_size=30))
    def append(self, sizes: list[int]) -> None:
        before = self.spool.last_seq("telemetry")
        bodies = [bytes([size % 256]) * size for size in sizes]
        append(self.spool, *bodies)
        self.given |= dict(enumerate(bodies, before + 1))

    @rule()
    def checkpoint(self) -> None:
        self.spool.append(Batch(assets=(a_row(),)), now_ms=NOW)

    @rule(share=st.floats(0, 1.2))
    def acknowledge(self, share: float) -> None:
        seq = round(self.spool.last_seq("telemetry") * share)
        news = self.acknowledged < seq <= self.spool.last_seq("telemetry")
        assert self.spool.acknowledge("telemetry", self.spool.epoch, seq) == news
        self.acknowledged = seq if news else self.acknowledged

    @rule()
    def restart(self) -> None:
        self.spool.close()
        self.open()

    @invariant()
    def nothing_is_lost_untold(self) -> None:
        left = everything(self.spool)
        told = set().union(*gaps(self.spool))
        last = self.spool.last_seq("telemetry")
        assert set(left) | told >= set(range(self.acknowledged + 1, last + 1))
        assert all(body == self.given[seq] for seq, body in left.items() if seq in self.given)
        assert min(held(self.spool), default=last + 1) == self.spool.first_seq("telemetry")

    def teardown(self) -> None:
        self.spool.close()
        self.folder.cleanup()


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
