"""The wire contract: what is read, what is refused, and that a refusal says why."""

import json
from typing import Any

import numpy as np
import pytest

from forewarn_models import wire

NOW = 1_700_000_000_000


def record(**changes: Any) -> dict[str, Any]:
    return {"asset": "pump-1", "asset_type": "generic", "t": [NOW], "signals": {"x": [1.0]}} | changes


def message(*records: Any, **changes: Any) -> bytes:
    body: dict[str, Any] = {"schema": 1, "epoch": "a", "seq": 1, "records": list(records) or [record()]}
    return json.dumps(body | changes).encode()


def read(payload: bytes, lane: wire.Lane = "telemetry") -> wire.Message:
    return wire.decode_message(lane, payload, now_ms=NOW)


def rejected(payload: bytes) -> str:
    """The reason the only record is rejected."""
    (received,) = read(payload).records
    assert isinstance(received.record, wire.Rejected)
    return received.record.reason


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty payload"),
        (b"\x00\xff\x12", "message"),
        (b'{"schema": "\xff"}', "UTF-8"),
        (b"[1]", "message"),
        (b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested too deeply"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b"\x28\xb5\x2f\xfd\x00", "compressed with zstd"),
        (b'{"schema":1,"schema":1,"epoch":"a","seq":1,"records":[{}]}', "twice"),
        (message(record(signals={"x": [float("nan")]})), "NaN is not JSON"),
        (message(record(signals={"x": [float("-inf")]})), "-Infinity is not JSON"),
        (message().replace(b"1.0", b"1" * 400), "400 digits"),
        (message(seq=-1), "seq"),
        (message(seq=2**63), "seq"),
        (message(seq=1.5), r"\$\.seq"),
        (message(seq=True), r"\$\.seq"),
        (message(schema=2), "schema: 2"),
        (message(epoch="a/b"), "epoch"),
        (message(records=[]), "records: give 1 to 500, not 0"),
        (message(*[record()] * 501), "records: give 1 to 500, not 501"),
        (message(extra=1), "extra"),
        (b" " * (wire.MAX_MESSAGE_BYTES + 1), "the limit is 262144"),
    ],
)
def test_envelope_is_refused(payload: bytes, reason: str) -> None:
    with pytest.raises(wire.WireError, match=reason):
        read(payload)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (message(record()).replace(b"1.0", b"1e400"), "out of range"),
        (message(record(signals={"x": [1e300]})), "out of range"),
        (message(record(signals={"x": ["12.3"]})), "str"),
        (message(record(signals={"x": "12.3"})), "str"),
        (message(record(signals={"x": [True]})), "bool"),
        (message({"asset": "p", "asset_type": "g", "signals": {"x": [1.0]}}), "`t`"),
        (message(record(t=[0])), "more than 30 days old"),
        (message(record(t=[-1])), "more than 30 days old"),
        (message(record(t=[2**62])), "out of range"),
        (message(record(t=[NOW // 1000])), "looks like seconds"),
        (message(record(t=[NOW * 1000])), "looks like microseconds"),
        (message(record(t=[NOW + 360_000])), "in the future"),
        (message(record(t="2023-11-14T22:13:20")), "str"),
        (message(record(t=[NOW, NOW])), "1 readings for 2 times"),
        (message(record(t=[])), "at least one sample"),
        (message(record(signals={})), "signals"),
        (message(record(signals={f"s{i}": [1.0] for i in range(65)})), "not 65"),
        *[(message(record(signals={name: [1.0]})), "signals: name with") for name in ("__proto__", "a.b", "../x")],
        *[(message(record(signals={name: [1.0]})), "signals: name with") for name in ("x" * 300, "🔥", "a\x00b")],
        (message(record(asset="a/b")), "asset"),
        (message(record(extra=1)), "extra"),
        (message("text"), "record"),
        (message({"gap": [5, 3], "reason": "full"}), "gap"),
    ],
)
def test_record_is_refused_with_its_reason(payload: bytes, reason: str) -> None:
    assert reason in rejected(payload)


def test_one_bad_record_does_not_take_the_others_with_it() -> None:
    good = [record(asset=f"pump-{i}") for i in range(99)]
    received = read(message(*good[:50], record(t=[0]), *good[50:], seq=7)).records
    assert [r.seq for r in received if isinstance(r.record, wire.Rejected)] == [57]
    assert sum(isinstance(r.record, wire.Telemetry) for r in received) == 99


def test_null_is_a_missing_reading_not_zero() -> None:
    (received,) = read(message(record(signals={"x": [None]}))).records
    assert isinstance(received.record, wire.Telemetry)
    assert np.isnan(received.record.signals["x"][0])


def test_a_hand_made_client_may_send_single_numbers() -> None:
    (received,) = read(message(record(t=NOW, signals={"x": 2.5, "y": None}))).records
    assert isinstance(received.record, wire.Telemetry)
    assert received.record.signals["x"].tolist() == [2.5]


def test_samples_out_of_order_are_put_in_order() -> None:
    (received,) = read(message(record(t=[NOW, NOW - 9000], signals={"x": [2.0, 1.0]}))).records
    assert isinstance(received.record, wire.Telemetry)
    assert received.record.t_ms.tolist() == [NOW - 9000, NOW]
    assert received.record.signals["x"].tolist() == [1.0, 2.0]


def test_binary_round_trip_is_exact() -> None:
    t_ms = np.arange(NOW, NOW + 5000, 1000, dtype=np.int64)
    column = np.array([1.5, np.nan, -3.25, 0.1, 7.0], dtype=np.float32)
    body = wire.encode_telemetry(wire.Telemetry(asset="p", asset_type="g", t_ms=t_ms, signals={"x": column}))
    gap = wire.encode_gap(wire.Gap(first_seq=3, last_seq=9, reason="spool full"))
    received = read(wire.encode_message("e1", 10, [body, gap]))
    first, second = received.records
    assert (received.epoch, received.seq, received.last_seq) == ("e1", 10, 11)
    assert isinstance(first.record, wire.Telemetry)
    np.testing.assert_array_equal(first.record.t_ms, t_ms)
    np.testing.assert_array_equal(first.record.signals["x"], column)
    assert first.digest == wire.digest(body)
    assert second.record == wire.Gap(first_seq=3, last_seq=9, reason="spool full")


def test_infinity_in_a_binary_column_is_refused() -> None:
    column = np.array([np.inf], dtype=np.float32)
    body = wire.encode_telemetry(
        wire.Telemetry(asset="p", asset_type="g", t_ms=np.array([NOW], dtype=np.int64), signals={"x": column})
    )
    assert "infinite" in rejected(wire.encode_message("e", 1, [body]))


def advisory(**changes: Any) -> wire.Advisory:
    fields: dict[str, Any] = {
        "asset": "pump-1",
        "asset_type": "centrifugal_pump",
        "observed_at": NOW,
        "condition": "ALARM",
        "health_index": 0.4,
        "anomaly_score": 9.0,
        "contributions": {"flow_m3_h": 9.0},
        "failure_modes": {"impeller_wear": 0.8},
        "rul_hours": wire.RulHours(p10=50.0, p50=90.0, p90=200.0),
        "maturity": "MATURE",
        "model": wire.ModelRef(id="kernel-1", hash="ab"),
    }
    return wire.Advisory(**(fields | changes))


def test_advisory_round_trip() -> None:
    sent = advisory()
    (received,) = read(wire.encode_message("e", 1, [wire.encode_advisory(sent)]), "advisory").records
    assert received.record == sent


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rul_hours": wire.RulHours(p10=50.0, p50=40.0, p90=60.0)}, "rul_hours"),
        ({"failure_modes": {"m": 1.5}}, "not a probability"),
        ({"health_index": 1.5}, "health_index"),
        ({"anomaly_score": float("nan")}, "finite"),
        ({"observed_at": 0}, "30 days old"),
        ({"contributions": {"a.b": 1.0}}, "signal name"),
        ({"significance": {"x": float("inf")}}, "finite"),
        ({"expected": {"x": float("nan")}}, "finite"),
        ({"expected": {"a.b": 1.0}}, "signal name"),
        ({"significance": {f"s{i}": 1.0 for i in range(65)}}, "significance: at most 64"),
    ],
)
def test_advisory_is_refused(change: dict[str, Any], reason: str) -> None:
    body = wire.encode_advisory(advisory(**change))
    (received,) = read(wire.encode_message("e", 1, [body]), "advisory").records
    assert isinstance(received.record, wire.Rejected)
    assert reason in received.record.reason


