"""A worker in a process of its own: what computes much, without taking the interpreter from those who must be quick."""

import logging
import math
import mmap
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, NoReturn

WATCH_SECONDS: Final = 0.5
STOP_SECONDS: Final = 4.0
LINGER_SECONDS: Final = 10.0
"""How long the work may take to end once nobody waits for it any more."""

_log = logging.getLogger(__name__)


class SharedInstant:
    """When something was last so; noted by one process, read by those that were forked from it afterwards, too."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _INSTANT.size)
        _INSTANT.pack_into(self._memory, 0, -math.inf)

    def note(self) -> None:
        """Now."""
        _INSTANT.pack_into(self._memory, 0, time.monotonic())

    @property
    def seconds_ago(self) -> float:
        """Infinite where it was never noted."""
        seconds: float = time.monotonic() - _INSTANT.unpack_from(self._memory)[0]
        return seconds


_INSTANT: Final = struct.Struct("=d")


class Ended(RuntimeError):
    """The process ended though nobody asked it to."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """The parent's side: `start` once what the work needs is there, `watch` in a thread."""

    name: str
    pid: int
    line: int
    """A pipe to the process, which ends when it breaks, that is however we end."""

    def start(self) -> None:
        with suppress(BrokenPipeError):  # it ended already, which `watch` tells
            os.write(self.line, b"\n")

    def watch(self, stopping: threading.Event) -> None:
        """Raises: Ended"""
        while not stopping.wait(WATCH_SECONDS):
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                raise Ended(f"{self.name} ended with status {os.waitstatus_to_exitcode(status)}")


@contextmanager
def beside(name: str, work: Callable[[threading.Event], None]) -> Iterator[Beside]:
    """`work(stopping)` in a fork of this process, which must not have started threads yet.

    At the end the work is told to stop, and ended where it does not.
    """
    theirs, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _live(name, theirs, work)
    os.close(theirs)
    try:
        yield Beside(name=name, pid=pid, line=ours)
    finally:
        os.close(ours)
        _see_it_end(name, pid)


def _see_it_end(name: str, pid: int) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    with suppress(ChildProcessError):  # it has been seen
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                _log.warning("%s does not stop in time and is killed; nothing it does is half done", name)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return
            time.sleep(0.01)


def _live(name: str, line: int, work: Callable[[threading.Event], None]) -> NoReturn:
    """The process. Signals are for the parent, also where a terminal or a supervisor sends them to both."""
    status = 0
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if os.read(line, 1):
            stopping = threading.Event()
            threading.Thread(target=_stop_when_it_breaks, args=(line, stopping), daemon=True).start()
            work(stopping)
    except BaseException:  # noqa: BLE001 - nothing above us may run here a second time
        status = 1
        _log.critical("%s failed; the program ends", name, exc_info=True)
    finally:
        os._exit(status)


def _stop_when_it_breaks(line: int, stopping: threading.Event) -> None:
    os.read(line, 1)
    stopping.set()
    time.sleep(LINGER_SECONDS)
    os._exit(1)
