"""A disk that is full, read-only or failing: the agent goes on from memory, and goes back by itself."""

import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from forewarn_edge_agent import storage as storage_module
from forewarn_edge_agent.spool import Batch, Spool, inspect
from forewarn_edge_agent.storage import Place, Storage
from forewarn_models import wire
from tests.conftest import require, wait_until
from tests.edge_agent.conftest import SECONDS, AgentProcess, Cloud, Machine, agent, cloud, machine, now_ms
from tests.edge_agent.test_spool import NOW, a_row
from tests.faults.test_spool_damage import body, sent, untold

MIB = 1024 * 1024
__all__ = ["agent", "cloud", "machine"]  # fixtures


def recent(n: int) -> list[int]:
    last = now_ms()
    return [last - 1000 * (n - 1 - i) for i in range(n)]


def forbid_growth(process: "subprocess.Popen[bytes]") -> None:
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


def allow_growth(process: "subprocess.Popen[bytes]") -> None:
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.e2e
def test_fault_08_disk_that_refuses_to_write_agent_goes_on_from_memory_and_back(
    agent: AgentProcess, machine: Machine, cloud: Cloud
) -> None:
    process = agent.start()
    wait_until(lambda: "source_up" in agent.log(), "the source is connected", SECONDS)
    times = recent(60)
    machine.send_samples(times[:20])
    agent.wait_for_status(lambda s: s["lanes"]["telemetry"]["acknowledged_seq"] == 20, "the first ones")
    forbid_growth(process)
    machine.send_samples(times[20:40])
    wait_until(lambda: "spool_in_memory" in agent.log(), "it says so", SECONDS)
    wait_until(lambda: cloud.times_ms() == times[:40] or sorted(cloud.times_ms()) == times[:40], "all arrive", SECONDS)
    allow_growth(process)
    cloud.acknowledges = False
    machine.send_samples(times[40:50])
    wait_until(lambda: "spool_on_disk_again" in agent.log(), "it goes back by itself", SECONDS)
    machine.send_samples(times[50:])
    cloud.acknowledges = True
    wait_until(lambda: sorted(cloud.times_ms()) == times, "every sample is in the cloud, once", SECONDS)
    assert process.poll() is None
    assert cloud.conflicts == []
    assert agent.stop() == 0
    found = inspect(agent.state_dir)
    assert found is not None
    assert found.assets[0].samples == 60, "what was learned meanwhile is kept"
    assert found.counters["disk_failures"] == 1
    assert found.counters["records"] == 60


@pytest.mark.e2e
def test_fault_08_sigterm_ends_it_in_time_while_the_disk_refuses(
    agent: AgentProcess, machine: Machine, cloud: Cloud
) -> None:
    process = agent.start()
    wait_until(lambda: "source_up" in agent.log(), "the source is connected", SECONDS)
    forbid_growth(process)
    times = recent(30)
    machine.send_samples(times)
    wait_until(lambda: sorted(cloud.times_ms()) == times, "all arrive", SECONDS)
    assert agent.stop(within_seconds=10.0) == 0
    assert "Traceback" not in agent.log()


@pytest.mark.e2e
def test_fault_08_read_only_state_directory_at_start_is_no_crash_loop(
    agent: AgentProcess, machine: Machine, cloud: Cloud, tmpfs: Path
) -> None:
    """With what was learned before: the file can be read, only not written."""
    agent.start_listening()
    times = recent(40)
    machine.send_samples(times[:20])
    agent.wait_for_status(lambda s: s["lanes"]["telemetry"]["acknowledged_seq"] == 20, "the first ones")
    assert agent.stop() == 0
    for file in list(agent.state_dir.iterdir()):
        if file.is_file():  # and not the socket of the status
            (tmpfs / file.name).write_bytes(file.read_bytes())
        file.unlink()
    agent.state_dir.rmdir()
    agent.state_dir.symlink_to(tmpfs)
    subprocess.run(["mount", "-o", "remount,ro", str(tmpfs)], check=True)
    process = agent.start()
    wait_until(lambda: agent.log().count("source_up") == 2, "the source is connected", SECONDS)
    machine.send_samples(times[20:])
    wait_until(lambda: sorted(cloud.times_ms()) == times, "all arrive", SECONDS)
    assert "spool_in_memory" in agent.log()
    subprocess.run(["mount", "-o", "remount,rw", str(tmpfs)], check=True)
    wait_until(lambda: "spool_on_disk_again" in agent.log(), "it goes back by itself", SECONDS)
    assert process.poll() is None
    assert agent.stop() == 0
    found = inspect(agent.state_dir)
    assert found is not None
    assert found.assets[0].samples == 40
    assert cloud.conflicts == []


def test_fault_07_full_disk_and_free_again_without_a_restart(tmpfs: Path) -> None:
    """8 MiB of disk, of which others take all; what is appended meanwhile is sent, or told."""
    storage = Storage(Place(state_dir=tmpfs / "state", max_bytes=4 * MIB), lambda: NOW)
    storage.states = lambda: [a_row()]
    for seq in range(1, 101):
        storage.append(Batch(telemetry=[body(seq)]), now_ms=NOW)
    on_disk = storage.epoch
    ballast = tmpfs / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    seq = 100
    while not storage.in_memory:
        seq += 1
        storage.append(Batch(telemetry=[body(seq)]), now_ms=NOW)
    kept_on_disk, in_memory = seq - 1, storage.epoch
    for seq in range(kept_on_disk + 2, kept_on_disk + 51):
        storage.append(Batch(telemetry=[body(seq)], advisories=[body(seq)]), now_ms=NOW)
    assert storage.acknowledge("telemetry", in_memory, 10)
    ballast.unlink()
    wait_until(lambda: _is_back(storage), "it goes back to the disk")
    assert storage.epoch == on_disk
    assert storage.assets() == [a_row()]
    storage.close()
    spool = Spool.open(tmpfs / "state", max_bytes=4 * MIB, now_ms=NOW)
    records, gaps = sent(spool)
    assert gaps == {}
    assert records["telemetry", on_disk] == {seq: body(seq) for seq in range(1, kept_on_disk + 1)}
    assert records["telemetry", in_memory] == {seq: body(kept_on_disk + seq) for seq in range(11, 51)}
    assert records["advisory", in_memory] == {seq: body(kept_on_disk + 1 + seq) for seq in range(1, 50)}
    spool.close()


