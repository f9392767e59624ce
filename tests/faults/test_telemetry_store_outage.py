"""Samples in another database: what is acknowledged is in it, whatever happens to it."""

from pathlib import Path

import httpx
import numpy as np
import pytest
from sqlalchemy import Engine, select

from forewarn_cloud.adapters.influxdb import InfluxSamples, StoreUrl, open_influx_samples
from forewarn_cloud.adapters.ingest_sql import SqlLedger, SqlLedgerTransaction
from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import make_engine, reading
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.adapters.telemetry_elsewhere import KEEP_MS, ElsewhereUpkeep, TelemetryElsewhere
from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from forewarn_cloud.errors import Unavailable
from forewarn_cloud.ingest.ledger import Changes, LaneChange
from forewarn_cloud.ingest.messages import LaneKey
from forewarn_cloud.ingest.progress import Progress
from forewarn_cloud.telemetry import TelemetryRecord
from tests.cloud.test_up import ASSET, NODE, Cloud, Node
from tests.conftest import VictoriaMetrics, wait_until

T0 = 1_700_000_000_000
LANE: LaneKey = ("local", "n1", "telemetry", "e1")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = make_engine(f"sqlite:///{tmp_path / 'forewarn.db'}")
    migrate(engine)
    return engine


@pytest.fixture
def samples(own_victoria_metrics: VictoriaMetrics) -> InfluxSamples:
    return open_influx_samples(StoreUrl.parse(own_victoria_metrics.url.replace("http", "victoriametrics")), None)


def commit(engine: Engine, samples: InfluxSamples, *seqs: int) -> None:
    """As ingest does."""
    ledger = SqlLedger(engine, telemetry=lambda connection: TelemetryElsewhere(SqlTelemetry(connection), samples))
    progress = LaneChange(progress=Progress(contiguous=max(seqs)), stored=len(seqs))
    changes = Changes(at=T0, telemetry=[record(seq) for seq in seqs], lanes={LANE: progress})
    ledger.run(lambda transaction: transaction.write(changes))


def record(seq: int) -> TelemetryRecord:
    return TelemetryRecord(
        tenant="local",
        node="n1",
        epoch="e1",
        seq=seq,
        digest=seq.to_bytes(16, "big"),
        asset="pump-1",
        t_ms=np.array([T0 + 1000 * seq], dtype=np.int64),
        signals={"flow": np.array([seq / 8], dtype=np.float32)},
    )


def stored(samples: InfluxSamples) -> list[float]:
    found = samples.read(tenant="local", asset="pump-1", signals=None, from_ms=T0, to_ms=T0 + 10**7, max_points=10_000)
    return [8 * value for value in found.signals["flow"].tolist()] if found.samples else []


def acknowledged(engine: Engine) -> int:
    with reading(engine) as connection:
        return SqlLedgerTransaction(connection).progress([LANE])[LANE].contiguous


def test_fault_24_telemetry_store_down_nothing_is_acknowledged_until_it_serves_again(
    engine: Engine, samples: InfluxSamples, own_victoria_metrics: VictoriaMetrics
) -> None:
    commit(engine, samples, 1)
    own_victoria_metrics.stop()
    with pytest.raises(Unavailable):
        commit(engine, samples, 2, 3)
    assert acknowledged(engine) == 1
    own_victoria_metrics.start()
    commit(engine, samples, 2, 3)
    own_victoria_metrics.make_visible()
    assert (acknowledged(engine), stored(samples)) == (3, [1, 2, 3])


def test_fault_24_telemetry_store_restarted_keeps_what_was_acknowledged_and_takes_more(
    engine: Engine, samples: InfluxSamples, own_victoria_metrics: VictoriaMetrics
) -> None:
    commit(engine, samples, 1, 2)
    own_victoria_metrics.stop()
    own_victoria_metrics.start()
    commit(engine, samples, 3)
    wait_until(lambda: stored(samples) == [1, 2, 3], "all three are readable")


