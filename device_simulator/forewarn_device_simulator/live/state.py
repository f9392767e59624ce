"""What a live run must not forget when it is killed: where it was, and which repairs it was told of."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from forewarn_device_simulator.wear import Repair


class StateError(ValueError):
    """The state file belongs to another run or cannot be read; the message says what to do."""


class OrderedRepair(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A repair someone ordered over MQTT; `id` tells repeats of the same order."""

    id: str
    asset: str
    at_ms: int
    hours: float
    failure_mode: str | None = None

    @property
    def repair(self) -> Repair:
        return Repair(at_ms=self.at_ms, hours=self.hours, failure_mode=self.failure_mode)


class LiveState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """With the scenario, everything there is to know of a live run."""

    scenario: str
    seed: int
    start_ms: int
    origin_ms: int
    """Wall time at which this run's own clock began; meaningful with a `rate` of its own."""
    rate: float
    published: int = 0
    """Samples of every machine that the broker has taken."""
    repairs: tuple[OrderedRepair, ...] = ()


@contextmanager
def only_run(path: Path) -> Iterator[None]:
    """Keeps a second process off the state file; the kernel lets go when the process ends, however it ends.

    Raises:
        StateError: another process holds it.
    """
    with path.with_name(f"{path.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"{path}: another forewarn-sim plays this run; give another --state") from None
        yield


def load_state(path: Path) -> LiveState | None:
    """The state of an earlier run, None if there was none.

    Raises:
        StateError: the file cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=LiveState)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(f"{path}: not a readable state file ({error}); move it away to start afresh") from None


def save_state(path: Path, state: LiveState) -> None:
    """Replace the state file: afterwards it holds the old or the new state, never half of one."""
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as file:
        file.write(msgspec.json.encode(state))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
