"""What the repositories promise beyond what the tests of the service show."""

import pytest
from sqlalchemy import Engine, insert, text

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import make_engine, writing
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.adapters.sql.unit_of_work import SqlTransactions, SqlUnitOfWork
from forewarn_cloud.entities import OutboxMessage, StockLevel
from forewarn_cloud.errors import Contended
from forewarn_cloud.ports import OVERTAKEN_MS, UnitOfWork
from forewarn_cloud.service.policy import Policy
from forewarn_models import wire
from tests.cloud.ingest.sending import gap, message
from tests.cloud.ingest.test_writer import Ingesting
from tests.cloud.world import DESK, HOUR_MS, SEAL, START_MS, TENANT, World, advisory, make_world


def test_two_workers_never_hold_the_same_asset(world: World) -> None:
    """On PostgreSQL the second takes the next asset; on SQLite it would wait for the first to end."""
    world.receive(advisory("pump-1"), advisory("pump-2"), advisory("pump-1"))
    with SqlUnitOfWork(world.engine) as first:
        assert first.inbox.next_asset(START_MS) == (TENANT, "pump-1")
        if world.engine.dialect.name == "postgresql":
            with SqlUnitOfWork(world.engine) as second, SqlUnitOfWork(world.engine) as third:
                assert second.inbox.next_asset(START_MS) == (TENANT, "pump-2")
                assert third.inbox.next_asset(START_MS) is None


def test_ingest_may_write_about_an_asset_while_a_worker_holds_it(postgres_url: str) -> None:
    """The lock is not on the key that rows of ingest refer to. (SQLite has one writer at a time anyway.)"""
    engine = make_engine(postgres_url)
    migrate(engine)
    make_world(engine, {}, Policy())
    with SqlUnitOfWork(engine) as worker:
        worker.assets.lock(TENANT, "pump-1")
        with writing(engine) as connection:
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))
            row = {"tenant": TENANT, "asset": "pump-1", "signal": "flow_m3_h", "first_seen_at": 1}
            connection.execute(insert(schema.asset_signals).values(row))
    engine.dispose()


def test_advisories_wait_in_the_order_the_machine_made_them_and_in_bounded_portions(world: World) -> None:
    world.receive(*(advisory(at_hours=hours) for hours in (3, 1, 2)))
    assert waiting(world, START_MS, 2) == [1, 2]


def test_an_advisory_that_overtook_others_waits_for_them_but_not_for_ever(world: World) -> None:
    ingest = Ingesting(world.engine)
    ingest.clock = world.clock
    ingest.restart()
    alarms = [wire.encode_advisory(advisory(at_hours=hours)) for hours in (-3, -2, -1)]
    ingest.feed(message(2, alarms[1], node="edge-1", lane="advisory"))
    assert waiting(world, START_MS + OVERTAKEN_MS - 1) == []
    assert waiting(world, START_MS + OVERTAKEN_MS) == [-2]
    ingest.feed(message(1, alarms[0], node="edge-1", lane="advisory"))
    assert waiting(world, START_MS) == [-3, -2]
    ingest.feed(message(4, alarms[2], node="edge-1", lane="advisory"))
    assert waiting(world, START_MS) == [-3, -2]
    ingest.feed(message(5, gap(3, 3), node="edge-1", lane="advisory"))
    assert waiting(world, START_MS) == [-3, -2, -1], "what will never come is not waited for"


