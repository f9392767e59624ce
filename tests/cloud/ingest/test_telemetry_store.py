"""The contract of a telemetry store, and how it writes columns down."""

from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from forewarn_cloud.adapters.sql.engine import writing
from forewarn_cloud.adapters.telemetry_codec import CodecError, decode_columns, encode_columns
from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from forewarn_cloud.telemetry import TelemetryRecord, TelemetrySeries, TelemetryStore

T0 = 1_700_000_000_000
_sequence = count(1)


@pytest.fixture
def store(engine: Engine) -> Iterator[TelemetryStore]:
    with writing(engine) as connection:
        yield SqlTelemetry(connection)


def record(at: list[int], *, asset: str = "pump-1", seq: int | None = None, **signals: list[float]) -> TelemetryRecord:
    return TelemetryRecord(
        tenant="local",
        node="n1",
        epoch="e1",
        seq=next(_sequence) if seq is None else seq,
        digest=b"d" * 16,
        asset=asset,
        t_ms=T0 + np.array(at, dtype=np.int64),
        signals={name: np.array(values, dtype=np.float32) for name, values in signals.items()},
    )


def read(store: TelemetryStore, *, start: int = 0, end: int = 10**9, points: int = 10_000) -> TelemetrySeries:
    return store.read(
        tenant="local", asset="pump-1", signals=None, from_ms=T0 + start, to_ms=T0 + end, max_points=points
    )


def test_reads_what_was_written(store: TelemetryStore) -> None:
    store.append([record([0, 10, 20], flow=[1, 2, 3], head=[4, float("nan"), 6])])
    found = read(store)
    assert (found.t_ms - T0).tolist() == [0, 10, 20]
    np.testing.assert_array_equal(found.signals["flow"], [1, 2, 3])
    np.testing.assert_array_equal(found.signals["head"], [4, np.nan, 6])
    assert found.samples == 3


def test_late_and_overlapping_records_are_merged_in_event_time(store: TelemetryStore) -> None:
    store.append([record([100, 110], flow=[10, 11])])
    store.append([record([0, 50], flow=[0, 5]), record([50, 105], head=[7, 8])])
    found = read(store)
    assert (found.t_ms - T0).tolist() == [0, 50, 100, 105, 110]
    np.testing.assert_array_equal(found.signals["flow"], [0, 5, 10, np.nan, 11])
    np.testing.assert_array_equal(found.signals["head"], [np.nan, 7, np.nan, 8, np.nan])


def test_a_missing_reading_does_not_hide_a_measured_one(store: TelemetryStore) -> None:
    store.append([record([0], flow=[3.0]), record([0], flow=[float("nan")])])
    assert read(store).signals["flow"].tolist() == [3.0]


def test_both_ends_of_the_range_are_included(store: TelemetryStore) -> None:
    store.append([record([0, 10, 20, 30], flow=[0, 1, 2, 3]), record([40], flow=[4])])
    assert (read(store, start=10, end=20).t_ms - T0).tolist() == [10, 20]
    assert (read(store, start=30, end=40).t_ms - T0).tolist() == [30, 40]
    assert read(store, start=41).samples == 0


def test_only_the_signals_asked_for(store: TelemetryStore) -> None:
    store.append([record([0], flow=[1], head=[2])])
    found = store.read(tenant="local", asset="pump-1", signals=["head", "none"], from_ms=T0, to_ms=T0 + 1, max_points=9)
    assert {name: column.tolist() for name, column in found.signals.items()} == {"head": [2.0]}


def test_other_assets_and_tenants_are_not_seen(store: TelemetryStore) -> None:
    store.append([record([0], asset="pump-2", flow=[1])])
    assert read(store).samples == 0
    foreign = store.read(tenant="other", asset="pump-2", signals=None, from_ms=T0, to_ms=T0 + 1, max_points=9)
    assert foreign.samples == 0


def test_decimation_keeps_every_extreme(store: TelemetryStore) -> None:
    rng = np.random.default_rng(1)
    flow = rng.normal(size=5000)
    flow[3777], flow[12] = 99.0, -99.0
    store.append([record(list(range(0, 50_000, 10)), flow=flow.tolist())])
    found = read(store, points=100)
    assert found.samples == 5000
    assert len(found.t_ms) <= 100
    assert bool(np.all(np.diff(found.t_ms) > 0))
    assert (found.signals["flow"].max(), found.signals["flow"].min()) == (99.0, -99.0)


def test_decimation_leaves_a_hole_a_hole(store: TelemetryStore) -> None:
    times = [*range(0, 1000), *range(9000, 10_000)]
    store.append([record(times, flow=[1.0] * 2000)])
    t_ms = read(store, points=50).t_ms - T0
    assert not bool(np.any((t_ms > 999) & (t_ms < 9000)))


def test_a_stored_identity_is_refused(store: TelemetryStore) -> None:
    store.append([record([0], seq=900_001, flow=[1])])
    with pytest.raises(IntegrityError):
        store.append([record([0], seq=900_001, flow=[2])])


def test_digests_of_what_is_stored(store: TelemetryStore) -> None:
    store.append([record([0], seq=800_001, flow=[1]), record([0], seq=800_003, flow=[1])])
    assert store.digests("local", "n1", "e1", [800_001, 800_002, 800_003]) == {800_001: b"d" * 16, 800_003: b"d" * 16}
    assert store.digests("local", "n1", "e2", [800_001]) == {}


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
