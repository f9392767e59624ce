"""The pace of the worker that keeps the telemetry store in order."""

import threading
import time

import pytest

from forewarn_cloud.beside import SharedInstant
from forewarn_cloud.clock import SystemClock
from forewarn_cloud.errors import Unavailable
from forewarn_cloud.workers import telemetry_upkeep
from forewarn_cloud.workers.telemetry_upkeep import POLL_SECONDS, TelemetryUpkeep, pause_seconds


@pytest.mark.parametrize(
    ("seconds", "busy_seconds", "pause"),
    [(1.0, 1.0, 4.0), (1.5, 1.0, 3.5), (1.0, 0.1, 1.0), (8.0, 1.0, 8.0), (0.0, 0.0, 0.0)],
    ids=["working", "waiting a little", "waiting mostly", "disk is slow", "nothing"],
)
def test_a_fifth_of_a_processor_and_with_waits_half_of_the_time(
    seconds: float, busy_seconds: float, pause: float
) -> None:
    assert pause_seconds(seconds=seconds, busy_seconds=busy_seconds) == pytest.approx(pause)


def test_a_twentieth_while_ingest_is_crowded() -> None:
    assert pause_seconds(seconds=1.5, busy_seconds=1.0, crowded=True) == pytest.approx(18.5)


class Pauses(threading.Event):
    """Never waits; set once the worker has asked for so many pauses."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.asked = most, list[float]()

    def wait(self, timeout: float | None = None) -> bool:
        self.asked.append(timeout or 0.0)
        if len(self.asked) == self.most:
            self.set()
        return self.is_set()


def test_while_there_is_more_to_do_it_rests_for_what_it_used_and_else_for_seconds() -> None:
    pauses = Pauses(3)

    def step(_: int) -> bool:
        if len(pauses.asked) == 2:
            raise Unavailable("the database is away")
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        return not pauses.asked

    TelemetryUpkeep(steps={"compaction": step}, clock=SystemClock()).run(pauses)
    used, idle, failed = pauses.asked
    assert used >= 2 * 0.02  # three times as long, or as long as the step took if others had the processor meanwhile
    assert (idle, failed) == (POLL_SECONDS, POLL_SECONDS)


@pytest.mark.parametrize("crowded", [False, True])
def test_it_stands_back_while_ingest_is_crowded(crowded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses, instant = Pauses(1), SharedInstant()
    if crowded:
        instant.note()

    def pause_after(*, crowded: bool, **_: float) -> float:
        return pause_seconds(seconds=1.0, busy_seconds=1.0, crowded=crowded)

    monkeypatch.setattr(telemetry_upkeep, "pause_seconds", pause_after)
    TelemetryUpkeep(steps={"compaction": lambda _: True}, clock=SystemClock(), crowded=instant).run(pauses)
    assert pauses.asked == pytest.approx([19.0 if crowded else 4.0])
