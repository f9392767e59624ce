"""From advisories to orders, over the real repositories on both databases."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from sqlalchemy import event

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import reading
from forewarn_cloud.adapters.sql.repositories import verify_audit
from forewarn_cloud.entities import DecisionRecord
from forewarn_cloud.service.ordering import replay
from forewarn_cloud.service.policy import AutonomyTable, Policy
from forewarn_cloud.workers.advisories import Advisories
from forewarn_models.wire import RulHours
from tests.cloud.world import HOUR_MS, SEAL, START_MS, TENANT, World, advisory, normal
from tests.conftest import together


def open_order(world: World) -> None:
    world.hear(advisory())
    assert world.order().state == "OPEN"


def test_a_clear_fault_opens_an_order_with_its_part_reserved_and_the_customer_told(world: World) -> None:
    world.hear(advisory())
    order = world.order()
    assert (order.state, order.failure_mode, order.number, order.version) == ("OPEN", "seal_leak", "SO-000001", 1)
    assert order.needed_by_at == pytest.approx(START_MS + 60 * HOUR_MS, abs=HOUR_MS)
    assert order.ready_at == START_MS + 6 * HOUR_MS
    assert world.reservations(order) == {SEAL: ("RESERVED", "stock", 1)}
    assert world.stock(SEAL) == (1, 1)
    assert world.news("email") == [("order_opened", "ops@acme.example")]
    assert world.news("webhook") == [("order_opened", "https://acme.example/hook")]
    (episode,) = world.rows(schema.episodes)
    assert (episode.failure_mode, episode.started_at) == ("seal_leak", START_MS - HOUR_MS)
    (health,) = world.rows(schema.asset_health)
    assert (health.condition, health.rul_hours_p50, health.failure_mode) == ("ALARM", 100.0, "seal_leak")
    assert [row.action for row in world.rows(schema.audit)] == ["opened", "open"]


def test_the_message_says_what_is_wrong_since_when_and_by_when(world: World) -> None:
    world.hear(advisory("pump-2"))
    (message,) = world.rows(schema.outbox)
    facts = message.payload
    assert message.language == "zh"
    assert (facts["asset_name"], facts["site_name"], facts["customer_name"]) == ("Feed pump 2", "Yard", "小厂")
    assert facts["failure_mode_title"] == "机械密封泄漏"
    assert facts["action"] == "更换机械密封；检查冲洗方案和轴跳动。"
    assert "密封泄漏量" in facts["explanation"]
    assert facts["since_ms"] == START_MS - HOUR_MS
    assert START_MS < facts["visit_by_ms"] <= facts["needed_by_ms"]
    assert facts["parts"] == [
        {
            "part_no": SEAL,
            "name": "机械密封",
            "quantity": 1,
            "state": "RESERVED",
            "sourcing": "stock",
            "expected_ms": START_MS,
        }
    ]


def test_more_of_the_same_evidence_keeps_one_order_and_tells_nobody_again(world: World) -> None:
    for hours in range(5):
        world.hear(advisory(at_hours=hours, since=START_MS - HOUR_MS))
    assert len(world.orders()) == 1
    assert len(world.news()) == 1
    (episode,) = world.rows(schema.episodes)
    assert (episode.advisory_count, episode.last_evidence_at) == (5, START_MS + 4 * HOUR_MS)


def test_hundreds_of_duplicates_from_several_workers_open_one_order(world: World) -> None:
    world.receive(*(advisory(asset) for asset in ("pump-1", "pump-2", "pump-3") for _ in range(80)))

    def work() -> None:
        worker = Advisories(transactions=world.transactions, chain=world.chain)
        while any(row.handled_at is None for row in world.rows(schema.advisories)):
            worker.handle_next(limit=7)

    assert together(*[work] * 4) == []
    assert sorted(order.asset for order in world.orders()) == ["pump-1", "pump-2", "pump-3"]
    assert sorted(order.number for order in world.orders()) == ["SO-000001", "SO-000002", "SO-000003"]
    assert sum(row.advisory_count for row in world.rows(schema.episodes)) == 240
    assert len(world.news("email")) == 3
    assert world.stock(SEAL) == (1, 1), "one seal on the shelf: one order has it, the others wait for theirs"
    with reading(world.engine) as connection:
        assert verify_audit(connection, TENANT).broken_at is None


class Crash(BaseException):
    """The process dies here."""


def test_a_crash_at_any_statement_does_all_or_nothing(world: World) -> None:
    world.receive(advisory(), advisory(at_hours=1))
    statements, crash_at = 0, 0

    def count(*_: Any) -> None:
        nonlocal statements
        statements += 1
        if statements == crash_at:
            raise Crash

    event.listen(world.engine, "before_cursor_execute", count)
    finished = False
    while not finished:
        statements, crash_at = 0, crash_at + 1
        try:
            finished = Advisories(transactions=world.transactions, chain=world.chain).handle_next() == 2
        except Crash:
            statements = -1_000_000  # looking does not crash
            assert world.orders() == []
            assert world.stock(SEAL) == (1, 0)
            assert all(row.handled_at is None for row in world.rows(schema.advisories))
            for table in (schema.outbox, schema.audit, schema.episodes, schema.asset_health, schema.reservations):
                assert world.rows(table) == []
    event.remove(world.engine, "before_cursor_execute", count)
    assert crash_at > 15, "it was interrupted at every statement"
    assert world.order().number == "SO-000001"
    assert world.stock(SEAL) == (1, 1)
    assert len(world.news()) == 1


def test_what_is_decided_can_be_replayed_exactly(world: World) -> None:
    world.hear(advisory())
    world.hear(advisory("pump-2", rul_hours=None))
    decisions = [DecisionRecord(**row._mapping) for row in world.rows(schema.decisions)]
    assert len(decisions) >= 2
    for record in decisions:
        assert replay(record) == record.outcome
        assert record.policy_hash == Policy().hash
        assert record.model_hash == "a" * 64
    changed = replace(decisions[0], inputs=msgspec.json.decode(msgspec.json.encode(decisions[0].inputs)))
    changed.inputs["situation"]["tier"] = 3
    assert replay(changed) != changed.outcome


def test_where_time_is_left_it_waits_and_decides_again_when_due(world: World) -> None:
    world.hear(advisory(rul_hours=RulHours(380.0, 500.0, 700.0)))
    assert world.orders() == []
    (episode,) = world.rows(schema.episodes)
    assert episode.revisit_at == START_MS + 24 * HOUR_MS
    world.clock.advance(hours=23)
    world.work()
    assert len(world.rows(schema.decisions)) == 1, "not due yet"
    for _ in range(20):
        world.clock.advance(hours=24)
        world.work()
    order = world.order()
    assert order.opened_at < START_MS + 380 * HOUR_MS, "before the failure is likely"
    assert order.opened_at > START_MS + 100 * HOUR_MS, "and not long before it is needed"
    actions = [row.action for row in world.rows(schema.decisions)]
    assert actions.count("order") == 1
    assert actions.count("wait") >= 4


@pytest.mark.parametrize(
    "harmless",
    [
        {"maturity": "LEARNING"},
        {"condition": "ALERT", "failure_modes": {}, "rul_hours": None},
        {"condition": "UNKNOWN"},
    ],
    ids=["still learning", "a jump nothing explains", "off"],
)
def test_evidence_that_is_not_to_be_trusted_opens_no_order(world: World, harmless: dict[str, Any]) -> None:
    for hours in range(0, 240, 12):
        world.hear(advisory(at_hours=hours, since=START_MS, **harmless))
    assert world.orders() == []


def test_nobody_is_sent_for_evidence_that_has_faded_to_an_alert_without_a_reason(world: World) -> None:
    world.hear(advisory(condition="ALERT", rul_hours=RulHours(380.0, 500.0, 700.0)))
    for hours in range(3, 240, 12):
        world.hear(advisory(at_hours=hours, since=START_MS, condition="ALERT", failure_modes={}, rul_hours=None))
    assert world.orders() == []
    (episode,) = world.rows(schema.episodes)
    assert episode.state == "OPEN"
    world.hear(advisory(at_hours=240, since=START_MS, rul_hours=RulHours(5.0, 20.0, 40.0)))
    assert world.order().state == "OPEN", "until there is one again"


def test_an_absolute_limit_speaks_even_while_the_model_is_learning(world: World) -> None:
    over: dict[str, Any] = {
        "limits_exceeded": ("vibration_rms_mm_s",),
        "maturity": "LEARNING",
        "rul_hours": RulHours(5.0, 12.0, 30.0),
    }
    world.hear(advisory(failure_modes={"bearing_wear": 0.8}, **over))
    assert world.order().failure_mode == "bearing_wear"


def test_a_temperature_that_jumps_to_fahrenheit_at_standstill_opens_no_order_day_after_day(world: World) -> None:
    """Each start leads the reading through the band between the ALERT limit and the impossible."""
    warming: dict[str, Any] = {"condition": "ALERT", "limits_exceeded": ("bearing_temperature_c",), "since": None}
    lies = {"bearing_temperature_c": "out_of_range"}
    for day in range(7):
        world.hear(advisory(at_hours=24 * day, failure_modes={}, rul_hours=None, health_index=0.6, **warming))
        world.hear(normal(at_hours=24 * day + 3, sensor_faults=lies))
        world.clock.advance(hours=20)
        world.work()
    assert world.orders() == []


def test_a_clearer_diagnosis_moves_the_episode_and_its_order_to_the_other_failure_mode(world: World) -> None:
    open_order(world)
    world.hear(advisory(at_hours=2, since=START_MS - HOUR_MS, failure_modes={"bearing_wear": 0.9, "seal_leak": 0.05}))
    order = world.order()
    assert (order.failure_mode, order.state, order.version) == ("bearing_wear", "OPEN", 2)
    assert len(world.rows(schema.episodes)) == 1
    assert world.reservations(order) == {SEAL: ("RELEASED", "stock", 1), "PMP-BRG-6309": ("RESERVED", "stock", 2)}
    assert world.stock(SEAL) == (1, 0)
    assert world.stock("PMP-BRG-6309") == (2, 2)


def test_a_diagnosis_does_not_flutter(world: World) -> None:
    open_order(world)
    world.hear(advisory(at_hours=2, since=START_MS - HOUR_MS, failure_modes={"bearing_wear": 0.5, "seal_leak": 0.45}))
    assert world.order().failure_mode == "seal_leak"


def test_an_inspection_becomes_a_repair_when_the_failure_mode_shows(world: World) -> None:
    unknown: dict[str, Any] = {"failure_modes": {}, "rul_hours": RulHours(20.0, 45.0, 90.0)}
    world.hear(advisory(**unknown))
    assert (world.order().failure_mode, world.reservations(world.order())) == ("unspecified", {})
    world.hear(advisory(at_hours=1, since=START_MS - HOUR_MS))
    assert world.order().failure_mode == "seal_leak"
    assert world.reservations(world.order()) == {SEAL: ("RESERVED", "stock", 1)}


def test_evidence_that_clears_withdraws_the_order_frees_the_part_and_tells_the_customer(world: World) -> None:
    open_order(world)
    world.hear(normal(at_hours=5))
    assert world.order().state == "OPEN", "well, but not for long enough"
    world.hear(normal(at_hours=18))
    assert world.order().state == "WITHDRAWN"
    assert world.stock(SEAL) == (1, 0)
    assert world.news() == [("order_opened", "ops@acme.example"), ("order_withdrawn", "ops@acme.example")]
    (episode,) = world.rows(schema.episodes)
    assert (episode.state, episode.close_reason) == ("CLOSED", "evidence cleared")


@pytest.mark.parametrize("quiet", [{"maturity": "LEARNING"}, {"condition": "UNKNOWN"}], ids=["learning", "off"])
def test_a_machine_nothing_is_known_of_has_not_become_well(world: World, quiet: dict[str, Any]) -> None:
    open_order(world)
    for hours in (5, 30, 60):
        world.hear(normal(at_hours=hours, **quiet))
    assert world.order().state == "OPEN"


def test_an_order_outlives_a_baseline_that_the_machine_began_anew_by_itself_and_says_so(world: World) -> None:
    """What was taken for a fault has become normal to the model; nobody has looked."""
    open_order(world)
    world.hear(normal(at_hours=500, condition="UNKNOWN", maturity="LEARNING", reason="reset"))
    for hours in range(524, 1000, 24):
        world.hear(normal(at_hours=hours, maturity="PROVISIONAL", reason="periodic"))
    order = world.order()
    assert order.state == "OPEN"
    assert world.stock(SEAL) == (1, 1)
    assert [row.action for row in world.rows(schema.audit) if row.subject_id == order.id].count(
        "baseline_begun_anew"
    ) == 1
    assert world.news() == [("order_opened", "ops@acme.example")]


def test_new_evidence_after_a_short_calm_keeps_the_order(world: World) -> None:
    open_order(world)
    world.hear(normal(at_hours=5), advisory(at_hours=8, since=START_MS - HOUR_MS), normal(at_hours=18))
    assert world.order().state == "OPEN"


def test_while_the_evidence_is_clearing_no_order_is_opened(world: World) -> None:
    world.hear(advisory(rul_hours=RulHours(380.0, 500.0, 700.0)))
    world.hear(normal(at_hours=5))
    world.clock.advance(hours=370)
    world.work()
    assert world.orders() == []
    world.hear(advisory(at_hours=380, since=START_MS - HOUR_MS, rul_hours=RulHours(5.0, 20.0, 40.0)))
    assert world.order().state == "OPEN", "but when it comes back one is"


def test_an_old_advisory_that_comes_late_moves_nothing(world: World) -> None:
    world.hear(advisory(at_hours=5))
    world.hear(advisory(at_hours=2, health_index=0.1, failure_modes={"bearing_wear": 0.9}))
    assert world.order().failure_mode == "seal_leak"
    (health,) = world.rows(schema.asset_health)
    assert (health.observed_at, health.health_index) == (START_MS + 5 * HOUR_MS, 0.6)


def test_autonomy_propose_asks_the_desk_and_tells_nobody_yet(world: World) -> None:
    world.policy = Policy(autonomy=AutonomyTable(default="auto", by_asset_type={"centrifugal_pump": "propose"}))
    world.hear(advisory())
    assert world.order().state == "PROPOSED"
    assert world.stock(SEAL) == (1, 1)
    assert world.news() == []


def test_autonomy_observe_only_watches(world: World) -> None:
    world.policy = Policy(autonomy=AutonomyTable(default="observe"))
    world.hear(advisory())
    assert world.orders() == []
    assert [row.action for row in world.rows(schema.decisions)] == ["order"], "what it would have done is recorded"


def test_a_poisoned_advisory_is_set_aside_and_the_others_go_on(world: World) -> None:
    world.receive(advisory(), advisory("pump-2"), advisory("pump-2", at_hours=1))
    with world.engine.connect() as connection, connection.begin():
        table = schema.advisories
        poison = {**msgspec.to_builtins(advisory()), "health_index": "well"}
        connection.execute(table.update().where(table.c.seq == 2).values(body=poison))
    world.work()
    assert sorted(order.asset for order in world.orders()) == ["pump-1", "pump-2"]
    (refused,) = world.rows(schema.quarantine)
    assert "health_index" in refused.reason
    assert (refused.node, refused.lane, refused.seq) == ("edge-1", "advisory", 2)
    assert all(row.handled_at is not None for row in world.rows(schema.advisories))


def test_an_advisory_that_breaks_the_handler_is_set_aside_and_the_others_go_on(world: World) -> None:
    world.policy = msgspec.structs.replace(world.policy, part_life_hours=0.0)  # cannot come from a file
    world.receive(advisory(), normal("pump-2"))
    world.work()
    assert world.orders() == []
    (refused,) = world.rows(schema.quarantine)
    assert refused.reason.startswith("advisory: could not be handled: ZeroDivisionError")
    assert all(row.handled_at is not None for row in world.rows(schema.advisories))
    assert {row.asset for row in world.rows(schema.asset_health)} == {"pump-2"}


def test_an_advisory_about_an_asset_that_is_not_registered_is_set_aside(world: World) -> None:
    world.receive(advisory("ghost"))
    world.work()
    (refused,) = world.rows(schema.quarantine)
    assert refused.reason == "asset: ghost is not registered"


def test_parts_that_lie_elsewhere_are_transferred_and_arrive_by_themselves(bare_world: World) -> None:
    world = bare_world
    with world.engine.connect() as connection, connection.begin():
        connection.execute(
            schema.stock.insert().values(tenant=TENANT, part_no=SEAL, depot="south", on_hand=1, reserved=0)
        )
    world.hear(advisory())
    order = world.order()
    assert world.reservations(order) == {SEAL: ("IN_TRANSFER", "transfer", 1)}
    assert world.stock(SEAL, "south") == (1, 1)
    assert order.ready_at == START_MS + 30 * HOUR_MS
    world.clock.advance(hours=24)
    world.work()
    assert world.reservations(order) == {SEAL: ("RESERVED", "transfer", 1)}
    assert (world.stock(SEAL, "south"), world.stock(SEAL, "north")) == ((0, 0), (1, 1))
    world.work()
    assert world.stock(SEAL, "north") == (1, 1), "it arrives once"


def test_a_part_nobody_has_is_back_ordered_and_not_an_error(bare_world: World) -> None:
    bare_world.hear(advisory(rul_hours=RulHours(30.0, 60.0, 120.0)))
    order = bare_world.order()
    assert bare_world.reservations(order) == {SEAL: ("BACK_ORDERED", "purchase", 1)}
    assert order.ready_at == START_MS + 54 * HOUR_MS


def test_urgency_follows_the_remaining_life(world: World) -> None:
    open_order(world)
    before = world.order()
    world.hear(advisory(at_hours=3, since=START_MS - HOUR_MS, rul_hours=RulHours(8.0, 20.0, 50.0)))
    after = world.order()
    assert after.needed_by_at < before.needed_by_at - 24 * HOUR_MS
    assert (after.priority, after.version) == (1, before.version + 1)
