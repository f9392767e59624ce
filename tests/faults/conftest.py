"""Databases as in the tests of the cloud."""

from tests.cloud.conftest import (
    database_kind,
    database_url,
    empty_engine,
    engine,
    migrated_postgres,
    migrated_sqlite,
    world,
)

__all__ = ["database_kind", "database_url", "empty_engine", "engine", "migrated_postgres", "migrated_sqlite", "world"]
