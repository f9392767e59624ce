"""The schema comes from its revisions, on both databases, forwards and backwards."""

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, Engine, insert, inspect, select, text

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import reading, writing
from forewarn_cloud.adapters.sql.migrating import current_revision, downgrade, migrate
from forewarn_cloud.adapters.telemetry_shards import shard_of
from forewarn_cloud.errors import SchemaTooNew
from tests.conftest import together

ALL_TABLES = {*schema.metadata.tables, "alembic_version"}


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def test_the_revisions_build_exactly_the_schema(engine: Engine) -> None:
    with reading(engine) as connection:
        # SQLite gives defaults back as it was told them, with other quotes.
        defaults = engine.dialect.name == "postgresql"
        context = MigrationContext.configure(connection, opts={"compare_server_default": defaults})
        assert compare_metadata(context, schema.metadata) == []


def test_the_revisions_build_the_check_constraints_and_partial_indexes(engine: Engine) -> None:
    """What Alembic does not compare, and what the promises rest on."""
    inspector = inspect(engine)
    for table in schema.metadata.sorted_tables:
        checks = {str(c.name) for c in table.constraints if isinstance(c, CheckConstraint)}
        found = {str(check["name"]) for check in inspector.get_check_constraints(table.name)}
        assert found == checks, table.name
        partial = {str(i.name) for i in table.indexes if i.dialect_options["sqlite"]["where"] is not None}
        conditions = {
            str(i["name"])
            for i in inspector.get_indexes(table.name)
            if i.get("dialect_options", {}).get(f"{engine.dialect.name}_where") is not None
        }
        assert conditions == partial, table.name


def test_migrating_again_changes_nothing(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(schema.depots.insert().values(tenant="local", depot="north", name="North"))
    migrate(engine)
    with reading(engine) as connection:
        assert connection.execute(schema.depots.select()).all() == [("local", "north", "North")]


def test_downgrade_to_nothing_and_up_again(engine: Engine) -> None:
    downgrade(engine, "base")
    assert current_revision(engine) is None
    assert tables(engine) <= {"alembic_version"}
    migrate(engine)
    assert tables(engine) == ALL_TABLES


def test_new_records_find_their_shards_when_an_older_database_is_migrated_and_back(engine: Engine) -> None:
    downgrade(engine, "0005")
    names = ("tenant", "node", "epoch", "seq", "digest", "asset", "first_ms", "last_ms", "samples", "columns")
    before = sa.table("telemetry_blocks", *map(sa.column, names))
    mine = [
        ("local", f"n{i % 7}", "e1", i, bytes([i % 256]) * 16, f"pump-{i % 50}", i, i + 1, 2, b"columns %d" % i)
        for i in range(2500)
    ]
    with writing(engine) as connection:
        connection.execute(insert(before), [dict(zip(names, row, strict=True)) for row in mine])
    migrate(engine)
    blocks = schema.telemetry_blocks
    with reading(engine) as connection:
        moved = connection.execute(select(blocks).order_by(blocks.c.id)).all()
    assert [tuple(row)[2:] for row in moved] == mine
    assert all(row.shard == shard_of(row.tenant, row.asset) for row in moved)
    downgrade(engine, "0005")
    with reading(engine) as connection:
        assert connection.execute(select(before).order_by(before.c.seq)).all() == mine
    migrate(engine)


def test_a_database_of_a_newer_version_is_refused_and_left_alone(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'f999'"))
    with pytest.raises(SchemaTooNew, match=r"a newer forewarn has written this database \(revision f999\)"):
        migrate(engine)
    assert current_revision(engine) == "f999"


def test_programs_that_start_together_migrate_once(empty_engine: Engine) -> None:
    assert together(*[lambda: migrate(empty_engine)] * 4) == []
    assert tables(empty_engine) == ALL_TABLES


def test_an_interrupted_migration_leaves_nothing_behind(empty_engine: Engine) -> None:
    """Revisions run in the caller's transaction: all or nothing, and it can be started again."""

    def interrupted() -> None:
        with writing(empty_engine) as connection:
            schema.metadata.create_all(connection)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert tables(empty_engine) == set()
    migrate(empty_engine)
    assert tables(empty_engine) == ALL_TABLES
