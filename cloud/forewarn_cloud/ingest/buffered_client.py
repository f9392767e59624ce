"""paho's client with its reads and writes in large pieces.

paho reads a packet in four or more calls to the socket and writes each acknowledgement in one. Each call gives the
interpreter to another thread, which a busy one returns only milliseconds later. Here most of them stay in memory.
"""

import contextlib
import ssl
import time
from collections.abc import Callable
from socket import SHUT_RDWR, socket
from typing import Any, Final, cast

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

RECEIVE_BYTES: Final = 64 * 1024


class BufferedSocket:
    """What paho wants of a socket. `flush` what was sent; `pending` bytes can be received without waiting."""

    def __init__(self, inner: socket) -> None:
        self.heard_at = time.monotonic()
        """When the other end last sent something."""
        self._inner = inner
        self._received = b""
        self._read = 0
        self._unsent = bytearray()

    def recv(self, size: int) -> bytes:
        """Raises what the socket raises, BlockingIOError where nothing has come."""
        if self._read == len(self._received):
            self._received, self._read = self._inner.recv(RECEIVE_BYTES), 0
            self.heard_at = time.monotonic()
        piece = self._received[self._read : self._read + size]
        self._read += len(piece)
        return piece

    def pending(self) -> int:
        buffered = len(self._received) - self._read
        return buffered + (self._inner.pending() if isinstance(self._inner, ssl.SSLSocket) else 0)

    def send(self, piece: bytes | bytearray) -> int:
        self._unsent += piece
        return len(piece)

    def flush(self) -> None:
        """Send what the network takes. An error is left to `recv`, which meets the same."""
        with contextlib.suppress(OSError):
            while self._unsent:
                del self._unsent[: self._inner.send(self._unsent)]

    @property
    def wants_write(self) -> bool:
        return bool(self._unsent)

    def abort(self) -> None:
        """Whoever waits for something to receive is told that nothing will come."""
        with contextlib.suppress(OSError):
            self._inner.shutdown(SHUT_RDWR)

    def close(self) -> None:
        self.flush()
        self._inner.close()

    def fileno(self) -> int:
        return self._inner.fileno()

    def setblocking(self, blocking: bool) -> None:
        self._inner.setblocking(blocking)


class BufferedClient(paho.Client):
    """Driven from outside (`read`, `write`, paho's `loop_misc`), not with paho's own loops."""

    buffered: BufferedSocket | None = None

    def _create_socket(self) -> Any:
        self.buffered = BufferedSocket(cast(socket, super()._create_socket()))
        return self.buffered

    def read(self, *, packets: int, room: Callable[[], bool]) -> None:
        """Handle what has come: until it is all, or so many packets, or there is no room for more."""
        while packets and room() and self.loop_read() == MQTTErrorCode.MQTT_ERR_SUCCESS and self.pending:
            packets -= 1

    def write(self) -> None:
        if self.want_write():
            self.loop_write()
        if self.socket() is not None and self.buffered is not None:
            self.buffered.flush()

    @property
    def pending(self) -> bool:
        """Whether bytes are here that `read` has not seen."""
        return self.socket() is not None and self.buffered is not None and self.buffered.pending() > 0

    @property
    def wants_write(self) -> bool:
        return self.want_write() or (self.buffered is not None and self.buffered.wants_write)
