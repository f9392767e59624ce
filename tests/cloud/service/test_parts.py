"""Stock is never oversold, shortfalls are back-ordered, and what comes in goes to whoever needs it most."""

from collections.abc import Callable

import pytest
from sqlalchemy import insert, update
from sqlalchemy.exc import IntegrityError

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import writing
from forewarn_cloud.adapters.sql.unit_of_work import SqlUnitOfWork
from forewarn_cloud.entities import Reservation
from forewarn_cloud.errors import Contended, Invalid, NotFound
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.service import desk, parts
from forewarn_cloud.workers.advisories import Advisories
from forewarn_models.wire import RulHours
from tests.cloud.world import DESK, HOUR_MS, SEAL, START_MS, TENANT, World, advisory
from tests.conftest import together


def receive(world: World, quantity: int, part_no: str = SEAL, depot: str = "north") -> None:
    world.run(lambda uow: parts.receive_goods(uow, DESK, world.clock, part_no, depot, quantity))


def states(world: World) -> dict[str, str]:
    """Asset -> state of its seal."""
    return {order.asset: world.reservations(order)[SEAL][0] for order in world.orders()}


def test_two_orders_race_for_the_last_part_one_has_it_the_other_waits(world: World) -> None:
    world.receive(advisory("pump-1"), advisory("pump-3"))
    worker = Advisories(transactions=world.transactions, chain=world.chain)
    assert together(worker.handle_next, worker.handle_next) == []
    assert sorted(states(world).values()) == ["BACK_ORDERED", "RESERVED"]
    assert world.stock(SEAL) == (1, 1)


def test_many_writers_never_sell_more_than_there_is(world: World) -> None:
    """Straight at the port, without the locks the service takes: the last line of defence holds by itself."""
    receive(world, 4)
    taken = list[int]()

    def take(uow: UnitOfWork) -> None:
        uow.parts.change_stock(TENANT, SEAL, "north", reserved=1)

    def take_some() -> None:
        for _ in range(3):
            try:
                with_unit(world, take)
                taken.append(1)
            except Contended:
                pass  # sold out

    assert together(*[take_some] * 4) == []
    assert len(taken) == 5
    assert world.stock(SEAL) == (5, 5)


def with_unit(world: World, work: Callable[[UnitOfWork], None]) -> None:
    """Once, without trying again."""
    with SqlUnitOfWork(world.engine) as uow:
        work(uow)


@pytest.mark.parametrize("values", [{"reserved": 2}, {"reserved": -1}, {"on_hand": -1}, {"on_hand": 0, "reserved": 1}])
def test_the_database_itself_refuses_to_oversell(world: World, values: dict[str, int]) -> None:
    def cheat() -> None:
        with writing(world.engine) as connection:
            connection.execute(update(schema.stock).where(schema.stock.c.part_no == SEAL).values(values))

    with pytest.raises(IntegrityError, match="never_oversold"):
        cheat()
    assert world.stock(SEAL) == (1, 0)


def test_the_database_itself_refuses_a_second_open_order_for_an_episode(world: World) -> None:
    world.hear(advisory())
    order = world.order()

    def second() -> None:
        copy = {**vars(order), "id": "another", "number": "SO-000002"}
        with writing(world.engine) as connection:
            connection.execute(insert(schema.orders).values(copy))

    with pytest.raises((IntegrityError, Contended)):
        second()
    assert len(world.orders()) == 1


def test_goods_that_come_in_go_to_the_most_urgent_order_first(bare_world: World) -> None:
    world = bare_world
    world.hear(
        advisory("pump-2", rul_hours=RulHours(55.0, 90.0, 150.0)),  # tier 3
        advisory("pump-1", rul_hours=RulHours(55.0, 90.0, 150.0)),  # tier 1
        advisory("pump-3", rul_hours=RulHours(15.0, 30.0, 60.0)),  # tier 1, and soon
    )
    assert set(states(world).values()) == {"BACK_ORDERED"}
    receive(world, 1)
    assert states(world) == {"pump-1": "BACK_ORDERED", "pump-2": "BACK_ORDERED", "pump-3": "RESERVED"}
    receive(world, 1)
    assert states(world) == {"pump-1": "RESERVED", "pump-2": "BACK_ORDERED", "pump-3": "RESERVED"}
    receive(world, 5)
    assert set(states(world).values()) == {"RESERVED"}
    assert world.stock(SEAL) == (7, 3)
    given = [row for row in world.rows(schema.audit) if row.action == "part_reserved"]
    numbers = {order.asset: order.number for order in world.orders()}
    assert given[0].subject_id == next(order.id for order in world.orders("pump-3"))
    assert given[0].detail["ahead_of"] == [numbers["pump-1"], numbers["pump-2"]]


