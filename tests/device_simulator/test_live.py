"""A fleet played live: real brokers, real processes, cut connections and SIGKILL."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from forewarn_device_simulator.clock import Clock
from forewarn_device_simulator.duty import HOUR_MS
from forewarn_device_simulator.live.begin import BeginError, BrokerAddress, begin_run, broker_address, instant_ms
from forewarn_device_simulator.live.control import ControlError, read_command
from forewarn_device_simulator.live.fleet import LiveFleet
from forewarn_device_simulator.live.player import Played, Player, window_samples
from forewarn_device_simulator.live.state import LiveState, OrderedRepair, StateError, load_state, only_run, save_state
from forewarn_device_simulator.live.truth import Failed, Repaired, TruthFile, WouldFail, read_truth
from forewarn_device_simulator.scenario import Scenario, parse_scenario
from forewarn_models.timebase import Timebase

START_MS = 1_736_121_600_000
PROGRAM = Path(sys.executable).with_name("forewarn-sim")


@pytest.fixture
def scenario(pumps: Callable[..., str]) -> Scenario:
    return parse_scenario(pumps())


@dataclass
class Listener:
    """Everything published to machines/+."""

    port: int
    times: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    payloads: list[dict[str, Any]] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Listener":
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2)
        subscribed = threading.Event()
        self.client.on_connect = lambda client, *_: client.subscribe("machines/+", qos=1)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_message = self._on_message
        self.client.connect("127.0.0.1", self.port)
        self.client.loop_start()
        assert subscribed.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def wait_for(self, ready: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            self.arrived.wait(0.2)
            self.arrived.clear()

    def wait_for_samples(self, asset: str, count: int) -> None:
        self.wait_for(lambda: len(set(self.times[asset])) > count, f"{count} samples of {asset}")

    def _on_message(self, _client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        payload = json.loads(message.payload)
        self.payloads.append(payload)
        self.times[message.topic.removeprefix("machines/")] += payload["t"]
        self.arrived.set()


class CuttableLink:
    """A TCP proxy that can swallow what machines publish, and cut its connections."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._open = list[tuple[socket.socket, socket.socket, list[threading.Thread]]]()
        self.connections = 0
        self.swallowing = threading.Event()
        self.swallowed = threading.Event()
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def cut(self) -> None:
        while self._open:
            near, far, pumps = self._open.pop()
            for end in (near, far):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for pump in pumps:
                pump.join()
            near.close()
            far.close()

    def swallow(self) -> None:
        """From now on nothing published gets through; returns when something has been lost."""
        self.swallowed.clear()
        self.swallowing.set()
        assert self.swallowed.wait(20)

    def let_through(self) -> None:
        self.swallowing.clear()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                pumps = [threading.Thread(target=self._pump, args=ends) for ends in ((near, far), (far, near))]
                for pump in pumps:
                    pump.start()
                self._open.append((near, far, pumps))
                self.connections += 1

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            lost = False
            while part := source.recv(65536):
                if lost or (self.swallowing.is_set() and b"machines/" in part):
                    lost = True  # nothing after a lost part may arrive: TCP has no holes
                    self.swallowed.set()
                else:
                    sink.sendall(part)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def link(mosquitto: Any) -> Iterator[CuttableLink]:
    proxy = CuttableLink(mosquitto.port)
    yield proxy
    proxy.close()


def fast_clock(hours_a_second: float) -> Clock:
    return Clock(Timebase(origin_ms=round(time.time() * 1000), start_ms=START_MS, rate=hours_a_second * 3600))


def state_of(scenario: Scenario) -> LiveState:
    return LiveState(scenario=scenario.name, seed=scenario.seed, start_ms=START_MS, origin_ms=0, rate=1.0)


def in_order(times: list[int]) -> bool:
    return times == sorted(times)


def without_repeats(times: list[int]) -> list[int]:
    return list(dict.fromkeys(times))


async def play(player: Player, port: int, *, meanwhile: Callable[[], None] = lambda: None) -> Played:
    playing = asyncio.create_task(
        player.play(BrokerAddress(host="127.0.0.1", port=port), client_id="sim", reconnect_max_seconds=0.5)
    )
    await asyncio.to_thread(meanwhile)
    return await playing


def test_every_sample_arrives_once_and_in_order(tmp_path: Path, mosquitto: Any, scenario: Scenario) -> None:
    fleet, state_path = LiveFleet(scenario, 5, START_MS), tmp_path / "state.json"
    player = Player(fleet, state_of(scenario), state_path=state_path, truth=None, clock=fast_clock(10_000), window=6)
    with Listener(mosquitto.port) as listener:
        played = asyncio.run(play(player, mosquitto.port))
        listener.wait_for(lambda: sum(map(len, listener.times.values())) >= played.samples, "all samples")
    assert played.finished
    expected = fleet.t_ms.tolist()
    assert dict(listener.times) == {f"pump-00{i}": expected for i in (1, 2, 3)}
    assert set(listener.payloads[0]["signals"]) == set(fleet._courses["pump-001"].signals)