def waiting(world: World, now_ms: int, limit: int = 10) -> list[int]:
    """When the advisories were made that may be handled: hours after the start."""

    def look(uow: UnitOfWork) -> list[int]:
        return [row.body["observed_at"] for row in uow.inbox.pending(TENANT, "pump-1", limit, now_ms)]

    found = [(at - START_MS) // HOUR_MS for at in world.run(look)]
    assert (world.run(lambda uow: uow.inbox.next_asset(now_ms)) is not None) == bool(found)
    return found


def test_the_latest_health_is_the_latest_by_the_machines_time(world: World) -> None:
    def record(at_hours: float) -> bool:
        return world.run(lambda uow: uow.assets.record_health(TENANT, advisory(at_hours=at_hours)))

    assert [record(5), record(3), record(5), record(6)] == [True, False, True, True]
    (row,) = world.rows(schema.asset_health)
    assert row.observed_at == advisory(at_hours=6).observed_at


def test_an_order_read_before_another_change_cannot_be_written(world: World) -> None:
    world.hear(advisory())
    stale = world.order()
    world.run(lambda uow: uow.orders.update(stale))
    with SqlUnitOfWork(world.engine) as uow, pytest.raises(Contended, match="SO-000001 was changed"):
        uow.orders.update(stale)


def test_order_numbers_are_counted_per_tenant_and_never_given_twice(engine: Engine) -> None:
    transactions = SqlTransactions(engine)

    def number(tenant: str) -> str:
        return transactions.run(lambda uow: uow.orders.next_number(tenant))

    assert [number("a"), number("a"), number("b"), number("a")] == ["SO-000001", "SO-000002", "SO-000001", "SO-000003"]


def test_stock_in_a_new_depot_starts_at_nothing(world: World) -> None:
    def change(**figures: int) -> None:
        world.run(lambda uow: uow.parts.change_stock(TENANT, SEAL, "south", **figures))

    change(on_hand=3)
    change(reserved=2)
    levels = world.run(lambda uow: uow.parts.levels(TENANT, SEAL))
    assert levels == [
        StockLevel(part_no=SEAL, depot="north", on_hand=1, reserved=0),
        StockLevel(part_no=SEAL, depot="south", on_hand=3, reserved=2),
    ]
    assert world.run(lambda uow: uow.parts.get(TENANT, SEAL)).version == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("figures", [{"reserved": 2}, {"reserved": -1}, {"on_hand": -2}])
@pytest.mark.parametrize("depot", ["north", "south"])
def test_stock_that_is_not_there_cannot_be_taken(world: World, depot: str, figures: dict[str, int]) -> None:
    with SqlUnitOfWork(world.engine) as uow, pytest.raises(Contended):
        uow.parts.change_stock(TENANT, SEAL, depot, **figures)


def test_news_is_told_once_to_each_recipient_on_each_channel(engine: Engine) -> None:
    def message(i: int, channel: str, recipient: str) -> OutboxMessage:
        return OutboxMessage(
            id=f"m{i}",
            tenant=TENANT,
            news="order:1:opened",
            channel="email" if channel == "email" else "webhook",
            recipient=recipient,
            kind="order_opened",
            language="en",
            payload={"n": i},
            order_id=None,
            created_at=i,
        )

    told = [("email", "a@b.example"), ("email", "a@b.example"), ("webhook", "a@b.example"), ("email", "c@d.example")]

    def tell(uow: UnitOfWork) -> None:
        for i, (channel, recipient) in enumerate(told):
            uow.records.add_message(message(i, channel, recipient))

    SqlTransactions(engine).run(tell)
    SqlTransactions(engine).run(tell)
    with engine.connect() as connection:
        assert sorted(connection.scalars(schema.outbox.select().with_only_columns(schema.outbox.c.id))) == [
            "m0",
            "m2",
            "m3",
        ]


def test_every_row_belongs_to_a_tenant(world: World) -> None:
    world.hear(advisory())
    order = world.order()
    for tenant, found in ((DESK.tenant, True), ("other", False)):

        def look(uow: UnitOfWork, tenant: str = tenant) -> list[bool]:
            return [
                uow.orders.get(tenant, order.id) is not None,
                bool(uow.orders.of_episode(tenant, order.episode_id)),
                uow.episodes.get(tenant, order.episode_id) is not None,
                uow.episodes.open_one(tenant, "pump-1") is not None,
                uow.assets.get(tenant, "pump-1") is not None,
                uow.assets.place(tenant, "pump-1") is not None,
                uow.assets.node(tenant, "edge-1") is not None,
                uow.assets.site(tenant, "works") is not None,
                uow.parts.get(tenant, SEAL) is not None,
                bool(uow.parts.lock(tenant, [SEAL])),
                bool(uow.parts.levels(tenant, SEAL)),
                bool(uow.parts.transfers_to(tenant, "north")),
                uow.parts.has_depot(tenant, "north"),
                bool(uow.parts.reservations(tenant, order.id)),
            ]

        assert set(world.run(look)) == {found}
