"""How columns are written down."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from forewarn_cloud.adapters.telemetry_codec import CodecError, decode_columns, encode_columns

floats = arrays.arrays(np.float32, st.tuples(st.integers(0, 3), st.integers(1, 30)))


@given(floats, st.integers(0, 2**41), st.data())
def test_columns_round_trip_to_the_last_bit(values: np.ndarray, start: int, data: st.DataObject) -> None:
    steps = data.draw(arrays.arrays(np.int64, values.shape[1], elements=st.integers(0, 2**33)))
    t_ms = start + np.cumsum(steps)
    signals = {f"s{i}": column for i, column in enumerate(values)}
    found_t, found = decode_columns(encode_columns(t_ms, signals))
    np.testing.assert_array_equal(found_t, t_ms)
    assert list(found) == list(signals)
    for name, column in signals.items():
        assert found[name].tobytes() == column.tobytes()


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_damaged_byte_is_noticed(place: int, flip: int) -> None:
    t_ms = np.arange(200, dtype=np.int64) * 1000
    stored = bytearray(encode_columns(t_ms, {"flow": np.arange(200, dtype=np.float32)}))
    stored[place % len(stored)] ^= flip
    try:
        found_t, found = decode_columns(bytes(stored))
    except CodecError:
        return
    np.testing.assert_array_equal(found_t, t_ms)
    np.testing.assert_array_equal(found["flow"], np.arange(200))


@pytest.mark.parametrize("kept", [0, 3, 6, 40, 500])
def test_cut_off_columns_are_noticed(kept: int) -> None:
    noise = np.random.default_rng(0).normal(size=200).astype(np.float32)
    stored = encode_columns(np.arange(200, dtype=np.int64), {"flow": noise})
    with pytest.raises(CodecError):
        decode_columns(stored[:kept])
