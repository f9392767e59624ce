"""The backup file: a zip with `manifest.json` and `cloud.db`, a SQLite database that holds every table.

It is one file whatever the cloud's own database is, so that it can be looked into with common tools, and restored into
SQLite and PostgreSQL alike.
"""

import hashlib
import os
import sqlite3
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Final, Literal

import msgspec

from forewarn_cloud.errors import SchemaTooNew, ServiceError

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
DATABASE: Final = "cloud.db"
FOR_US_ONLY: Final = 0o600
"""A backup holds everything the cloud knows, the secrets of webhooks among it."""
_CHUNK_BYTES: Final = 1024 * 1024
_MAX_MANIFEST_BYTES: Final = 1024 * 1024
_COMPRESSION: Final = 1
"""Most of a database is compressed already; more effort would only take longer."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


class BackupDamaged(ServiceError):
    """The file is not a whole backup; nothing was changed."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file}: not a whole backup: {reason}")


class BackupTooNew(SchemaTooNew):
    """The backup was made by a newer version of forewarn; nothing was changed."""

    def __init__(self, file: Path, what: str) -> None:
        ServiceError.__init__(self, f"{file}: a newer forewarn made this backup ({what}): install that or a later one")
        self.revision = what


class _Format(msgspec.Struct, frozen=True):
    format: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is of. `sha256` and `bytes` are those of the database in it."""

    format: int
    forewarn: str
    revision: str
    taken_at: str
    """ISO 8601, UTC."""
    source: Literal["sqlite", "postgresql"]
    bytes: int
    sha256: str
    rows: dict[str, int]


def write_archive(file: Path, database: Path, describe: Callable[[int, str], Manifest], progress: Progress) -> Manifest:
    """Write the backup: whole and durable under its name, or not at all.

    `describe` makes the manifest of the size and the SHA-256.

    Raises:
        OSError: it cannot be written.
    """
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        unfinished.touch(FOR_US_ONLY, exist_ok=False)
        with unfinished.open("wb") as out:
            with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION) as archive:
                digest = _add(archive, database, progress)
                manifest = describe(database.stat().st_size, digest)
                archive.writestr(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
            out.flush()
            os.fsync(out.fileno())
        unfinished.rename(file)
        sync_folder(file.parent)
    finally:
        unfinished.unlink(missing_ok=True)
    return manifest


def read_manifest(file: Path) -> Manifest:
    """Raises: BackupDamaged, BackupTooNew"""
    with _opened(file) as archive, _damage_told(file):
        if archive.getinfo(MANIFEST).file_size > _MAX_MANIFEST_BYTES:
            raise BackupDamaged(file, "its manifest is too large")
        text = archive.read(MANIFEST)
        written_as = msgspec.json.decode(text, type=_Format).format
        if written_as > FORMAT:
            raise BackupTooNew(file, f"format {written_as}")
        return msgspec.json.decode(text, type=Manifest)


def extract(file: Path, manifest: Manifest, target: Path, progress: Progress) -> None:
    """Write the database of a backup to `target`, checked to be what was put in, and sound.

    Raises:
        BackupDamaged: it is not.
    """
    target.touch(FOR_US_ONLY)
    with _opened(file) as archive, _damage_told(file):
        with archive.open(DATABASE) as stored, target.open("wb") as out:
            digest = _copy(stored, out, manifest.bytes, "unpacking", progress)
        if digest != manifest.sha256 or target.stat().st_size != manifest.bytes:
            raise BackupDamaged(file, "its content is not what it was when it was made")
    found = integrity(target)
    if found != "ok":
        raise BackupDamaged(file, f"its database is broken: {found}")


def integrity(database: Path) -> str:
    """ "ok", or what SQLite finds broken."""
    with closing(sqlite3.connect(database)) as connection:
        try:
            return str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
        except sqlite3.DatabaseError as error:
            return str(error)


def sync_file(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def sync_folder(folder: Path) -> None:
    """Make names given in a folder survive a power cut."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _add(archive: zipfile.ZipFile, database: Path, progress: Progress) -> str:
    with database.open("rb") as source, archive.open(DATABASE, "w", force_zip64=True) as out:
        return _copy(source, out, database.stat().st_size, "packing", progress)


def _copy(source: IO[bytes], out: IO[bytes], total: int, what: str, progress: Progress) -> str:
    """The SHA-256 of what was copied; no more than `total` bytes and a chunk are, whatever the source claims."""
    digest, done = hashlib.sha256(), 0
    while done <= total and (chunk := source.read(_CHUNK_BYTES)):
        out.write(chunk)
        digest.update(chunk)
        done += len(chunk)
        progress(what, done, total)
    return digest.hexdigest()


def _opened(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except FileNotFoundError:
        raise BackupDamaged(file, "there is no such file") from None
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise BackupDamaged(file, str(error)) from None


@contextmanager
def _damage_told(file: Path) -> Iterator[None]:
    """What a damaged file makes its readers raise, by its consequence."""
    try:
        yield
    except KeyError:
        raise BackupDamaged(file, "a part of it is missing") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, msgspec.MsgspecError, NotImplementedError) as error:
        raise BackupDamaged(file, str(error)) from None
