"""A machine, a cloud and an agent around a real broker. The agent is a real process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from forewarn_edge_agent.config import load
from forewarn_edge_agent.spool import inspect
from forewarn_edge_agent.status import as_json
from forewarn_models import wire
from forewarn_models.fleet_model import FleetModel, FleetModelArrays, FleetModelHeader
from forewarn_models.knowledge import FleetKnowledge, save_knowledge
from forewarn_models.model_folder import SCHEMA, Manifest, pack
from tests.conftest import Broker, accepts_connections, find_program, free_port, require, wait_until

SECONDS = 60.0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def iso(t_ms: int) -> str:
    return datetime.fromtimestamp(t_ms / 1000, UTC).isoformat()


def connected(client_id: str, port: int, subscriptions: tuple[str, ...] = (), **callbacks: Any) -> paho.Client:
    """A client that is connected and subscribed."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True)
    ready = threading.Event()

    def on_connect(client: paho.Client, *_: Any) -> None:
        if subscriptions:
            client.subscribe([(topic, 1) for topic in subscriptions])
        else:
            ready.set()

    client.on_connect = on_connect
    client.on_subscribe = lambda *_: ready.set()
    for name, callback in callbacks.items():
        setattr(client, name, callback)
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert ready.wait(SECONDS), "the broker did not answer"
    return client


def disconnect(client: paho.Client) -> None:
    client.disconnect()
    client.loop_stop()


class Machine:
    """Publishes with QoS 1 and waits for the broker's receipt."""

    def __init__(self, port: int) -> None:
        self._client = connected("machine", port)

    def send(self, payload: Any, asset: str = "pump-1", **options: Any) -> None:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        info = self._client.publish(f"machines/{asset}", body, qos=1, **options)
        info.wait_for_publish(SECONDS)
        assert info.is_published()

    def send_samples(self, times_ms: list[int], asset: str = "pump-1") -> None:
        for t in times_ms:
            self.send({"t": t, "signals": {"a": float(t % 97), "b": 2.0}}, asset)

    def close(self) -> None:
        disconnect(self._client)