def test_topics() -> None:
    address = wire.parse_topic("fw/v1/acme/plant-1/telemetry")
    assert (address.tenant, address.node, address.channel) == ("acme", "plant-1", "telemetry")
    assert wire.topic("acme", "plant-1", "telemetry") == "fw/v1/acme/plant-1/telemetry"
    for bad in ("fw/v2/a/b/ack", "fw/v1/a/b/other", "fw/v1/a//ack", "fw/v1/a b/c/ack", "fw/v1/é/b/ack"):
        with pytest.raises(wire.WireError, match="topic"):
            wire.parse_topic(bad)


def test_control_messages_round_trip() -> None:
    ack = wire.Ack(lane="telemetry", epoch="e", seq=41)
    assert wire.decode_control(wire.encode_control(ack), wire.Ack) == ack
    with pytest.raises(wire.WireError, match="lane"):
        wire.decode_control(b'{"lane": "other", "epoch": "e", "seq": 1}', wire.Ack)


def test_a_command_is_told_by_its_name() -> None:
    resend = wire.Resend(schema=1, id="c1", lane="telemetry", epoch="e1", first_seq=3, last_seq=9)
    assert wire.decode_command(wire.encode_control(resend)) == resend
    reset = wire.ResetBaseline(schema=1, id="c2", asset="pump-1", at=NOW)
    assert wire.decode_command(wire.encode_control(reset)) == reset
    with pytest.raises(wire.WireError, match="command"):
        wire.decode_command(b'{"command": "format_disk", "schema": 1, "id": "c3"}')


def test_a_gap_can_speak_of_an_earlier_spool_file() -> None:
    gap = wire.Gap(first_seq=5, last_seq=wire.MAX_SEQ, reason="the file was damaged", epoch="e0")
    payload = wire.encode_message("e1", 1, [wire.encode_gap(gap)], historical=True)
    message = wire.decode_message("telemetry", payload, now_ms=NOW)
    assert message.historical
    assert message.records[0].record == gap
