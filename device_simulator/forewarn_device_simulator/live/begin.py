"""How a live run begins or goes on: its clock, its state, its broker."""

import os
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from forewarn_device_simulator.clock import Clock, clock_from_environment
from forewarn_device_simulator.live.state import LiveState, StateError, load_state
from forewarn_device_simulator.scenario import Scenario
from forewarn_models.timebase import ENV_START, Timebase

DEFAULT_PORT: Final = 1883


class BeginError(ValueError):
    """The run cannot begin; the message names the option or variable and the fix."""


@dataclass(frozen=True, kw_only=True)
class BrokerAddress:
    host: str
    port: int
    username: str | None = None
    password: str | None = None


@dataclass(frozen=True, kw_only=True)
class Begun:
    state: LiveState
    clock: Clock


def begin_run(
    scenario: Scenario, state_path: Path, *, seed: int | None, rate: float | None, begin_ms: int | None
) -> Begun:
    """The state and clock of a run; those of the state file if it is one of this scenario.

    The clock is that of FOREWARN_CLOCK_* or, with a `rate`, the run's own, which begins at the wall time of the start.

    A new run begins at `begin_ms`, or now if that is None.

    Raises:
        StateError: the state file is of another scenario, seed or rate, or unreadable.
        BeginError: FOREWARN_CLOCK_* cannot be read, or contradict `rate`.
    """
    if rate is not None and os.environ.get(ENV_START):
        raise BeginError("--rate: the clock is already set by FOREWARN_CLOCK_*; give one or the other")
    known = load_state(state_path)
    if known is not None:
        _check_same_run(known, state_path, scenario, seed, rate)
        return Begun(state=known, clock=_clock(known.origin_ms, known.rate))
    origin_ms = round(time.time() * 1000)
    clock = _clock(origin_ms, 1.0 if rate is None else rate)
    first_ms = clock.now_ms() if begin_ms is None else begin_ms
    start_ms = first_ms // scenario.interval_ms * scenario.interval_ms
    chosen = scenario.seed if seed is None else seed
    state = LiveState(
        scenario=scenario.name, seed=chosen, start_ms=start_ms, origin_ms=origin_ms, rate=clock.timebase.rate
    )
    return Begun(state=state, clock=clock)


def instant_ms(text: str) -> int:
    """Epoch milliseconds of an ISO 8601 instant.

    Raises:
        BeginError: it is none, or has no time zone.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise BeginError(f"--begin: {text!r} is not an ISO 8601 instant") from None
    if instant.tzinfo is None:
        raise BeginError(f"--begin: {text!r} has no time zone; write 2026-01-05T00:00:00Z")
    return round(instant.timestamp() * 1000)


def broker_address(url: str, username: str | None = None, password_file: Path | None = None) -> BrokerAddress:
    """The broker of an address like mqtt://127.0.0.1:1883.

    Raises:
        BeginError: it is no such address, or the password cannot be read.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise BeginError(f"--broker: {url}: {error}") from None
    if parts.scheme != "mqtt" or not parts.hostname or parts.path.strip("/") or parts.username:
        raise BeginError(f"--broker: {url} is not like mqtt://127.0.0.1:1883; name the user with --username")
    try:
        password = None if password_file is None else password_file.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BeginError(f"--password-file: {error}") from None
    return BrokerAddress(host=parts.hostname, port=port, username=username, password=password)


def _clock(origin_ms: int, rate: float) -> Clock:
    if os.environ.get(ENV_START):
        try:
            return clock_from_environment()
        except ValueError as error:
            raise BeginError(str(error)) from None
    return Clock(Timebase(origin_ms=origin_ms, start_ms=origin_ms, rate=rate))


def _check_same_run(known: LiveState, path: Path, scenario: Scenario, seed: int | None, rate: float | None) -> None:
    wanted: dict[str, tuple[object, object]] = {"scenario": (known.scenario, scenario.name)}
    wanted["seed"] = (known.seed, scenario.seed if seed is None else seed)
    if rate is not None:
        wanted["rate"] = (known.rate, rate)
    for name, (was, now) in wanted.items():
        if was != now:
            raise StateError(f"{path}: of a run with {name} {was}, not {now}; give another --state or remove it")
