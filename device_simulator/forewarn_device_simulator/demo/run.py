"""`forewarn-sim demo`: the whole story from start to summary."""

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from forewarn_device_simulator.demo.layout import Layout, lay_out
from forewarn_device_simulator.demo.report import Report
from forewarn_device_simulator.demo.screen import Screen, open_screen
from forewarn_device_simulator.demo.session import TICK_SECONDS, Session
from forewarn_device_simulator.scenario import load_scenario

SCENARIO: Final = "demo"


@dataclass(frozen=True, kw_only=True)
class Options:
    folder: Path
    seconds: float
    rate: float
    seed: int | None = None
    headless: bool = False
    stay: bool = False
    """Whether the console stays up after the summary, until SIGINT or SIGTERM."""


def run_demo(options: Options, told: Callable[[Report], None]) -> Report:
    """Run the demo and report what happened; `told` gets the report before anything is stopped.

    SIGINT and SIGTERM end it early, in order.

    Raises:
        DemoFailed: a program did not come up, or the cloud did not come back.
        OSError: the folder cannot be used.
    """
    scenario = load_scenario(SCENARIO)
    seed = scenario.seed if options.seed is None else options.seed
    layout = lay_out(options.folder, scenario, seed=seed, rate=options.rate)
    with _stop_signals() as asked_to_stop, Session(layout) as session:
        with open_screen(
            headless=options.headless, begin_ms=scenario.start_ms, console_url=layout.console_url
        ) as screen:
            session.say = screen.say
            report = _play(session, layout, screen, options.seconds, asked_to_stop)
        session.say = print
        told(report)
        if options.stay:
            print(f"The console stays at {layout.console_url} until Ctrl-C.", flush=True)
            while not asked_to_stop.wait(TICK_SECONDS):
                session.tend()
    return report


@contextmanager
def demo_folder(given: Path | None) -> Iterator[Path]:
    """The folder given, or a temporary one that is gone afterwards."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="forewarn-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def write_report(path: Path, report: Report) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def _play(session: Session, layout: Layout, screen: Screen, seconds: float, asked_to_stop: threading.Event) -> Report:
    began, began_ms = time.monotonic(), layout.now_ms()
    session.start()
    screen.say(f"everything is up after {time.monotonic() - began:.1f} s; console: {layout.console_url}")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not asked_to_stop.is_set():
        session.step()
        screen.show(session.overview)
        asked_to_stop.wait(TICK_SECONDS)
    samples = session.stop_feeding()
    end_ms = layout.scenario.start_ms + samples * layout.scenario.interval_ms
    screen.say("the machines are stopped; waiting until everything recorded is stored")
    session.drain(samples)
    return session.report(samples=samples, seconds=time.monotonic() - began, began_ms=began_ms, end_ms=end_ms)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    asked = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
