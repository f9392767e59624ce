"""The contract of a telemetry store, over all there are: in memory, SQLite, PostgreSQL, and the InfluxDB 2 API."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from sqlalchemy import Engine

from forewarn_cloud.adapters.influxdb import StoreUrl, open_influx_samples
from forewarn_cloud.adapters.sql.engine import reading, writing
from forewarn_cloud.adapters.telemetry_compaction import SqlCompaction
from forewarn_cloud.adapters.telemetry_elsewhere import TelemetryElsewhere
from forewarn_cloud.adapters.telemetry_memory import MemoryTelemetry
from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from forewarn_cloud.telemetry import TelemetryRecord, TelemetrySeries, TelemetryStore
from tests.conftest import VictoriaMetrics

T0 = 1_700_000_000_000
MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS
_numbers = count(1)
NAN = float("nan")


def record(at: Sequence[int], *, seq: int | None = None, **signals: Sequence[float]) -> TelemetryRecord:
    """Of pump-1 of nobody yet: `Store.append` says whose it is. `at` in milliseconds after T0."""
    return TelemetryRecord(
        tenant="",
        node="n1",
        epoch="e1",
        seq=next(_numbers) if seq is None else seq,
        digest=b"d" * 16,
        asset="pump-1",
        t_ms=T0 + np.array(at, dtype=np.int64),
        signals={name: np.array(values, dtype=np.float32) for name, values in signals.items()},
    )


@dataclass(frozen=True, kw_only=True)
class Store:
    """A store, and how it is used by ingest and by the API: each `append` and each `read` in its own transaction."""

    writing: Callable[[Callable[[TelemetryStore], None]], None]
    reading: Callable[[Callable[[TelemetryStore], TelemetrySeries]], TelemetrySeries]
    is_exact_at_any_size: bool = True
    """VictoriaMetrics keeps the readings of a block with a common exponent: tiny ones beside huge ones become 0."""
    keeps_any_time: bool = True
    """VictoriaMetrics keeps nothing from before its retention, nor from more than two days ahead."""
    tenant: str

    def of(self, tenant: str) -> "Store":
        return replace(self, tenant=tenant)

    def append(self, *records: TelemetryRecord) -> None:
        mine = [structs.replace(record, tenant=self.tenant) for record in records]
        self.writing(lambda store: store.append(mine))

    def read(
        self,
        *,
        asset: str = "pump-1",
        signals: Collection[str] | None = None,
        start: int = 0,
        end: int = 10**9,
        points: int = 10_000,
    ) -> TelemetrySeries:
        return self.reading(
            lambda store: store.read(
                tenant=self.tenant, asset=asset, signals=signals, from_ms=T0 + start, to_ms=T0 + end, max_points=points
            )
        )


def _of_engine(engine: Engine, telemetry: Callable[..., TelemetryStore] = SqlTelemetry) -> Store:
    def write(work: Callable[[TelemetryStore], None]) -> None:
        with writing(engine) as connection:
            work(telemetry(connection))

    def read(work: Callable[[TelemetryStore], TelemetrySeries]) -> TelemetrySeries:
        with reading(engine) as connection:
            return work(telemetry(connection))

    return Store(writing=write, reading=read, tenant=f"t{next(_numbers)}")


@pytest.fixture(
    params=["memory", "sqlite", "sqlite compacted", "postgresql", "postgresql compacted", "victoriametrics"]
)
def store(request: pytest.FixtureRequest) -> Store:
    match request.param:
        case "memory":
            memory = MemoryTelemetry()
            return Store(writing=lambda work: work(memory), reading=lambda work: work(memory), tenant="t")
        case "victoriametrics":
            engine, server = request.getfixturevalue("sqlite_engine"), request.getfixturevalue("victoria_metrics")
            return _in_victoria_metrics(engine, server)
        case kind:
            kind, _, compacted = kind.partition(" ")
            engine = request.getfixturevalue(f"{kind}_engine")
            return _compacted(engine) if compacted else _of_engine(engine)


def _compacted(engine: Engine) -> Store:
    """Compacted after each write, however little there is."""
    store, compaction = _of_engine(engine), SqlCompaction(engine=engine, rows_worth_a_step=1, look_seconds=0)
    write = store.writing

    def write_and_compact(work: Callable[[TelemetryStore], None]) -> None:
        write(work)
        while compaction.step(T0):
            pass

    return replace(store, writing=write_and_compact)


def _in_victoria_metrics(engine: Engine, server: VictoriaMetrics) -> Store:
    url = StoreUrl.parse(server.url.replace("http", "victoriametrics"))
    samples = open_influx_samples(url, token=None)
    store = _of_engine(engine, lambda connection: TelemetryElsewhere(SqlTelemetry(connection), samples))
    read = store.reading

    def read_what_is_written(work: Callable[[TelemetryStore], TelemetrySeries]) -> TelemetrySeries:
        server.make_visible()
        return read(work)

    return replace(store, reading=read_what_is_written, is_exact_at_any_size=False, keeps_any_time=False)


def test_reads_what_was_written(store: Store) -> None:
    store.append(record([0, 10, 20], flow=[1, 2.5, 3], head=[4, NAN, 0.1]))
    found = store.read()
    assert (found.t_ms - T0).tolist() == [0, 10, 20]
    np.testing.assert_array_equal(found.signals["flow"], np.array([1, 2.5, 3], np.float32))
    np.testing.assert_array_equal(found.signals["head"], np.array([4, NAN, 0.1], np.float32))
    assert (found.samples, found.bucket_ms, found.low, found.high) == (3, 0, {}, {})
    assert {found.t_ms.dtype.str, found.signals["flow"].dtype.str} == {"<i8", "<f4"}


def test_nothing_is_read_where_nothing_was_written(store: Store) -> None:
    for found in (store.read(), store.read(points=2), store.read(end=400 * DAY_MS), store.read(signals=[])):
        assert (len(found.t_ms), found.samples, dict(found.signals)) == (0, 0, {})


def test_late_and_overlapping_records_are_merged_in_event_time(store: Store) -> None:
    store.append(record([100, 110], flow=[10, 11]))
    store.append(record([0, 50], flow=[0, 5]), record([50, 105], head=[7, 8]))
    found = store.read()
    assert (found.t_ms - T0).tolist() == [0, 50, 100, 105, 110]
    np.testing.assert_array_equal(found.signals["flow"], [0, 5, 10, NAN, 11])
    np.testing.assert_array_equal(found.signals["head"], [NAN, 7, NAN, 8, NAN])


def test_of_two_readings_at_an_instant_the_larger_stands_whichever_came_first(store: Store) -> None:
    store.append(record([0, 10], flow=[3, 4]))
    store.append(record([0, 10], flow=[2, 5]))
    assert store.read().signals["flow"].tolist() == [3, 5]
    assert store.read().samples == 2


def test_a_repeated_sample_is_one_sample(store: Store) -> None:
    for _ in range(3):
        store.append(record([0, 10], flow=[1, 2]))
    found = store.read()
    assert (found.samples, found.signals["flow"].tolist()) == (2, [1, 2])


def test_a_missing_reading_does_not_hide_a_measured_one(store: Store) -> None:
    store.append(record([0], flow=[3.0]), record([0], flow=[NAN]))
    assert store.read().signals["flow"].tolist() == [3.0]


def test_what_nobody_measured_is_not_there(store: Store) -> None:
    store.append(record([0, 10, 20], flow=[1, NAN, 3], head=[NAN, NAN, NAN]))
    found = store.read()
    assert ((found.t_ms - T0).tolist(), list(found.signals)) == ([0, 20], ["flow"])
    assert store.read(start=5, end=15).samples == 0


def test_both_ends_of_the_range_are_included(store: Store) -> None:
    store.append(record([0, 10, 20, 30], flow=[0, 1, 2, 3]), record([40], flow=[4]))
    assert (store.read(start=10, end=20).t_ms - T0).tolist() == [10, 20]
    assert (store.read(start=30, end=40).t_ms - T0).tolist() == [30, 40]
    assert (store.read(start=10, end=10).t_ms - T0).tolist() == [10]
    assert store.read(start=41).samples == 0


def test_only_the_signals_asked_for_and_their_instants(store: Store) -> None:
    store.append(record([0, 1], flow=[1, 1], head=[2, NAN]))
    found = store.read(signals=["head", "none"])
    assert {name: column.tolist() for name, column in found.signals.items()} == {"head": [2.0]}
    assert (found.t_ms - T0).tolist() == [0]


def test_a_signal_may_come_go_and_be_renamed(store: Store) -> None:
    store.append(record([0], flow=[1]), record([10], flow_m3_h=[2]), record([20], flow=[3]))
    found = store.read()
    np.testing.assert_array_equal(found.signals["flow"], [1, NAN, 3])
    np.testing.assert_array_equal(found.signals["flow_m3_h"], [NAN, 2, NAN])


def test_other_assets_and_tenants_are_not_seen(store: Store) -> None:
    store.append(structs.replace(record([0], flow=[1]), asset="pump-2"))
    assert store.read().samples == 0
    assert store.read(asset="pump-2").samples == 1
    assert store.of("other").read(asset="pump-2").samples == 0


def test_a_time_before_1970_and_one_after_2038_are_times(store: Store) -> None:
    if not store.keeps_any_time:
        pytest.skip("this store keeps what it was asked to retain")
    early, late = -T0 - 1, 2**31 * 1000 + 5 * 365 * DAY_MS - T0
    store.append(record([early], flow=[1]), record([late], flow=[2]))
    assert store.read(start=late, end=late).signals["flow"].tolist() == [2]
    assert store.read(start=early, end=early).signals["flow"].tolist() == [1]


def test_readings_of_any_size_are_exact(store: Store) -> None:
    if not store.is_exact_at_any_size:
        pytest.skip("this store keeps the readings of a block with a common exponent")
    extremes = [3.4028235e38, -3.4028235e38, 1e-45, 1.1754944e-38, 16777217, 0.1, -0.3000001, 0, 1e9 + 1]
    store.append(record(range(len(extremes)), flow=extremes))
    assert store.read().signals["flow"].tobytes() == np.array(extremes, dtype=np.float32).tobytes()


def test_more_than_can_be_drawn_comes_in_buckets_that_keep_every_extreme(store: Store) -> None:
    flow = np.random.default_rng(1).normal(size=5000).round(3).astype(np.float32)
    flow[3777], flow[12] = 99.0, -99.0
    store.append(record(range(0, 50_000, 10), flow=flow.tolist()))
    found = store.read(end=50_000, points=100)
    assert (found.samples, found.bucket_ms) == (5000, 500)
    assert 50 <= len(found.t_ms) <= 100
    assert bool((np.diff(found.t_ms) > 0).all())
    assert bool((found.t_ms % found.bucket_ms == 0).all())
    assert (found.high["flow"].max(), found.low["flow"].min()) == (99.0, -99.0)
    first = flow[:50]  # T0 is a whole second
    assert found.low["flow"][0] == first.min()
    assert found.signals["flow"][0] == pytest.approx(first.mean(), abs=1e-4)


def test_a_long_range_comes_in_buckets_and_a_hole_stays_a_hole(store: Store) -> None:
    three_hours = np.arange(0, 180) * MINUTE_MS
    for at in (three_hours, 20 * DAY_MS + three_hours):
        store.append(record(at.tolist(), flow=(at / MINUTE_MS).tolist()))
    found = store.read(end=30 * DAY_MS, points=200)
    days = (found.t_ms - T0) / DAY_MS
    assert found.samples == 360
    assert found.bucket_ms > 0
    assert not bool(((days > 1) & (days < 19)).any())
    assert (found.low["flow"][0], found.high["flow"][-1]) == (0, 20 * 1440 + 179)


def test_a_long_range_with_few_samples_comes_as_measured(store: Store) -> None:
    store.append(record([0, 40 * DAY_MS], flow=[1, 2]), record([7], head=[3]))
    found = store.read(end=300 * DAY_MS, points=100)
    assert (found.bucket_ms, (found.t_ms - T0).tolist()) == (0, [0, 7, 40 * DAY_MS])


def test_digests_of_what_is_stored(store: Store) -> None:
    store.append(record([0], seq=800_001, flow=[1]), record([0], seq=800_003, flow=[1]))
    found = dict[int, bytes]()

    def ask(of: TelemetryStore) -> None:
        found.update(of.digests(store.tenant, "n1", "e1", [800_001, 800_002, 800_003]))
        assert of.digests(store.tenant, "n1", "e2", [800_001]) == {}

    store.writing(ask)
    assert found == {800_001: b"d" * 16, 800_003: b"d" * 16}


# --- any records, in any order ----------------------------------------------------------------------------------------

NAMES = ("flow", "head", "p")
offsets = st.lists(st.integers(0, 60), min_size=1, max_size=12).map(sorted)
readings = st.one_of(st.just(NAN), st.integers(-(10**6), 10**6).map(lambda thousandths: thousandths / 1000))


@st.composite
def any_record(draw: st.DrawFn) -> TelemetryRecord:
    at = draw(offsets)
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    columns = {name: draw(st.lists(readings, min_size=len(at), max_size=len(at))) for name in names}
    return record(at, seq=next(_numbers), **columns)


def expected(
    records: Sequence[TelemetryRecord], names: Collection[str], start: int, end: int
) -> dict[int, dict[str, np.float32]]:
    """By instant, by signal; the plainest way to say what has to be read."""
    found = dict[int, dict[str, np.float32]]()
    for one in records:
        for name in set(names) & one.signals.keys():
            for t_ms, value in zip(one.t_ms.tolist(), one.signals[name], strict=True):
                if T0 + start <= t_ms <= T0 + end and not np.isnan(value):
                    at = found.setdefault(t_ms, {})
                    at[name] = max(at.get(name, value), value)
    return found


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    batches=st.lists(st.lists(any_record(), min_size=1, max_size=4), min_size=1, max_size=4),
    bounds=st.tuples(st.integers(-5, 65), st.integers(-5, 65)).map(sorted),
    names=st.one_of(st.none(), st.sets(st.sampled_from((*NAMES, "none")))),
)
def test_whatever_was_written_is_read_once_and_in_order(
    store: Store, batches: list[list[TelemetryRecord]], bounds: list[int], names: set[str] | None
) -> None:
    asset = f"pump-{next(_numbers)}"
    mine = [[structs.replace(one, asset=asset, seq=next(_numbers)) for one in batch] for batch in batches]
    for batch in mine:
        store.append(*batch)
    found = store.read(asset=asset, signals=names, start=bounds[0], end=bounds[1])
    wanted = expected([one for batch in mine for one in batch], NAMES if names is None else names, *bounds)
    assert found.t_ms.tolist() == sorted(wanted)
    assert set(found.signals) == {name for at in wanted.values() for name in at}
    for name, column in found.signals.items():
        np.testing.assert_array_equal(column, [wanted[t].get(name, NAN) for t in found.t_ms.tolist()])
