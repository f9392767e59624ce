"""FAULTS: bad inputs, sent by a real client through the real embedded broker, beside a good stream that goes on."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import Engine

from forewarn_cloud.adapters.ingest_sql import SqlLedger
from forewarn_cloud.adapters.nats_broker import MAX_PAYLOAD_BYTES, NatsBroker
from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from forewarn_cloud.ingest.connection import BrokerUrl
from forewarn_cloud.ingest.ledger import LedgerTransaction
from forewarn_cloud.ingest.pipeline import Ingest
from forewarn_models import wire
from tests.cloud.clock import FixedClock
from tests.cloud.ingest.sending import NOW, TENANT, enrol, message, rows, telemetry
from tests.conftest import free_port, wait_until

T = TypeVar("T")
DAY_MS = 86_400_000
TOPIC = "fw/v1/local/n1/telemetry"


@dataclass(kw_only=True)
class Client:
    """A node's client, or somebody who pretends to be one."""

    mqtt: paho.Client
    acks: list[wire.Ack] = field(default_factory=list)

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Returns when the broker has it."""
        self.mqtt.publish(topic, payload, 1, retain).wait_for_publish(10)

    def acknowledged(self, epoch: str, seq: int) -> bool:
        return any(ack.epoch == epoch and ack.seq >= seq for ack in self.acks)


@dataclass(kw_only=True)
class Cloud:
    engine: Engine
    port: int
    client: Client
    good: int = 0

    def good_stream_goes_on(self) -> None:
        """One more good record is stored and acknowledged."""
        self.good += 1
        sent = message(self.good, telemetry("good", t=NOW + self.good), node="good", epoch="good")
        self.client.send(sent.topic, sent.payload)
        wait_until(lambda: self.client.acknowledged("good", self.good), "the good record is acknowledged")

    def refused(self, body: bytes) -> tuple[str, bool]:
        """Why a body is in quarantine, and whether that is a security event."""
        digest = wire.digest(body)
        wait_until(lambda: self._refused(digest) is not None, "it is in quarantine")
        found = self._refused(digest)
        assert found is not None
        return found

    def _refused(self, digest: bytes) -> tuple[str, bool] | None:
        for found, reason, security in rows(self.engine, "quarantine", "digest", "reason", "security"):
            if bytes(found) == digest:
                return str(reason), bool(security)
        return None


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder: Path = tmp_path_factory.mktemp("cloud")
    broker = NatsBroker(folder=folder / "broker", port=free_port())
    broker.start()
    engine = make_engine(f"sqlite:///{folder}/cloud.db")
    migrate(engine)
    for node, assets in {"n1": ["pump-1"], "n2": ["fan-1"], "good": ["good"], "many": ["many"]}.items():
        enrol(engine, node, *assets)
    url = BrokerUrl(host="127.0.0.1", port=broker.port)
    clock = FixedClock(at_ms=NOW)
    ingest = Ingest(broker=url, client_id="ingest", ledger=SqlLedger(engine), clock=clock, tenant=TENANT)
    writing = threading.Thread(target=ingest.write, daemon=True)
    writing.start()
    ingest.start()
    wait_until(lambda: ingest.connected, "ingest is connected")
    client = connect(broker.port, "client")
    yield Cloud(engine=engine, port=broker.port, client=client)
    client.mqtt.disconnect()
    client.mqtt.loop_stop()
    ingest.stop()
    writing.join()
    broker.stop()
    engine.dispose()


def connect(port: int, client_id: str) -> Client:
    mqtt = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id)
    client = Client(mqtt=mqtt)
    subscribed = threading.Event()

    def on_connect(*_: Any) -> None:
        mqtt.subscribe("fw/v1/+/+/ack")

    mqtt.on_connect = on_connect
    mqtt.on_subscribe = lambda *_: subscribed.set()
    mqtt.on_message = lambda _c, _d, found: client.acks.append(wire.decode_control(bytes(found.payload), wire.Ack))
    mqtt.connect("127.0.0.1", port)
    mqtt.loop_start()
    assert subscribed.wait(10)
    return client


def record(**changes: Any) -> dict[str, Any]:
    return {"asset": "pump-1", "asset_type": "generic", "t": [NOW], "signals": {"flow": [1.0]}} | changes


def envelope(*records: Any, epoch: str = "bad", seq: Any = 1, **changes: Any) -> bytes:
    return json.dumps({"schema": 1, "epoch": epoch, "seq": seq, "records": list(records)} | changes).encode()


WHOLE_MESSAGES = {
    "1 empty": (b"", "empty payload"),
    "2 random bytes": (bytes(range(200, 256)), "not readable"),
    "2 not JSON": (b"{temperature: 4}", "not JSON"),
    "3 invalid UTF-8": (b'{"schema": "\xff\xfe"}', "UTF-8"),
    "5 array": (b"[1, 2, 3]", "message"),
    "5 array as MessagePack": (b"\x93\x01\x02\x03", "Expected `object`"),
    "6 deep": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested too deeply"),
    "6 deep as MessagePack": (b"\x91" * 10_000 + b"\x01", "message"),
    "7 over the limit": (b"{" + b" " * 300_000 + b"}", "the limit is 262144"),
    "8 gzip": (b"\x1f\x8b\x08\x00" + bytes(64), "compressed with gzip"),
    "8 zstd": (b"\x28\xb5\x2f\xfd" + bytes(64), "compressed with zstd"),
    "9 duplicate keys": (envelope(record()).replace(b'{"schema": 1', b'{"schema": 1, "schema": 1'), "twice"),
    "10 NaN": (envelope(record()).replace(b"1.0", b"NaN"), "NaN is not JSON"),
    "10 Infinity": (envelope(record()).replace(b"1.0", b"Infinity"), "Infinity is not JSON"),
    "10 -Infinity": (envelope(record()).replace(b"1.0", b"-Infinity"), "-Infinity is not JSON"),
    "11 400 digits": (envelope(record()).replace(b"1.0", b"7" * 400), "400 digits"),
    "28 seq 2^63": (envelope(record(), seq=2**63), "seq"),
    "28 negative seq": (envelope(record(), seq=-4), "seq"),
    "28 seq is a float": (envelope(record(), seq=1.5), "seq"),
    "30 no records": (envelope(), "give 1 to 500, not 0"),
    "30 501 records": (envelope(*[1] * 501), "give 1 to 500, not 501"),
    "unknown schema": (envelope(record(), schema=7), "schema: 7"),
    "unknown field": (envelope(record(), tenant="other"), "tenant"),
}

RECORDS = {
    "11 1e400": (json.dumps(record()).replace("1.0", "1e400"), "out of range", False),
    "12 number in quotes": (record(signals={"flow": ["12.3"]}), "str", False),
    "13 true": (record(signals={"flow": [True]}), "bool", False),
    "19 no time": ({"asset": "pump-1", "asset_type": "g", "signals": {"flow": [1.0]}}, "`t`", False),
    "20 1970": (record(t=[0]), "more than 30 days old", False),
    "21 seconds": (record(t=[NOW // 1000]), "looks like seconds", False),
    "21 microseconds": (record(t=[NOW * 1000]), "looks like microseconds", False),
    "22 six minutes ahead": (record(t=[NOW + 360_000]), "in the future", False),
    "22 year 2100": (record(t=[4_102_444_800_000]), "in the future", False),
    "22 negative": (record(t=[-5]), "more than 30 days old", False),
    "22 2^63": (record(t=[2**63]), "t", False),
    "23 local time": (record(t="2026-03-29T02:30:00"), "str", False),
    "24 31 days old": (record(t=[NOW - 31 * DAY_MS]), "more than 30 days old", False),
    "32 a machine of another node": (record(asset="fan-1"), "belongs to node 'n2'", True),
    "34 unknown machine": (record(asset="nobody"), "is not registered", False),
    "35 65 signals": (record(signals={f"s{i}": [1.0] for i in range(65)}), "not 65", False),
    "36 __proto__": (record(signals={"__proto__": [1.0]}), "signals: name with", False),
    "36 dot": (record(signals={"a.b": [1.0]}), "signals: name with", False),
    "36 path": (record(signals={"../x": [1.0]}), "signals: name with", False),
    "36 300 characters": (record(signals={"x" * 300: [1.0]}), "signals: name with", False),
    "36 emoji": (record(signals={"🔥": [1.0]}), "signals: name with", False),
    "36 NUL": (record(signals={"a\0b": [1.0]}), "signals: name with", False),
    "37 injection": (record(asset="'; DROP TABLE orders; --"), "asset: use letters", False),
    "not an object": ("text", "record", False),
}


@pytest.mark.parametrize(("payload", "reason"), WHOLE_MESSAGES.values(), ids=WHOLE_MESSAGES.keys())
def test_an_unreadable_message_is_quarantined(cloud: Cloud, payload: bytes, reason: str) -> None:
    cloud.client.send(TOPIC, payload)
    cloud.good_stream_goes_on()
    found, security = cloud.refused(payload)
    assert reason in found
    assert not security
    assert not cloud.client.acknowledged("bad", 1)


@pytest.mark.parametrize(("bad", "reason", "security"), RECORDS.values(), ids=RECORDS.keys())
def test_a_bad_record_is_quarantined_and_its_neighbours_are_stored(
    cloud: Cloud, request: pytest.FixtureRequest, bad: Any, reason: str, security: bool
) -> None:
    body = bad if isinstance(bad, str) and bad.startswith("{") else json.dumps(bad)
    epoch = wire.digest(request.node.name.encode()).hex()
    payload = envelope(record(), "HERE", record(t=[NOW + 1]), epoch=epoch).replace(b'"HERE"', body.encode())
    cloud.client.send(TOPIC, payload)
    wait_until(lambda: cloud.client.acknowledged(epoch, 3), "all three are acknowledged")
    assert [seq for seq, of in rows(cloud.engine, "telemetry_blocks", "seq", "epoch") if of == epoch] == [1, 3]
    found, is_security = cloud.refused(body.encode())
    assert reason in found
    assert is_security == security
    cloud.good_stream_goes_on()


def test_4_a_topic_that_is_not_utf8(cloud: Cloud) -> None:
    topic = b"fw/v1/\xff\xfe/n1/telemetry"
    body = len(topic).to_bytes(2, "big") + topic + b"payload"
    with raw_client(cloud.port) as client:
        client.sendall(bytes([0x30, len(body)]) + body)
    cloud.good_stream_goes_on()


def test_7_a_packet_that_is_far_too_big_is_cut_off(cloud: Cloud) -> None:
    with raw_client(cloud.port) as client:
        # The header of a 256 MB message, the most that MQTT can say, and the beginning of its body.
        client.sendall(b"\x30\xff\xff\xff\x7f" + len(TOPIC).to_bytes(2, "big") + TOPIC.encode())
        assert is_cut_off(client)
    cloud.good_stream_goes_on()


def test_7_what_is_a_little_too_big_is_quarantined(cloud: Cloud) -> None:
    flow = [1.0] * 20_000
    payload = envelope(record(t=[NOW] * len(flow), signals={"flow": flow}), epoch="large")
    assert wire.MAX_MESSAGE_BYTES < len(payload) < MAX_PAYLOAD_BYTES
    cloud.client.send(TOPIC, payload)
    assert "the limit is" in cloud.refused(payload)[0]


def test_14_null_is_missing_and_25_disorder_is_ordered(cloud: Cloud) -> None:
    t_ms = NOW - 100_000
    signals = {"head": [None, 2.0], "flow": [4.0, 3.0]}
    cloud.client.send(TOPIC, envelope(record(t=[t_ms + 9000, t_ms], signals=signals), epoch="order"))
    wait_until(lambda: cloud.client.acknowledged("order", 1), "it is acknowledged")
    with cloud.engine.connect() as connection:
        found = SqlTelemetry(connection).read(
            tenant=TENANT, asset="pump-1", signals=["head", "flow"], from_ms=t_ms, to_ms=t_ms + 9000, max_points=10
        )
    assert found.t_ms.tolist() == [t_ms, t_ms + 9000]
    assert str(found.signals["head"].tolist()) == "[2.0, nan]"
    assert found.signals["flow"].tolist() == [3.0, 4.0]


def test_26_a_repeat_is_absorbed_and_27_another_body_is_a_security_event(cloud: Cloud) -> None:
    first, other = envelope(record(), epoch="same"), envelope(record(signals={"flow": [2.0]}), epoch="same")
    for payload in (first, first, other):
        cloud.client.send(TOPIC, payload)
    cloud.good_stream_goes_on()
    reason, security = cloud.refused(json.dumps(record(signals={"flow": [2.0]})).encode())
    assert (reason, security) == ("seq: 1 was received before with another body", True)
    assert [of for (of,) in rows(cloud.engine, "telemetry_blocks", "epoch")].count("same") == 1


def test_29_a_new_epoch_is_accepted(cloud: Cloud) -> None:
    cloud.client.send(TOPIC, envelope(record(), epoch="replaced"))
    wait_until(lambda: cloud.client.acknowledged("replaced", 1), "it is acknowledged")


def test_31_one_bad_record_of_a_hundred(cloud: Cloud) -> None:
    many = [record(t=[NOW + i]) for i in range(100)]
    many[63] = record(t=[12])
    cloud.client.send(TOPIC, envelope(*many, epoch="hundred"))
    wait_until(lambda: cloud.client.acknowledged("hundred", 100), "all are acknowledged")
    assert [of for (of,) in rows(cloud.engine, "telemetry_blocks", "epoch")].count("hundred") == 99


@pytest.mark.parametrize(
    ("topic", "reason", "security"),
    [
        ("fw/v1/other/n1/telemetry", "tenant: 'other' is not served here", True),
        ("fw/v1/local/nobody/telemetry", "node: 'nobody' is not enrolled", False),
        ("fw/v1/local/nobody/presence", "node: 'nobody' is not enrolled", False),
        ("fw/v1/löcal/n1/telemetry", "topic: tenant is not a valid identifier", False),
        (f"fw/v1/local/{'n' * 65}/telemetry", "topic: node is not a valid identifier", False),
    ],
)
def test_33_34_42_strangers_are_refused(cloud: Cloud, topic: str, reason: str, security: bool) -> None:
    body = (
        envelope(record())
        if topic.endswith("telemetry")
        else wire.encode_control(wire.Presence(schema=1, state="online", at=NOW, assets={"mine-now": "generic"}))
    )
    cloud.client.send(topic, body)
    cloud.good_stream_goes_on()

    def found() -> list[tuple[Any, ...]]:
        return [row for row in rows(cloud.engine, "quarantine", "topic", "reason", "security") if row[0] == topic]

    wait_until(lambda: len(found()) == 1, "it is in quarantine")
    assert reason in found()[0][1]
    assert found()[0][2] == security
    assert not {"nobody", "mine-now"} & {name for (name,) in rows(cloud.engine, "nodes", "node")}
    assert "mine-now" not in {name for (name,) in rows(cloud.engine, "assets", "asset")}


def test_35_ten_thousand_new_names(cloud: Cloud) -> None:
    topic = "fw/v1/local/many/telemetry"
    for start in range(0, 10_000, 500):
        records = [record(asset="many", signals={f"s{i}": [1.0]}) for i in range(start, start + 500)]
        cloud.client.send(topic, envelope(*records, epoch="names", seq=start + 1))
    wait_until(lambda: cloud.client.acknowledged("names", 10_000), "all are acknowledged")
    assert sum(asset == "many" for (asset,) in rows(cloud.engine, "asset_signals", "asset")) == 64
    assert [of for (of,) in rows(cloud.engine, "telemetry_blocks", "epoch")].count("names") == 64


@dataclass(frozen=True)
class NotingLedger(SqlLedger):
    """Says when it has served."""

    served: threading.Event = field(default_factory=threading.Event)

    def run(self, work: Callable[[LedgerTransaction], T]) -> T:
        result = super().run(work)
        self.served.set()
        return result


def test_40_a_retained_record_is_ignored_by_who_subscribes_later(cloud: Cloud) -> None:
    cloud.client.send(TOPIC, envelope(record(), epoch="retained"), retain=True)
    wait_until(lambda: cloud.client.acknowledged("retained", 1), "it is news while we listen")
    ledger = NotingLedger(cloud.engine)
    again = Ingest(
        broker=BrokerUrl(host="127.0.0.1", port=cloud.port),
        client_id="another",
        ledger=ledger,
        clock=FixedClock(at_ms=NOW),
        tenant=TENANT,
    )
    writing = threading.Thread(target=again.write, daemon=True)
    writing.start()
    again.start()
    assert ledger.served.wait(20), "the retained message is seen"
    again.stop()
    writing.join()
    cloud.good_stream_goes_on()
    assert sum(ack.epoch == "retained" for ack in cloud.client.acks) == 1, "a repeat would be acknowledged again"
    cloud.client.send(TOPIC, b"", retain=True)


@pytest.mark.parametrize("topic", ["$JS/API/STREAM/DELETE/$MQTT_msgs", "$SYS/REQ/SERVER/PING", "$MQTT/JSA/x"])
def test_41_the_brokers_own_subjects_are_out_of_reach(cloud: Cloud, topic: str) -> None:
    cloud.client.mqtt.publish(topic, b"", 0)
    cloud.good_stream_goes_on()


def raw_client(port: int) -> socket.socket:
    """A connected MQTT client that can break the rules."""
    client = socket.create_connection(("127.0.0.1", port), 10)
    name = b"\x00\x03raw"
    variable = b"\x00\x04MQTT\x04\x02\x00\x3c" + name
    client.sendall(bytes([0x10, len(variable)]) + variable)
    assert client.recv(4)[:1] == b"\x20"
    return client


def is_cut_off(client: socket.socket) -> bool:
    client.settimeout(10)
    try:
        while client.recv(1024):
            pass
    except ConnectionError:
        return True
    return True
