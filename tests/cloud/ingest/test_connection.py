"""The connection to a real broker."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from forewarn_cloud.adapters.nats_broker import NatsBroker
from forewarn_cloud.ingest.connection import BrokerConnection, BrokerUrl
from forewarn_cloud.ingest.messages import Delivery
from tests.benchmarks import mqtt_bytes
from tests.conftest import free_port, wait_until

TOPIC = "fw/v1/local/n1/telemetry"
CONNECT, SUBSCRIBE, CONNACK = 0x10, 0x80, b"\x20\x02\x00\x00"
SIZES = (1, 127, 128, 16_383, 16_384, 65_536, 200_000)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[NatsBroker]:
    broker = NatsBroker(folder=tmp_path / "broker", port=free_port())
    broker.start()
    yield broker
    broker.stop()


class Receiving:
    """A connection, and what came over it."""

    def __init__(self, port: int) -> None:
        self.deliveries: list[Delivery] = []
        self.room = True
        self.poison = b""
        self.connection = BrokerConnection(
            BrokerUrl(host="127.0.0.1", port=port),
            client_id="ingest",
            on_delivery=self.take,
            room=lambda: self.room,
        )

    def take(self, delivery: Delivery) -> None:
        if delivery.payload == self.poison:
            self.poison = b""
            raise ZeroDivisionError
        self.deliveries.append(delivery)

    @property
    def payloads(self) -> list[bytes]:
        return [delivery.payload for delivery in self.deliveries]

    def acknowledge_all(self) -> None:
        self.connection.acknowledge(self.deliveries)


@contextmanager
def receiving(port: int) -> Iterator[Receiving]:
    receiver = Receiving(port)
    receiver.connection.start()
    wait_until(lambda: receiver.connection.ready, "it is subscribed")
    yield receiver
    receiver.connection.stop()


def publish(port: int, *payloads: bytes) -> None:
    """Returns when the broker has them."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for sent in [client.publish(TOPIC, payload, qos=1) for payload in payloads]:
        sent.wait_for_publish(20)
    client.disconnect()
    client.loop_stop()


def test_messages_of_all_sizes_arrive_whole_and_in_order(broker: NatsBroker) -> None:
    sent = [os.urandom(size) for size in SIZES] + [b"%d" % i for i in range(500)]
    with receiving(broker.port) as receiver:
        publish(broker.port, *sent)
        wait_until(lambda: len(receiver.payloads) >= len(sent), "all arrive")
    assert receiver.payloads == sent


def test_while_there_is_no_room_nothing_is_read(broker: NatsBroker) -> None:
    sent = [b"%d" % i for i in range(50)]
    with receiving(broker.port) as receiver:
        receiver.room = False
        publish(broker.port, b"at most this one is being read already", *sent)
        held_back = len(receiver.payloads)
        receiver.room = True
        wait_until(lambda: len(receiver.payloads) == 51, "all arrive")
    assert held_back <= 1
    assert receiver.payloads[1:] == sent


def test_only_what_was_not_acknowledged_comes_again(broker: NatsBroker) -> None:
    with receiving(broker.port) as receiver:
        publish(broker.port, b"1", b"2", b"3")
        wait_until(lambda: len(receiver.payloads) == 3, "all arrive")
        receiver.connection.acknowledge([receiver.deliveries[0], receiver.deliveries[2]])
        wait_until(lambda: len(receiver.payloads) > 3, "it comes again")
        receiver.acknowledge_all()
    assert receiver.payloads == [b"1", b"2", b"3", b"2"]


def test_fault_23_an_error_while_receiving_ends_neither_the_thread_nor_the_messages(broker: NatsBroker) -> None:
    with receiving(broker.port) as receiver:
        receiver.poison = b"poison"
        publish(broker.port, b"1", b"poison", b"3")
        wait_until(lambda: {b"1", b"poison", b"3"} <= set(receiver.payloads), "all arrive, after connecting anew")


def test_fault_14_it_connects_again_when_the_broker_was_killed(broker: NatsBroker) -> None:
    with receiving(broker.port) as receiver:
        broker.stop()
        wait_until(lambda: not receiver.connection.ready, "it notices")
        broker.start()
        wait_until(lambda: receiver.connection.ready, "it is subscribed again")
        publish(broker.port, b"after")
        wait_until(lambda: receiver.payloads == [b"after"], "it arrives")
        assert receiver.connection.publish("fw/v1/local/n1/ack", b"{}", qos=0)
    assert not receiver.connection.publish("fw/v1/local/n1/ack", b"{}", qos=0)


def test_it_stops_where_there_is_no_broker() -> None:
    receiver = Receiving(free_port())
    receiver.connection.start()
    receiver.connection.stop()
    assert not receiver.connection.ready


def test_a_receipt_of_an_earlier_connection_is_not_given_to_the_next() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        receiver = Receiving(server.getsockname()[1])
        receiver.connection.start()
        with accepted(server) as first:
            first.sendall(CONNACK + mqtt_bytes.publish(TOPIC, b"1", 6))
            wait_until(lambda: receiver.payloads == [b"1"], "it arrives")
        with accepted(server) as second:
            receiver.acknowledge_all()  # the new connection has not been answered yet
            second.sendall(CONNACK)
            assert read_packet(second)[0] == SUBSCRIBE
        receiver.connection.stop()


@contextmanager
def accepted(server: socket.socket) -> Iterator[socket.socket]:
    """A connection that has said CONNECT."""
    connection, _ = server.accept()
    with connection:
        connection.settimeout(20)
        assert read_packet(connection)[0] == CONNECT
        yield connection


def read_packet(connection: socket.socket) -> tuple[int, bytes]:
    received = b""
    while (found := mqtt_bytes.next_packet(received, 0)) is None:
        received += connection.recv(1)
    return found[:2]
