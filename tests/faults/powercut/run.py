"""Cuts the power while a spool works, again and again, and looks at what is left; one JSON line at the end.

What `append` has returned from must be there, whole and under its sequence; a file that had to be replaced counts as
unreadable. Runs with the same seed are the same.
"""

import argparse
import itertools
import json
import random
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import msgspec

from forewarn_edge_agent.spool import AssetRow, Batch, Spool, inspect
from forewarn_models import wire
from tests.faults.powercut.connection import connector
from tests.faults.powercut.vfs import Disk, Fate, PowerCutError

MIB: Final = 1024 * 1024
NOW: Final = 1_700_000_000_000
FATES: Final[tuple[Fate, ...]] = ("nothing", "some", "all")
LONGEST: Final = 1200
"""Writes and syncs of one round; the power goes before one of them."""
_NUMBER: Final = itertools.count()


@dataclass(kw_only=True)
class Result:
    seed: int
    cuts: int = 0
    records: int = 0
    lost: int = 0
    changed: int = 0
    unreadable: int = 0


@dataclass(kw_only=True)
class _Expected:
    """What the spool has confirmed, over all rounds on one state directory."""

    lanes: dict[wire.Lane, dict[int, bytes]]
    acknowledged: dict[wire.Lane, int]
    state: bytes = b""
    offered: bytes = b""
    """State of the batch that was under way when the power went."""


def run(folder: Path, seed: int, cuts: int, synchronous: str | None = None) -> Result:
    chance, result = random.Random(seed), Result(seed=seed)
    expected = _Expected(lanes={"telemetry": {}, "advisory": {}}, acknowledged={"telemetry": 0, "advisory": 0})
    while result.cuts < cuts:
        name = f"forewarn-{next(_NUMBER)}"
        disk = Disk(name, cut_before=chance.randrange(1, LONGEST))
        with suppress(PowerCutError):
            connect = connector(name, synchronous=synchronous)
            spool = Spool.open(folder, max_bytes=2 * MIB, now_ms=NOW, connect=connect)
            try:
                _work(spool, chance, expected, result)
            finally:
                _let_go(spool)
        disk.is_off = True
        disk.settle(chance.choice(FATES), chance)
        result.cuts += 1
        _look(folder, expected, result)
    return result


def _let_go(spool: Spool) -> None:
    lock = spool.release()
    assert lock is not None
    lock.close()


def _work(spool: Spool, chance: random.Random, expected: _Expected, result: Result) -> None:
    while True:
        bodies = [_body(chance) for _ in range(chance.randrange(1, 6))]
        advisories = [_body(chance)] if chance.random() < 0.2 else []
        expected.offered = chance.randbytes(chance.randrange(10, 9000))
        assets = (_row(expected.offered),) if chance.random() < 0.3 else None
        before = {lane: spool.last_seq(lane) for lane in wire.LANES}
        spool.append(Batch(telemetry=bodies, advisories=advisories, assets=assets), now_ms=NOW)
        appended_to: dict[wire.Lane, list[bytes]] = {"telemetry": bodies, "advisory": advisories}
        for lane, appended in appended_to.items():
            last = spool.last_seq(lane)  # behind them there may be a gap record
            first = next(seq for seq in range(before[lane] + 1, last + 2) if _holds(spool, lane, seq, appended))
            expected.lanes[lane] |= dict(enumerate(appended, first))
        expected.state = expected.offered if assets else expected.state
        result.records += len(bodies) + len(advisories)
        if chance.random() < 0.3:
            lane = chance.choice(wire.LANES)
            upto = chance.randrange(expected.acknowledged[lane], spool.last_seq(lane) + 1)
            if spool.acknowledge(lane, spool.epoch, upto):
                expected.acknowledged[lane] = upto


def _holds(spool: Spool, lane: wire.Lane, seq: int, appended: list[bytes]) -> bool:
    if not appended:
        return True
    chunk = spool.read_range(lane, seq, seq, max_records=1, max_bytes=MIB)
    return chunk is not None and chunk.bodies[0] == appended[0]


def _look(folder: Path, expected: _Expected, result: Result) -> None:
    """With the `sqlite3` of Python, on the files as they are."""
    spool = Spool.open(folder, max_bytes=2 * MIB, now_ms=NOW)
    for lane, bodies in expected.lanes.items():
        held = _all(spool, lane)
        told = _told(held)
        for seq, body in bodies.items():
            if seq in held:
                result.changed += held[seq] != body
            elif seq > spool.acknowledged_seq(lane) and not any(seq in gap for gap in told):
                result.lost += 1
        expected.lanes[lane] = {seq: body for seq, body in bodies.items() if seq in held}
        result.lost += spool.acknowledged_seq(lane) < expected.acknowledged[lane]
        expected.acknowledged[lane] = spool.acknowledged_seq(lane)
    states = [row.state for row in spool.assets()]
    result.changed += bool(expected.state) and states not in ([expected.state], [expected.offered])
    expected.state = states[0] if states else b""
    spool.close()
    found = inspect(folder)
    assert found is not None
    result.unreadable = found.counters.get("spool_damaged", 0)


def _all(spool: Spool, lane: wire.Lane) -> dict[int, bytes]:
    held, first = dict[int, bytes](), 1
    while (chunk := spool.read_range(lane, first, wire.MAX_SEQ, max_records=500, max_bytes=MIB)) is not None:
        held |= dict(enumerate(chunk.bodies, chunk.seq))
        first = chunk.last_seq + 1
    return held


def _told(held: dict[int, bytes]) -> list[range]:
    gaps = [msgspec.msgpack.decode(body) for body in held.values() if b"\xa3gap" in body[:8]]
    return [range(gap["gap"][0], gap["gap"][1] + 1) for gap in gaps]


def _body(chance: random.Random) -> bytes:
    return msgspec.msgpack.encode({"record": chance.randbytes(chance.choice((20, 200, 6000)))})


def _row(state: bytes) -> AssetRow:
    return AssetRow(
        asset="pump-1",
        asset_type="generic",
        signals=("a",),
        state=state,
        memory=None,
        condition="NORMAL",
        maturity="MATURE",
        health_index=1.0,
        observed_at_ms=NOW,
        samples=1,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), given.seed, given.cuts)
    print(json.dumps(asdict(result)))
    return int(bool(result.lost or result.changed or result.unreadable))


if __name__ == "__main__":
    sys.exit(main())
