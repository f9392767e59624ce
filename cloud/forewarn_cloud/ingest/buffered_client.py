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
OnReceived = Callable[[bytes, bytes, bool, int], object]
"""Topic, payload, whether it was retained, and the number to acknowledge, 0 where there is none."""
_RETAINED, _QOS_1, _QOS_2 = 1, 2, 4


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
    """Driven from outside (`read`, `write`, paho's `loop_misc`), not with paho's own loops. What is published goes to
    `on_received`; paho's own `on_message` gets messages with QoS 2 alone."""

    buffered: BufferedSocket | None = None
    on_received: OnReceived = staticmethod(lambda _topic, _payload, _retained, _packet: None)

    def _create_socket(self) -> Any:
        self.buffered = BufferedSocket(cast(socket, super()._create_socket()))
        return self.buffered

    def _handle_publish(self) -> MQTTErrorCode:
        """paho makes several objects and takes several locks of each message, which takes longer than all the rest."""
        flags, packet = self._in_packet["command"], self._in_packet["packet"]
        has_number = flags & _QOS_1
        topic_end = 2 + int.from_bytes(packet[:2], "big")
        start = topic_end + 2 if has_number else topic_end
        if flags & _QOS_2 or topic_end == 2 or len(packet) < start:
            return super()._handle_publish()
        number = int.from_bytes(packet[topic_end:start], "big")
        self.on_received(bytes(packet[2:topic_end]), bytes(packet[start:]), bool(flags & _RETAINED), number)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

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
