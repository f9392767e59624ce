"""Links that flap, are half-open, slow or full, and an agent that is killed on them."""

import os
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from forewarn_edge_agent.spool import Batch, Spool
from forewarn_models import wire
from tests.conftest import Broker, wait_until
from tests.edge_agent.conftest import PUMP, SECONDS, AgentProcess, Cloud, Machine, mqtt_source, now_ms
from tests.edge_agent.test_agent import is_empty, recent
from tests.faults.proxy import UP, FaultProxy

pytestmark = pytest.mark.e2e

FLAPPING_SECONDS = 300.0 if os.environ.get("FOREWARN_FULL_LENGTH") == "1" else 12.0
"""`make outages` has five minutes."""
TWO_PUMPS = PUMP + PUMP.replace("pump-1", "pump-2")


@pytest.fixture
def link(mosquitto: Broker) -> Iterator[FaultProxy]:
    with FaultProxy(mosquitto.port) as link:
        yield link


def listen_over(agent: AgentProcess, link: FaultProxy, mosquitto: Broker, assets: str = PUMP, extra: str = "") -> None:
    """Start it with `link` between it and the cloud, and wait until its source is connected."""
    agent.configure(uplink_port=link.port, source=mqtt_source(mosquitto.port), assets=assets, extra=extra)
    agent.start_listening()


def test_fault_01_sigkill_between_spool_commit_and_publish_is_sent_after_the_restart(
    agent: AgentProcess, mosquitto: Broker, machine: Machine, cloud: Cloud, link: FaultProxy
) -> None:
    times = recent(30)
    link.refuse()
    listen_over(agent, link, mosquitto)
    machine.send_samples(times)
    agent.wait_for_status(lambda status: status["lanes"]["telemetry"]["last_seq"] == 30, "all is in the spool")
    agent.kill()
    assert cloud.times_ms() == []
    link.restore()
    agent.start()
    wait_until(lambda: cloud.times_ms() == times, "all is in the cloud", SECONDS)


def test_fault_02_sigkill_between_publish_and_acknowledgement_is_absorbed(
    agent: AgentProcess, machine: Machine, cloud: Cloud
) -> None:
    times = recent(30)
    cloud.acknowledges = False
    agent.start_listening()
    machine.send_samples(times)
    wait_until(lambda: cloud.times_ms() == times, "all is in the cloud", SECONDS)
    agent.kill()
    seen = len(cloud.arrivals)
    cloud.acknowledges = True
    agent.start()
    agent.wait_for_status(is_empty, "all is acknowledged")
    assert len(cloud.arrivals) > seen, "what was not acknowledged is sent again"
    assert cloud.conflicts == []
    assert cloud.times_ms() == times


@pytest.mark.long
def test_fault_10_a_day_offline_is_caught_up_as_history_while_live_goes_ahead(
    agent: AgentProcess, machine: Machine, cloud: Cloud
) -> None:
    day_ms = 24 * 3_600_000
    spool = Spool.open(agent.state_dir, max_bytes=64 * 1024 * 1024, now_ms=now_ms())
    backlog = 5000
    start = now_ms() - day_ms
    for first in range(0, backlog, 1000):
        bodies = [_sample(start + 4000 * (first + i)) for i in range(1000)]
        spool.append(Batch(telemetry=bodies, assets=()), now_ms=start + 4000 * first)
    spool.close()
    text = agent.config.read_text()
    agent.config.write_text(text.replace("[uplink]", "[uplink]\nreplay_records_per_s = 200"))
    agent.start_listening()
    wait_until(lambda: len(cloud.arrivals) > 500, "it catches up", SECONDS)
    live = recent(20)
    machine.send_samples(live)
    wait_until(lambda: cloud.times_ms()[-20:] == live, "live arrives", SECONDS)
    epoch = next(iter(cloud.lanes))[1]
    assert cloud.contiguous("telemetry", epoch) < backlog, "live did not wait for the backlog"
    agent.wait_for_status(is_empty, "all is acknowledged")
    assert len(cloud.times_ms()) == backlog + 20
    assert cloud.conflicts == []
    assert all(cloud.historical[seq] == (seq <= backlog) for seq in cloud.historical)


def _sample(t_ms: int) -> bytes:
    signals = {"a": np.zeros(1, dtype=np.float32)}
    record = wire.Telemetry(asset="pump-1", asset_type="generic", t_ms=np.array([t_ms]), signals=signals)
    return wire.encode_telemetry(record)


