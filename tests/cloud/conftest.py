"""Databases for the tests of the cloud: the same tests run on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.adapters.sql.unit_of_work import SqlTransactions
from forewarn_cloud.service.policy import Policy
from tests.cloud.world import SEAL, World, make_world


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of the test's own."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'forewarn.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def empty_engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(empty_engine: Engine) -> Engine:
    """A database with the present schema and nothing in it."""
    migrate(empty_engine)
    return empty_engine


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