def _is_back(storage: Storage) -> bool:
    storage.last_seq("telemetry")
    return not storage.in_memory


def test_fault_08_more_than_memory_holds_is_told_oldest_telemetry_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "MEMORY_RECORDS", 500)
    (tmp_path / "state").write_text("a file where the folder should be")
    storage = Storage(Place(state_dir=tmp_path / "state", max_bytes=4 * MIB), lambda: NOW)
    assert storage.in_memory
    epoch = storage.epoch
    storage.append(Batch(advisories=[body(1)]), now_ms=NOW)
    for seq in range(1, 1001):
        storage.append(Batch(telemetry=[body(seq)]), now_ms=NOW)
    chunks = [storage.read_range("telemetry", 1, wire.MAX_SEQ, max_records=1, max_bytes=MIB)]
    assert chunks[0] is not None
    assert chunks[0].seq > 480
    (tmp_path / "state").unlink()
    monkeypatch.setattr(storage, "_try_disk_at", 0.0)
    assert _is_back(storage)
    storage.close()
    spool = Spool.open(tmp_path / "state", max_bytes=4 * MIB, now_ms=NOW)
    records, gaps = sent(spool)
    kept = records["telemetry", epoch]
    last = max(kept)
    assert set(range(1, last + 1)) <= set(kept).union(*gaps["telemetry", epoch])
    assert set(kept.values()) >= {body(seq) for seq in range(560, 1001)}
    assert records["advisory", epoch] == {1: body(1)}
    spool.close()


def test_fault_08_file_found_damaged_while_running_is_replaced_at_once(tmp_path: Path) -> None:
    storage = Storage(Place(state_dir=tmp_path, max_bytes=16 * MIB), lambda: NOW)
    storage.states = lambda: [a_row()]
    epoch = storage.epoch
    lacking = {seq: body(seq) for seq in range(1, 3001)}
    for first in range(1, 3001, 100):
        storage.append(Batch(telemetry=[lacking[seq] for seq in range(first, first + 100)]), now_ms=NOW)
    storage._spool._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (tmp_path / "spool.db").open("r+b") as file:
        file.seek(12 * 4096)
        file.write(os.urandom(4096 * 20))
    storage._spool._connection.execute("PRAGMA cache_size = 1")
    seen = list[bytes]()
    while (
        chunk := storage.read_range("telemetry", len(seen) + 1, wire.MAX_SEQ, max_records=500, max_bytes=MIB)
    ) is not None:
        if chunk.epoch != epoch:
            break
        seen += chunk.bodies
    assert storage.epoch != epoch
    assert not storage.in_memory
    assert storage.assets() == [a_row()]
    storage.append(Batch(telemetry=[body(1)]), now_ms=NOW)
    storage.close()
    spool = Spool.open(tmp_path, max_bytes=16 * MIB, now_ms=NOW)
    records, gaps = sent(spool)
    assert untold(epoch, {"telemetry": lacking}, records, gaps) == []
    assert len(records["telemetry", epoch]) > 2000
    spool.close()


def test_fault_07_a_reader_that_never_ends_does_not_make_the_log_grow_beyond_the_cap(tmp_path: Path) -> None:
    cap = 4 * MIB
    storage = Storage(Place(state_dir=tmp_path, max_bytes=cap), lambda: NOW)
    storage.append(Batch(telemetry=[body(1)]), now_ms=NOW)
    reader = sqlite3.connect(tmp_path / "spool.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM telemetry").fetchone()
    appended = 0
    while not storage.in_memory and appended < 3 * cap:
        storage.append(Batch(telemetry=[b"x" * 20_000]), now_ms=NOW)
        appended += 20_000
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= cap
    assert storage.in_memory
    reader.close()
    wait_until(lambda: _is_back(storage), "it goes back to the disk")
    storage.close()


def test_fault_08_an_error_of_ours_is_not_taken_for_damage(tmp_path: Path) -> None:
    storage = Storage(Place(state_dir=tmp_path, max_bytes=16 * MIB), lambda: NOW)
    broken = Batch(telemetry=["no bytes"])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        storage.append(broken, now_ms=NOW)
    storage.append(Batch(telemetry=[b"a"]), now_ms=NOW)
    storage.close()


@pytest.fixture
def tmpfs() -> Iterator[Path]:
    """A disk of 8 MiB of the test's own."""
    with tempfile.TemporaryDirectory(prefix="forewarn-tmpfs-") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]
        mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
        require(mounted, "a tmpfs cannot be mounted here (root is needed)")
        yield Path(folder)
        deadline = time.monotonic() + 10
        while subprocess.run(["umount", folder], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, "somebody still uses it"
            print("waiting for umount", file=sys.stderr)
            time.sleep(0.1)
