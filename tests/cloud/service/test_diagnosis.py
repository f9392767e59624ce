"""Findings teach the diagnosis, and the next advisory is read with it; over the real repositories on both databases."""

from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert, update

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import reading, writing
from forewarn_cloud.adapters.sql.migrating import downgrade, migrate
from forewarn_cloud.adapters.sql.repositories import verify_audit
from forewarn_cloud.entities import Asset, DecisionRecord, Finding, Order
from forewarn_cloud.errors import Invalid
from forewarn_cloud.service import desk
from forewarn_cloud.service.diagnosis import read_with_findings
from forewarn_cloud.service.ordering import replay
from forewarn_models.asset_type import builtin_asset_type
from forewarn_models.diagnosis import diagnose, load_diagnosis, new_diagnosis, pattern_of
from forewarn_models.wire import Advisory, RulHours
from tests.cloud.world import DESK, TENANT, World, advisory
from tests.conftest import together

PUMP = builtin_asset_type("centrifugal_pump")
BEARING_WEAR = Finding(outcome="CONFIRMED", failure_mode="bearing_wear")
SEAL_LEAK = Finding(outcome="CONFIRMED", failure_mode="seal_leak")
NO_FAULT = Finding(outcome="NO_FAULT_FOUND")


def as_the_edge_says(
    shares: dict[str, float], asset: str = "pump-1", *, at_hours: float = 0.0, **changes: Any
) -> Advisory:
    """An advisory about a deviation with these shares of the score, signed like its residuals."""
    score = 2.0
    told = advisory(
        asset,
        at_hours=at_hours,
        anomaly_score=score,
        contributions={name: score * abs(share) for name, share in shares.items()},
        residuals={name: 5.0 * share for name, share in shares.items()},
        rul_hours=RulHours(20.0, 45.0, 90.0),
        **changes,
    )
    fresh = new_diagnosis(PUMP)
    pattern = pattern_of(PUMP, told)
    assert pattern is not None
    return msgspec.structs.replace(told, failure_modes=diagnose(fresh, pattern))


def ambiguous(asset: str = "pump-1", *, at_hours: float = 0.0) -> Advisory:
    """Vibration and leakage together: neither bearing wear nor a seal leak, by the table, but rather bearing wear."""
    return as_the_edge_says({"vibration_rms_mm_s": 0.65, "seal_leakage_ml_h": 0.35}, asset, at_hours=at_hours)


def clear(asset: str = "pump-1", *, at_hours: float = 0.0) -> Advisory:
    return as_the_edge_says({"seal_leakage_ml_h": 0.97, "flow_m3_h": -0.03}, asset, at_hours=at_hours)


def completed(world: World, asset: str, finding: Finding) -> Order:
    """The one open order of an asset, worked off."""
    (order,) = [order for order in world.orders(asset) if order.state == "OPEN"]
    for part_no in ("PMP-BRG-6309", "PMP-SEAL-45"):
        with writing(world.engine) as connection:
            table = schema.stock
            at = (table.c.tenant == TENANT) & (table.c.part_no == part_no)
            connection.execute(update(table).where(at).values(on_hand=table.c.reserved + 4))
    world.run(lambda uow: desk.acknowledge(uow, DESK, world.clock, order.id, None))
    world.run(lambda uow: desk.start(uow, DESK, world.clock, order.id, None))
    return world.run(lambda uow: desk.complete(uow, DESK, world.clock, order.id, None, finding=finding))


def diagnosed(world: World, asset: str) -> dict[str, float]:
    """The probabilities of the latest health, which are those of the episode."""
    (health,) = [row for row in world.rows(schema.asset_health) if row.asset == asset]
    episodes = [row for row in world.rows(schema.episodes) if row.asset == asset and row.state == "OPEN"]
    assert all(row.advisory["failure_modes"] == health.advisory["failure_modes"] for row in episodes)
    modes: dict[str, float] = health.advisory["failure_modes"]
    return modes


def first(probabilities: dict[str, float]) -> str:
    return max(probabilities, key=lambda mode: probabilities[mode])


