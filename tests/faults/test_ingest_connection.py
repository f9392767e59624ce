"""Faults of the cloud's own connection to the broker: half open, dead, stuck, and errors in its handlers."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import Engine

from forewarn_cloud.adapters.ingest_sql import SqlLedger
from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.clock import SystemClock
from forewarn_cloud.ingest.connection import BrokerConnection, BrokerUrl
from forewarn_cloud.ingest.messages import Delivery
from forewarn_cloud.ingest.pipeline import Ingest
from tests.cloud.ingest.sending import TENANT, birth, enrol, message, rows, telemetry
from tests.conftest import Broker, wait_until
from tests.faults.proxy import FaultProxy

KEEP_ALIVE_SECONDS = 4


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = make_engine(f"sqlite:///{tmp_path}/cloud.db")
    migrate(engine)
    enrol(engine, "n1", "pump-1")
    yield engine
    engine.dispose()


@pytest.fixture
def ingest(engine: Engine, mosquitto: Broker) -> Iterator[Ingest]:
    url = BrokerUrl(host="127.0.0.1", port=mosquitto.port)
    ingest = Ingest(broker=url, client_id="ingest", ledger=SqlLedger(engine), clock=SystemClock(), tenant=TENANT)
    stopping = threading.Event()
    threads = [threading.Thread(target=ingest.write), threading.Thread(target=ingest.watch, args=(stopping,))]
    for thread in threads:
        thread.start()
    ingest.start()
    wait_until(lambda: ingest.connected, "ingest is connected")
    yield ingest
    stopping.set()
    ingest.stop()
    for thread in threads:
        thread.join()


@pytest.fixture
def node(mosquitto: Broker) -> Iterator[paho.Client]:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="n1")
    client.connect("127.0.0.1", mosquitto.port)
    client.loop_start()
    yield client
    client.disconnect()
    client.loop_stop()


def send(node: paho.Client, *seqs: int) -> None:
    for seq in seqs:
        sent = message(seq, telemetry(t=time.time_ns() // 1_000_000))
        node.publish(sent.topic, sent.payload, 1).wait_for_publish(10)


def test_records_that_wait_for_a_birth_do_not_keep_the_broker_from_delivering_it(
    ingest: Ingest, engine: Engine, node: paho.Client
) -> None:
    """mosquitto has at most 20 messages under way: 20 records of an undeclared machine kept the birth behind them."""
    wait_until(node.is_connected, "the node is connected")
    for seq in range(1, 21):
        sent = message(seq, telemetry("fan-7", t=time.time_ns() // 1_000_000))
        node.publish(sent.topic, sent.payload, 1)
    born = birth(assets={"fan-7": "motor_fan"})
    node.publish(born.topic, born.payload, 1).wait_for_publish(10)
    wait_until(lambda: len(stored(engine)) == 20, "all are stored")
    assert rows(engine, "quarantine", "reason") == []
    assert ingest.connected


def stored(engine: Engine) -> list[int]:
    return [seq for (seq,) in rows(engine, "telemetry_blocks", "seq")]


def test_fault_12_a_half_open_connection_to_the_broker_is_noticed_within_one_and_a_half_keep_alives(
    mosquitto: Broker,
) -> None:
    with FaultProxy(mosquitto.port) as link:
        connection = BrokerConnection(
            BrokerUrl(host="127.0.0.1", port=link.port),
            client_id="ingest",
            on_delivery=lambda _: None,
            keep_alive_seconds=KEEP_ALIVE_SECONDS,
        )
        connection.start()
        wait_until(lambda: connection.ready, "it is connected")
        link.blackhole()
        began = time.monotonic()
        wait_until(lambda: not connection.ready, "it is noticed", 5 * KEEP_ALIVE_SECONDS)
        assert time.monotonic() - began <= 1.5 * KEEP_ALIVE_SECONDS + 1, "one second for a busy machine"
        link.restore()
        wait_until(lambda: connection.ready, "it is connected anew", 40)
        connection.stop()


def test_an_idle_connection_is_not_taken_for_half_open(mosquitto: Broker) -> None:
    connection = BrokerConnection(
        BrokerUrl(host="127.0.0.1", port=mosquitto.port),
        client_id="ingest",
        on_delivery=lambda _: None,
        keep_alive_seconds=1,
    )
    connection.start()
    wait_until(lambda: connection.ready, "it is connected")
    lost = threading.Event()
    connection._client.on_disconnect = lambda *_: lost.set()
    assert not lost.wait(4)
    connection.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_fault_23_a_connection_thread_that_dies_is_noticed_and_replaced(
    ingest: Ingest, engine: Engine, node: paho.Client
) -> None:
    send(node, 1)
    wait_until(lambda: stored(engine) == [1], "the first record is stored")

    def die(*_: object) -> None:
        raise SystemExit

    dead = ingest._connection
    dead._take_turn = die  # type: ignore[method-assign]
    wait_until(lambda: not dead.alive, "the thread is dead")
    send(node, 2)
    wait_until(lambda: ingest.figures.replacements == 1, "it is replaced")
    wait_until(lambda: stored(engine) == [1, 2], "the second record is stored")
    assert ingest.connected


def test_fault_23_a_connection_thread_that_is_stuck_is_noticed_and_replaced(
    ingest: Ingest, engine: Engine, node: paho.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forewarn_cloud.ingest.connection.STUCK_SECONDS", 2.0)
    put, released = ingest._handover.put, threading.Event()
    calls = list[Delivery]()

    def stuck(delivery: Delivery) -> Any:
        calls.append(delivery)
        if len(calls) == 1:
            released.wait(60)
        return put(delivery)

    monkeypatch.setattr(ingest._handover, "put", stuck)
    send(node, 1, 2)
    wait_until(lambda: ingest.figures.replacements >= 1, "it is replaced")
    wait_until(lambda: stored(engine) == [1, 2], "what was delivered to it has come again")
    released.set()


def test_fault_23_an_error_in_the_message_handler_is_quarantined_and_the_thread_goes_on(
    ingest: Ingest, engine: Engine, node: paho.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, broken = ingest._handover.put, message(2, telemetry(value=66.0, t=time.time_ns() // 1_000_000))

    def failing(delivery: Delivery) -> Any:
        if delivery.payload == broken.payload:
            raise ZeroDivisionError("a mistake of ours")
        return put(delivery)

    monkeypatch.setattr(ingest._handover, "put", failing)
    thread = ingest._connection._thread
    send(node, 1)
    node.publish(broken.topic, broken.payload, 1).wait_for_publish(10)
    send(node, 3)
    wait_until(lambda: stored(engine) == [1, 3], "the others are stored")
    wait_until(lambda: bool(rows(engine, "quarantine", "reason")), "it is in quarantine")
    assert rows(engine, "quarantine", "reason", "body") == [("could not be stored: ZeroDivisionError", broken.payload)]
    assert thread.is_alive()
    assert ingest.figures.replacements == 0