def test_fault_20_killed_between_the_two_stores_the_repeat_changes_nothing(
    engine: Engine, samples: InfluxSamples, own_victoria_metrics: VictoriaMetrics
) -> None:
    samples.write([record(1), record(2)])  # and then the process died before the commit
    commit(engine, samples, 1, 2)
    own_victoria_metrics.make_visible()
    assert stored(samples) == [1, 2]


def test_telemetry_store_killed_loses_what_it_had_acknowledged_and_is_told_again(
    engine: Engine, samples: InfluxSamples, own_victoria_metrics: VictoriaMetrics
) -> None:
    """VictoriaMetrics acknowledges some seconds before it writes to its disk."""
    upkeep = ElsewhereUpkeep(engine=engine, samples=samples)
    upkeep.rewrite(T0)
    commit(engine, samples, 1, 2, 3)
    own_victoria_metrics.stop(kill=True)
    with pytest.raises(Unavailable):
        upkeep.rewrite(T0)
    own_victoria_metrics.start()
    upkeep.rewrite(T0)
    own_victoria_metrics.make_visible()
    assert stored(samples) == [1, 2, 3]


def test_records_are_kept_until_the_store_has_had_time_to_write_them_and_known_for_longer(
    engine: Engine, samples: InfluxSamples, own_victoria_metrics: VictoriaMetrics
) -> None:
    upkeep = ElsewhereUpkeep(engine=engine, samples=samples)
    upkeep.rewrite(T0)
    commit(engine, samples, 1, 2, 3)
    upkeep.forget(T0)
    commit(engine, samples, 4)
    assert kept(engine) == [1, 2, 3, 4]
    own_victoria_metrics.stop()
    with pytest.raises(Unavailable):
        upkeep.forget(T0 + KEEP_MS)
    own_victoria_metrics.start()
    while upkeep.forget(T0 + KEEP_MS):
        pytest.fail("the restarted store has not been told again yet")
    upkeep.rewrite(T0 + KEEP_MS)
    while upkeep.forget(T0 + KEEP_MS):
        pass
    assert kept(engine) == [4]
    with reading(engine) as connection:
        digests = SqlTelemetry(connection).digests("local", "n1", "e1", [1, 2, 3, 4, 5])
    assert digests == {seq: seq.to_bytes(16, "big") for seq in (1, 2, 3, 4)}


def kept(engine: Engine) -> list[int]:
    with reading(engine) as connection:
        blocks = schema.telemetry_blocks.c
        return sorted(connection.execute(select(blocks.seq)).scalars())


@pytest.mark.long
def test_fault_24_telemetry_store_stopped_and_killed_under_the_real_cloud_nothing_is_lost(
    tmp_path: Path, own_victoria_metrics: VictoriaMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node, the broker, the cloud, VictoriaMetrics, and the chart in the console."""
    monkeypatch.setenv("FOREWARN_TELEMETRY_URL", own_victoria_metrics.url.replace("http", "victoriametrics"))
    cloud = Cloud(tmp_path / "data")
    assert cloud.run("node", "add", NODE).returncode == 0
    endpoints = cloud.start()
    try:
        node = Node(cloud.broker_port, 3000)
        node.start()
        node.wait_for(0.2)
        own_victoria_metrics.stop()
        own_victoria_metrics.start()
        node.wait_for(0.6)
        own_victoria_metrics.stop(kill=True)
        own_victoria_metrics.start()
        node.join(90)
        assert node.acknowledged == node.total
        query = f"{endpoints.api}/assets/{ASSET}/telemetry?max_points=10000"

        def readable() -> int:
            own_victoria_metrics.make_visible()
            return int(httpx.get(query, timeout=20).raise_for_status().json()["samples"])

        wait_until(lambda: readable() == node.total, "every acknowledged sample is in the store", 60)
        page = httpx.get(f"{endpoints.console}machines/{ASSET}", timeout=20).raise_for_status().text
        assert "caption-flow" in page
        status, logged = cloud.stop()
        assert (status, "Traceback" in logged) == (0, False), logged
    finally:
        if cloud.process is not None and cloud.process.poll() is None:
            cloud.kill()
