"""paho's client with its reads and writes in large pieces, and a short way for what ingest has thousands of a second.

paho reads a packet in four or more calls to the socket and writes each acknowledgement in one. Each call gives the
interpreter to another thread, which a busy one returns only milliseconds later. Here most of them stay in memory.
Messages, receipts and what is published with QoS 0 need nothing of paho's state: they pass by it.
"""

import contextlib
import ssl
import time
from collections.abc import Callable, Iterable
from socket import SHUT_RDWR, socket
from threading import Lock
from typing import Any, Final, cast

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

RECEIVE_BYTES: Final = 64 * 1024
Received = tuple[bytes, bytes, bool, int]
"""Topic, payload, whether it was retained, and the number to acknowledge, 0 where there is none."""
OnReceived = Callable[[bytes, bytes, bool, int], object]
_PUBLISH: Final = 0x30
_RETAINED, _QOS_1, _QOS_2 = 1, 2, 4
_PUBACK: Final = b"\x40\x02"
_MORE: Final = 0x80
"""In a digit of a length: another follows."""


class BufferedSocket:
    """What paho wants of a socket. `flush` what was sent; `pending` bytes can be received without waiting."""

    def __init__(self, inner: socket) -> None:
        self.heard_at = time.monotonic()
        """When the other end last sent something."""
        self._inner = inner
        self._received = b""
        self._read = 0
        self._unsent = bytearray()
        self._lock = Lock()
        """Of `_unsent`, to which any thread may add."""

    def recv(self, size: int) -> bytes:
        """Raises what the socket raises, BlockingIOError where nothing has come."""
        if self._read == len(self._received):
            self._received, self._read = self._inner.recv(RECEIVE_BYTES), 0
            self.heard_at = time.monotonic()
        piece = self._received[self._read : self._read + size]
        self._read += len(piece)
        return piece

    def take_published(self) -> Received | None:
        """The next packet, if it is a PUBLISH of QoS 0 or 1, well formed, and all of it is here."""
        received, start = self._received, self._read
        if start == len(received) or received[start] & 0xF0 != _PUBLISH:
            return None
        place, length = _remaining_length(received, start + 1)
        if not place or place + length > len(received):
            return None
        message = _published(received[start], received[place : place + length])
        if message is not None:
            self._read = place + length
        return message

    def pending(self) -> int:
        buffered = len(self._received) - self._read
        return buffered + (self._inner.pending() if isinstance(self._inner, ssl.SSLSocket) else 0)

    def send(self, piece: bytes | bytearray) -> int:
        self.queue(piece)
        return len(piece)

    def queue(self, pieces: bytes | bytearray) -> bool:
        """To be sent with the next `flush`, for which nothing waited before: whoever flushes is to be woken."""
        with self._lock:
            waited = bool(self._unsent)
            self._unsent += pieces
            return not waited

    def flush(self) -> None:
        """Send what the network takes. An error is left to `recv`, which meets the same."""
        with contextlib.suppress(OSError), self._lock:
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
        """Of a packet that came in pieces. paho makes several objects and takes several locks of each message."""
        message = _published(self._in_packet["command"], self._in_packet["packet"])
        if message is None:
            return super()._handle_publish()
        self.on_received(*message)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def read(self, *, packets: int, room: Callable[[], bool]) -> None:
        """Handle what has come: until it is all, or so many packets, or there is no room for more."""
        while packets and room():
            if not self._read_published() and self.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return
            if not self.pending:
                return
            packets -= 1

    def _read_published(self) -> bool:
        """A message that needs nothing of paho; whether there was one. The first of what `recv` brings is read by paho,
        whose clock of silence runs by it."""
        if self.buffered is None or self.socket() is None or self._in_packet["command"]:
            return False
        message = self.buffered.take_published()
        if message is None:
            return False
        self.on_received(*message)
        return True

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


def receipts(numbers: Iterable[int]) -> bytes:
    """A PUBACK for each."""
    return b"".join([_PUBACK + number.to_bytes(2, "big") for number in numbers])


def published_once(topic: str, payload: bytes) -> bytes:
    """A PUBLISH with QoS 0."""
    name = topic.encode()
    length, head = 2 + len(name) + len(payload), bytearray((_PUBLISH,))
    while length >= _MORE:
        head.append(length % _MORE | _MORE)
        length //= _MORE
    head.append(length)
    head += len(name).to_bytes(2, "big")
    return bytes(head + name + payload)


def _remaining_length(received: bytes, place: int) -> tuple[int, int]:
    """Where a packet goes on after its length, and that length; (0, 0) where it is not all here or too long."""
    length = 0
    for shift in (0, 7, 14, 21):
        if place == len(received):
            break
        digit = received[place]
        place += 1
        length |= (digit & ~_MORE) << shift
        if digit < _MORE:
            return place, length
    return 0, 0


def _published(flags: int, body: bytes | bytearray) -> Received | None:
    """What a PUBLISH says; None where that is for paho: with QoS 2, or malformed."""
    has_number = flags & _QOS_1
    topic_end = 2 + int.from_bytes(body[:2], "big")
    start = topic_end + 2 if has_number else topic_end
    if flags & _QOS_2 or topic_end == 2 or len(body) < start:
        return None
    number = int.from_bytes(body[topic_end:start], "big")
    return bytes(body[2:topic_end]), bytes(body[start:]), bool(flags & _RETAINED), number
