"""How columns are written down: as they come, and packed."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from forewarn_cloud.adapters.telemetry_codec import CodecError, decode_all, decode_columns, encode_columns
from forewarn_cloud.adapters.telemetry_packing import pack_columns
from forewarn_cloud.series import merge

Encode = Callable[[NDArray[np.int64], Mapping[str, NDArray[np.float32]]], bytes]
both = pytest.mark.parametrize("encode", [encode_columns, pack_columns], ids=["as they come", "packed"])

any_floats = arrays.arrays(np.float32, st.tuples(st.integers(0, 3), st.integers(1, 40)))
decimals = arrays.arrays(
    np.float32,
    st.tuples(st.integers(0, 3), st.integers(1, 40)),
    elements=st.one_of(
        st.just(float("nan")), st.just(-0.0), st.integers(-5000, 5000).map(lambda n: float(np.float32(n / 100)))
    ),
)
a_few_values = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 40)),
    elements=st.sampled_from([2.5, 2.5, 7.0, float("nan")]),
)


@both
@given(st.one_of(any_floats, decimals, a_few_values), st.integers(0, 2**41), st.data())
def test_columns_round_trip_to_the_last_bit(
    encode: Encode, values: NDArray[np.float32], start: int, data: st.DataObject
) -> None:
    steps = data.draw(arrays.arrays(np.int64, values.shape[1], elements=st.integers(0, 2**33)))
    t_ms = start + np.cumsum(steps)
    signals = {f"s{i}": column for i, column in enumerate(values)}
    found_t, found = decode_columns(encode(t_ms, signals))
    np.testing.assert_array_equal(found_t, t_ms)
    assert list(found) == list(signals)
    for name, column in signals.items():
        assert found[name].tobytes() == column.tobytes()


def test_long_columns_of_every_kind_round_trip_side_by_side() -> None:
    rng, samples = np.random.default_rng(2), 4096
    rough = rng.normal(size=samples).astype(np.float32)
    signals = {
        "whole": rng.integers(-9, 9, samples).astype(np.float32),
        "rough": rough,
        "same": np.full(samples, 7.5, np.float32),
        "decimal": rough.round(3),
        "some": np.where(rough > 0, rough.round(1), np.float32("nan")),
        "none": np.full(samples, np.nan, np.float32),
        "huge": rough * np.float32(1e30),
    }
    found = decode_columns(pack_columns(np.arange(samples, dtype=np.int64), signals))[1]
    assert list(found) == list(signals)
    for name, column in signals.items():
        assert found[name].tobytes() == column.tobytes(), name


@given(arrays.arrays(np.int64, st.integers(1, 30)))
def test_any_times_are_packed_exactly(t_ms: NDArray[np.int64]) -> None:
    np.testing.assert_array_equal(decode_columns(pack_columns(t_ms, {}))[0], t_ms)


@both
def test_one_signal_is_read_without_the_others(encode: Encode) -> None:
    t_ms = np.arange(3, dtype=np.int64)
    stored = encode(t_ms, {"flow": np.ones(3, np.float32), "head": np.array([1, 2, 3], np.float32)})
    found_t, found = decode_columns(stored, ["head", "none"])
    assert (found_t.tolist(), {name: column.tolist() for name, column in found.items()}) == (
        [0, 1, 2],
        {"head": [1, 2, 3]},
    )


def test_many_records_are_decoded_as_one_by_one() -> None:
    records = [
        encode_columns(np.array([at], np.int64), {name: np.array([at / 8 + place], np.float32)})
        for at in (3, 1, 2)
        for place, name in enumerate(["flow", "head"])
    ]
    records.append(encode_columns(np.array([7, 8], np.int64), {"flow": np.array([1, 2], np.float32)}))
    records.append(pack_columns(np.array([9], np.int64), {"head": np.array([5], np.float32)}))
    as_long = {"a": np.array([4], np.float32), "b": np.array([6], np.float32)}  # as one signal of seven letters
    records.append(encode_columns(np.array([4], np.int64), {"letters": np.array([4], np.float32)}))
    records.append(encode_columns(np.array([5], np.int64), as_long))
    assert len(records[-1]) == len(records[-2])
    alone, together = merge([decode_columns(one) for one in records]), merge(decode_all(records))
    assert together[0].tolist() == alone[0].tolist() == [1, 2, 3, 4, 5, 7, 8, 9]
    for name, column in alone[1].items():
        np.testing.assert_array_equal(together[1][name], column)
    assert {name for _, found in decode_all(records, ["head"]) for name in found} == {"head"}
    damaged = bytearray(records[1])
    damaged[-1] ^= 1
    with pytest.raises(CodecError):
        decode_all([records[0], bytes(damaged), records[1]])


@both
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_damaged_byte_is_noticed(encode: Encode, place: int, flip: int) -> None:
    t_ms, flow = np.arange(200, dtype=np.int64) * 1000, np.arange(200, dtype=np.float32)
    stored = bytearray(encode(t_ms, {"flow": flow, "noise": np.sin(flow)}))
    stored[place % len(stored)] ^= flip
    try:
        found_t, found = decode_columns(bytes(stored))
    except CodecError:
        return
    np.testing.assert_array_equal(found_t, t_ms)
    np.testing.assert_array_equal(found["flow"], flow)


@both
@pytest.mark.parametrize("kept", [0, 3, 6, 40, 500])
def test_cut_off_columns_are_noticed(encode: Encode, kept: int) -> None:
    noise = np.random.default_rng(0).normal(size=200).astype(np.float32)
    stored = encode(np.arange(200, dtype=np.int64), {"flow": noise})
    with pytest.raises(CodecError):
        decode_columns(stored[:kept])


def test_readings_of_few_decimals_take_few_bytes() -> None:
    noise = np.random.default_rng(0).normal(50, 0.5, size=4096).round(2).astype(np.float32)
    stored = pack_columns(np.arange(4096, dtype=np.int64) * 60_000, {"flow": noise})
    assert len(stored) < 4096 * 1.2
