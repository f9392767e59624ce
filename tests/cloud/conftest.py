"""Databases for the tests of the cloud: the same tests run on SQLite and on PostgreSQL."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import resources
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from forewarn_cloud.adapters import sql
from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.adapters.sql.migrating import current_revision, migrate
from forewarn_cloud.adapters.sql.schema import metadata
from forewarn_cloud.adapters.sql.unit_of_work import SqlTransactions
from forewarn_cloud.service.policy import Policy
from tests.cloud.world import SEAL, World, make_world
from tests.conftest import new_database


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database_url(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of the test's own."""
    if database_kind == "sqlite":
        return f"sqlite:///{tmp_path / 'forewarn.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def empty_engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the present schema, to be copied: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("migrated") / "forewarn.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: str) -> Iterator["MigratedPostgres"]:
    shared = MigratedPostgres(postgres_server)
    yield shared
    shared.close()


class MigratedPostgres:
    """A database with the present schema that tests use one after the other, emptied in between."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._open = ExitStack()
        self._url: str | None = None

    @property
    def url(self) -> str:
        if self._url is None:
            self._url = self._open.enter_context(new_database(self._server))
            _migrate(self._url)
        return self._url

    def empty(self) -> None:
        """Where a test has left another schema, or a lock, the next gets a new database."""
        engine = make_engine(self.url)
        try:
            with engine.begin() as connection:
                connection.execute(text("SET lock_timeout = '5s'"))
                for table in reversed(metadata.sorted_tables):
                    connection.execute(table.delete())
            is_whole = current_revision(engine) == newest_revision()
        except DBAPIError:
            is_whole = False
        engine.dispose()
        if not is_whole:
            self.close()

    def close(self) -> None:
        self._open.close()
        self._url = None


def newest_revision() -> str:
    return str(ScriptDirectory(str(resources.files(sql).joinpath("migrations"))).get_current_head())


def _migrate(url: str) -> None:
    engine = make_engine(url)
    migrate(engine)
    engine.dispose()


@pytest.fixture
def engine(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database with the present schema and nothing in it."""
    if database_kind == "sqlite":
        path = tmp_path / "forewarn.db"
        shutil.copyfile(request.getfixturevalue("migrated_sqlite"), path)
        engine = make_engine(f"sqlite:///{path}")
        yield engine
        engine.dispose()
    else:
        shared: MigratedPostgres = request.getfixturevalue("migrated_postgres")
        engine = make_engine(shared.url)
        yield engine
        engine.dispose()
        shared.empty()


@pytest.fixture
def transactions(engine: Engine) -> SqlTransactions:
    return SqlTransactions(engine)


@pytest.fixture
def world(engine: Engine) -> World:
    """A small world in which every part lies once in the depot that serves the sites."""
    one_each = {part_no: {"north": 1} for part_no in (SEAL, "PMP-IMP-200", "PMP-GSK-01")}
    return make_world(engine, {**one_each, "PMP-BRG-6309": {"north": 2}}, Policy())


@pytest.fixture
def bare_world(engine: Engine) -> World:
    """The same without any stock."""
    return make_world(engine, {}, Policy())