def test_nobody_overtakes_an_order_that_needs_more_than_there_is(bare_world: World) -> None:
    world = bare_world
    world.hear(
        advisory("pump-1", rul_hours=RulHours(15.0, 30.0, 60.0)),
        advisory("pump-2", rul_hours=RulHours(55.0, 90.0, 150.0)),
    )
    (urgent,), (other,) = world.orders("pump-1"), world.orders("pump-2")
    with writing(world.engine) as connection:
        its_seal = schema.reservations.c.order_id == urgent.id
        connection.execute(update(schema.reservations).where(its_seal).values(quantity=2))
    receive(world, 1)
    assert states(world) == {"pump-1": "BACK_ORDERED", "pump-2": "BACK_ORDERED"}
    assert world.stock(SEAL) == (1, 0), "kept for the urgent one"
    receive(world, 1)
    assert world.reservations(urgent)[SEAL] == ("RESERVED", "purchase", 2)
    assert world.reservations(other)[SEAL] == ("BACK_ORDERED", "purchase", 1)
    assert world.stock(SEAL) == (2, 2)


def test_goods_that_come_in_make_the_order_ready_sooner(bare_world: World) -> None:
    bare_world.hear(advisory())
    assert bare_world.order().ready_at == START_MS + 54 * HOUR_MS
    bare_world.clock.advance(hours=10)
    receive(bare_world, 1)
    assert bare_world.order().ready_at == START_MS + 16 * HOUR_MS


def test_goods_in_another_depot_fill_no_back_order_here(bare_world: World) -> None:
    bare_world.hear(advisory())
    receive(bare_world, 1, depot="south")
    assert states(bare_world) == {"pump-1": "BACK_ORDERED"}


def test_a_part_that_becomes_free_goes_to_the_order_that_waits_for_it(world: World) -> None:
    world.hear(advisory("pump-1"))
    world.hear(advisory("pump-3"))
    assert states(world) == {"pump-1": "RESERVED", "pump-3": "BACK_ORDERED"}
    (first,) = world.orders("pump-1")
    world.run(lambda uow: desk.cancel(uow, DESK, world.clock, first.id, None, reason="not needed"))
    assert states(world) == {"pump-1": "RELEASED", "pump-3": "RESERVED"}
    assert world.stock(SEAL) == (1, 1)


def test_receiving_and_cancelling_at_the_same_time_give_the_parts_out_once(bare_world: World) -> None:
    world = bare_world
    world.hear(advisory("pump-1"), advisory("pump-2"), advisory("pump-3"))
    receive(world, 1)
    holder = next(order for order in world.orders() if states(world)[order.asset] == "RESERVED")
    assert (
        together(
            lambda: receive(world, 1),
            lambda: world.run(lambda uow: desk.cancel(uow, DESK, world.clock, holder.id, None, reason="x")),
            lambda: receive(world, 1),
        )
        == []
    )
    assert sorted(states(world).values()) == ["RELEASED", "RESERVED", "RESERVED"]
    assert world.stock(SEAL) == (3, 2)


@pytest.mark.parametrize("quantity", [0, -1, 2**31, 1_000_001])
def test_a_receipt_needs_a_sensible_quantity(world: World, quantity: int) -> None:
    with pytest.raises(Invalid, match="quantity"):
        receive(world, quantity)
    assert world.stock(SEAL) == (1, 0)


def test_a_receipt_needs_a_part_and_a_depot_that_exist(world: World) -> None:
    with pytest.raises(NotFound, match="part 'GHOST'"):
        receive(world, 1, part_no="GHOST")
    with pytest.raises(Invalid, match="depot"):
        receive(world, 1, depot="nowhere")


def test_a_part_no_catalogue_has_is_noted_and_the_order_opens_without_it(world: World) -> None:
    with writing(world.engine) as connection:
        for table in (schema.stock, schema.parts):
            connection.execute(table.delete().where(table.c.part_no == SEAL))
    world.hear(advisory())
    assert world.order().state == "OPEN"
    assert world.reservations(world.order()) == {}
    noted = [row for row in world.rows(schema.audit) if row.action == "not_in_catalogue"]
    assert [row.subject_id for row in noted] == [SEAL]


def test_a_reservation_is_one_of_the_order_that_holds_it(world: World) -> None:
    world.hear(advisory())
    held = [Reservation(**row._mapping) for row in world.rows(schema.reservations)]
    assert [(part.order_id, part.from_depot, part.to_depot) for part in held] == [(world.order().id, "north", "north")]
