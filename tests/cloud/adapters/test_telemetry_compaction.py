"""Compaction of telemetry: what is read stays the same, whatever came when, and the records are still known."""

import threading
from collections.abc import Iterator, Sequence
from itertools import count, pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from sqlalchemy import Connection, Engine, delete, func, select

from forewarn_cloud.adapters import telemetry_compaction, telemetry_leaves
from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import make_engine, reading, writing
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.adapters.telemetry_codec import decode_columns
from forewarn_cloud.adapters.telemetry_compaction import ROWS_WORTH_A_STEP, SqlCompaction
from forewarn_cloud.adapters.telemetry_retention import DIGEST_DAYS, SqlRetention
from forewarn_cloud.adapters.telemetry_shards import shard_of
from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from forewarn_cloud.series import DAY_MS, HOUR_MS, LEVELS_MS, MINUTE_MS, Buckets, Columns, combine, merge, summarise
from forewarn_cloud.telemetry import TelemetryRecord
from tests.conftest import together

T0 = 1_700_000_000_000
_numbers = count(1)


def record(at: Sequence[int], asset: str = "pump-1", /, **signals: Sequence[float]) -> TelemetryRecord:
    seq = next(_numbers)
    return TelemetryRecord(
        tenant="local",
        node="n1",
        epoch="e1",
        seq=seq,
        digest=seq.to_bytes(16, "big"),
        asset=asset,
        t_ms=T0 + np.array(at, dtype=np.int64),
        signals={name: np.array(values, dtype=np.float32) for name, values in signals.items()},
    )


def append(engine: Engine, *records: TelemetryRecord) -> None:
    with writing(engine) as connection:
        SqlTelemetry(connection).append(records)


def compact(engine: Engine) -> None:
    compaction = SqlCompaction(engine=engine, rows_worth_a_step=1, look_seconds=0)
    while compaction.step(T0):
        pass


def samples_of(engine: Engine, asset: str = "pump-1") -> Columns:
    with reading(engine) as connection:
        found = SqlTelemetry(connection).read(
            tenant="local", asset=asset, signals=None, from_ms=0, to_ms=2**50, max_points=10**15
        )
    return found.t_ms, found.signals


def level_of(engine: Engine, asset: str, level_ms: int) -> Buckets:
    """As it is stored, without the samples that are in no level."""
    with reading(engine) as connection:
        query = (
            select(schema.telemetry_leaves.c.columns)
            .where(schema.telemetry_leaves.c.asset == asset, schema.telemetry_leaves.c.level_ms == level_ms)
            .order_by(schema.telemetry_leaves.c.first_ms)
        )
        parts = [
            telemetry_leaves.buckets_of_leaf(bytes(columns), None, 0, 2**50)
            for columns in connection.execute(query).scalars()
        ]
    starts = np.concatenate([np.empty(0, np.int64), *(part[0] for part in parts)])
    assert bool((np.diff(starts) > 0).all()), "each bucket is in one leaf"
    return combine(parts, level_ms)


def rolled_samples_of(engine: Engine, asset: str, level_ms: int) -> Columns:
    """The samples that are to be in a level."""
    leaves = schema.telemetry_leaves
    with reading(engine) as connection:
        rolled = leaves.c.rolled_ms.between(1, level_ms)
        query = select(leaves.c.columns).where(leaves.c.asset == asset, leaves.c.level_ms == 0, rolled)
        found = [decode_columns(bytes(row)) for row in connection.execute(query).scalars()]
    return merge(found)


def leaf_count(engine: Engine) -> int:
    with reading(engine) as connection:
        return int(connection.execute(select(func.count()).select_from(schema.telemetry_leaves)).scalar_one())


def block_count(engine: Engine) -> int:
    with reading(engine) as connection:
        return int(connection.execute(select(func.count()).select_from(schema.telemetry_blocks)).scalar_one())


def newest_leaf(engine: Engine) -> int:
    with reading(engine) as connection:
        return int(connection.execute(select(func.max(schema.telemetry_leaves.c.id))).scalar_one())


