"""Where the running cloud can be reached, and which ports it takes."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

FILE_NAME: Final = "endpoints.json"


class AlreadyRunning(RuntimeError):
    """Another cloud runs on this data folder."""


class PortTaken(RuntimeError):
    """Another program listens on the port that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """Written to `endpoints.json` in the data folder once everything listens."""

    console: str
    api: str
    broker: str
    smtp: str
    pid: int


def write_endpoints(data_dir: Path, endpoints: Endpoints) -> None:
    """Whole or not at all: a reader never sees half a file."""
    unfinished = data_dir / f"{FILE_NAME}.new"
    unfinished.write_text(json.dumps(asdict(endpoints), indent=2) + "\n")
    unfinished.replace(data_dir / FILE_NAME)


def read_endpoints(data_dir: Path) -> Endpoints | None:
    """Those of the last run, if there was one."""
    try:
        return Endpoints(**json.loads((data_dir / FILE_NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def only_one(data_dir: Path, name: str = "cloud.lock") -> Iterator[None]:
    """The kernel lets go of the lock when the process ends, however it ends. Raises: AlreadyRunning"""
    with (data_dir / name).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AlreadyRunning(f"data_dir: another forewarn-cloud runs on {data_dir}") from None
        yield


def choose_port(host: str, *, asked: int | None, last: int | None, usual: int) -> int:
    """A port that is free now: the one asked for; else that of the last run, the usual one, any.

    Raises:
        PortTaken: one was asked for, and it is not free.
    """
    if asked is not None:
        if not is_free(host, asked):
            raise PortTaken(f"port {asked} on {host} is taken by another program")
        return asked
    return next((port for port in (last, usual) if port and is_free(host, port)), None) or _any_port(host)


def is_free(host: str, port: int) -> bool:
    with _socket(host) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises: PortTaken"""
    bound = _socket(host)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise PortTaken(f"cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}") from None
    return bound


def _any_port(host: str) -> int:
    with _socket(host) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _socket(host: str) -> socket.socket:
    # With the protocol named, asyncio turns Nagle's algorithm off; without, every second answer waits 40 ms.
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return found
