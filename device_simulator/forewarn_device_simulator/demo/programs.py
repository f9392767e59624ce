"""The programs of a demo: started, started again when they end, and stopped, each by its process id."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

STATUS_FILE: Final = "processes.json"
RESTART_PAUSE_SECONDS: Final = (0.2, 3.0)
STEADY_SECONDS: Final = 5.0
"""A program that has run for so long is started again without a pause."""
STOP_SECONDS: Final = 12.0
_SET_PARENT_DEATH_SIGNAL: Final = 1


@dataclass(frozen=True, kw_only=True)
class ProgramStatus:
    pid: int | None
    """None while it waits to be started again."""
    restarts: int


class Programs:
    """Keeps programs running, as systemd would. All of it belongs to one thread.

    Their output goes to `folder`/NAME.log; `folder`/processes.json says which process each is at the moment.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._programs = dict[str, _Program]()

    def start(self, name: str, arguments: list[str]) -> None:
        program = _Program(arguments, self.log_of(name), self._environment)
        self._programs[name] = program
        program.start()
        self._write_status()

    def log_of(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def tend(self) -> list[str]:
        """Start again what has ended; the names of what was started."""
        started = [name for name, program in self._programs.items() if program.tend()]
        if started:
            self._write_status()
        return started

    def status(self) -> dict[str, ProgramStatus]:
        return {
            name: ProgramStatus(pid=program.pid, restarts=program.restarts) for name, program in self._programs.items()
        }

    def stop(self, name: str) -> None:
        self._programs[name].stop()
        self._write_status()

    def stop_all(self) -> None:
        """The last started first."""
        for program in reversed(self._programs.values()):
            program.stop()
        self._write_status()

    def _write_status(self) -> None:
        status = {name: {"pid": found.pid, "restarts": found.restarts} for name, found in self.status().items()}
        beside = self._folder / f"{STATUS_FILE}.new"
        beside.write_text(json.dumps(status, indent=2) + "\n")
        beside.replace(self._folder / STATUS_FILE)


class _Program:
    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
        self._arguments = arguments
        self._log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._pause = RESTART_PAUSE_SECONDS[0]
        self._start_at: float | None = None
        self._stopped = False
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for the demo; it stops the others in order
                preexec_fn=ending_with(os.getpid()),
            )
        self._started_at = time.monotonic()
        self._start_at = None

    def tend(self) -> bool:
        """Start it again if it has ended and its pause is over; whether it was started."""
        if self._stopped or self.pid is not None:
            return False
        now = time.monotonic()
        if self._start_at is None:
            steady = now - self._started_at > STEADY_SECONDS
            self._pause = RESTART_PAUSE_SECONDS[0] if steady else min(2 * self._pause, RESTART_PAUSE_SECONDS[1])
            self._start_at = now + self._pause
        if now < self._start_at:
            return False
        self.restarts += 1
        self.start()
        return True

    def stop(self) -> None:
        self._stopped = True
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def ending_with(parent: int) -> Callable[[], None] | None:
    """Runs in the child: Linux then asks it to stop when we are killed, so that nothing is left behind."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def ask() -> None:
        libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask
