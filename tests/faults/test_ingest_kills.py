"""The ingest is killed between its steps: what was sent is stored once and acknowledged in the end."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import Engine

from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_models import wire
from tests.cloud.ingest.sending import TENANT, enrol, rows
from tests.conftest import Broker, stop, wait_until
from tests.faults.ingest_driver import READY

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
RECORDS = 20


class Node:
    """Holds its records until they are acknowledged, and sends them again when it is told to."""

    def __init__(self, port: int, asset: str = "pump-1", samples: int = 1) -> None:
        self.acknowledged = 0
        first_ms = time.time_ns() // 1_000_000 - RECORDS
        records = [block(asset, first_ms + n, samples) for n in range(RECORDS)]
        self._payload = wire.encode_message("e1", 1, records)
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id="n1", clean_session=False)
        self.client.on_message = self._told
        self.client.connect("127.0.0.1", port)
        self.client.subscribe(wire.topic(TENANT, "n1", "ack"), 1)
        self.client.loop_start()

    def send(self) -> None:
        self.client.publish(wire.topic(TENANT, "n1", "telemetry"), self._payload, 1).wait_for_publish(10)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _told(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self.acknowledged = max(self.acknowledged, wire.decode_control(bytes(message.payload), wire.Ack).seq)


def block(asset: str, t_ms: int, samples: int) -> bytes:
    """Noise: nothing can make it smaller."""
    flow = np.random.default_rng(t_ms).random(samples, dtype=np.float32)
    times = np.full(samples, t_ms, dtype=np.int64)
    return wire.encode_telemetry(wire.Telemetry(asset=asset, asset_type="generic", t_ms=times, signals={"flow": flow}))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/cloud.db"


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    migrate(engine)
    enrol(engine, "n1", "pump-1")
    yield engine
    engine.dispose()


@contextmanager
def ingest(url: str, broker: Broker, point: str = "never") -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "tests.faults.ingest_driver", url, str(broker.port), point]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().decode().strip() == READY
        try:
            yield process
        finally:
            stop(process)


def kill_at(point: str, url: str, broker: Broker) -> Node:
    """An ingest that subscribes, gets the node's records, and dies at the point."""
    with ingest(url, broker, point) as process:
        node = Node(broker.port)
        node.send()
        assert process.wait(30) == -9
    assert node.acknowledged == 0
    return node


def stored(engine: Engine) -> list[int]:
    return [seq for (seq,) in rows(engine, "telemetry_blocks", "seq")]


def assert_stored_once(engine: Engine, node: Node) -> None:
    wait_until(lambda: node.acknowledged == RECORDS, "everything is acknowledged")
    assert stored(engine) == list(range(1, RECORDS + 1))
    assert rows(engine, "quarantine", "reason") == []
    assert rows(engine, "lane_progress", "contiguous_seq", "records_stored") == [(RECORDS, RECORDS)]
    node.close()


def test_fault_20_sigkill_before_the_commit_and_the_broker_delivers_again(
    url: str, engine: Engine, mosquitto: Broker
) -> None:
    node = kill_at("before_commit", url, mosquitto)
    assert stored(engine) == []
    with ingest(url, mosquitto):
        assert_stored_once(engine, node)


def test_fault_21_sigkill_after_the_commit_before_the_puback_and_the_duplicate_is_absorbed(
    url: str, engine: Engine, mosquitto: Broker
) -> None:
    node = kill_at("before_puback", url, mosquitto)
    assert len(stored(engine)) == RECORDS
    with ingest(url, mosquitto):
        assert_stored_once(engine, node)


def test_fault_22_sigkill_after_the_puback_before_the_acknowledgement_and_the_node_sends_again(
    url: str, engine: Engine, mosquitto: Broker
) -> None:
    node = kill_at("before_ack", url, mosquitto)
    assert len(stored(engine)) == RECORDS
    with ingest(url, mosquitto):
        time.sleep(1.0)  # nothing is to be waited for: the broker has its receipt and delivers nothing
        assert node.acknowledged == 0
        node.send()
        assert_stored_once(engine, node)
