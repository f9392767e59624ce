"""Engines: durable, readers and writers side by side, and errors named by their consequence."""

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import make_engine, reading, retrying, writing
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.adapters.sql.unit_of_work import SqlUnitOfWork, run_in_transaction
from forewarn_cloud.errors import Contended, Unavailable
from tests.conftest import together

NORTH = {"tenant": "local", "depot": "north", "name": "North"}


def names(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return list(connection.scalars(select(schema.depots.c.name).order_by(schema.depots.c.depot)))


def test_sqlite_is_durable_and_checks_foreign_keys(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with reading(engine) as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    engine.dispose()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_what_was_written_is_read_by_others_only_after_the_commit(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(insert(schema.depots).values(NORTH))
        assert names(engine) == []
    assert names(engine) == ["North"]


def test_a_block_that_raises_leaves_nothing(engine: Engine) -> None:
    def broken() -> None:
        with writing(engine) as connection:
            connection.execute(insert(schema.depots).values(NORTH))
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert names(engine) == []


def test_a_unit_of_work_commits_its_audit_with_it_or_not_at_all(engine: Engine) -> None:
    def broken() -> None:
        with SqlUnitOfWork(engine) as uow:
            uow.connection.execute(insert(schema.depots).values(NORTH))
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert names(engine) == []


def test_writers_wait_for_each_other_and_lose_nothing(engine: Engine) -> None:
    """Read, then write what was read plus one: the classic way to lose updates."""
    with writing(engine) as connection:
        connection.execute(insert(schema.counters).values(tenant="local", counter="x", value=0))

    def add_some() -> None:
        for _ in range(10):
            run_in_transaction(engine, add_one)

    def add_one(uow: SqlUnitOfWork) -> None:
        table = schema.counters
        value = uow.connection.execute(select(table.c.value).with_for_update()).scalar_one()
        uow.connection.execute(update(table).values(value=value + 1))

    assert together(*[add_some] * 4) == []
    with reading(engine) as connection:
        assert connection.execute(select(schema.counters.c.value)).scalar_one() == 40


def test_a_deadlock_is_tried_again_and_both_get_through(engine: Engine) -> None:
    """Two transactions that lock two rows in opposite order. (On SQLite one simply waits for the other.)"""
    south = {"tenant": "local", "depot": "south", "name": "South"}
    with writing(engine) as connection:
        connection.execute(insert(schema.depots), [NORTH, south])
    both_hold_one = threading.Barrier(2)

    def rename(first: str, second: str) -> Callable[[SqlUnitOfWork], None]:
        def work(uow: SqlUnitOfWork) -> None:
            for i, depot in enumerate((first, second)):
                mine = schema.depots.c.depot == depot
                uow.connection.execute(update(schema.depots).where(mine).values(name=schema.depots.c.name + "!"))
                if i == 0 and engine.dialect.name == "postgresql" and not both_hold_one.broken:
                    with contextlib.suppress(threading.BrokenBarrierError):  # later there is nobody to wait for
                        both_hold_one.wait(5)
                    both_hold_one.abort()

        return work

    works = rename("north", "south"), rename("south", "north")
    assert together(*(partial(run_in_transaction, engine, work) for work in works)) == []
    assert names(engine) == ["North!!", "South!!"]


def test_contention_that_never_ends_is_unavailable_in_the_end() -> None:
    tries = list[int]()

    def work() -> None:
        tries.append(1)
        raise Contended("taken")

    with pytest.raises(Unavailable, match="the database is busy: taken"):
        retrying(work, seconds=0.05)
    assert len(tries) > 2


def test_mistakes_of_ours_stay_what_they_are(engine: Engine) -> None:
    def foreign_key() -> None:
        with writing(engine) as connection:
            connection.execute(
                insert(schema.stock).values(tenant="local", part_no="ghost", depot="north", on_hand=1, reserved=0)
            )

    def bad_sql() -> None:
        with reading(engine) as connection:
            connection.execute(text("SELECT nothing FROM nowhere"))

    with pytest.raises(IntegrityError):
        foreign_key()
    with pytest.raises((OperationalError, ProgrammingError)):
        bad_sql()


def test_a_locked_sqlite_file_is_contention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forewarn_cloud.adapters.sql.engine.BUSY_TIMEOUT_MS", 10)
    engine = make_engine(f"sqlite:///{tmp_path / 'a.db'}")
    migrate(engine)
    blocker = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")

    def write() -> None:
        with writing(engine) as connection:
            connection.execute(insert(schema.depots).values(NORTH))

    with pytest.raises(Contended, match="locked"):
        write()
    assert names(engine) == [], "readers are not held up"
    blocker.execute("COMMIT")
    blocker.close()
    write()
    assert names(engine) == ["North"]
    engine.dispose()


def test_a_sqlite_writer_has_the_right_to_write_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it never has to give up half way, because another has written what it had read."""
    monkeypatch.setattr("forewarn_cloud.adapters.sql.engine.BUSY_TIMEOUT_MS", 10)
    engine = make_engine(f"sqlite:///{tmp_path / 'a.db'}")

    def second() -> None:
        with writing(engine):
            pass

    with writing(engine), pytest.raises(Contended):
        second()
    second()
    engine.dispose()


def test_a_full_disk_is_unavailable_and_reads_go_on(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'a.db'}")
    migrate(engine)

    def fill() -> None:
        with writing(engine) as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            big = [{"tenant": "local", "depot": f"d{i}", "name": "n" * 200} for i in range(2000)]
            connection.execute(insert(schema.depots), big)

    with pytest.raises(Unavailable, match="full"):
        fill()
    assert names(engine) == []
    engine.dispose()


def test_a_server_that_is_gone_is_unavailable() -> None:
    engine = make_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")

    def read() -> None:
        with reading(engine) as connection:
            connection.execute(text("SELECT 1"))

    with pytest.raises(Unavailable, match="the database cannot serve"):
        read()
    engine.dispose()


def test_a_server_that_ends_the_connection_is_unavailable_and_then_serves_again(postgres_url: str) -> None:
    engine = make_engine(postgres_url)
    migrate(engine)

    def cut_off() -> None:
        with writing(engine) as connection:
            connection.execute(insert(schema.depots).values(NORTH))
            mine = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            with reading(engine) as other:
                other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": mine})

    with pytest.raises(Unavailable):
        cut_off()
    assert names(engine) == []
    engine.dispose()
