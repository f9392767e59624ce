"""A spool file that is cut short, flipped, emptied or replaced: kept aside, a new epoch, and every record sent or told.

The cloud of these tests keeps what it is sent by identity, as the real one does.
"""

import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from forewarn_edge_agent.sources import Position
from forewarn_edge_agent.spool import FILE_NAME, Batch, Spool, inspect
from forewarn_edge_agent.spool.identity import NAME as IDENTITY
from forewarn_models import wire
from tests.conftest import Broker, free_port, wait_until
from tests.edge_agent.conftest import (
    PUMP,
    SECONDS,
    AgentProcess,
    Cloud,
    Machine,
    agent,
    cloud,
    machine,
    mqtt_source,
    now_ms,
)
from tests.edge_agent.test_spool import NOW, a_row

__all__ = ["agent", "cloud", "machine"]  # fixtures

MIB = 1024 * 1024


def body(seq: int) -> bytes:
    return msgspec.msgpack.encode({"asset": "pump-1", "t": b"%08d" % seq * random.Random(seq).randrange(1, 300)})


def filled(folder: Path, records: int = 400, acknowledged: int = 100) -> tuple[str, dict[wire.Lane, dict[int, bytes]]]:
    """A spool with two lanes of which some is acknowledged; its epoch, and what the cloud does not have of it."""
    spool = Spool.open(folder, max_bytes=64 * MIB, now_ms=NOW)
    position = Position(source="s", row=7, shift_ms=0)
    spool.append(Batch(assets=(a_row(),), positions=(position,), counters={"records": 1}), now_ms=NOW)
    for seq in range(1, records + 1, 4):
        bodies = [body(seq + i) for i in range(4)]
        spool.append(Batch(telemetry=bodies, advisories=bodies if seq < 40 else []), now_ms=NOW)
    spool.acknowledge("telemetry", spool.epoch, acknowledged)
    spool.acknowledge("advisory", spool.epoch, 10)
    epoch = spool.epoch
    spool.close()
    lanes: tuple[wire.Lane, ...] = wire.LANES
    last = {"telemetry": records, "advisory": 40}
    first = {"telemetry": acknowledged + 1, "advisory": 11}
    return epoch, {lane: {seq: body(seq) for seq in range(first[lane], last[lane] + 1)} for lane in lanes}


def sent(spool: Spool) -> tuple[dict[tuple[str, str], dict[int, bytes]], dict[tuple[str, str], list[range]]]:
    """All that the uplink would send, and what of it tells of gaps, by lane and epoch."""
    records: dict[tuple[str, str], dict[int, bytes]] = {}
    gaps: dict[tuple[str, str], list[range]] = {}
    lanes: tuple[wire.Lane, ...] = wire.LANES
    for lane in lanes:
        while window := _window_of_earlier(spool, lane):
            for epoch, bodies in window.items():
                records.setdefault((lane, epoch), {}).update(bodies)
                spool.acknowledge(lane, epoch, max(bodies))
        after = 0
        while (found := spool.read(lane, after, max_records=500, max_bytes=MIB)) is not None:
            records.setdefault((lane, found.epoch), {}).update(enumerate(found.bodies, found.seq))
            after = found.last_seq
    for (lane_name, epoch), found_bodies in records.items():
        for seq, each in found_bodies.items():
            message = wire.encode_message(epoch, seq, [each])
            record = wire.decode_message(lane_name, message, now_ms=NOW).records[0].record  # type: ignore[arg-type]
            if isinstance(record, wire.Gap):
                told = range(record.first_seq, record.last_seq + 1)
                gaps.setdefault((lane_name, record.epoch or epoch), []).append(told)
    return records, gaps


def _window_of_earlier(spool: Spool, lane: wire.Lane) -> dict[str, dict[int, bytes]]:
    """What is sent of earlier epochs before anything is acknowledged."""
    mark, window = 0, dict[str, dict[int, bytes]]()
    while (chunk := spool.read_earlier(lane, mark, max_records=500, max_bytes=MIB, now_ms=NOW)) is not None:
        mark = chunk.mark
        window.setdefault(chunk.epoch, {}).update(enumerate(chunk.bodies, chunk.seq))
    return window


def untold(
    epoch: str,
    lacking: dict[wire.Lane, dict[int, bytes]],
    records: dict[tuple[str, str], dict[int, bytes]],
    gaps: dict[tuple[str, str], list[range]],
) -> list[tuple[str, int]]:
    """What of an epoch the cloud would neither get nor hear of; a record with another body fails at once."""
    missing = list[tuple[str, int]]()
    for lane, bodies in lacking.items():
        for seq, expected in bodies.items():
            got = records.get((lane, epoch), {}).get(seq)
            assert got in (None, expected), f"{lane} {seq} came with another body"
            if got is None and not any(seq in told for told in gaps.get((lane, epoch), [])):
                missing.append((lane, seq))
    return missing


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def flip_a_bit(path: Path, chance: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(chance.randrange(path.stat().st_size))
        old = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([old[0] ^ 1 << chance.randrange(8)]))


