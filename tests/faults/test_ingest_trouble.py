"""Silent nodes, names used twice, storms of advisories: seen, told, and without effect on others."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, update

from forewarn_cloud import views
from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import make_engine, reading, writing
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.api.metrics import NODES_NAMED
from forewarn_cloud.console.pages import router as console
from forewarn_cloud.ingest.births import MANY, WINDOW_MS, trouble_of, with_birth
from forewarn_cloud.ingest.figures import IngestFigures
from forewarn_cloud.service.policy import Policy
from forewarn_cloud.workers.advisories import Advisories
from tests.cloud.api.serving import deps_of, serving
from tests.cloud.ingest.sending import NOW, TENANT, birth, enrol, message, rows, telemetry
from tests.cloud.ingest.test_writer import Ingesting
from tests.cloud.world import SEAL, World, advisory, make_world, normal


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = make_engine(f"sqlite:///{tmp_path}/cloud.db")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def world(engine: Engine) -> World:
    return make_world(engine, {SEAL: {"north": 1}}, Policy())


# --- silence --------------------------------------------------------------------------------------------------------


def set_node(world: World, **values: object) -> None:
    with writing(world.engine) as connection:
        connection.execute(update(schema.nodes).values(values))


def test_the_machines_of_a_silent_node_are_unknown_without_alarm_or_order(world: World) -> None:
    world.hear(normal("pump-1"))
    orders, advisories = world.orders(), world.rows(schema.advisories)
    set_node(world, online=True, presence_at=world.clock.now_ms())
    with serving(deps_of(world), console) as api:

        def seen() -> tuple[str, bool, str]:
            found = api.get("/api/v1/assets/pump-1")
            return found["condition"], found["silent"], found["health"]["condition"]

        assert seen() == ("NORMAL", False, "NORMAL")
        world.clock.advance(seconds=601)
        assert seen() == ("UNKNOWN", True, "NORMAL")
        unknown = api.get("/api/v1/assets", condition="UNKNOWN")["items"]
        assert [asset["asset"] for asset in unknown] == ["pump-1", "pump-2", "pump-3"]
        assert api.get("/api/v1/assets", condition="NORMAL")["items"] == []
        assert api.get("/api/v1/nodes/edge-1")["silent"] is True
        for page in ("/machines", "/machines/pump-1", "/nodes"):
            assert "not heard from since" in api.client.get(page, params={"lang": "en"}).text, page
            assert "失去联系" in api.client.get(page, params={"lang": "zh"}).text, page
        metrics = api.client.get("/metrics").text
        assert "forewarn_nodes_silent 1.0" in metrics
        assert 'forewarn_assets_by_condition{condition="UNKNOWN"} 1.0' in metrics
        set_node(world, presence_at=world.clock.now_ms())
        assert seen() == ("NORMAL", False, "NORMAL")
        set_node(world, online=False)
        assert seen() == ("UNKNOWN", True, "NORMAL")
    world.work()
    assert (world.orders(), world.rows(schema.advisories)) == (orders, advisories)


def test_records_that_come_are_a_sign_of_life(engine: Engine) -> None:
    enrol(engine, "n1", "pump-1")
    ingest = Ingesting(engine)
    ingest.feed(message(1, telemetry()))

    def silent(before: int) -> bool:
        with reading(engine) as connection:
            (node,) = views.list_nodes(connection, TENANT, silent_before=before).items
        return node.silent

    assert not silent(NOW)
    assert silent(NOW + 1)
    with writing(engine) as connection:
        connection.execute(schema.lane_progress.delete())
    assert not silent(NOW + 1), "one that never was is no news"


# --- two agents of one name -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        ("a", "none"),
        ("ab", "none"),
        ("aabb", "none"),
        ("aba", "two_agents"),
        ("abab", "two_agents"),
        ("a" * (MANY - 1), "none"),
        ("a" * MANY, "unstable"),
    ],
)
def test_births_tell_what_is_wrong(epochs: str, expected: str) -> None:
    births = list[tuple[int, str]]()
    for n, epoch in enumerate(epochs):
        births = with_birth(births, NOW + n, epoch)
    assert trouble_of(births, NOW + 10) == expected
    assert trouble_of(births, NOW + 10 + WINDOW_MS) == "none"


def test_fault_19_two_agents_with_one_name_are_noticed_and_told_and_others_go_on(engine: Engine) -> None:
    for node, asset in (("n1", "pump-1"), ("n2", "fan-1")):
        enrol(engine, node, asset)
    ingest = Ingesting(engine)
    for n, epoch in enumerate(("one", "two", "one", "two", "one")):
        ingest.clock.advance(seconds=3)
        ingest.feed(
            birth(epochs={"telemetry": epoch}),
            message(n + 1, telemetry("fan-1", t=NOW + n), node="n2"),
        )
    assert len(ingest.stored) == 5, "the other node is unaffected"
    with reading(engine) as connection:
        found = {n.node: n.trouble for n in views.list_nodes(connection, TENANT, now_ms=ingest.clock.now_ms()).items}
    assert found == {"n1": "two_agents", "n2": "none"}
    noted = [row for row in rows(engine, "audit", "subject_id", "action", "detail") if row[1] == "connection_trouble"]
    assert noted == [("n1", "connection_trouble", {"trouble": "two_agents"})], "told once"


# --- storms ---------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_43_a_storm_of_ten_thousand_advisories_makes_one_order_and_is_told_once(world: World) -> None:
    storm = [advisory(at_hours=n / 10_000 / 60) for n in range(10_000)]
    world.clock.at_ms = storm[-1].observed_at
    world.receive(*storm[:5000], advisory("pump-2"), *storm[5000:])
    workers = Advisories(transactions=world.transactions, chain=world.chain)
    workers.handle_next()
    with reading(world.engine) as connection:
        waiting = select(schema.advisories.c.asset).where(schema.advisories.c.handled_at.is_(None)).distinct()
        assert connection.execute(waiting).scalars().all() == ["pump-1"], "the others do not wait for the storm"
    began = time.monotonic()
    world.work()
    assert time.monotonic() - began < 150, "quick: a few milliseconds each on a machine that is busy"
    assert len(world.orders("pump-1")) == 1
    (seen,) = [row for row in world.rows(schema.audit) if row.action == "advisory_storm"]
    assert (seen.subject_id, seen.detail["advisories"]) == ("pump-1", 100)
    with serving(deps_of(world), console) as api:
        assert api.get("/api/v1/assets/pump-1")["storm_at"] is not None
        assert "came in a storm" in api.client.get("/machines/pump-1", params={"lang": "en"}).text


# --- the latest is the latest measured ------------------------------------------------------------------------------


def test_25_what_comes_late_does_not_become_the_latest(world: World) -> None:
    world.hear(advisory(at_hours=2))
    world.receive(normal(at_hours=1))
    world.work()
    with reading(world.engine) as connection:
        found = views.get_asset(connection, TENANT, "pump-1")
        history = views.health_history(connection, TENANT, "pump-1").items
    assert found is not None
    assert found.health is not None
    assert found.health.condition == "ALARM"
    assert [one.condition for one in history] == ["ALARM", "NORMAL"]


# --- figures --------------------------------------------------------------------------------------------------------


def test_the_metrics_tell_of_everything_and_name_few_nodes(world: World) -> None:
    ingest = Ingesting(world.engine)
    now = ingest.clock.at_ms = world.clock.at_ms
    ingest.feed(
        message(1, telemetry("nobody", t=now), telemetry("pump-1", t=5), node="edge-1"),
        message(1, telemetry("pump-1", t=now), node="edge-1", epoch="$" * 3),
    )
    many = {f"n{n}": n for n in range(NODES_NAMED + 5)}
    figures = IngestFigures(waiting_messages=3, fill=0.5, lag_seconds=2.0, throttled=many, let_go={"n1": 4})
    with serving(deps_of(world, ingest_figures=lambda: figures)) as api:
        text = api.client.get("/metrics").text
    for line in (
        'forewarn_quarantined_by_kind{kind="asset"} 1.0',
        'forewarn_quarantined_by_kind{kind="t"} 1.0',
        'forewarn_quarantined_by_kind{kind="epoch"} 1.0',
        "forewarn_ingest_handover_fill 0.5",
        "forewarn_ingest_lag_seconds 2.0",
        'forewarn_ingest_let_go{node="n1"} 4.0',
        'forewarn_ingest_throttled{node="(others)"} 10.0',
        "forewarn_advisory_lag_seconds 0.0",
    ):
        assert line in text, line
    assert text.count("forewarn_ingest_throttled{") == NODES_NAMED + 1