def test_two_confirmed_findings_shift_an_ambiguous_pattern_to_the_confirmed_mode(world: World) -> None:
    world.hear(ambiguous("pump-1"), ambiguous("pump-2"))
    assert [first(diagnosed(world, asset)) for asset in ("pump-1", "pump-2")] == ["bearing_wear", "bearing_wear"]
    for asset in ("pump-1", "pump-2"):
        completed(world, asset, Finding(outcome="OTHER_FAULT", failure_mode="seal_leak"))
    world.hear(ambiguous("pump-3", at_hours=1))
    assert first(diagnosed(world, "pump-3")) == "seal_leak"
    assert world.order("pump-3").failure_mode == "seal_leak", "and the order asks for the seal"
    (episode,) = [row for row in world.rows(schema.episodes) if row.asset == "pump-3"]
    assert episode.diagnosis_version == 2


@pytest.mark.parametrize(
    "wrong", [NO_FAULT, Finding(outcome="OTHER_FAULT", failure_mode="bearing_wear"), Finding(outcome="OTHER_FAULT")]
)
def test_one_wrong_finding_does_not_flip_a_clear_diagnosis(world: World, wrong: Finding) -> None:
    world.hear(clear("pump-1"))
    before = diagnosed(world, "pump-1")
    completed(world, "pump-1", wrong)
    world.hear(clear("pump-2", at_hours=1))
    after = diagnosed(world, "pump-2")
    assert first(after) == "seal_leak"
    assert 0.5 < after["seal_leak"] < before["seal_leak"]
    assert world.order("pump-2").failure_mode == "seal_leak"


def test_without_findings_the_edges_probabilities_stand(world: World) -> None:
    told = msgspec.structs.replace(ambiguous(), failure_modes={"seal_leak": 0.61, "casing_crack": 0.2})
    world.hear(told)
    assert diagnosed(world, "pump-1") == told.failure_modes
    (episode,) = world.rows(schema.episodes)
    assert episode.diagnosis_version == 0
    assert world.rows(schema.diagnoses) == []


def test_a_decision_keeps_the_revised_probabilities_and_replays_exactly(world: World) -> None:
    world.hear(ambiguous("pump-1"))
    completed(world, "pump-1", Finding(outcome="OTHER_FAULT", failure_mode="seal_leak"))
    world.hear(ambiguous("pump-2", at_hours=1))
    records = [DecisionRecord(**row._mapping) for row in world.rows(schema.decisions)]
    assert [record.inputs["diagnosis"]["version"] for record in records] == [0, 1]
    assert records[1].inputs["diagnosis"]["failure_modes"] == diagnosed(world, "pump-2")
    for record in records:
        assert replay(record) == record.outcome
        situation = record.inputs["situation"]
        mode = situation["failure_mode"]
        assert situation["failure_mode_probability"] == record.inputs["diagnosis"]["failure_modes"].get(mode, 0.0)


def test_a_decision_made_later_is_about_the_diagnosis_it_saw(world: World) -> None:
    """Findings about other machines do not change an open episode until its machine speaks again."""
    world.hear(msgspec.structs.replace(ambiguous("pump-1"), rul_hours=RulHours(380.0, 500.0, 700.0)))
    world.hear(clear("pump-2"))
    completed(world, "pump-2", SEAL_LEAK)
    world.clock.advance(hours=30)
    world.work()
    records = [DecisionRecord(**row._mapping) for row in world.rows(schema.decisions)]
    (episode,) = [row for row in world.rows(schema.episodes) if row.asset == "pump-1"]
    mine = [record for record in records if record.episode_id == episode.id]
    assert [record.inputs["diagnosis"]["version"] for record in mine] == [0, 0]