def flip_the_header(path: Path, chance: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(chance.randrange(100))
        old = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([old[0] ^ 1 << chance.randrange(8)]))


def zero_a_page(path: Path, chance: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * chance.randrange(path.stat().st_size // 4096))
        file.write(bytes(4096))


def empty(path: Path, _: random.Random) -> None:
    path.write_bytes(b"")


def not_a_database(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(path.stat().st_size))


def a_folder_in_its_place(path: Path, _: random.Random) -> None:
    path.unlink()
    path.mkdir()
    (path / "what").write_text("is this")


def gone(path: Path, _: random.Random) -> None:
    path.unlink()


DAMAGES = [truncate, flip_a_bit, flip_the_header, zero_a_page, empty, not_a_database, a_folder_in_its_place, gone]
Damage = Callable[[Path, random.Random], None]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("seed", range(6))
def test_fault_06_damaged_spool_file_every_record_is_sent_or_told(tmp_path: Path, damage: Damage, seed: int) -> None:
    epoch, lacking = filled(tmp_path)
    damage(tmp_path / FILE_NAME, random.Random(seed))
    started = time.monotonic()
    spool = Spool.open(tmp_path, max_bytes=64 * MIB, now_ms=NOW)
    assert time.monotonic() - started < 2.0
    spool, found = survive(spool, tmp_path)
    records, gaps = found
    assert untold(epoch, lacking, records, gaps) == []
    if damage not in (flip_a_bit, flip_the_header, zero_a_page):
        assert spool.epoch != epoch
        assert any(told_epoch == epoch for _, told_epoch in gaps), "a loss that may be is told"
    spool.append(Batch(telemetry=[b"\x80"]), now_ms=NOW)
    spool.close()


def survive(spool: Spool, folder: Path) -> tuple[Spool, tuple[dict, dict]]:  # type: ignore[type-arg]
    """What is sent; where the damage shows only then, the file is replaced, as the agent does it."""
    try:
        return spool, sent(spool)
    except sqlite3.Error as error:
        known, lock = spool.known(), spool.release()
        spool = Spool.open(folder, max_bytes=64 * MIB, now_ms=NOW, lock=lock, known=known, found=str(error))
        return spool, sent(spool)


def test_fault_06_most_of_a_file_with_one_bad_page_is_sent_all_the_same(tmp_path: Path) -> None:
    epoch, lacking = filled(tmp_path, records=4000)
    path = tmp_path / FILE_NAME
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)
    spool = Spool.open(tmp_path, max_bytes=64 * MIB, now_ms=NOW)
    spool, (records, gaps) = survive(spool, tmp_path)
    assert untold(epoch, lacking, records, gaps) == []
    assert len(records["telemetry", epoch]) > 3800 * 0.97
    assert spool.epoch != epoch
    assert (spool.assets(), spool.position("s")) == ([a_row()], Position(source="s", row=7, shift_ms=0))
    spool.close()
    assert path.with_name(f"{FILE_NAME}.damaged").exists()
    found = inspect(tmp_path)
    assert found is not None
    assert found.counters["spool_damaged"] == 1


@pytest.mark.parametrize("seed", range(8))
def test_fault_06_flipped_write_ahead_log_after_a_kill(tmp_path: Path, seed: int) -> None:
    """SQLite takes a damaged frame for the end of the log; what is behind it must not be given another body."""
    spool = Spool.open(tmp_path, max_bytes=64 * MIB, now_ms=NOW)
    epoch = spool.epoch
    for seq in range(1, 101):
        spool.append(Batch(telemetry=[body(seq)]), now_ms=NOW)
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in (FILE_NAME, f"{FILE_NAME}-wal", IDENTITY):
        shutil.copy(tmp_path / name, killed)
    spool.close()
    flip_a_bit(killed / f"{FILE_NAME}-wal", random.Random(seed))
    spool = Spool.open(killed, max_bytes=64 * MIB, now_ms=NOW)
    records, gaps = sent(spool)
    assert untold(epoch, {"telemetry": {seq: body(seq) for seq in range(1, 101)}}, records, gaps) == []
    assert spool.epoch != epoch or spool.last_seq("telemetry") >= 100, "or a sequence would be given twice"
    spool.close()


def test_fault_06_flipped_last_commit_after_a_kill_gives_no_sequence_twice(tmp_path: Path) -> None:
    """It looks like one that was torn when the power went; but it may have been sent."""
    spool = Spool.open(tmp_path, max_bytes=64 * MIB, now_ms=NOW)
    epoch = spool.epoch
    for seq in range(1, 11):
        spool.append(Batch(telemetry=[body(seq)]), now_ms=NOW)
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in (FILE_NAME, f"{FILE_NAME}-wal", IDENTITY):
        shutil.copy(tmp_path / name, killed)
    spool.close()
    wal = killed / f"{FILE_NAME}-wal"
    with wal.open("r+b") as file:
        file.seek(wal.stat().st_size - 10)
        file.write(b"flipped")
    spool = Spool.open(killed, max_bytes=64 * MIB, now_ms=NOW)
    spool.append(Batch(telemetry=[body(11)]), now_ms=NOW)
    records, gaps = sent(spool)
    assert untold(epoch, {"telemetry": {seq: body(seq) for seq in range(1, 11)}}, records, gaps) == []
    assert spool.epoch == epoch
    assert 10 not in records["telemetry", epoch]
    spool.close()


def test_fault_06_only_the_newest_damaged_file_is_kept_and_the_older_loss_is_told(tmp_path: Path) -> None:
    first, lacking = filled(tmp_path)
    zero_a_page(tmp_path / FILE_NAME, random.Random(3))
    os.truncate(tmp_path / FILE_NAME, 64 * 4096)
    spool = Spool.open(tmp_path, max_bytes=64 * MIB, now_ms=NOW)
    second = spool.epoch
    spool.append(Batch(telemetry=[body(1)]), now_ms=NOW)
    spool.close()
    empty(tmp_path / FILE_NAME, random.Random())
    spool = Spool.open(tmp_path, max_bytes=64 * MIB, now_ms=NOW)
    records, gaps = sent(spool)
    assert untold(first, lacking, records, gaps) == []
    assert untold(second, {"telemetry": {seq: body(1) for seq in (1, 2, 3)}}, records, gaps) == []
    assert len({first, second, spool.epoch}) == 3
    spool.close()


def test_fault_06_power_goes_while_the_damaged_file_is_replaced(tmp_path: Path) -> None:
    """Between the renaming and the first commit: the file that is aside is found again."""
    epoch, lacking = filled(tmp_path)
    path = tmp_path / FILE_NAME
    path.rename(path.with_name(f"{FILE_NAME}.damaged"))
    for unfinished in (False, True):
        if unfinished:
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
            connection.close()
        folder = tmp_path / str(unfinished)
        shutil.copytree(tmp_path, folder, ignore=shutil.ignore_patterns("False", "True"))
        spool = Spool.open(folder, max_bytes=64 * MIB, now_ms=NOW)
        records, gaps = sent(spool)
        assert spool.epoch != epoch
        assert untold(epoch, lacking, records, gaps) == []
        assert len(records["telemetry", epoch]) == len(lacking["telemetry"])
        spool.close()


def test_fault_06_one_flipped_body_costs_one_record(tmp_path: Path) -> None:
    epoch, lacking = filled(tmp_path)
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("UPDATE telemetry SET body = CAST(x'00' || substr(body, 2) AS BLOB) WHERE seq = 200")
    connection.close()
    spool = Spool.open(tmp_path, max_bytes=64 * MIB, now_ms=NOW)
    records, gaps = sent(spool)
    assert spool.epoch == epoch
    assert untold(epoch, lacking, records, gaps) == []
    assert gaps == {("telemetry", epoch): [range(200, 201)]}
    spool.close()


def test_fault_06_a_flipped_model_state_is_learned_anew(tmp_path: Path) -> None:
    filled(tmp_path)
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("UPDATE asset SET state = x'00'")
    connection.close()
    spool = Spool.open(tmp_path, max_bytes=64 * MIB, now_ms=NOW)
    assert spool.assets() == []
    spool.close()


@pytest.mark.e2e
def test_fault_06_agent_with_a_damaged_page_is_up_in_2_seconds_and_sends_the_rest(
    agent: AgentProcess, mosquitto: Broker, machine: Machine, cloud: Cloud
) -> None:
    last = now_ms()
    times = [last - 1000 * (300 - i) for i in range(300)]
    agent.configure(uplink_port=free_port(), source=mqtt_source(mosquitto.port), assets=PUMP)
    agent.start_listening()
    machine.send_samples(times)
    agent.wait_for_status(lambda s: s["lanes"]["telemetry"]["last_seq"] == 300, "all is in the spool")
    assert agent.stop() == 0
    path = agent.state_dir / FILE_NAME
    content = path.read_bytes()
    page = content.index(np.array([times[150]], dtype="<i8").tobytes()) // 4096
    path.write_bytes(content[: page * 4096] + b"\xff" * 4096 + content[page * 4096 + 4096 :])
    found = inspect(agent.state_dir)
    assert found is not None
    agent.configure(uplink_port=mosquitto.port, source=mqtt_source(mosquitto.port), assets=PUMP)
    agent.start()
    wait_until(lambda: "spool_damaged" in agent.log(), "it is noticed", SECONDS)
    wait_until(lambda: cloud.contiguous("telemetry", found.epoch) == 300, "the rest is sent, or told", SECONDS)
    machine.send_samples([last + 1000])
    wait_until(lambda: last + 1000 in cloud.times_ms(), "and it goes on", SECONDS)
    arrived = [
        seq for seq, got in cloud.lanes["telemetry", found.epoch].items() if isinstance(got.record, wire.Telemetry)
    ]
    assert len(arrived) > 200
    assert sorted({*arrived}) == sorted(arrived)
    assert set(times) - set(cloud.times_ms()) == {times[seq - 1] for seq in range(1, 301) if seq not in arrived}
    assert cloud.conflicts == []
    agent.wait_for_status(lambda s: all(lane["depth"] == 0 for lane in s["lanes"].values()), "all is acknowledged")