class Cloud:
    """Keeps what arrives by identity and acknowledges what has no hole before it, as the real one does."""

    def __init__(self, port: int, *, acknowledges: bool = True) -> None:
        self.acknowledges = acknowledges
        self.tells_time = False
        self.historical: dict[int, bool] = {}
        """Telemetry: whether it was last sent as history."""
        self.lanes: dict[tuple[str, str], dict[int, wire.Received]] = {}
        self.conflicts: list[int] = []
        self.arrivals: list[tuple[str, int]] = []
        self.presences: list[wire.Presence] = []
        self.replies: list[wire.Reply] = []
        self._client = connected("cloud", port, ("fw/v1/#",), on_message=self._on_message)

    def _on_message(self, _client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        address = wire.parse_topic(message.topic)
        payload = bytes(message.payload)
        if address.channel == "presence":
            self.presences.append(wire.decode_control(payload, wire.Presence))
        elif address.channel == "reply":
            self.replies.append(wire.decode_control(payload, wire.Reply))
        elif address.channel in ("telemetry", "advisory"):
            self._keep(address.tenant, address.node, address.channel, payload)

    def _keep(self, tenant: str, node: str, lane: wire.Lane, payload: bytes) -> None:
        message = wire.decode_message(lane, payload, now_ms=now_ms())
        kept = self.lanes.setdefault((lane, message.epoch), {})
        for received in message.records:
            assert not isinstance(received.record, wire.Rejected), received.record.reason
            if kept.setdefault(received.seq, received).digest != received.digest:
                self.conflicts.append(received.seq)
            self.arrivals.append((lane, received.seq))
            if lane == "telemetry":
                self.historical[received.seq] = message.historical
        if self.acknowledges:
            self.acknowledge(tenant, node, lane, message.epoch)

    def acknowledge(self, tenant: str, node: str, lane: wire.Lane, epoch: str) -> None:
        at = now_ms() if self.tells_time else None
        ack = wire.Ack(lane=lane, epoch=epoch, seq=self.contiguous(lane, epoch), at=at)
        self._client.publish(wire.topic(tenant, node, "ack"), wire.encode_control(ack), qos=1)

    def contiguous(self, lane: wire.Lane, epoch: str) -> int:
        explained = set(self.lanes[(lane, epoch)])
        for gap in self.gaps(lane, epoch):
            if gap.last_seq < wire.MAX_SEQ:
                explained |= set(range(gap.first_seq, gap.last_seq + 1))
        seq = 0
        while seq + 1 in explained:
            seq += 1
        return seq

    def gaps(self, lane: wire.Lane, epoch: str) -> list[wire.Gap]:
        """What was told of an epoch, in its own messages or in those of a later one."""
        found = []
        for (of_lane, of_epoch), records in self.lanes.items():
            told = [received.record for received in list(records.values()) if isinstance(received.record, wire.Gap)]
            found += [gap for gap in told if of_lane == lane and (gap.epoch or of_epoch) == epoch]
        return found

    def records(self, lane: wire.Lane = "telemetry") -> list[wire.Received]:
        """All of a lane in order, whatever the epoch."""
        kept = [
            received for (of_lane, _), records in self.lanes.items() if of_lane == lane for received in records.values()
        ]
        return sorted(kept, key=lambda received: received.seq)

    def times_ms(self, asset: str = "pump-1") -> list[int]:
        """The time of every sample that is kept, in the order of the sequence."""
        found = [received.record for received in self.records()]
        return [
            int(t)
            for record in found
            if isinstance(record, wire.Telemetry) and record.asset == asset
            for t in record.t_ms
        ]

    def command(self, command: wire.Command) -> None:
        self._client.publish(wire.topic("t", "n", "command"), wire.encode_control(command), qos=1)

    def send_raw(self, channel: wire.Channel, payload: bytes) -> None:
        self._client.publish(wire.topic("t", "n", channel), payload, qos=1)

    def close(self) -> None:
        disconnect(self._client)


@dataclass(kw_only=True)
class AgentProcess:
    """`forewarn-edge` with a configuration of the test's own."""

    folder: Path
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.folder / "edge.toml"

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    def configure(
        self, *, uplink_port: int, source: str, assets: str, extra: str = "", resend_after_seconds: float = 1.0
    ) -> None:
        self.config.write_text(
            f'[node]\ntenant = "t"\nnode = "n"\nstate_dir = "state"\n'
            f'[uplink]\nhost = "127.0.0.1"\nport = {uplink_port}\nreconnect_max_seconds = 1.0\n'
            f"resend_after_seconds = {resend_after_seconds}\n{extra}\n{source}\n{assets}\n"
        )

    def start(self) -> "subprocess.Popen[bytes]":
        with (self.folder / "agent.log").open("ab") as log:
            process = subprocess.Popen(self.command("run"), stderr=log, env=os.environ | {"PYTHONWARNINGS": "error"})
        self.processes.append(process)
        return process

    def start_listening(self) -> None:
        """Start it, and wait until its source is connected."""
        self.start()
        wait_until(lambda: "source_up" in self.log(), "the source is connected", SECONDS)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "forewarn_edge_agent", *words, "--config", str(self.config)]

    def call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=False, timeout=60)

    def status(self) -> dict[str, Any]:
        done = subprocess.run([*self.command("status"), "--json"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def wait_for_status(self, ready: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Polls the spool itself; what is returned comes from the command."""
        config = load(self.config).config
        wait_until(
            lambda: (found := inspect(self.state_dir)) is not None and ready(as_json(config, found)), what, SECONDS
        )
        return self.status()

    def kill(self) -> None:
        self.processes[-1].send_signal(signal.SIGKILL)
        self.processes[-1].wait(SECONDS)

    def stop(self, within_seconds: float = SECONDS) -> int:
        self.processes[-1].terminate()
        return self.processes[-1].wait(within_seconds)

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()


def write_model(folder: Path, asset_type: str = "generic", condition: tuple[str, ...] = ("a", "b")) -> None:
    """A model folder as `forewarn-cloud fit` writes it, with a fleet model of machines with these signals."""
    knowledge = FleetKnowledge(
        asset_type=asset_type,
        failures=20,
        censored=0,
        failure_log_severity=2.0,
        failure_log_spread=0.5,
        log_severity=(0.0, 2.0),
        log_rul_hours=(4.0, 1.0),
        log_rul_spread=(0.5, 0.5),
        life_shape=3.0,
        life_scale_hours=200.0,
        fleet_model=_fleet_model(condition),
    )
    manifest = Manifest(schema=SCHEMA, asset_type=asset_type, learned_from="pumps", lives=20, files={})
    _, files = pack(manifest, save_knowledge(knowledge))
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _fleet_model(condition: tuple[str, ...]) -> FleetModel:
    """No regime signals; the remaining life falls with the sum of what the signals read beyond 10."""
    signals = len(condition)
    return FleetModel(
        header=FleetModelHeader(
            condition=condition,
            regime=(),
            lives=20,
            knee_hours=100.0,
            life_shape=3.0,
            life_scale_hours=200.0,
            longest_hours=400.0,
        ),
        arrays=FleetModelArrays(
            horizons_hours=np.array([3.0]),
            regime_origin=np.zeros(0),
            regime_scale=np.ones(0),
            regime_low=np.zeros(0),
            regime_high=np.zeros(0),
            expected=np.full((1, signals), 10.0),
            log_spread=np.zeros((1, signals)),
            relevance=np.ones(signals),
            components=np.ones((signals, 1)),
            feature_low=np.array([-9.0, -9.0, 0.0]),
            feature_high=np.array([9.0, 9.0, 400.0]),
            feature_mean=np.zeros(3),
            feature_scale=np.ones(3),
            weight_1=np.array([[[1.0], [0.0], [0.0]]]),
            bias_1=np.zeros((1, 1)),
            weight_2=np.ones((1, 1, 1)),
            bias_2=np.zeros((1, 1)),
            weight_3=np.array([[-0.1]]),
            bias_3=np.ones(1),
            curve_level=np.array([0.0, 1.0]),
            curve_offset=np.array([[-0.2, 0.0, 0.2], [-0.2, 0.0, 0.2]]),
        ),
    )


PUMP = '[[assets]]\nasset = "pump-1"\nasset_type = "generic"\n'


def mqtt_source(port: int) -> str:
    return f'[[sources]]\nkind = "mqtt"\nhost = "127.0.0.1"\nport = {port}\n'


class FarBroker:
    """A broker that forgets everything when it is killed and comes back on the same port."""

    def __init__(self, folder: Path) -> None:
        program = find_program("mosquitto", "/usr/sbin")
        require(program is not None, "mosquitto is not installed (apt install mosquitto)")
        self.port = free_port()
        self._command = [str(program), "-p", str(self.port)]
        self._folder = folder
        self.start()

    def start(self) -> None:
        silent = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=silent, stderr=silent)
        wait_until(lambda: accepts_connections(self.port), "the broker listens", SECONDS)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(SECONDS)


@pytest.fixture
def far_broker(tmp_path: Path) -> Iterator[FarBroker]:
    broker = FarBroker(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
def machine(mosquitto: Broker) -> Iterator[Machine]:
    machine = Machine(mosquitto.port)
    yield machine
    machine.close()


@pytest.fixture
def cloud(mosquitto: Broker) -> Iterator[Cloud]:
    cloud = Cloud(mosquitto.port)
    yield cloud
    cloud.close()


@pytest.fixture
def agent(tmp_path: Path, mosquitto: Broker) -> Iterator[AgentProcess]:
    """Configured for one generic asset `pump-1`, not started."""
    folder = tmp_path / "agent"
    folder.mkdir()
    agent = AgentProcess(folder=folder)
    agent.configure(uplink_port=mosquitto.port, source=mqtt_source(mosquitto.port), assets=PUMP)
    yield agent
    for process in agent.processes:
        if process.poll() is None:
            process.kill()
        process.wait(SECONDS)
