"""Faults 25 and 27 to 29: locks, kills and races around the transaction that opens an order."""

import json
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, select, text, update

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import make_engine, reading, retrying, writing
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.adapters.sql.unit_of_work import SqlTransactions
from forewarn_cloud.errors import Unavailable
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.service.policy import Policy
from forewarn_cloud.workers.advisories import Advisories
from tests.cloud.clock import FixedClock
from tests.cloud.world import SEAL, START_MS, TENANT, World, advisory, make_world
from tests.conftest import wait_until
from tests.faults.last_part import race

PROJECT = Path(__file__).parents[2]


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


# --- 27: between order, reservation and outbox ----------------------------------------------------------------------


def test_fault_27_sigkill_at_each_statement_between_order_reservation_and_outbox_is_all_or_nothing(
    world: World,
) -> None:
    world.receive(advisory())
    world.engine.dispose()
    command = [sys.executable, "-m", "tests.faults.killing", "order", url_of(world.engine)]
    killed = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT, timeout=170)
    assert killed.returncode == 0, killed.stderr
    *cut_off, done = [json.loads(line) for line in killed.stdout.splitlines()]
    assert len(cut_off) > 20
    nothing = dict.fromkeys(done, 0) | {"advisories": 1, "waiting": 1, "stock": cut_off[0]["stock"]}
    assert all(found == nothing for found in cut_off), "a kill leaves the advisory waiting and nothing else"
    assert {name: done[name] for name in ("orders", "reservations", "reserved", "outbox", "waiting")} == {
        "orders": 1,
        "reservations": 1,
        "reserved": 1,
        "outbox": 2,
        "waiting": 0,
    }
    world.work()
    assert len(world.orders()) == 1


# --- 28: two workers ------------------------------------------------------------------------------------------------


def handle_all(url: str, start: "multiprocessing.synchronize.Event") -> None:
    """A worker in a process of its own."""
    world = World(engine=make_engine(url), clock=FixedClock(at_ms=START_MS), policy=Policy())
    worker = Advisories(transactions=world.transactions, chain=world.chain)
    start.wait(60)
    while worker.handle_next(limit=1):
        pass
    world.engine.dispose()


def test_fault_28_two_cloud_workers_on_the_same_alert_open_one_order(world: World) -> None:
    world.receive(*(advisory(asset, at_hours=-i / 10) for i in range(10) for asset in ("pump-1", "pump-2")))
    world.engine.dispose()
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Event()
    workers = [spawn.Process(target=handle_all, args=(url_of(world.engine), start)) for _ in range(2)]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert [order.asset for order in sorted(world.orders(), key=lambda order: order.asset)] == ["pump-1", "pump-2"]
    assert len(world.rows(schema.episodes)) == 2
    assert [kind for kind, _ in world.news()] == ["order_opened"] * 2
    assert all(row.handled_at is not None for row in world.rows(schema.advisories))


# --- 29: the last part ----------------------------------------------------------------------------------------------


def test_fault_29_writers_race_for_the_last_parts_and_nothing_is_oversold(world: World) -> None:
    """The long version is `make last-part`."""
    result = race(world, runs=5, writers=16)
    assert (result["oversold"], result["runs"], result["sold"]) == (0, 5, result["on_hand"])


@pytest.fixture
def postgres_world(postgres_url: str) -> Iterator[World]:
    engine = make_engine(postgres_url)
    migrate(engine)
    yield make_world(engine, {SEAL: {"north": 1}, "PMP-IMP-200": {"north": 1}}, Policy())
    engine.dispose()


# --- 25: locks ------------------------------------------------------------------------------------------------------


@contextmanager
def held(url: str) -> Iterator[None]:
    """Someone else locks the order numbers."""
    engine = make_engine(url)
    try:
        with writing(engine) as connection:
            connection.execute(update(schema.counters).values(value=schema.counters.c.value))
            yield
    finally:
        engine.dispose()


def test_fault_25_a_lock_held_by_another_program_delays_and_loses_nothing(world: World) -> None:
    world.hear(advisory("pump-2"))
    world.receive(advisory("pump-1"))
    done = list[int]()
    worker = Advisories(transactions=world.transactions, chain=world.chain)
    thread = threading.Thread(target=lambda: done.append(worker.handle_next()))
    with held(url_of(world.engine)):
        thread.start()
        wait_until(lambda: waits_for_lock(world.engine), "the worker waits for the lock")
        assert done == []
    thread.join(60)
    assert done == [1]
    assert [order.number for order in world.orders()] == ["SO-000001", "SO-000002"]


