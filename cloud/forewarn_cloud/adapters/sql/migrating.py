"""Brings a database to the schema of this version of forewarn, whatever older version it has."""

from importlib import resources
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from forewarn_cloud.adapters.sql.engine import reading, writing
from forewarn_cloud.errors import SchemaTooNew

HEAD: Final = "head"
_LOCK: Final = "forewarn migration"


def migrate(engine: Engine, revision: str = HEAD) -> None:
    """Upgrade to `revision`, all or nothing; one program at a time, others wait. Safe to run again at any time.

    Raises:
        SchemaTooNew: a newer forewarn has written this database.
    """
    with writing(engine) as connection:
        _lock(connection)
        _refuse_newer(connection)
        command.upgrade(_config(connection), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Back to an older revision ("base": an empty database). What only the newer one can hold is lost."""
    with writing(engine) as connection:
        _lock(connection)
        _refuse_newer(connection)
        command.downgrade(_config(connection), revision)


def current_revision(engine: Engine) -> str | None:
    """The revision the database is at; None where it is empty."""
    with reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(connection: Connection) -> None:
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(_config(None)).walk_revisions()}
    if current is not None and current not in known:
        raise SchemaTooNew(current)


def _lock(connection: Connection) -> None:
    """SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": _LOCK})


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files(__package__).joinpath("migrations")))
    config.attributes["connection"] = connection
    return config