def test_the_finding_its_lesson_and_the_audit_are_one_transaction(world: World) -> None:
    world.hear(clear("pump-1"))
    completed(world, "pump-1", SEAL_LEAK)
    (row,) = world.rows(schema.diagnoses)
    model = load_diagnosis(row.model)
    assert (row.tenant, row.asset_type, row.version, model.findings) == (TENANT, "centrifugal_pump", 1, 1)
    assert row.updated_at == world.clock.now_ms()
    (entry,) = [entry for entry in world.rows(schema.audit) if entry.subject == "diagnosis"]
    assert (entry.subject_id, entry.action, entry.actor) == ("centrifugal_pump", "learned", "forewarn")
    assert entry.detail["outcome"] == "CONFIRMED"
    assert entry.detail["version"] == 1
    assert entry.detail["probabilities_after"]["seal_leak"] > entry.detail["probabilities_before"]["seal_leak"]
    with reading(world.engine) as connection:
        assert verify_audit(connection, TENANT).broken_at is None
    world.hear(clear("pump-2", at_hours=1))
    before = world.everything()
    with pytest.raises(Invalid):
        completed(world, "pump-2", Finding(outcome="CONFIRMED", failure_mode="bearing_wear"))
    after = world.everything()
    assert after["diagnoses"] == before["diagnoses"]
    assert after["findings"] == before["findings"]


def test_evidence_without_a_pattern_teaches_nothing(world: World) -> None:
    """A limit was passed while the model was still learning: nothing deviates from what is not known yet."""
    over: dict[str, Any] = {"limits_exceeded": ("vibration_rms_mm_s",), "maturity": "LEARNING", "anomaly_score": 0.0}
    world.hear(advisory(contributions={}, residuals={}, failure_modes={}, rul_hours=RulHours(5.0, 12.0, 30.0), **over))
    completed(world, "pump-1", Finding(outcome="OTHER_FAULT", failure_mode="bearing_wear"))
    assert world.rows(schema.diagnoses) == []


def test_a_stored_diagnosis_that_cannot_be_read_stops_neither_orders_nor_findings(world: World) -> None:
    row = {"tenant": TENANT, "asset_type": "centrifugal_pump", "version": 7, "model": '{"format":9}', "updated_at": 1}
    with writing(world.engine) as connection:
        connection.execute(insert(schema.diagnoses).values(row))
    world.hear(clear("pump-1"))
    assert diagnosed(world, "pump-1") == clear().failure_modes
    assert completed(world, "pump-1", SEAL_LEAK).state == "COMPLETED"
    (stored,) = world.rows(schema.diagnoses)
    assert dict(stored._mapping) == row, "what a newer version wrote is not overwritten"
    (entry,) = [entry for entry in world.rows(schema.audit) if entry.subject == "diagnosis"]
    assert (entry.action, entry.detail["version"]) == ("unreadable", 7)


def test_findings_reported_at_the_same_time_are_all_learned(world: World) -> None:
    assets = ("pump-1", "pump-2", "pump-3")
    world.hear(*(clear(asset) for asset in assets))
    with writing(world.engine) as connection:
        connection.execute(update(schema.orders).values(state="IN_PROGRESS"))

    def complete(order: Order) -> Order:
        return world.run(lambda uow: desk.complete(uow, DESK, world.clock, order.id, None, finding=NO_FAULT))

    assert together(*[partial(complete, world.order(asset)) for asset in assets]) == []
    (row,) = world.rows(schema.diagnoses)
    assert (row.version, load_diagnosis(row.model).findings) == (3, 3)


def test_what_one_tenant_and_type_learned_is_not_told_to_another(world: World) -> None:
    world.hear(clear("pump-1"))
    completed(world, "pump-1", NO_FAULT)

    def version(tenant: str, asset_type: str) -> int:
        asset = Asset(tenant=tenant, asset="x", node="edge-1", asset_type=asset_type, name="x", site=None, created_at=0)
        return world.run(lambda uow: read_with_findings(uow, asset, [clear()]).version)

    assert version(TENANT, "centrifugal_pump") == 1
    assert version("other", "centrifugal_pump") == 0
    assert version(TENANT, "motor_fan") == 0


def test_the_migration_keeps_what_is_there_both_ways(world: World) -> None:
    world.hear(clear("pump-1"))
    before = world.everything()
    downgrade(world.engine, "0001")
    migrate(world.engine)
    assert world.everything() == before
    completed(world, "pump-1", replace(SEAL_LEAK, note="after the migration"))
    assert [row.version for row in world.rows(schema.diagnoses)] == [1]
