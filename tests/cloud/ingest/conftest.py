"""Databases for the tests of ingest."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine

from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.adapters.sql.schema import metadata

DATABASES = ("sqlite", "postgresql")


@contextmanager
def database(kind: str, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An empty database with all tables."""
    folder: Path = request.getfixturevalue("tmp_path")
    url = f"sqlite:///{folder}/cloud.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    engine = make_engine(url)
    metadata.create_all(engine)
    try:
        yield engine
    finally:
        engine.dispose()


@pytest.fixture(params=DATABASES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with database(request.param, request) as engine:
        yield engine
