"""Databases for the tests of the cloud: the same tests run on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.adapters.sql.unit_of_work import SqlTransactions


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
