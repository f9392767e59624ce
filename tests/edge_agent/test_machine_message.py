"""What machines publish: three forms are understood, everything else is refused with its reason."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forewarn_edge_agent.machine_message import MAX_RECORD_SAMPLES, Declared, MachineMessage, MessageError, read
from forewarn_models import wire

NOW = 1_700_000_000_000
ASSETS = {
    "pump-1": Declared(asset_type="generic", rename={}),
    "fan-1": Declared(asset_type="motor_fan", rename={"vib": "vibration_rms_mm_s"}),
}


def message(payload: Any, asset: str = "pump-1") -> MachineMessage:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return read(asset, body, ASSETS, now_ms=NOW)


def refusal(payload: Any, asset: str = "pump-1") -> str:
    with pytest.raises(MessageError) as caught:
        message(payload, asset)
    return f"{caught.value.refusal.kind}: {caught.value.refusal.detail}"


def test_one_sample() -> None:
    (record,) = message({"t": NOW, "signals": {"a": 1.5, "b": None}}).records
    assert (record.asset, record.asset_type, record.t_ms.tolist()) == ("pump-1", "generic", [NOW])
    assert record.signals["a"].tolist() == [1.5]
    assert np.isnan(record.signals["b"]).all()


def test_samples_as_columns_are_put_in_order() -> None:
    (record,) = message({"t": [NOW, NOW - 10], "signals": {"a": [1, 2]}}).records
    assert record.t_ms.tolist() == [NOW - 10, NOW]
    assert record.signals["a"].tolist() == [2, 1]


def test_a_flat_object_is_timed_on_receipt() -> None:
    found = message({"temperature_c": 41.25})
    assert found.timed_on_receipt
    assert found.records[0].t_ms.tolist() == [NOW]
    assert not message({"temperature_c": 41.25, "t": NOW - 5}).timed_on_receipt


def test_names_at_the_source_are_mapped() -> None:
    (record,) = message({"t": NOW, "signals": {"vib": 2.5}}, "fan-1").records
    assert list(record.signals) == ["vibration_rms_mm_s"]


def test_a_wire_message_in_either_form() -> None:
    record = {"asset": "pump-1", "asset_type": "x", "t": [NOW], "signals": {"a": [1.0]}}
    other = record | {"asset": "who"}
    found = message({"schema": 1, "epoch": "e", "seq": 1, "records": [record, other]})
    assert [r.asset_type for r in found.records] == ["generic"]
    assert [r.kind for r in found.refusals] == ["unknown_asset"]
    packed = wire.encode_message("e", 1, [wire.encode_telemetry(found.records[0])])
    assert message(packed).records[0].signals["a"].tolist() == [1.0]


def test_a_long_message_becomes_several_records() -> None:
    n = MAX_RECORD_SAMPLES + 1
    records = message({"t": list(range(NOW - n, NOW)), "signals": {"a": [0] * n}}).records
    assert [len(record.t_ms) for record in records] == [MAX_RECORD_SAMPLES, 1]


def test_what_float32_cannot_hold_is_missing() -> None:
    (record,) = message({"t": NOW, "signals": {"a": 1e39, "b": 1.0}}).records
    assert np.isnan(record.signals["a"]).all()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "malformed: message: empty"),
        (b"\xff\x00garbage", "malformed"),
        (b'{"a": "\xff"}', "malformed: message: not valid UTF-8"),
        (b"[1]", "malformed"),
        (b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "malformed: message: nested too deeply"),
        (b"\x1f\x8b0000", "malformed: message: compressed"),
        (b'{"a": 1, "a": 2}', "malformed: message: a key appears twice"),
        (b'{"a": NaN}', "malformed: message: NaN is not JSON"),
        (b'{"a": 1e400}', "malformed"),
        (b'{"a": ' + b"9" * 400 + b"}", "malformed: message: a whole number has 400 digits"),
        ({"a": "12.3"}, "malformed: Expected `int | float | null`, got `str`"),
        ({"a": True}, "malformed: Expected `int | float | null`, got `bool`"),
        ({"t": NOW, "signals": {"a": True}}, "malformed"),
        ({"t": 0, "signals": {"a": 1}}, "time: t: 0 is more than 30 days old"),
        ({"t": NOW // 1000, "signals": {"a": 1}}, "time: t: 1700000000 looks like seconds"),
        ({"t": NOW * 1000, "signals": {"a": 1}}, "time: t: 1700000000000000 looks like microseconds"),
        ({"t": NOW + 360_000, "signals": {"a": 1}}, "time: t: 1700000360000 is more than 5 minutes in the future"),
        ({"t": 2**63 - 1, "signals": {"a": 1}}, "time"),
        ({"t": -5, "signals": {"a": 1}}, "time"),
        ({"t": "2026-01-01T00:00:00", "signals": {"a": 1}}, "malformed"),
        ({"t": 1.5, "a": 1}, "malformed: t: 1.5 is not a whole number"),
        ({"t": NOW, "signals": {}}, "malformed: signals: give 1 to 64, not 0"),
        ({"t": NOW, "signals": {f"s{i}": 1 for i in range(65)}}, "malformed: signals: give 1 to 64, not 65"),
        ({"t": NOW, "signals": {"../x": 1}}, "malformed: signals: name"),
        ({"t": NOW, "signals": {"__proto__": 1}}, "malformed: signals: name"),
        ({"t": [NOW, NOW], "signals": {"a": [1]}}, "malformed: signals.a: 1 readings for 2 times"),
        ({"t": [], "signals": {"a": []}}, "malformed: t: give at least one"),
        ({"t": NOW, "signals": {"a": 1}, "extra": 1}, "malformed: Object contains unknown field `extra`"),
    ],
)
def test_bad_messages_are_refused_with_their_reason(payload: Any, reason: str) -> None:
    assert refusal(payload).startswith(reason)


def test_an_undeclared_asset_is_not_guessed() -> None:
    assert refusal({"t": NOW, "signals": {"a": 1}}, "who").startswith("unknown_asset: asset 'who' is not declared")


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(payload: bytes) -> None:
    with suppress(MessageError):
        message(payload)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("abst_0.", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abst_0.", max_size=5), inner, max_size=3),
)


@given(
    st.fixed_dictionaries({}, optional={"t": _json, "signals": _json, "schema": _json, "records": _json, "a": _json})
)
def test_no_json_raises_anything_else(payload: dict[str, Any]) -> None:
    with suppress(MessageError):
        message(payload)
