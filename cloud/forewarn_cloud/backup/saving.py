"""`forewarn-cloud backup`: the database as it is at one instant, while the cloud goes on."""

import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from sqlalchemy import Engine

from forewarn_cloud.adapters.sql.copying import Copied, as_one_file, copy_rows, copy_sqlite, count_rows, remove_database
from forewarn_cloud.adapters.sql.engine import make_engine, reading, snapshot, writing
from forewarn_cloud.adapters.sql.migrating import migrate, revision_of
from forewarn_cloud.backup.archive import FOR_US_ONLY, FORMAT, Manifest, Progress, integrity, write_archive
from forewarn_cloud.errors import NotFound, Unavailable
from forewarn_cloud.opening import open_clock, open_database
from forewarn_cloud.settings import Settings
from forewarn_models import __version__


@dataclass(frozen=True, kw_only=True)
class Saved:
    file: Path
    file_bytes: int
    manifest: Manifest

    def as_json(self) -> str:
        said = {"file": str(self.file), "file_bytes": self.file_bytes, **msgspec.to_builtins(self.manifest)}
        return json.dumps(said, indent=2)


def save_backup(settings: Settings, out: Path, environment: Mapping[str, str], progress: Progress) -> Saved:
    """`save` what the settings name. Raises what that raises, and SettingsError"""
    now_ms, engine = open_clock(environment).now_ms(), open_database(settings)
    try:
        return save(engine, out, now_ms, progress)
    finally:
        engine.dispose()


def save(engine: Engine, out: Path, now_ms: int, progress: Progress) -> Saved:
    """Write a backup to `out`, or to a new file in it where it is a folder.

    Raises:
        NotFound: there is no database to save.
        SchemaTooNew: a newer forewarn has written it.
        Unavailable: it cannot be read, is broken, or the backup cannot be written.
    """
    taken_at = datetime.fromtimestamp(now_ms / 1000, UTC)
    file = out / f"forewarn-{taken_at:%Y%m%dT%H%M%SZ}.zip" if out.is_dir() else out
    if file.exists():
        raise Unavailable(f"{file} exists already, and no backup is overwritten: give another name")
    copy = file.with_name(f".{file.name}.{os.getpid()}.db")
    try:
        copy.touch(FOR_US_ONLY)
        revision, rows = _copy(engine, copy, progress)

        def describe(size: int, sha256: str) -> Manifest:
            return Manifest(
                format=FORMAT,
                forewarn=__version__,
                revision=revision,
                taken_at=taken_at.isoformat(timespec="milliseconds"),
                source="postgresql" if engine.dialect.name == "postgresql" else "sqlite",
                bytes=size,
                sha256=sha256,
                rows=rows,
            )

        manifest = write_archive(file, copy, describe, progress)
    except (OSError, sqlite3.Error) as error:
        raise Unavailable(f"the backup cannot be made: {error}") from error
    finally:
        remove_database(copy)
    return Saved(file=file, file_bytes=file.stat().st_size, manifest=manifest)


def _copy(engine: Engine, copy: Path, progress: Progress) -> tuple[str, dict[str, int]]:
    """Make `copy` a SQLite database that holds everything; its revision, and its rows by table."""

    def copied(done: int, total: int) -> None:
        progress("copying", done, total)

    if engine.dialect.name == "sqlite":
        _copy_sqlite(engine, copy, copied)
    written = make_engine(f"sqlite:///{copy}")
    try:
        if engine.dialect.name == "postgresql":
            with snapshot(engine) as source:
                migrate(written, revision_of(source))
                with writing(written) as target:
                    copy_rows(source, target, copied)
        with reading(written) as connection:
            return revision_of(connection), count_rows(connection)
    finally:
        written.dispose()
        as_one_file(copy)


def _copy_sqlite(engine: Engine, copy: Path, copied: Copied) -> None:
    database = Path(str(engine.url.database))
    if not database.is_file():
        raise NotFound("database", str(database))
    copy_sqlite(database, copy, copied)
    found = integrity(copy)
    if found != "ok":
        raise Unavailable(f"the database is broken, and no backup is made of it: {found}")
