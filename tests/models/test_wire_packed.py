"""The quick way to read what nodes send says the same as the thorough one, of good and of bad records."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forewarn_models import wire, wire_singles

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


@st.composite
def pairs_of_singles(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A record of one sample, and another that is like it but for some bytes: anywhere, in the time or in a reading."""
    names = draw(st.lists(st.sampled_from(["flow", "x", "t", "n" * 40]), min_size=1, max_size=20, unique=True))
    asset = draw(st.sampled_from(["pump-1", "t"]))
    times = [NOW, draw(st.sampled_from([NOW + 1, NOW - 5, *BAD_TIMES]))]
    first, second = (
        bytearray(
            wire.encode_telemetry(
                wire.Telemetry(
                    asset=asset,
                    asset_type="g",
                    t_ms=np.array([at], dtype=np.int64),
                    signals={name: np.array([draw(st.floats(width=32))], dtype=np.float32) for name in names},
                )
            )
        )
        for at in times
    )
    for place in draw(st.lists(st.integers(0, len(second) - 1), max_size=2)):
        second[place] = draw(st.integers(0, 255))
    return bytes(first), bytes(second)


@given(pairs_of_singles())
def test_a_record_like_one_before_is_read_as_if_there_had_been_none(pair: tuple[bytes, bytes]) -> None:
    for body in (*pair, *pair):
        received = wire._read_record("telemetry", body, False, NOW)
        assert _content(received) == _content(_thorough(body))


def test_the_second_record_of_a_machine_is_read_by_its_likeness() -> None:
    bodies = [
        msgspec.msgpack.encode(
            {
                "asset": "fan-77",
                "asset_type": "g",
                "t": at.to_bytes(8, "little"),
                "signals": {"a": b"\0\0\x80?", "b": b"abcd"},
            }
        )
        for at in (NOW, NOW + 1)
    ]
    assert wire._read_single(bodies[1], NOW) is None
    wire._read_record("telemetry", bodies[0], False, NOW)
    read = wire._read_single(bodies[1], NOW)
    assert read is not None
    assert _content(read) == _content(_thorough(bodies[1]))
    assert wire._read_single(bodies[1][:-1], NOW) is None
    assert wire._read_single(bodies[1].replace(b"\xa1b", b"\xa1c"), NOW) is None


def test_only_so_many_machines_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_singles, "KNOWN_MACHINES", 3)
    known = wire_singles.KnownSingles()
    for number in range(8):
        body = msgspec.msgpack.encode({"asset": f"fan-{number}", "t": bytes(8), "signals": {"a": bytes(4)}})
        known.learn(body, f"fan-{number}", "g", ("a",))
        assert known.read(body) is not None
        assert len(known._machines) <= 3
    long = msgspec.msgpack.encode({"asset": "fan-9", "t": bytes(8), "signals": {"n" * 1024: bytes(4)}})
    known.learn(long, "fan-9", "g", ("n" * 1024,))
    assert known.read(long) is None


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
