"""What people do with an order, over the real repositories on both databases."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import reading, writing
from forewarn_cloud.adapters.sql.repositories import verify_audit
from forewarn_cloud.entities import Finding, Order
from forewarn_cloud.errors import Conflict, Invalid, NotFound, ServiceError, VersionConflict
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.principal import Principal
from forewarn_cloud.service import desk
from forewarn_cloud.service.policy import AutonomyTable, Policy
from forewarn_models.wire import RulHours
from tests.cloud.world import DESK, HOUR_MS, SEAL, START_MS, TENANT, World, advisory, normal

CONFIRMED = Finding(outcome="CONFIRMED", failure_mode="seal_leak", note="face worn")


def acknowledge(world: World, version: int | None = None) -> Order:
    order = world.order()
    return world.run(lambda uow: desk.acknowledge(uow, DESK, world.clock, order.id, version))


def schedule(world: World, hours: float = 24.0, assignee: str = "Kim") -> Order:
    order, visit_at = world.order(), world.clock.now_ms() + round(hours * HOUR_MS)
    return world.run(
        lambda uow: desk.schedule(uow, DESK, world.clock, order.id, None, visit_at=visit_at, assignee=assignee)
    )


def start(world: World) -> Order:
    order = world.order()
    return world.run(lambda uow: desk.start(uow, DESK, world.clock, order.id, None))


def complete(world: World, finding: Finding = CONFIRMED) -> Order:
    order = world.order()
    return world.run(lambda uow: desk.complete(uow, DESK, world.clock, order.id, None, finding=finding))


def cancel(world: World, reason: str = "the customer replaces the pump") -> Order:
    order = world.order()
    return world.run(lambda uow: desk.cancel(uow, DESK, world.clock, order.id, None, reason=reason))


def in_progress(world: World) -> None:
    world.hear(advisory())
    acknowledge(world)
    schedule(world)
    start(world)


def test_the_whole_way_of_an_order(world: World) -> None:
    world.hear(advisory())
    assert acknowledge(world).state == "ACKNOWLEDGED"
    world.clock.advance(hours=1)
    scheduled = schedule(world, hours=24)
    assert (scheduled.state, scheduled.assignee, scheduled.scheduled_at) == (
        "SCHEDULED",
        "Kim",
        START_MS + 25 * HOUR_MS,
    )
    world.clock.advance(hours=24)
    assert start(world).state == "IN_PROGRESS"
    world.clock.advance(hours=4)
    done = complete(world)
    assert (done.state, done.closed_at, done.version) == ("COMPLETED", START_MS + 29 * HOUR_MS, 5)
    assert world.stock(SEAL) == (0, 0), "the seal is used up"
    assert world.reservations(done) == {SEAL: ("CONSUMED", "stock", 1)}
    (episode,) = world.rows(schema.episodes)
    assert (episode.state, episode.close_reason) == ("CLOSED", "repaired")
    (command,) = world.rows(schema.commands)
    assert (command.node, command.asset, command.command, command.at) == (
        "edge-1",
        "pump-1",
        "reset_baseline",
        START_MS + 29 * HOUR_MS,
    )
    (finding,) = world.rows(schema.findings)
    assert (finding.outcome, finding.failure_mode, finding.reported_by) == ("CONFIRMED", "seal_leak", "dana")
    assert [kind for kind, _ in world.news()] == ["order_opened", "order_scheduled", "order_completed"]
    by_dana = [row.action for row in world.rows(schema.audit) if row.actor == "dana"]
    assert by_dana == ["acknowledged", "scheduled", "started", "completed"]
    assert [row.action for row in world.rows(schema.audit) if row.subject == "diagnosis"] == ["learned"]
    with reading(world.engine) as connection:
        assert verify_audit(connection, TENANT).entries == 7


def test_after_the_repair_old_evidence_opens_nothing_and_new_evidence_does(world: World) -> None:
    in_progress(world)
    world.clock.advance(hours=30)
    complete(world)
    world.hear(advisory(at_hours=31, since=START_MS - HOUR_MS))
    assert len(world.orders()) == 1, "the run of evidence began before the repair"
    world.hear(normal(at_hours=40), advisory(at_hours=300, since=START_MS + 290 * HOUR_MS))
    assert [order.state for order in world.orders()] == ["COMPLETED", "OPEN"]


def test_an_alarm_held_until_the_reset_arrives_opens_no_second_order(world: World) -> None:
    in_progress(world)
    world.clock.advance(hours=30)
    complete(world)
    held: dict[str, Any] = {"since": None, "failure_modes": {}, "rul_hours": RulHours(5.0, 20.0, 40.0)}
    world.hear(advisory(at_hours=31, **held), advisory("pump-2", at_hours=31, **held))
    assert len(world.orders("pump-1")) == 1, "its node has not answered yet that the machine learns anew"
    assert len(world.orders("pump-2")) == 1, "no reset is pending for its neighbour"
    with writing(world.engine) as connection:
        connection.execute(update(schema.commands).values(state="DONE"))
    world.hear(advisory(at_hours=60, **held))
    assert [order.state for order in world.orders("pump-1")] == ["COMPLETED", "OPEN"]


@pytest.mark.parametrize("finding", [Finding(outcome="NO_FAULT_FOUND"), Finding(outcome="OTHER_FAULT", note="belt")])
def test_parts_that_were_not_needed_go_back_to_the_shelf(world: World, finding: Finding) -> None:
    in_progress(world)
    done = complete(world, finding)
    assert world.stock(SEAL) == (1, 0)
    assert world.reservations(done) == {SEAL: ("RELEASED", "stock", 1)}
    assert len(world.rows(schema.commands)) == 1


def test_cancelling_frees_the_parts_tells_the_customer_and_is_not_overruled(world: World) -> None:
    world.hear(advisory())
    world.clock.advance(seconds=1)
    assert cancel(world).state == "CANCELLED"
    assert world.stock(SEAL) == (1, 0)
    assert [kind for kind, _ in world.news()] == ["order_opened", "order_cancelled"]
    for hours in (5, 40, 80):
        world.hear(advisory(at_hours=hours, since=START_MS - HOUR_MS))
    assert len(world.orders()) == 1, "this episode opens no other order for the same failure mode"
    world.hear(advisory(at_hours=90, since=START_MS - HOUR_MS, failure_modes={"bearing_wear": 0.9}))
    assert [order.failure_mode for order in world.orders()] == ["seal_leak", "bearing_wear"]


def test_a_proposal_becomes_an_order_when_the_desk_takes_it_up_and_only_then_is_the_customer_told(world: World) -> None:
    world.policy = Policy(autonomy=AutonomyTable(default="propose"))
    world.hear(advisory())
    assert world.news() == []
    acknowledge(world)
    assert world.news() == [("order_opened", "ops@acme.example")]


def test_a_cancelled_proposal_is_no_news_for_the_customer(world: World) -> None:
    world.policy = Policy(autonomy=AutonomyTable(default="propose"))
    world.hear(advisory())
    cancel(world)
    assert world.news() == []


def test_a_visit_that_is_moved_is_news_each_time_it_moves_and_not_when_it_stays(world: World) -> None:
    world.hear(advisory())
    acknowledge(world)
    for hours in (24, 24, 48, 24):
        schedule(world, hours)
    kinds = sorted(kind for kind, _ in world.news())
    assert kinds == ["order_opened", "order_rescheduled", "order_rescheduled", "order_scheduled"]


def test_work_does_not_start_before_the_parts_are_there(bare_world: World) -> None:
    bare_world.hear(advisory())
    acknowledge(bare_world)
    with pytest.raises(Conflict, match="still waits for 1 x PMP-SEAL-45"):
        start(bare_world)


def test_work_in_progress_is_not_withdrawn_or_changed_by_new_evidence(world: World) -> None:
    in_progress(world)
    world.hear(advisory(at_hours=26, since=START_MS - HOUR_MS, failure_modes={"bearing_wear": 0.95}))
    world.hear(normal(at_hours=30), normal(at_hours=60))
    assert (world.order().state, world.order().failure_mode) == ("IN_PROGRESS", "seal_leak")
    assert complete(world).state == "COMPLETED"


@pytest.mark.parametrize("step", [schedule, start, complete], ids=["schedule", "start", "complete"])
def test_a_step_out_of_order_is_refused_and_says_why(world: World, step: Callable[[World], Order]) -> None:
    world.hear(advisory())
    with pytest.raises(Conflict, match=r"order SO-000001: it is OPEN, not "):
        step(world)


def test_a_closed_order_takes_no_further_step(world: World) -> None:
    world.hear(advisory())
    cancel(world)
    for step in (acknowledge, schedule, start, complete, cancel):
        with pytest.raises(Conflict):
            step(world)


def test_who_saw_an_older_version_is_told_to_read_again(world: World) -> None:
    world.hear(advisory())
    with pytest.raises(VersionConflict, match="is at version 1, not 7"):
        acknowledge(world, version=7)
    assert acknowledge(world, version=1).version == 2


def test_an_order_of_another_tenant_does_not_exist(world: World) -> None:
    world.hear(advisory())
    stranger = Principal(name="eve", tenant="other", role="admin")
    order_id = world.order().id

    def as_stranger(step: Callable[..., Order], **fields: Any) -> Callable[[UnitOfWork], Order]:
        return lambda uow: step(uow, stranger, world.clock, order_id, None, **fields)

    for work in (
        as_stranger(desk.acknowledge),
        as_stranger(desk.schedule, visit_at=START_MS, assignee="Eve"),
        as_stranger(desk.start),
        as_stranger(desk.complete, finding=CONFIRMED),
        as_stranger(desk.cancel, reason="mine"),
    ):
        with pytest.raises(NotFound):
            world.run(work)


@pytest.mark.parametrize(
    ("assignee", "hours", "field"),
    [
        ("", 1.0, "assignee"),
        ("Kim\r\nBcc: all@example.org", 1.0, "assignee"),
        ("K" * 201, 1.0, "assignee"),
        ("Kim", -1.0, "at"),
        ("Kim", 9000.0, "at"),
    ],
)
def test_a_visit_needs_one_name_and_a_time_to_come(world: World, assignee: str, hours: float, field: str) -> None:
    world.hear(advisory())
    acknowledge(world)
    with pytest.raises(Invalid) as refused:
        schedule(world, hours, assignee)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("finding", "field"),
    [
        (Finding(outcome="CONFIRMED", failure_mode="gremlins"), "failure_mode"),
        (Finding(outcome="CONFIRMED", failure_mode="bearing_wear"), "outcome"),
        (Finding(outcome="OTHER_FAULT", failure_mode="seal_leak"), "outcome"),
        (Finding(outcome="NO_FAULT_FOUND", failure_mode="seal_leak"), "failure_mode"),
        (Finding(outcome="CONFIRMED", note="\0"), "note"),
        (Finding(outcome="CONFIRMED", note="x" * 10_001), "note"),
    ],
)
def test_a_finding_that_contradicts_itself_is_refused(world: World, finding: Finding, field: str) -> None:
    in_progress(world)
    with pytest.raises(Invalid) as refused:
        complete(world, finding)
    assert refused.value.field == field
    assert world.order().state == "IN_PROGRESS"
    assert world.stock(SEAL) == (1, 1)


def test_two_people_at_one_order_one_loses(world: World) -> None:
    world.hear(advisory())
    barrier = threading.Barrier(2)
    outcomes = list[str]()

    def act(step: Callable[[World], Order]) -> None:
        barrier.wait()
        try:
            outcomes.append(step(world).state)
        except ServiceError as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=act, args=(acknowledge,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["ACKNOWLEDGED", "Conflict"]
    assert world.order().version == 2


def test_the_desk_and_new_evidence_at_the_same_time_leave_a_consistent_order(world: World) -> None:
    """Cancelling while the evidence clears: one of the two closes the order, the part is free once."""
    world.hear(advisory())
    world.hear(normal(at_hours=5))
    world.clock.advance(hours=20)
    world.receive(normal(at_hours=20))
    barrier = threading.Barrier(2)
    refused = list[Exception]()

    def at_the_desk() -> None:
        barrier.wait()
        try:
            cancel(world)
        except Conflict as error:
            refused.append(error)

    def worker() -> None:
        barrier.wait()
        world.work()

    threads = [threading.Thread(target=at_the_desk), threading.Thread(target=worker)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.order().state == ("WITHDRAWN" if refused else "CANCELLED")
    assert world.stock(SEAL) == (1, 0)
    assert [row.state for row in world.rows(schema.episodes)] == ["CLOSED"]
