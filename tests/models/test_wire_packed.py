"""The quick way to read what nodes send says the same as the thorough one, of good and of bad records."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forewarn_models import wire

NOW = 1_700_000_000_000
BAD_NAMES = ["pump-1", "9lives", "_", "", "a b", "a.b", "__proto__", "é", "n" * 64, "n" * 65]
BAD_TIMES = [0, -1, NOW // 1000, NOW * 1000, NOW - wire.MAX_AGE_MS - 1, NOW + wire.MAX_FUTURE_MS + 1, 2**62]
SPOILT = ["nothing", "asset", "asset_type", "signal", "time", "no time", "order", "length", "inf", "more"]
SPOILT += ["change", "add", "lose"]
READINGS = st.floats(width=32, allow_infinity=False)


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """Good in nearly all respects."""
    samples = draw(st.integers(1, 3))
    columns = st.lists(READINGS, min_size=samples, max_size=samples)
    signals = draw(st.dictionaries(st.sampled_from(["flow", "x", "n" * 64]), columns, min_size=1))
    return {"asset": "pump-1", "asset_type": "g", "t": [NOW + i for i in range(samples)], "signals": signals}


def spoil(draw: st.DrawFn, record: dict[str, Any], what: str) -> None:
    """One thing wrong, or merely unusual."""
    times, signals = record["t"], record["signals"]
    match what:
        case "asset" | "asset_type" as field:
            record[field] = draw(st.sampled_from(BAD_NAMES))
        case "signal":
            signals[draw(st.sampled_from(BAD_NAMES))] = [1.0] * len(times)
        case "time":
            times[-1:] = [draw(st.sampled_from(BAD_TIMES))]
        case "no time":
            times.clear()
        case "order":
            times[:] = draw(st.permutations(times))
        case "length":
            signals["x"] = [2.0] * draw(st.integers(0, 4))
        case "inf":
            signals["x"] = [float("inf")] * len(times)
        case "more":
            record |= draw(st.sampled_from([{"gap": [1, 2], "reason": "full"}, {"gap": 1}, {"more": None}]))


@st.composite
def bodies(draw: st.DrawFn, what: str) -> bytes:
    """A spoilt record, perhaps with columns as lists, or one with a byte changed, added or lost."""
    record = draw(records())
    spoil(draw, record, what)
    if draw(st.sampled_from([True] * 5 + [False])):
        record["t"] = np.array(record["t"], dtype="<i8").tobytes()
    if draw(st.sampled_from([True] * 5 + [False])):
        record["signals"] = {name: np.array(c, dtype="<f4").tobytes() for name, c in record["signals"].items()}
    body = bytearray(msgspec.msgpack.encode(record))
    place, byte = draw(st.integers(0, len(body) - 1)), draw(st.integers(0, 255))
    match what:
        case "change":
            body[place] = byte
        case "add":
            body.insert(place, byte)
        case "lose":
            del body[place]
    return bytes(body)


@pytest.mark.parametrize("what", SPOILT)
@given(given_data=st.data())
def test_a_packed_record_is_read_as_the_thorough_way_reads_it(what: str, given_data: st.DataObject) -> None:
    body = given_data.draw(bodies(what))
    quick, thorough = wire._read_packed(body, NOW), _thorough(body)
    if quick is not None:
        assert isinstance(thorough, wire.Telemetry)
        assert _content(quick) == _content(thorough)
    received = wire._read_record("telemetry", body, False, NOW)
    assert _content(received) == _content(thorough)


@given(st.lists(st.lists(READINGS, min_size=3, max_size=3), min_size=1, max_size=64))
def test_what_nodes_write_takes_the_quick_way(columns: list[list[float]]) -> None:
    record = wire.Telemetry(
        asset="pump-1",
        asset_type="generic",
        t_ms=NOW + np.arange(3, dtype=np.int64),
        signals={f"signal_{i}": np.array(column, dtype=np.float32) for i, column in enumerate(columns)},
    )
    read = wire._read_packed(wire.encode_telemetry(record), NOW)
    assert read is not None
    assert _content(read) == _content(record)


def _thorough(body: bytes) -> wire.Record | wire.Rejected:
    try:
        return wire._decode_record("telemetry", body, False, NOW)
    except wire.WireError as error:
        return wire.Rejected(reason=str(error), body=body)


def _content(record: wire.Record | wire.Rejected) -> object:
    if not isinstance(record, wire.Telemetry):
        return record
    columns = [(name, column.tobytes()) for name, column in record.signals.items()]
    return record.asset, record.asset_type, record.t_ms.tobytes(), columns
