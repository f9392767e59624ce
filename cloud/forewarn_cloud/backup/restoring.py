"""`forewarn-cloud restore`: the database as it was, of any older version, in place of the present one."""

import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import Connection, Engine

from forewarn_cloud.adapters.sql.copying import (
    as_one_file,
    copy_rows,
    drop_aside,
    has_rows,
    has_tables,
    remove_database,
    set_aside,
)
from forewarn_cloud.adapters.sql.engine import make_engine, other_programs, reading, writing
from forewarn_cloud.adapters.sql.migrating import lock, migrate, revision_of, revisions, upgrade
from forewarn_cloud.adapters.sql.repositories import SqlRecords, skip_numbers
from forewarn_cloud.backup.archive import (
    BackupDamaged,
    BackupTooNew,
    Manifest,
    Progress,
    extract,
    read_manifest,
    sync_file,
    sync_folder,
)
from forewarn_cloud.endpoints import AlreadyRunning, only_one
from forewarn_cloud.entities import AuditNote
from forewarn_cloud.errors import Conflict, Unavailable
from forewarn_cloud.opening import local_principal, make_data_dir, open_clock, open_database
from forewarn_cloud.principal import Principal
from forewarn_cloud.settings import Settings

SKIPPED_NUMBERS: Final = 1000
"""Order numbers left out: those given out since the backup are in people's mails, and mean other orders."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    manifest: Manifest
    revision: str
    aside: str | None
    """Where the database is that was there before: a file, or a schema of PostgreSQL."""

    def as_json(self) -> str:
        said = {"revision": self.revision, "aside": self.aside, "backup": msgspec.to_builtins(self.manifest)}
        return json.dumps(said, indent=2)


def check_backup(settings: Settings, file: Path, progress: Progress) -> Restored:
    """Whether a backup is whole and this version can restore it; nothing is changed.

    Raises:
        BackupDamaged, BackupTooNew: it is not, or cannot.
        SettingsError: the data folder, in which it is unpacked, cannot be made.
        Unavailable: it cannot be unpacked.
    """
    scratch = make_data_dir(settings) / f".check.{os.getpid()}.db"
    try:
        manifest = _unpack(file, scratch, progress)
    except (OSError, sqlite3.Error) as error:
        raise Unavailable(f"the backup cannot be unpacked: {error}") from error
    finally:
        remove_database(scratch)
    return Restored(manifest=manifest, revision=manifest.revision, aside=None)


def restore_backup(
    settings: Settings, file: Path, environment: Mapping[str, str], *, force: bool, progress: Progress
) -> Restored:
    """`restore` into what the settings name, unless a cloud runs there. Raises what that raises, and SettingsError"""
    who = local_principal(settings)
    with only_one(make_data_dir(settings)):
        engine = open_database(settings)
        try:
            now_ms = open_clock(environment).now_ms()
            sqlite = engine.dialect.name == "sqlite"
            folder = Path(str(engine.url.database)).parent if sqlite else settings.data_dir
            return restore(engine, file, folder / ".restore.db", who=who, now_ms=now_ms, force=force, progress=progress)
        finally:
            engine.dispose()


def restore(
    engine: Engine, file: Path, scratch: Path, *, who: Principal, now_ms: int, force: bool, progress: Progress
) -> Restored:
    """Put the backup in place of the present database: all of it, or nothing is changed.

    The caller holds the lock of the data folder. `scratch`: a file there that may be written and is removed. With
    `force`, a database that holds something is kept aside; without, it is refused.

    Raises:
        BackupDamaged, BackupTooNew: the backup cannot be used.
        Conflict: the database is not empty.
        AlreadyRunning: a program has the database open.
        Unavailable: the database cannot serve or be written.
    """
    remove_database(scratch)
    try:
        manifest = _unpack(file, scratch, progress)
        note = AuditNote(
            tenant=who.tenant,
            at=now_ms,
            actor=who.name,
            subject="database",
            subject_id=manifest.sha256,
            action="restored",
            detail={"taken_at": manifest.taken_at, "revision": manifest.revision, "forewarn": manifest.forewarn},
        )
        name = f"before_restore_{datetime.fromtimestamp(now_ms / 1000, UTC):%Y%m%d_%H%M%S}_{now_ms % 1000:03d}"
        if engine.dialect.name == "sqlite":
            aside = _into_sqlite(Path(str(engine.url.database)), scratch, name, note, force)
        else:
            aside = _into_postgresql(engine, scratch, manifest.revision, name, note, force, progress)
        with reading(engine) as connection:
            return Restored(manifest=manifest, revision=revision_of(connection), aside=aside)
    except (OSError, sqlite3.Error) as error:
        raise Unavailable(f"the backup cannot be restored: {error}") from error
    finally:
        remove_database(scratch)


def _unpack(file: Path, scratch: Path, progress: Progress) -> Manifest:
    manifest = read_manifest(file)
    if manifest.revision not in revisions():
        raise BackupTooNew(file, f"revision {manifest.revision}")
    extract(file, manifest, scratch, progress)
    unpacked = make_engine(f"sqlite:///{scratch}")
    try:
        with reading(unpacked) as connection:
            found = revision_of(connection)
    finally:
        unpacked.dispose()
        as_one_file(scratch)
    if found != manifest.revision:
        raise BackupDamaged(file, f"its database is at revision {found}, and not {manifest.revision}")
    return manifest


def _note(connection: Connection, note: AuditNote) -> None:
    skip_numbers(connection, SKIPPED_NUMBERS)
    records = SqlRecords(connection)
    records.add_audit(note)
    records.chain_audit()


# --- SQLite ---------------------------------------------------------------------------------------------------------


def _into_sqlite(database: Path, scratch: Path, name: str, note: AuditNote, force: bool) -> str | None:
    """The new file is finished beside the old one; one rename then changes over."""
    _bring_up_to_date(scratch, note)
    aside = _aside(database, name, force)
    scratch.replace(database)
    sync_folder(database.parent)
    return aside


def _bring_up_to_date(scratch: Path, note: AuditNote) -> None:
    engine = make_engine(f"sqlite:///{scratch}")
    try:
        migrate(engine)
        with writing(engine) as connection:
            _note(connection, note)
    finally:
        engine.dispose()
    as_one_file(scratch)
    sync_file(scratch)


def _aside(database: Path, name: str, force: bool) -> str | None:
    """A second name for the present database, if it holds anything."""
    if not database.exists():
        remove_database(database)  # a log without its database would be applied to the new one
        return None
    if _holds_something(database):
        _refuse_unless(force, str(database))
        kept = database.with_name(f"{database.name}.{name}")
        for suffix in ("-wal", "-shm", "-journal"):  # only where it is broken: else there is none any more
            beside = database.with_name(database.name + suffix)
            if beside.exists():
                beside.rename(kept.with_name(kept.name + suffix))
        kept.hardlink_to(database)
        sync_folder(database.parent)
        return str(kept)
    return None


def _holds_something(database: Path) -> bool:
    """Brings all of it into its one file, which only works where no other program has it open."""
    try:
        as_one_file(database)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise AlreadyRunning(f"another program has {database} open: stop it") from None
        return True
    except sqlite3.DatabaseError:
        return True  # broken, perhaps the reason to restore
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return any(
            connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()  # noqa: S608 - names out of the file
            for name in tables
            if name != "alembic_version" and not name.startswith("sqlite_")
        )


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


def _into_postgresql(
    engine: Engine, scratch: Path, revision: str, name: str, note: AuditNote, force: bool, progress: Progress
) -> str | None:
    """One transaction: whoever looks meanwhile sees the old database, and afterwards the new one."""
    unpacked = make_engine(f"sqlite:///{scratch}")
    try:
        with writing(engine) as target, reading(unpacked) as source:
            lock(target)
            others = other_programs(target)
            if others:
                raise AlreadyRunning(f"{others} connections of forewarn-cloud are open on this database: stop it")
            filled = has_rows(target)
            if filled:
                _refuse_unless(force, target.engine.url.render_as_string())
            if has_tables(target):
                set_aside(target, name)
            upgrade(target, revision)
            copy_rows(source, target, lambda done, total: progress("restoring", done, total))
            upgrade(target)
            _note(target, note)
            if not filled:
                drop_aside(target, name)
            return f"schema {name}" if filled else None
    finally:
        unpacked.dispose()


def _refuse_unless(force: bool, database: str) -> None:
    if not force:
        raise Conflict(f"{database} is not empty: --force puts the backup in its place and keeps it aside")
