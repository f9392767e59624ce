"""MQTT 3.1.1 packets as bytes, for generators that should take little of the machine."""

import struct

CONNACK = 0x20
PUBLISH = 0x30
PUBACK = 0x40
SUBACK = 0x90


def connect(client_id: str) -> bytes:
    """With a clean session and no keep-alive."""
    return packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x00" + text(client_id))


def subscribe(topic: str) -> bytes:
    return packet(0x82, b"\x00\x01" + text(topic) + b"\x00")


def publish(topic: str, payload: bytes, number: int) -> bytes:
    """With QoS 1; `number` is whatever counts the messages of a connection."""
    return packet(PUBLISH | 2, text(topic) + struct.pack(">H", number % 65_000 + 1) + payload)


def text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack(">H", len(encoded)) + encoded


def packet(kind: int, body: bytes) -> bytes:
    length, rest = bytearray(), len(body)
    while True:
        rest, digit = divmod(rest, 128)
        length.append(digit | (0x80 if rest else 0))
        if not rest:
            return bytes([kind]) + bytes(length) + body


def next_packet(received: bytes, at: int) -> tuple[int, bytes, int] | None:
    """Its kind, its body and where the next begins; None where it is not all there."""
    length, shift, start = 0, 0, at + 1
    while start < len(received):
        digit = received[start]
        length |= (digit & 0x7F) << shift
        shift, start = shift + 7, start + 1
        if not digit & 0x80:
            end = start + length
            return None if end > len(received) else (received[at] & 0xF0, received[start:end], end)
    return None


def payload_of(published: bytes) -> bytes:
    """Of the body of a PUBLISH with QoS 0."""
    return published[2 + int.from_bytes(published[:2], "big") :]
