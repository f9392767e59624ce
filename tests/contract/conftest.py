"""Databases for the contracts: one of each kind for all tests, each of which takes a tenant of its own."""

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Engine

from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.adapters.sql.migrating import migrate


@pytest.fixture(scope="session")
def sqlite_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    yield from _migrated(f"sqlite:///{tmp_path_factory.mktemp('contract') / 'forewarn.db'}")


@pytest.fixture(scope="session")
def postgresql_engine(postgres_server: str) -> Iterator[Engine]:
    with psycopg.connect(f"postgresql://{postgres_server}", autocommit=True) as connection:
        connection.execute("CREATE DATABASE contract")
    yield from _migrated(f"postgresql+psycopg://{postgres_server.rsplit('/', 1)[0]}/contract")


def _migrated(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    migrate(engine)
    yield engine
    engine.dispose()
