"""Databases as in the tests of the cloud; the machine, the small cloud and the agent as in those of the agent."""

from tests.cloud.conftest import (
    database_kind,
    database_url,
    empty_engine,
    engine,
    migrated_postgres,
    migrated_sqlite,
    world,
)
from tests.edge_agent.conftest import agent, cloud, far_broker, machine

__all__ = [
    "agent",
    "cloud",
    "database_kind",
    "database_url",
    "empty_engine",
    "engine",
    "far_broker",
    "machine",
    "migrated_postgres",
    "migrated_sqlite",
    "world",
]
