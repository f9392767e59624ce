"""The quick way from bytes to messages gives what paho's own way gives."""

import socket
from typing import Any

import paho.mqtt.client as paho
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from forewarn_cloud.ingest.buffered_client import BufferedClient, BufferedSocket, published_once, receipts
from tests.benchmarks.mqtt_bytes import packet

Received = tuple[bytes, bytes, bool, int]

topics = st.one_of(st.sampled_from([b"fw/v1/local/n1/telemetry", b"t", b"", b"\xff\xfe"]), st.binary(max_size=5))
payloads = st.one_of(st.binary(max_size=20), st.sampled_from([b"x" * 127, b"y" * 20_000]))
kinds = st.sampled_from([0x30, 0x31, 0x32, 0x33, 0x3A, 0x3B])
"""QoS 0 and 1, retained or not, sent again or not."""


@st.composite
def published(draw: st.DrawFn) -> bytes:
    kind, topic = draw(kinds), draw(topics)
    number = draw(st.integers(1, 65_535)).to_bytes(2, "big") if kind & 2 else b""
    return packet(kind, len(topic).to_bytes(2, "big") + topic + number + draw(payloads))


@given(st.lists(published(), max_size=6), st.integers(1, 200))
def test_messages_are_those_that_paho_reads(packets: list[bytes], pieces: int) -> None:
    sent = b"".join(packets)
    piece = 1 + len(sent) // pieces
    assert _quickly(sent, piece) == _with_paho(sent)
    assert len(_quickly(sent, piece)) <= len(packets)


@given(st.sampled_from([0x30, 0x32]), st.binary(max_size=6))
def test_a_malformed_packet_ends_as_it_does_with_paho(kind: int, body: bytes) -> None:
    assert _quickly(packet(kind, body), 64) == _with_paho(packet(kind, body))


@given(
    st.sampled_from(["t", "fw/v1/local/n1/ack", "泵"]), st.sampled_from([b"", b"x" * 100, b"y" * 125, b"z" * 20_000])
)
def test_what_is_published_is_read_by_paho(topic: str, payload: bytes) -> None:
    assert _with_paho(published_once(topic, payload)) == [(topic.encode(), payload, False, 0)]


def test_receipts_are_those_of_paho() -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, manual_ack=True)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client._sock = ours
        for number in (1, 255, 256, 65_535):
            client.ack(number, 1)
        assert theirs.recv(100) == receipts([1, 255, 256, 65_535])


def _quickly(sent: bytes, piece: int) -> list[Received]:
    received = list[Received]()
    client = BufferedClient(CallbackAPIVersion.VERSION2, manual_ack=True)
    client.on_received = lambda topic, payload, retained, number: received.append((topic, payload, retained, number))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        client._sock = client.buffered = BufferedSocket(ours)
        for start in range(0, len(sent), piece):
            if client.socket() is not None:
                theirs.sendall(sent[start : start + piece])
                client.read(packets=100, room=lambda: True)
    return received


def _with_paho(sent: bytes) -> list[Received]:
    received = list[Received]()

    def on_message(_client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        received.append((message._topic, bytes(message.payload), message.retain, message.mid))

    client = paho.Client(CallbackAPIVersion.VERSION2, manual_ack=True)
    client.on_message = on_message
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        client._sock = ours
        theirs.sendall(sent)
        for _ in range(200):
            if client.socket() is not None:
                client.loop_read()
    return received