def test_cut_connections_lose_nothing_and_keep_the_order(
    tmp_path: Path, mosquitto: Any, link: CuttableLink, scenario: Scenario
) -> None:
    fleet = LiveFleet(scenario, 5, START_MS)
    player = Player(
        fleet, state_of(scenario), state_path=tmp_path / "state.json", truth=None, clock=fast_clock(240), window=6
    )
    with Listener(mosquitto.port) as listener:

        def cut_now_and_then() -> None:
            for done in (100, 600, 1200, 1800, 2400):
                listener.wait_for_samples("pump-001", done)
                link.swallow()
                link.cut()
                link.let_through()

        played = asyncio.run(play(player, link.port, meanwhile=cut_now_and_then))
        listener.wait_for(lambda: len(set(listener.times["pump-003"])) == scenario.samples, "the last samples")
    assert played.finished
    assert link.connections >= 4
    for times in listener.times.values():
        assert without_repeats(times) == fleet.t_ms.tolist()


@pytest.fixture
def scenario_file(tmp_path: Path, pumps: Callable[..., str]) -> Path:
    path = tmp_path / "pumps.toml"
    path.write_text(pumps())
    return path


def start_process(scenario_file: Path, port: int) -> "subprocess.Popen[bytes]":
    folder = scenario_file.parent
    begin = datetime.fromtimestamp(time.time() - 5 * 86_400, UTC).isoformat()
    arguments = ["--broker", f"mqtt://127.0.0.1:{port}", "--rate", "720000", "--begin", begin]
    files = ["--state", str(folder / "state.json"), "--truth", str(folder / "truth.jsonl")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FOREWARN_")}
    with (folder / "sim.log").open("ab") as log:
        return subprocess.Popen(
            [str(PROGRAM), "run", str(scenario_file), *arguments, *files], stdout=log, stderr=log, env=environment
        )


@pytest.mark.e2e
def test_killed_and_started_again_no_sample_is_missing(
    scenario_file: Path, mosquitto: Any, link: CuttableLink, scenario: Scenario
) -> None:
    with Listener(mosquitto.port) as listener:
        process = start_process(scenario_file, link.port)
        for count in (100, 700, 1300):
            listener.wait_for_samples("pump-002", count)
            link.swallow()
            process.send_signal(signal.SIGKILL)
            process.wait()
            link.cut()
            link.let_through()
            process = start_process(scenario_file, link.port)
        listener.wait_for(lambda: len(set(listener.times["pump-003"])) == scenario.samples, "the last sample", 60)
        assert process.wait(20) == 0
    state = load_state(scenario_file.parent / "state.json")
    assert state is not None
    expected = [state.start_ms + i * scenario.interval_ms for i in range(scenario.samples)]
    for times in listener.times.values():
        assert without_repeats(sorted(times)) == expected
        assert in_order(without_repeats(times))


@pytest.mark.e2e
def test_sigterm_stops_cleanly_and_the_next_start_goes_on(scenario_file: Path, mosquitto: Any) -> None:
    with Listener(mosquitto.port) as listener:
        process = start_process(scenario_file, mosquitto.port)
        listener.wait_for(lambda: len(listener.times["pump-001"]) > 200, "samples")
        process.terminate()
        assert process.wait(10) == 0
        stopped = load_state(scenario_file.parent / "state.json")
        assert stopped is not None
        listener.wait_for(lambda: len(listener.times["pump-003"]) == stopped.published, "what the state says")
        process = start_process(scenario_file, mosquitto.port)
        listener.wait_for(lambda: len(listener.times["pump-001"]) > stopped.published, "more samples")
        process.terminate()
        assert process.wait(10) == 0
    assert in_order(listener.times["pump-001"])


def test_a_repair_by_command_renews_the_machine_once_and_survives_a_restart(
    tmp_path: Path, mosquitto: Any, scenario: Scenario
) -> None:
    state_path, truth_path = tmp_path / "state.json", tmp_path / "truth.jsonl"
    fleet = LiveFleet(scenario, 5, START_MS)
    coming = next(t for t in fleet.truths(0) if isinstance(t, WouldFail) and t.asset == "pump-002" and t.twin)
    at = coming.would_fail_at - 48 * HOUR_MS
    command = {"id": "order-1", "repair": {"at": at, "hours": 6, "failure_mode": coming.failure_mode}}
    player = Player(
        fleet,
        state_of(scenario),
        state_path=state_path,
        truth=TruthFile(truth_path),
        clock=fast_clock(150),
        window=6,
    )
    with Listener(mosquitto.port) as listener:

        def order_twice() -> None:
            listener.wait_for(lambda: len(listener.times["pump-002"]) > 20, "samples")
            for _ in range(2):
                listener.client.publish("machines-control/pump-002", json.dumps(command), qos=1).wait_for_publish(10)
            listener.client.publish("machines-control/pump-002", b"not json", qos=1).wait_for_publish(10)

        asyncio.run(play(player, mosquitto.port, meanwhile=order_twice))
    state = load_state(state_path)
    assert state is not None
    assert [repair.id for repair in state.repairs] == ["order-1"]
    truths = read_truth(truth_path)
    assert coming in truths
    assert [t for t in truths if isinstance(t, Repaired)] == [
        Repaired(id="order-1", asset="pump-002", failure_mode=coming.failure_mode, at=at, back_at=at + 6 * HOUR_MS)
    ]
    broke = {(t.asset, t.failed_at) for t in truths if isinstance(t, Failed)}
    assert ("pump-002", coming.would_fail_at) not in broke
    twins = {(t.asset, t.would_fail_at) for t in truths if isinstance(t, WouldFail) and t.twin}
    assert {asset for asset, _ in twins} == {"pump-001", "pump-002", "pump-003"}
    again = LiveFleet(scenario, 5, START_MS, state.repairs)
    last = scenario.samples
    assert again.payload("pump-002", 0, last) == fleet.payload("pump-002", 0, last)


@pytest.mark.parametrize(
    ("asset", "payload", "named"),
    [
        ("pump-001", b"{", "truncated"),
        ("pump-001", b'{"id": "1"}', "repair"),
        ("pump-001", b'{"id": "1", "repair": {"at": "now"}}', "at"),
        ("pump-001", b'{"id": "1", "repair": {"at": 5, "hours": -1}}', "hours"),
        ("pump-001", b'{"id": "1", "repair": {"at": 5, "failure_mode": "rust"}}', "rust"),
        ("pump-001", b'{"id": "1", "repair": {"at": 5, "paint": "red"}}', "paint"),
        ("pump-007", b'{"id": "1", "repair": {"at": 5}}', "pump-007"),
    ],
)
def test_a_command_that_makes_no_sense_names_the_field(asset: str, payload: bytes, named: str) -> None:
    with pytest.raises(ControlError, match=named):
        read_command(asset, payload, {"pump-001": {"bearing_wear"}}, 0)


def test_the_past_cannot_be_repaired() -> None:
    command = b'{"id": "1", "repair": {"at": 5, "hours": 2}}'
    assert read_command("pump-001", command, {"pump-001": set()}, 1000).at_ms == 1000


def test_state_round_trips_and_a_broken_file_is_refused(tmp_path: Path, scenario: Scenario) -> None:
    path = tmp_path / "state.json"
    assert load_state(path) is None
    repair = OrderedRepair(id="1", asset="pump-001", at_ms=5, hours=2.5)
    state = LiveState(scenario="s", seed=1, start_ms=2, origin_ms=3, rate=4.5, published=6, repairs=(repair,))
    save_state(path, state)
    assert load_state(path) == state
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(StateError, match="move it away"):
        begin_run(scenario, path, seed=None, rate=None, begin_ms=None)


def test_a_state_of_another_run_is_refused(tmp_path: Path, scenario: Scenario) -> None:
    path = tmp_path / "state.json"
    save_state(path, begin_run(scenario, path, seed=None, rate=100.0, begin_ms=START_MS).state)
    with pytest.raises(StateError, match="seed 5, not 6"):
        begin_run(scenario, path, seed=6, rate=None, begin_ms=None)
    with pytest.raises(StateError, match="rate"):
        begin_run(scenario, path, seed=None, rate=50.0, begin_ms=None)
    assert begin_run(scenario, path, seed=None, rate=None, begin_ms=None).clock.timebase.rate == 100.0


def test_a_rate_beside_a_clock_from_the_environment_is_refused(
    tmp_path: Path, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREWARN_CLOCK_START", "2026-01-01T00:00:00Z")
    with pytest.raises(BeginError, match="--rate"):
        begin_run(scenario, tmp_path / "state.json", seed=None, rate=5.0, begin_ms=None)


def test_two_processes_do_not_share_a_state_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with only_run(path), pytest.raises(StateError, match="another forewarn-sim"), only_run(path):
        pytest.fail("both run")
    with only_run(path):
        assert not path.exists()


@pytest.mark.parametrize("text", ["yesterday", "2026-01-05T00:00:00"])
def test_a_beginning_without_a_time_zone_is_refused(text: str) -> None:
    with pytest.raises(BeginError, match="--begin"):
        instant_ms(text)


def test_truth_is_told_once_and_a_torn_line_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    failed = [Failed(asset=f"pump-00{i}", failure_mode="seal_leak", failed_at=i) for i in (1, 2)]
    truth = TruthFile(path)
    truth.add(iter(failed[:1]))
    truth.add(iter(failed[:1]))
    assert path.read_text().count("pump-001") == 1
    with path.open("ab") as file:
        file.write(b'{"kind":"fai')
    TruthFile(path).add(iter(failed))
    assert read_truth(path) == failed


@pytest.mark.parametrize(("rate", "samples"), [(1.0, 1), (600.0, 1), (28_800.0, 6), (1e6, 144)])
def test_windows_grow_with_the_rate(rate: float, samples: int) -> None:
    assert window_samples(600_000, rate) == samples


@pytest.mark.parametrize("url", ["http://x:1", "mqtt://", "mqtt://h:99999", "mqtt://u:p@h:1", "mqtt://h/x"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BeginError, match="--broker"):
        broker_address(url)