@pytest.fixture
def tiny_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few samples make many leaves and levels."""
    monkeypatch.setattr(telemetry_leaves, "MOST_SAMPLES", 12)
    monkeypatch.setattr(telemetry_leaves, "LEAST_SAMPLES", 4)
    monkeypatch.setattr(telemetry_leaves, "VALUES_A_LEAF", 24)
    monkeypatch.setattr(telemetry_leaves, "SAMPLES_A_BUCKET", 2)
    monkeypatch.setattr(telemetry_compaction, "_ROWS_A_STEP", 5)


def test_many_small_blocks_become_few_large_ones_and_read_the_same(engine: Engine) -> None:
    append(engine, *(record([at], flow=[at / 8], head=[1]) for at in range(0, 300_000, 1000)))
    before = samples_of(engine)
    compact(engine)
    assert (block_count(engine), leaf_count(engine)) == (0, 1)
    same(samples_of(engine), before)


def test_records_are_known_after_compaction(engine: Engine) -> None:
    mine = [record([0], flow=[1]) for _ in range(2000)]
    append(engine, *mine[::2])
    compact(engine)
    append(engine, *mine[1::4])
    with reading(engine) as connection:
        found = SqlTelemetry(connection).digests("local", "n1", "e1", [one.seq for one in mine])
        assert SqlTelemetry(connection).digests("local", "n1", "e2", [mine[0].seq]) == {}
    assert found == {one.seq: one.digest for one in (*mine[::2], *mine[1::4])}


def test_only_assets_with_enough_to_do_are_compacted(engine: Engine) -> None:
    append(engine, *(record([at], "busy", flow=[1]) for at in range(2 * ROWS_WORTH_A_STEP)))
    append(engine, record([0], "quiet", flow=[1]), record([-2 * HOUR_MS], "late", flow=[1]))
    compaction = SqlCompaction(engine=engine, look_seconds=0)
    while compaction.step(T0 + 1000):
        pass
    with reading(engine) as connection:
        left = connection.execute(select(schema.telemetry_blocks.c.asset)).scalars().all()
    assert left == ["quiet"]


def test_a_step_takes_several_assets_until_it_has_enough_for_a_transaction(engine: Engine) -> None:
    for asset in range(30):
        append(engine, *(record([at], f"pump-{asset}", flow=[at]) for at in range(100)))
    compaction = SqlCompaction(engine=engine, rows_worth_a_step=1, look_seconds=0)
    assert compaction.step(T0)
    assert block_count(engine) == 900, "2048 rows or a few more"
    assert not compaction.step(T0)
    assert block_count(engine) == 0
    for asset in range(30):
        assert samples_of(engine, f"pump-{asset}")[1]["flow"].tolist() == list(range(100))


def test_an_asset_with_more_than_a_step_takes_is_done_in_turn_with_others(engine: Engine) -> None:
    for asset in ("pump-1", "pump-2"):
        append(engine, *(record([at], asset, flow=[at]) for at in range(2500)))
    compaction = SqlCompaction(engine=engine, rows_worth_a_step=1, look_seconds=0)
    assert compaction.step(T0)
    assert compaction.step(T0)
    with reading(engine) as connection:
        left = connection.execute(select(schema.telemetry_blocks.c.asset)).scalars().all()
    assert sorted(map(left.count, ("pump-1", "pump-2"))) == [2500 - 2048] * 2
    compact(engine)
    assert block_count(engine) == 0


def test_records_of_other_assets_between_those_that_are_compacted_stay(engine: Engine) -> None:
    neighbours = [name for name in map("pump-{}".format, range(1000)) if shard_of("local", name) == 0]
    busy, quiet = neighbours[:2]
    append(engine, *(record([at], busy if at % 2 else quiet, flow=[at]) for at in range(10)))
    append(engine, record([10], busy, flow=[10]))
    compaction = SqlCompaction(engine=engine, rows_worth_a_step=6, look_seconds=0)
    assert not compaction.step(T0)
    assert block_count(engine) == 5
    assert samples_of(engine, quiet)[1]["flow"].tolist() == [0, 2, 4, 6, 8]
    assert samples_of(engine, busy)[1]["flow"].tolist() == [1, 3, 5, 7, 9, 10]


def test_what_grows_at_the_end_is_seldom_written_again(engine: Engine) -> None:
    append(engine, record([0], "another", flow=[1]))
    compact(engine)
    before = newest_leaf(engine)
    for start in range(0, 200):
        append(engine, record([start * 60_000 + at * 1000 for at in range(60)], flow=[1] * 60))
        compact(engine)
    assert leaf_count(engine) <= 13
    assert newest_leaf(engine) - before <= 230, "a leaf for each step, and few for the levels"


def test_a_year_by_the_minute_has_levels_that_agree_with_its_samples(engine: Engine) -> None:
    minutes = np.arange(40_000)
    flow = np.sin(minutes / 700).round(3)
    for start in range(0, len(minutes), 5000):
        at = minutes[start : start + 5000]
        append(engine, record((at * MINUTE_MS).tolist(), flow=flow[at].tolist(), head=(flow[at] * 2).tolist()))
    compact(engine)
    for level_ms in (HOUR_MS, DAY_MS):
        same_buckets(
            level_of(engine, "pump-1", level_ms), summarise(rolled_samples_of(engine, "pump-1", level_ms), level_ms)
        )
    assert len(level_of(engine, "pump-1", MINUTE_MS)[0]) == 0, "one sample a minute makes no level of minutes"
    assert len(level_of(engine, "pump-1", HOUR_MS)[0]) > 500
    with reading(engine) as connection:
        found = SqlTelemetry(connection).read(
            tenant="local", asset="pump-1", signals=["flow"], from_ms=T0, to_ms=T0 + 40_000 * MINUTE_MS, max_points=300
        )
    assert (found.samples, found.bucket_ms % HOUR_MS) == (40_000, 0)
    assert (found.low["flow"].min(), found.high["flow"].max()) == (np.float32(flow.min()), np.float32(flow.max()))
    whole = found.signals["flow"][1:-1]
    starts = (found.t_ms[1:-1] - T0) / MINUTE_MS
    expected = [flow[(minutes >= at) & (minutes < at + found.bucket_ms / MINUTE_MS)].mean() for at in starts]
    np.testing.assert_allclose(whole, expected, atol=1e-5)


@st.composite
def any_records(draw: st.DrawFn) -> list[TelemetryRecord]:
    """Some dense, some scattered over days, in any order."""
    unit = draw(st.sampled_from([5_000, 20_000, MINUTE_MS, 20 * MINUTE_MS]))
    at = sorted(draw(st.lists(st.integers(0, 120).map(lambda n: n * unit), min_size=1, max_size=25)))
    values = st.integers(-1000, 1000).map(lambda n: n / 10)
    names = draw(st.lists(st.sampled_from(["flow", "head"]), min_size=1, max_size=2, unique=True))
    columns = {name: draw(st.lists(values, min_size=len(at), max_size=len(at))) for name in names}
    each = draw(st.sampled_from([1, 3, 25]))
    parts = [slice(start, start + each) for start in range(0, len(at), each)]
    return [record(at[part], **{name: column[part] for name, column in columns.items()}) for part in parts]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    batches=st.lists(any_records(), min_size=1, max_size=6), steps=st.lists(st.integers(0, 4), min_size=6, max_size=6)
)
@pytest.mark.usefixtures("tiny_leaves")
def test_whatever_comes_whenever_it_is_compacted_nothing_read_changes(
    sqlite: Engine, batches: list[list[TelemetryRecord]], steps: list[int]
) -> None:
    asset, compaction = f"pump-{next(_numbers)}", SqlCompaction(engine=sqlite, rows_worth_a_step=1, look_seconds=0)
    stored = list[TelemetryRecord]()
    for batch, some in zip(batches, steps, strict=False):
        mine = [structs.replace(one, asset=asset) for one in batch]
        append(sqlite, *mine)
        stored += mine
        for _ in range(some):
            compaction.step(T0)
        same(samples_of(sqlite, asset), merge([(one.t_ms, one.signals) for one in stored]))
    compact(sqlite)
    assert block_count(sqlite) == 0
    same(samples_of(sqlite, asset), merge([(one.t_ms, one.signals) for one in stored]))
    assert_disjoint(sqlite, asset)
    for level_ms in LEVELS_MS:
        same_buckets(level_of(sqlite, asset, level_ms), summarise(rolled_samples_of(sqlite, asset, level_ms), level_ms))
    with reading(sqlite) as connection:
        found = SqlTelemetry(connection).digests("local", "n1", "e1", [one.seq for one in stored])
    assert found == {one.seq: one.digest for one in stored}


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = make_engine(f"sqlite:///{tmp_path_factory.mktemp('compaction') / 'forewarn.db'}")
    migrate(engine)
    yield engine
    engine.dispose()


def assert_disjoint(engine: Engine, asset: str) -> None:
    leaves = schema.telemetry_leaves
    with reading(engine) as connection:
        query = select(leaves.c.first_ms, leaves.c.last_ms).where(leaves.c.asset == asset, leaves.c.level_ms == 0)
        spans = sorted((first, last) for first, last in connection.execute(query))
    assert all(before[1] < after[0] for before, after in pairwise(spans)), spans


def same(found: Columns, expected: Columns) -> None:
    assert found[0].tolist() == expected[0].tolist()
    assert sorted(found[1]) == sorted(expected[1])
    for name, column in expected[1].items():
        np.testing.assert_array_equal(found[1][name], column)


def same_buckets(found: Buckets, expected: Buckets) -> None:
    assert found[0].tolist() == expected[0].tolist()
    assert sorted(found[1]) == sorted(expected[1])
    for name, summary in expected[1].items():
        np.testing.assert_array_equal(found[1][name].count, summary.count)
        np.testing.assert_array_equal(found[1][name].low, summary.low)
        np.testing.assert_array_equal(found[1][name].high, summary.high)
        np.testing.assert_allclose(found[1][name].mean, summary.mean, rtol=1e-5, atol=1e-5)


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_crash_in_the_middle_of_a_step_leaves_everything_as_it_was(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(engine, *(record([at], flow=[at]) for at in range(100)))
    before = samples_of(engine)

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(telemetry_compaction, "_remove_leaves", crash)  # after the blocks are removed
    with pytest.raises(KeyboardInterrupt):
        compact(engine)
    monkeypatch.undo()
    assert (block_count(engine), leaf_count(engine)) == (100, 0)
    compact(engine)
    same(samples_of(engine), before)


@pytest.mark.parametrize("gone", ["block", "leaf"])
def test_a_plan_is_dropped_whole_when_something_of_it_is_gone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    append(engine, *(record([at], flow=[at]) for at in range(100)))
    compact(engine)
    append(engine, *(record([at], flow=[at]) for at in range(100, 200)))
    before = samples_of(engine)
    table = schema.telemetry_blocks if gone == "block" else schema.telemetry_leaves
    column = table.c.seq if gone == "block" else table.c.id
    plans, carry_out = list[object](), telemetry_compaction._carry_out

    def without_one(connection: Connection, plan: Sequence[telemetry_compaction._Plan], now_ms: int) -> None:
        plans.append(plan)
        if len(plans) == 1:
            connection.execute(delete(table).where(column == select(func.max(column)).scalar_subquery()))
        carry_out(connection, plan, now_ms)

    monkeypatch.setattr(telemetry_compaction, "_carry_out", without_one)
    compaction = SqlCompaction(engine=engine, rows_worth_a_step=1, look_seconds=0)
    while compaction.step(T0):  # its transaction fails, and with it what it deleted
        pass
    assert (len(plans), block_count(engine), leaf_count(engine)) == (2, 100, 1)
    same(samples_of(engine), before)
    compact(engine)
    assert (block_count(engine), leaf_count(engine)) == (0, 1)
    same(samples_of(engine), before)


def test_compaction_works_while_ingest_writes_and_readers_miss_nothing(engine: Engine) -> None:
    done, missed = threading.Event(), list[tuple[int, int]]()
    written = [0]

    def ingest() -> None:
        try:
            for start in range(0, 600, 5):
                append(engine, *(record([at], flow=[at]) for at in range(start, start + 5)))
                written[0] = start + 5
        finally:
            done.set()

    def compacting() -> None:
        compaction = SqlCompaction(engine=engine, rows_worth_a_step=3, look_seconds=0)
        while not done.is_set():
            compaction.step(T0)

    def look() -> None:
        while not done.is_set():
            known = written[0]
            found = len(samples_of(engine)[0])
            if found < known:
                missed.append((known, found))

    assert together(ingest, compacting, compacting, look) == []
    assert missed == []
    compact(engine)
    assert samples_of(engine)[0].tolist() == list(range(T0, T0 + 600))
    assert_disjoint(engine, "pump-1")


# --- retention --------------------------------------------------------------------------------------------------------


def test_what_is_too_old_is_deleted_in_small_steps_and_told(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    for day in range(120):
        append(engine, record([day * DAY_MS], f"pump-{day}", flow=[day]))
    compact(engine)
    retention, now = SqlRetention(engine=engine, days=100), T0 + 120 * DAY_MS
    caplog.set_level("INFO")
    steps = sum(1 for _ in iter(lambda: retention.step(now), False))
    assert steps >= 1
    assert leaf_count(engine) == 100
    assert "telemetry from more than 100 days ago was deleted: 20 samples" in caplog.text
    assert not retention.step(now + 1)


def test_nothing_is_deleted_where_samples_are_kept_for_ever(engine: Engine) -> None:
    append(engine, record([0], flow=[1]))
    compact(engine)
    retention = SqlRetention(engine=engine, days=None)
    while retention.step(T0 + 30 * DAY_MS):
        pass
    assert leaf_count(engine) == 1


def test_digests_are_forgotten_when_no_repeat_can_come_any_more(engine: Engine) -> None:
    mine = record([0], flow=[1])
    append(engine, mine)
    compact(engine)
    retention = SqlRetention(engine=engine, days=None)
    while retention.step(T0 + (DIGEST_DAYS - 1) * DAY_MS):
        pass
    assert known(engine, mine)
    while retention.step(T0 + (DIGEST_DAYS + 1) * DAY_MS):
        pass
    assert not known(engine, mine)


def known(engine: Engine, one: TelemetryRecord) -> bool:
    with reading(engine) as connection:
        return one.seq in SqlTelemetry(connection).digests(one.tenant, one.node, one.epoch, [one.seq])