def waits_for_lock(engine: Engine) -> bool:
    if engine.dialect.name == "sqlite":
        return True  # its waiting cannot be seen from outside
    with reading(engine) as connection:
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return bool(connection.execute(waiting).scalar_one())


def test_fault_25_a_lock_that_is_never_released_ends_in_unavailable_and_the_alert_waits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded: each try ends with SQLite's busy time-out or PostgreSQL's lock time-out, and so do the tries."""
    for name in ("BUSY_TIMEOUT_MS", "LOCK_TIMEOUT_MS"):
        monkeypatch.setattr(f"forewarn_cloud.adapters.sql.engine.{name}", 50)
    world.hear(advisory("pump-2"))
    world.receive(advisory("pump-1"))
    engine = make_engine(url_of(world.engine))
    tries = list[int]()

    def once() -> int:
        tries.append(1)
        with writing(engine) as connection:
            return connection.execute(update(schema.counters).values(value=99)).rowcount

    with held(url_of(world.engine)), pytest.raises(Unavailable, match="the database is busy"):
        retrying(once, seconds=1.0)
    assert once() == 1
    engine.dispose()
    assert len(tries) > 2, "again before the end, and once more after it"
    world.work()
    assert len(world.orders()) == 2


def test_fault_25_locks_of_a_program_that_is_stopped_in_a_transaction_are_released(
    postgres_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL ends its transaction; what it would still commit is refused."""
    monkeypatch.setattr("forewarn_cloud.adapters.sql.engine.IDLE_TIMEOUT_MS", 200)
    world = postgres_world
    world.hear(advisory("pump-2"))
    world.receive(advisory("pump-1"))
    stopped = held(url_of(world.engine))
    stopped.__enter__()
    assert Advisories(transactions=world.transactions, chain=world.chain).handle_next() == 1
    with pytest.raises(Unavailable):
        stopped.__exit__(None, None, None)
    assert [order.number for order in world.orders()] == ["SO-000001", "SO-000002"]


def test_fault_25_a_serialization_failure_is_tried_again(postgres_world: World) -> None:
    """Both read, then both write what they read plus one, as SERIALIZABLE: PostgreSQL lets one of them fail."""
    world = postgres_world
    world.hear(advisory("pump-2"))
    engine = world.engine.execution_options(isolation_level="SERIALIZABLE")
    both_read, tries = threading.Barrier(2), list[int]()

    def add_one() -> None:
        def once() -> None:
            tries.append(1)
            with writing(engine) as connection:
                value = connection.execute(select(schema.counters.c.value)).scalar_one()
                if len(tries) <= 2:
                    both_read.wait(30)
                connection.execute(update(schema.counters).values(value=value + 1))

        retrying(once)

    threads = [threading.Thread(target=add_one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (row,) = world.rows(schema.counters)
    assert (row.value, len(tries)) == (3, 3)


def test_fault_25_a_deadlock_is_resolved_and_both_get_through(postgres_world: World) -> None:
    """Two parts locked in opposite order; the service itself locks them in one order."""
    world = postgres_world
    one_each, tries = threading.Barrier(2), list[int]()

    def take(*part_nos: str) -> None:
        def work(uow: UnitOfWork) -> None:
            tries.append(1)
            uow.parts.lock(TENANT, part_nos[:1])
            if len(tries) <= 2:
                one_each.wait(30)
            uow.parts.lock(TENANT, part_nos[1:])
            for part_no in part_nos:
                uow.parts.change_stock(TENANT, part_no, "north", on_hand=1)

        SqlTransactions(world.engine).run(work)

    before = world.stock(SEAL)[0]
    threads = [threading.Thread(target=take, args=parts) for parts in ((SEAL, "PMP-IMP-200"), ("PMP-IMP-200", SEAL))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(tries) == 3, "one of the two was tried again"
    assert world.stock(SEAL)[0] == before + 2


def test_fault_25_a_connection_that_is_cut_in_a_transaction_changes_nothing(postgres_world: World) -> None:
    """Not to be tried again blindly: it is told, and the next attempt finds the alert waiting."""
    world = postgres_world
    world.receive(advisory())
    uow_transactions = SqlTransactions(world.engine)

    def cut_off(uow: UnitOfWork) -> None:
        world.chain.handle_advisories(uow, TENANT, "pump-1", 1)
        with psycopg.connect(url_of(world.engine).replace("+psycopg", "")) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    with pytest.raises(Unavailable):
        uow_transactions.run(cut_off)
    assert world.orders() == []
    world.work()
    assert len(world.orders()) == 1
