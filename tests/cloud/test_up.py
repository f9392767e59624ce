"""`forewarn-cloud up` as a real process: starts, stops, is killed, loses nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from forewarn_cloud.adapters.sql.engine import make_engine, reading
from forewarn_cloud.endpoints import Endpoints, read_endpoints
from forewarn_models import wire
from tests.cloud.ingest.sending import TENANT, rows, telemetry
from tests.conftest import accepts_connections, free_port, wait_until
from tests.stored import stored_seqs

pytestmark = pytest.mark.e2e

PROGRAM = str(Path(sys.executable).parent / "forewarn-cloud")
NODE, ASSET = "n1", "pump-1"


class Cloud:
    """A cloud on a data folder, started and killed again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None
        self.broker_port, self.port = free_port(), free_port()

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [PROGRAM, *arguments, "--data-dir", str(self.folder)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def start(self, *options: str) -> Endpoints:
        before = read_endpoints(self.folder)
        ports = ["--broker-port", str(self.broker_port), "--port", str(self.port)]
        command = [PROGRAM, "up", "--data-dir", str(self.folder), *(options or ports)]
        with self.log.open("wb") as log:
            self.process = process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)

        def up() -> bool:
            if process.poll() is not None:
                pytest.fail(f"it ended: {self.log.read_text()}")
            found = read_endpoints(self.folder)
            return found is not None and found != before and found.pid == process.pid

        wait_until(up, "the cloud is up", 120)
        found = read_endpoints(self.folder)
        assert found is not None
        wait_until(lambda: _is_ready(found), "the cloud is ready", 60)
        return found

    def stop(self) -> tuple[int, str]:
        """The exit status and what was logged since the start."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=30), self.log.read_text()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    @property
    def broker_pid(self) -> int:
        return int((self.folder / "broker" / "nats.pid").read_text())

    @property
    def upkeep_pid(self) -> int:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (upkeep,) = set(map(int, children)) - {self.broker_pid}
        return upkeep


def _is_ready(endpoints: Endpoints) -> bool:
    try:
        return httpx.get(endpoints.console + "readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path / "data")
    yield cloud
    if cloud.process is not None and cloud.process.poll() is None:
        cloud.kill()


class Node(threading.Thread):
    """Sends records 1..total and repeats what the cloud has not acknowledged, as an agent does."""

    def __init__(self, port: int, total: int) -> None:
        super().__init__(daemon=True)
        self.total, self.acknowledged = total, 0
        self.first_ms = time.time_ns() // 1_000_000 - total
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=NODE, clean_session=False)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = self._born
        self.client.on_message = self._told
        self.client.connect_async("127.0.0.1", port)

    def run(self) -> None:
        self.client.loop_start()
        while self.acknowledged < self.total:
            start = self.acknowledged
            for seq in range(start + 1, min(start + 100, self.total) + 1):
                record = telemetry(ASSET, t=self.first_ms + seq, value=float(seq))
                self.client.publish(wire.topic(TENANT, NODE, "telemetry"), wire.encode_message("e", seq, [record]), 1)
            deadline = time.monotonic() + 2
            while self.acknowledged < min(start + 100, self.total) and time.monotonic() < deadline:
                time.sleep(0.005)
        self.client.disconnect()
        self.client.loop_stop()

    def _born(self, client: paho.Client, *_: Any) -> None:
        client.subscribe(wire.topic(TENANT, NODE, "ack"), 1)
        at = time.time_ns() // 1_000_000
        presence = wire.Presence(schema=1, state="online", at=at, assets={ASSET: "generic"})
        client.publish(wire.topic(TENANT, NODE, "presence"), wire.encode_control(presence), 1, retain=True)

    def wait_for(self, share: float) -> None:
        wait_until(lambda: self.acknowledged > share * self.total, f"{share:.0%} is acknowledged", 60)

    def _told(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self.acknowledged = max(self.acknowledged, wire.decode_control(bytes(message.payload), wire.Ack).seq)


def test_it_starts_and_stops_in_order(cloud: Cloud) -> None:
    endpoints = cloud.start()
    assert endpoints.broker == f"mqtt://127.0.0.1:{cloud.broker_port}"
    assert httpx.get(endpoints.console, follow_redirects=True).status_code == 200
    assert httpx.get(f"{endpoints.api}/orders").json()["items"] == []
    status, logged = cloud.stop()
    assert (status, "Traceback" in logged) == (0, False), logged
    assert not accepts_connections(cloud.broker_port)
    assert not accepts_connections(cloud.port)


@pytest.mark.long
def test_nothing_is_lost_or_doubled_when_cloud_and_broker_are_killed(cloud: Cloud) -> None:
    assert cloud.run("node", "add", NODE).returncode == 0
    cloud.start()
    node = Node(cloud.broker_port, 3000)
    node.start()
    for share in (0.1, 0.3, 0.5, 0.7):
        node.wait_for(share)
        if share in (0.3, 0.7):
            os.kill(cloud.broker_pid, signal.SIGKILL)
        else:
            cloud.kill()
            cloud.start()
    node.join(90)
    assert node.acknowledged == node.total
    status, logged = cloud.stop()
    assert (status, "Traceback" in logged) == (0, False), logged
    engine = make_engine(f"sqlite:///{cloud.folder}/cloud.db")
    with reading(engine) as connection:
        assert list(stored_seqs(connection).values()) == [list(range(1, node.total + 1))]
    assert rows(engine, "quarantine", "reason") == []
    progress = rows(engine, "lane_progress", "contiguous_seq", "ahead", "records_stored", "records_quarantined")
    assert progress == [(node.total, [], node.total, 0)]
    engine.dispose()


def test_upkeep_has_a_process_of_its_own_that_ends_with_the_cloud(cloud: Cloud) -> None:
    cloud.start()
    stopped = cloud.upkeep_pid
    assert cloud.stop()[0] == 0
    assert not Path(f"/proc/{stopped}").exists()
    cloud.start()
    killed = cloud.upkeep_pid
    cloud.kill()
    wait_until(lambda: not Path(f"/proc/{killed}").exists(), "it sees that it is alone")


def test_a_cloud_whose_upkeep_died_ends_for_its_supervisor_to_start_it_again(cloud: Cloud) -> None:
    cloud.start()
    os.kill(cloud.upkeep_pid, signal.SIGKILL)
    assert cloud.process is not None
    assert cloud.process.wait(30) == 1
    assert "telemetry ended with status -9" in cloud.log.read_text()


def test_a_free_port_is_taken_where_none_was_asked_for_and_kept(cloud: Cloud) -> None:
    with socket.socket() as http, socket.socket() as mqtt:
        for held, usual in ((http, 8420), (mqtt, 1883)):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if not accepts_connections(usual):
                held.bind(("127.0.0.1", usual))
                held.listen()
        first = cloud.start("--log-level", "info")
        assert cloud.stop()[0] == 0
    again = cloud.start("--log-level", "info")
    assert (again.console, again.broker) == (first.console, first.broker)
    assert cloud.stop()[0] == 0


def test_what_cannot_start_says_why(cloud: Cloud) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = str(server.getsockname()[1])
        for option in ("--port", "--broker-port"):
            refused = cloud.run("up", option, taken)
            assert refused.returncode == 78
            assert f"port {taken} on 127.0.0.1 is taken" in refused.stderr
    refused = cloud.run("up", "--database-url", "oracle://x")
    assert (refused.returncode, "database_url" in refused.stderr) == (78, True)
    refused = cloud.run("up", "--broker-url", "http://x")
    assert (refused.returncode, "broker_url: write mqtt://" in refused.stderr) == (78, True)
    assert "Traceback" not in refused.stderr


def test_two_on_one_folder_are_refused(cloud: Cloud) -> None:
    cloud.start()
    second = cloud.run("up")
    assert (second.returncode, "another forewarn-cloud runs on" in second.stderr) == (1, True)


def test_a_broker_of_ones_own_is_used(cloud: Cloud, mosquitto: Any) -> None:
    url = f"mqtt://127.0.0.1:{mosquitto.port}"
    assert cloud.run("node", "add", NODE).returncode == 0
    endpoints = cloud.start("--broker-url", url, "--port", str(cloud.port))
    assert endpoints.broker == url
    assert not (cloud.folder / "broker").exists()
    node = Node(mosquitto.port, 200)
    node.start()
    node.join(60)
    assert node.acknowledged == 200
    assert cloud.stop()[0] == 0


def test_the_broker_alone(cloud: Cloud) -> None:
    command = [PROGRAM, "broker", "--data-dir", str(cloud.folder), "--port", str(cloud.broker_port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"broker mqtt://127.0.0.1:{cloud.broker_port}\n"
        assert accepts_connections(cloud.broker_port)
        process.terminate()
        assert process.wait(15) == 0
    assert not accepts_connections(cloud.broker_port)


@pytest.mark.long
def test_node_commands(cloud: Cloud) -> None:
    assert "no node is enrolled" in cloud.run("node", "list").stdout
    assert cloud.run("node", "add", "a/b").returncode == 2
    assert cloud.run("node", "add", "n1").returncode == 0
    again = cloud.run("node", "add", "n1")
    assert (again.returncode, "n1" in again.stderr) == (1, True)
    assert [node["node"] for node in json.loads(cloud.run("node", "list", "--json").stdout)] == ["n1"]
    assert cloud.run("node", "remove", "n1").returncode == 0
    assert cloud.run("node", "remove", "n1").returncode == 1
    assert cloud.run("audit", "verify").stdout.startswith("2 entries, whole")