def test_fault_11_flapping_link_makes_progress_with_each_connection(
    agent: AgentProcess, mosquitto: Broker, machine: Machine, cloud: Cloud, link: FaultProxy
) -> None:
    listen_over(agent, link, mosquitto)
    times, began = list[int](), time.monotonic()
    link.flap(2.0)
    while time.monotonic() < began + FLAPPING_SECONDS:
        seen, sessions = len(cloud.times_ms()), len(cloud.presences)
        last = now_ms()
        times += [last - 9 + i for i in range(10)]  # each its own: a sample that comes twice is kept once
        machine.send_samples(times[-10:])
        wait_until(lambda: len(cloud.presences) > sessions, "another birth or will", SECONDS)  # noqa: B023
        wait_until(lambda: len(cloud.times_ms()) > seen, "something came through", SECONDS)  # noqa: B023
    link.restore()
    wait_until(lambda: cloud.times_ms() == times, "all is in the cloud", SECONDS)
    agent.wait_for_status(is_empty, "all is acknowledged")
    assert cloud.conflicts == []


def test_fault_12_half_open_link_is_detected_within_one_and_a_half_keep_alives(
    agent: AgentProcess, mosquitto: Broker, machine: Machine, cloud: Cloud, link: FaultProxy
) -> None:
    keep_alive_seconds = 6
    listen_over(agent, link, mosquitto, extra=f"keep_alive_seconds = {keep_alive_seconds}")
    wait_until(lambda: "uplink_up" in agent.log(), "it is connected", SECONDS)
    link.blackhole()
    began = time.monotonic()
    times = recent(5)
    machine.send_samples(times)
    wait_until(lambda: "uplink_lost" in agent.log(), "it is noticed", SECONDS)
    took = time.monotonic() - began
    assert took <= 1.5 * keep_alive_seconds + 2.0, "2 s for a loaded machine"
    link.restore()
    wait_until(lambda: cloud.times_ms() == times, "all is in the cloud", SECONDS)


@pytest.mark.timeout(300)
def test_fault_13_on_a_link_of_1_kb_per_second_alerts_come_first(
    agent: AgentProcess, mosquitto: Broker, machine: Machine, cloud: Cloud, link: FaultProxy
) -> None:
    link.refuse()
    listen_over(agent, link, mosquitto, assets=TWO_PUMPS)
    last = now_ms() - 1000
    for block in range(30):
        times = [last - 1000 * (100 * (30 - block) - i) for i in range(100)]
        machine.send({"t": times, "signals": {"a": [float(t % 97) for t in times], "b": [2.0] * 100}})
    depth = agent.wait_for_status(lambda s: s["counters"].get("samples") == 3000, "the backlog")["lanes"]["telemetry"]
    link.restore()
    link.slow(1000.0, UP)
    wait_until(lambda: len(cloud.records()) > 0, "it comes through slowly", SECONDS)
    machine.send({"t": now_ms(), "signals": {"a": 1.0, "b": 2.0}}, asset="pump-2")

    def told() -> bool:
        found = [received.record for received in cloud.records("advisory")]
        return any(isinstance(advisory, wire.Advisory) and advisory.asset == "pump-2" for advisory in found)

    wait_until(told, "the advisory", SECONDS)
    assert len(cloud.records()) < depth["last_seq"], "before the telemetry that waited longer"
    link.restore()
    agent.wait_for_status(is_empty, "all is acknowledged")
    assert "uplink_lost" not in agent.log(), "no message outlasted the keep-alive"


def test_fault_38_sigterm_under_load_ends_in_ten_seconds_with_0_and_loses_nothing(
    agent: AgentProcess, machine: Machine, cloud: Cloud
) -> None:
    agent.start_listening()
    start, confirmed, ending = now_ms() - 3_600_000, list[int](), threading.Event()

    def load() -> None:
        while not ending.wait(0.01):
            times = [start + 100 * len(confirmed) + 10 * i for i in range(10)]
            machine.send({"t": times, "signals": {"a": [1.0] * 10, "b": [2.0] * 10}})
            confirmed.append(times[-1])

    loading = threading.Thread(target=load)
    loading.start()
    try:
        wait_until(lambda: len(cloud.times_ms()) > 500, "it flows", SECONDS)
        began = time.monotonic()
        assert agent.stop(within_seconds=10.0) == 0
        assert time.monotonic() - began <= 10.0
    finally:
        ending.set()
        loading.join(SECONDS)
    agent.start()
    wait_until(lambda: set(confirmed) <= set(cloud.times_ms()), "nothing was lost", SECONDS)
    assert cloud.conflicts == []
    assert len(cloud.times_ms()) == len(set(cloud.times_ms()))
