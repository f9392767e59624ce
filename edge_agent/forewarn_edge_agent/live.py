"""What a running agent knows that its spool does not: told to whoever connects to a socket in the state directory.

The socket is local, one line of JSON goes out, nothing is read. It goes on working when the disk does not.
"""

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

SOCKET_NAME: Final = "status.sock"
SECONDS: Final = 10.0
RETRY_SECONDS: Final = 5.0


async def serve(state_dir: Path, tell: Callable[[], dict[str, Any]]) -> None:
    """Answer until cancelled; `tell` is called for each that asks."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError):
            writer.write(json.dumps(tell()).encode() + b"\n")
            await asyncio.wait_for(writer.drain(), SECONDS)
        writer.close()

    while (listener := _listener(state_dir)) is None:
        await asyncio.sleep(RETRY_SECONDS)
    server = await asyncio.start_unix_server(answer, sock=listener)
    async with server:
        await server.serve_forever()


def _listener(state_dir: Path) -> socket.socket | None:
    """None while the disk cannot be written: the agent works without being asked."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        (state_dir / SOCKET_NAME).unlink(missing_ok=True)  # of a run that was killed; the lock is ours
        with _short_path(state_dir) as path:
            listener.bind(path)
    except OSError:
        listener.close()
        return None
    return listener


def ask(state_dir: Path) -> dict[str, Any] | None:
    """What the running agent tells; None if none runs or it does not answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SECONDS)
        try:
            with _short_path(state_dir) as path:
                connection.connect(path)
            with connection.makefile("rb") as text:
                found = json.loads(text.readline() or b"null")
        except (OSError, ValueError):
            return None
    return found if isinstance(found, dict) else None


@contextmanager
def _short_path(state_dir: Path) -> Iterator[str]:
    """A name for the socket that is short however long the path is: 107 bytes is all it may have."""
    folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET_NAME}"
    finally:
        os.close(folder)
