"""Brings a database to the schema of this version of forewarn, whatever older version it has."""

from importlib import resources
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from forewarn_cloud.adapters.sql.engine import reading, writing
from forewarn_cloud.errors import NotFound, SchemaTooNew

HEAD: Final = "head"
_LOCK: Final = "forewarn migration"


def migrate(engine: Engine, revision: str = HEAD) -> None:
    """Upgrade to `revision`, all or nothing; one program at a time, others wait. Safe to run again at any time.

    Raises:
        SchemaTooNew: a newer forewarn has written this database.
    """
    with writing(engine) as connection:
        lock(connection)
        upgrade(connection, revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Back to an older revision ("base": an empty database). What only the newer one can hold is lost."""
    with writing(engine) as connection:
        lock(connection)
        _refuse_newer(connection)
        command.downgrade(_config(connection), revision)


def upgrade(connection: Connection, revision: str = HEAD) -> None:
    """The same within a transaction that holds the `lock`. Raises: SchemaTooNew"""
    _refuse_newer(connection)
    command.upgrade(_config(connection), revision)


def current_revision(engine: Engine) -> str | None:
    """The revision the database is at; None where it is empty."""
    with reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def revision_of(connection: Connection) -> str:
    """The revision of a database that is to be used as it is.

    Raises:
        NotFound: it has none: nothing was ever stored here.
        SchemaTooNew: this version does not know it.
    """
    _refuse_newer(connection)
    current = MigrationContext.configure(connection).get_current_revision()
    if current is None:
        raise NotFound("database", connection.engine.url.render_as_string())
    return current


def revisions() -> frozenset[str]:
    """All that this version knows."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config(None)).walk_revisions())


def _refuse_newer(connection: Connection) -> None:
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in revisions():
        raise SchemaTooNew(current)


def lock(connection: Connection) -> None:
    """Keep other programs from migrating until this transaction ends. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = 0"))  # another's migration takes as long as it takes
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": _LOCK})


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files(__package__).joinpath("migrations")))
    config.attributes["connection"] = connection
    return config
