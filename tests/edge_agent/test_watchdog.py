"""A machine that is silent, or says the same again and again, is UNKNOWN: told once, and no alarm."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forewarn_edge_agent.clock import Clock
from forewarn_edge_agent.monitor import Monitor
from forewarn_edge_agent.pipeline import Pipeline
from forewarn_edge_agent.sources import Delivery
from forewarn_edge_agent.spool import Spool
from forewarn_edge_agent.watchdog import ENOUGH_PAUSES, LEAST_SECONDS, UNTIL_KNOWN_SECONDS, Silence, Watchdog
from forewarn_models import wire
from forewarn_models.explain import explanation
from tests.conftest import wait_until
from tests.edge_agent.conftest import PUMP, SECONDS, AgentProcess, Cloud, Machine, mqtt_source, now_ms
from tests.edge_agent.test_agent import is_empty
from tests.edge_agent.test_pipeline import NOW, QUICK, STEP_MS, TYPES, record
from tests.edge_agent.test_resend import agent_port


def test_the_usual_pauses_decide_unless_a_time_is_configured() -> None:
    watchdog = Watchdog({"auto": None, "set": 10.0}, frozenset(), 0.0)
    assert watchdog.fall_silent(9.9) == []
    assert watchdog.fall_silent(10.0) == [Silence(asset="set", seconds=10.0, heard_here=False)]
    assert watchdog.fall_silent(UNTIL_KNOWN_SECONDS - 1) == [], "each is named once"
    for n in range(ENOUGH_PAUSES + 1):
        watchdog.heard("auto", 100.0 * n)
    last = 100.0 * ENOUGH_PAUSES
    assert watchdog.fall_silent(last + 499) == []
    assert watchdog.fall_silent(last + 500) == [Silence(asset="auto", seconds=500.0, heard_here=True)]
    assert watchdog.heard("auto", last + 5000), "the silence itself is no usual pause"
    assert watchdog.told(last + 5000)["auto"]["silent_after_s"] == 500.0


def test_a_fast_machine_has_a_minute() -> None:
    watchdog = Watchdog({"auto": None}, frozenset(), 0.0)
    for n in range(20):
        watchdog.heard("auto", 0.1 * n)
    assert watchdog.told(2.0)["auto"]["silent_after_s"] == LEAST_SECONDS


class Watched:
    """A pipeline with a watchdog over a real spool; time is turned by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds = 0.0
        self.wall_ms = NOW
        self.open()

    def open(self) -> None:
        self.spool = Spool.open(self.folder, max_bytes=16 * 1024 * 1024, now_ms=NOW)
        self.monitor = Monitor(TYPES, QUICK, self.spool.assets())
        clock = Clock(wall=lambda: self.wall_ms, monotonic=lambda: self.seconds)
        watchdog = Watchdog({"pump-1": 300.0}, self.monitor.silent(), self.seconds)
        self.pipeline = Pipeline(self.spool, self.monitor, checkpoint_seconds=1e9, watchdog=watchdog, clock=clock)
        self.spool.append(self.pipeline.catch_up(), now_ms=NOW)

    def crash(self) -> None:
        self.spool.close()
        self.open()

    def take(self, *records: wire.Telemetry) -> None:
        self.spool.append(self.pipeline.take([Delivery(records=records)]), now_ms=NOW)

    def wait(self, seconds: float) -> None:
        self.seconds += seconds
        if (batch := self.pipeline.watch()) is not None:
            self.spool.append(batch, now_ms=NOW)

    def told(self) -> list[wire.Advisory]:
        chunk = self.spool.read("advisory", 0, max_records=500, max_bytes=10**9)
        assert chunk is not None
        payload = wire.encode_message("e", 1, chunk.bodies)
        found = [r.record for r in wire.decode_message("advisory", payload, now_ms=NOW + STEP_MS * 1000).records]
        return [advisory for advisory in found if isinstance(advisory, wire.Advisory)]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path / "state")
    yield watched
    watched.spool.close()


def same_again(watched: Watched) -> None:
    watched.take(record(steps=[0]))


def another_reading_of_the_same_time(watched: Watched) -> None:
    watched.take(record(steps=[0], level=1.0 + watched.seconds))


@pytest.mark.parametrize("source", [lambda _: None, same_again, another_reading_of_the_same_time])
def test_a_silent_or_stale_source_is_told_once_as_unknown(watched: Watched, source: Callable[[Watched], None]) -> None:
    watched.take(record(steps=[0]))
    for _ in range(10):
        source(watched)
        watched.wait(100.0)
    first, silent = watched.told()
    assert (silent.condition, silent.reason, silent.anomaly_score) == ("UNKNOWN", "silent", 0.0)
    assert silent.observed_at == first.observed_at + 300_000, "in the machine's own time"
    asset_type = TYPES["pump-1"]
    assert asset_type is not None
    assert explanation(silent, asset_type, "en").startswith("no new readings")


def test_when_samples_come_again_it_is_told_at_once(watched: Watched) -> None:
    watched.take(record(steps=[0]))
    watched.wait(301.0)
    watched.take(record(steps=[1]))
    watched.take(record(steps=[2]))
    assert [advisory.reason for advisory in watched.told()] == ["change", "silent", "back"]


def test_a_restart_neither_forgets_a_silence_nor_tells_it_twice(watched: Watched) -> None:
    watched.take(record(steps=[0]))
    watched.wait(301.0)
    watched.crash()
    watched.wait(10_000.0)
    assert [advisory.reason for advisory in watched.told()] == ["change", "silent"]
    watched.take(record(steps=[1]))
    watched.crash()
    watched.wait(299.0)
    assert [advisory.reason for advisory in watched.told()] == ["change", "silent", "back"]
    watched.wait(2.0)
    assert [advisory.reason for advisory in watched.told()] == ["change", "silent", "back", "silent"]


def test_samples_that_came_from_the_future_do_not_leave_the_machine_unwatched(watched: Watched) -> None:
    watched.take(record(steps=range(10)))
    watched.wall_ms = NOW + 10 * 365 * 24 * 3_600_000  # the clock leaps, and with it the times that it gives
    watched.take(record(steps=[500_000]))
    watched.wall_ms = NOW + 11 * STEP_MS
    for step in range(11, 20):
        watched.take(record(steps=[step]))
    assert watched.monitor.last_ms("pump-1") == NOW + 19 * STEP_MS
    watched.crash()
    assert watched.monitor.last_ms("pump-1") == NOW + 19 * STEP_MS


@pytest.mark.e2e
def test_a_machine_that_stops_sending_becomes_unknown_in_the_stated_time(
    agent: AgentProcess, machine: Machine, cloud: Cloud
) -> None:
    port = agent_port(agent)
    agent.configure(uplink_port=port, source=mqtt_source(port), assets=f"{PUMP}silent_after_seconds = 2.0\n")
    agent.start_listening()
    machine.send_samples([now_ms()])

    def reasons() -> list[str]:
        found = [received.record for received in cloud.records("advisory")]
        return [advisory.reason for advisory in found if isinstance(advisory, wire.Advisory)]

    wait_until(lambda: reasons() == ["change", "silent"], "it is told", SECONDS)
    status = agent.wait_for_status(is_empty, "all is acknowledged")
    assert status["assets"]["pump-1"]["condition"] == "UNKNOWN"
    machine.send_samples([now_ms()])
    wait_until(lambda: reasons()[:3] == ["change", "silent", "back"], "it is back", SECONDS)
