"""The cloud was away, and what waits for it is much: it must be able to work it off."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from forewarn_cloud.adapters.nats_broker import NatsBroker
from forewarn_edge_agent.lanes import LONGEST_PATIENCE_SECONDS, LaneProgress, Read
from forewarn_edge_agent.pacing import Pace
from forewarn_edge_agent.spool import Chunk
from tests.conftest import free_port, wait_until
from tests.faults.proxy import FaultProxy

SECONDS = 60.0
MESSAGE_BYTES = 128 * 1024
MESSAGES = 700
"""More than the 64 MiB that the broker holds for one client unless told otherwise."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    broker = NatsBroker(folder=tmp_path / "broker", port=free_port())
    broker.start()
    yield broker.port
    broker.stop()


def connected(port: int, client_id: str, **callbacks: Any) -> paho.Client:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False)
    subscribed = threading.Event()
    client.on_connect = lambda client, *_: client.subscribe("load", qos=1)
    client.on_subscribe = lambda *_: subscribed.set()
    for name, callback in callbacks.items():
        setattr(client, name, callback)
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert subscribed.wait(SECONDS)
    return client


def ended(client: paho.Client) -> None:
    client.disconnect()
    client.loop_stop()


def test_a_full_queue_of_large_messages_does_not_get_a_slow_ingest_cut_off(broker: int) -> None:
    """The broker once took an ingest with a backlog of large messages for dead, every ten seconds, for ever."""
    ended(connected(broker, "ingest"))
    sender = connected(broker, "sender")
    sender.unsubscribe("load")
    for _ in range(MESSAGES):
        sender.publish("load", bytes(MESSAGE_BYTES), qos=1)
    wait_until(lambda: not sender.want_write() and not sender._out_messages, "the broker has it all", SECONDS)
    ended(sender)
    received, lost = list[int](), list[object]()
    with FaultProxy(broker) as link:
        ingest = connected(
            link.port,
            "ingest",
            on_message=lambda _client, _data, message: received.append(len(message.payload)),
            on_disconnect=lambda _client, _data, _flags, reason, _properties: lost.append(reason),
        )
        link.slow(0)
        time.sleep(3.0)  # it is busy with something else
        link.restore()
        wait_until(lambda: len(received) >= MESSAGES or bool(lost), "all has come", SECONDS)
        assert not lost
        ended(ingest)


def test_resends_to_a_cloud_that_stays_away_become_rare() -> None:
    """Every ten seconds all that was under way was sent again: in minutes the broker held nothing but repeats."""
    lane, pace, sent_again_at = LaneProgress("telemetry"), Pace(1000.0, 0.0), list[int]()
    lane.start_over(0, 0.0, last_seq=100)
    chunk = Chunk(epoch="e", seq=1, bodies=(b"",) * 100, spooled_at_ms=0)
    lane.sent(Read(lane="telemetry", after_seq=0), chunk, pace, 0.0)
    for second in range(3600):
        if lane.is_stalled(float(second), 10.0):
            sent_again_at.append(second)
            lane.send_again(0, float(second))
            lane.sent(Read(lane="telemetry", after_seq=0), chunk, pace, float(second))
    assert sent_again_at[:6] == [10, 30, 70, 150, 310, 610]
    assert sent_again_at[6] - sent_again_at[5] == LONGEST_PATIENCE_SECONDS
    lane.acknowledged(50, 100, 3600.0)
    assert not lane.is_stalled(3609.0, 10.0)
    assert lane.is_stalled(3610.0, 10.0)


def test_the_broker_lets_more_than_five_hundred_nodes_subscribe(broker: int) -> None:
    """Each has two lasting subscriptions; the embedded broker once refused every node beyond the five-hundredth."""
    with ExitStack() as open_clients:
        for number in range(520):
            client = open_clients.enter_context(socket.create_connection(("127.0.0.1", broker), SECONDS))
            assert granted(client, f"node-{number}", f"fw/v1/local/{number}/ack", f"fw/v1/local/{number}/command")


def granted(client: socket.socket, client_id: str, *topics: str) -> bool:
    """Connect with a lasting session and subscribe with QoS 1, byte by byte: paho would take a thread for each."""
    connect = text("MQTT") + b"\x04\x00" + struct.pack(">H", 60) + text(client_id)
    client.sendall(b"\x10" + bytes([len(connect)]) + connect)
    assert exactly(client, 4)[3] == 0
    subscribe = struct.pack(">H", 1) + b"".join(text(topic) + b"\x01" for topic in topics)
    client.sendall(b"\x82" + bytes([len(subscribe)]) + subscribe)
    return exactly(client, 4 + len(topics))[4:] == b"\x01" * len(topics)


def exactly(client: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        more = client.recv(size - len(read))
        assert more, "the broker ended the connection"
        read += more
    return read


def text(value: str) -> bytes:
    return struct.pack(">H", len(value)) + value.encode()
