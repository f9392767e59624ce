"""The embedded broker lives and dies with us."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from forewarn_cloud.adapters.nats_broker import BrokerFailed, NatsBroker, accepts_connections, end_leftover
from forewarn_cloud.endpoints import is_free
from forewarn_cloud.settings import load_settings
from forewarn_cloud.up import embedded_broker
from tests.conftest import free_port, wait_until

MANY_CONNECTIONS = 400
START_AND_WAIT = """
import sys, time
from pathlib import Path
from forewarn_cloud.adapters.nats_broker import NatsBroker
broker = NatsBroker(folder=Path(sys.argv[1]), port=int(sys.argv[2]))
broker.start()
print(broker.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[NatsBroker]:
    broker = NatsBroker(folder=tmp_path / "broker", port=free_port())
    broker.start()
    yield broker
    broker.stop()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_is_restarted_on_the_same_port(broker: NatsBroker) -> None:
    stopping = threading.Event()
    supervisor = threading.Thread(target=broker.supervise, args=(stopping,), daemon=True)
    supervisor.start()
    first = broker.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: broker.pid != first and accepts_connections(broker.port), "it listens again")
    stopping.set()
    supervisor.join()
    broker.stop()
    assert not accepts_connections(broker.port)


def test_it_leaves_half_of_the_processors_to_the_ingest(broker: NatsBroker) -> None:
    environment = Path(f"/proc/{broker.pid}/environ").read_bytes().split(b"\0")
    assert f"GOMAXPROCS={max(1, (os.cpu_count() or 1) // 2)}".encode() in environment


def test_an_operator_may_give_it_more_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMAXPROCS", "17")
    broker = NatsBroker(folder=tmp_path / "broker", port=free_port())
    broker.start()
    try:
        assert b"GOMAXPROCS=17" in Path(f"/proc/{broker.pid}/environ").read_bytes().split(b"\0")
    finally:
        broker.stop()


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.close()
        with socket.socket() as silent:  # bound, and never accepting
            silent.bind(("127.0.0.1", port))
            with pytest.raises(BrokerFailed, match=f"does not listen on port {port}.*address already in use"):
                NatsBroker(folder=tmp_path / "broker", port=port).start()


def test_it_ends_when_we_are_killed_and_a_new_one_takes_its_place(tmp_path: Path) -> None:
    folder, port = tmp_path / "broker", free_port()
    command = [sys.executable, "-c", START_AND_WAIT, str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    successor = NatsBroker(folder=folder, port=port)
    successor.start()
    try:
        wait_until(lambda: not is_running(child), "the broker of the killed program ends")
        assert successor.pid != child
        assert accepts_connections(port)
    finally:
        successor.stop()


def test_one_that_was_left_behind_is_ended(broker: NatsBroker, tmp_path: Path) -> None:
    left = broker.pid
    assert left is not None
    successor = NatsBroker(folder=tmp_path / "broker", port=broker.port)
    successor.start()
    try:
        assert successor.pid != left
        wait_until(lambda: not is_running(left), "it is ended")
    finally:
        successor.stop()


def test_the_port_was_called_taken_by_another_while_a_broker_that_was_left_behind_still_ended(tmp_path: Path) -> None:
    """One with a thousand connections takes seconds to end."""
    port = free_port()
    command = [sys.executable, "-c", START_AND_WAIT, str(tmp_path / "broker"), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        left = int(parent.stdout.readline())
        os.kill(left, signal.SIGSTOP)
        parent.kill()
    assert is_running(left)
    settings = load_settings(None, {}, {"data_dir": tmp_path, "broker_port": port})
    with embedded_broker(settings) as url:
        assert url == f"mqtt://127.0.0.1:{port}"
        assert not is_running(left)


def test_a_broker_of_many_connections_still_held_its_port_when_it_was_called_ended(
    broker: NatsBroker, tmp_path: Path
) -> None:
    """Killed, it has lost its command line at once, but closes thousands of connections for a while."""
    left, port = broker.pid, broker.port
    assert left is not None
    with ExitStack() as connections:
        for _ in range(MANY_CONNECTIONS):
            connections.enter_context(socket.create_connection(("127.0.0.1", port)))
        os.kill(left, signal.SIGKILL)
        end_leftover(tmp_path / "broker")
        assert is_free("127.0.0.1", port)


def test_a_stale_pid_file_harms_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    folder.mkdir()
    with subprocess.Popen(["sleep", "600"]) as innocent:
        (folder / "nats.pid").write_text(str(innocent.pid))
        broker = NatsBroker(folder=folder, port=free_port())
        broker.start()
        broker.stop()
        assert innocent.poll() is None
        innocent.kill()
