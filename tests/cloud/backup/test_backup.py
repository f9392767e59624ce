"""A backup is the whole database at one instant; restoring it is all or nothing, into either kind of database."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, text

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import make_engine, reading, writing
from forewarn_cloud.adapters.sql.migrating import current_revision, downgrade, migrate, revisions
from forewarn_cloud.adapters.sql.repositories import verify_audit
from forewarn_cloud.backup.archive import BackupDamaged, BackupTooNew
from forewarn_cloud.backup.restoring import SKIPPED_NUMBERS, Restored, check_backup, restore_backup
from forewarn_cloud.backup.saving import Saved, save
from forewarn_cloud.endpoints import AlreadyRunning, only_one
from forewarn_cloud.errors import Conflict, NotFound, SchemaTooNew, Unavailable
from forewarn_cloud.service.policy import Policy
from forewarn_cloud.settings import Settings
from tests.cloud.ingest.sending import NOW, message, telemetry
from tests.cloud.ingest.test_writer import Ingesting
from tests.cloud.world import SEAL, START_MS, TENANT, World, advisory, make_world
from tests.conftest import new_database

HEAD = max(revisions())


def quiet(_what: str, _done: int, _total: int) -> None:
    """Nobody watches."""


def backup(engine: Engine, out: Path) -> Saved:
    return save(engine, out, START_MS, quiet)


def restored(settings: Settings, file: Path, *, force: bool = False) -> Restored:
    return restore_backup(settings, file, {}, force=force, progress=quiet)


def fill(engine: Engine) -> World:
    """An order with its parts, messages and decision, one that waits for its part, and telemetry of a million years."""
    world = make_world(engine, {SEAL: {"north": 1}, "PMP-GSK-01": {"north": 1}}, Policy())
    world.hear(advisory("pump-1"), advisory("pump-2"))
    ingest = Ingesting(engine)
    ingest.feed(message(1, telemetry(), telemetry(t=NOW + 1), node="edge-1"), message(1, telemetry("ghost"), node="x"))
    return world


@pytest.fixture
def filled(engine: Engine) -> World:
    return fill(engine)


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """A cloud that has no database yet."""
    url = None if request.param == "sqlite" else str(request.getfixturevalue("other_postgres_url"))
    return Settings(data_dir=tmp_path / "target", database_url=url)


@pytest.fixture
def other_postgres_url(postgres_server: str) -> Iterator[str]:
    with new_database(postgres_server) as url:
        yield url


@pytest.fixture
def at_target(target: Settings) -> Iterator[Engine]:
    target.data_dir.mkdir()
    engine = make_engine(target.sqlalchemy_url)
    yield engine
    engine.dispose()


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def contents(engine: Engine) -> dict[str, list[str]]:
    """All rows of all tables."""
    found = dict[str, list[str]]()
    with reading(engine) as connection:
        for table in schema.metadata.sorted_tables:
            found[table.name] = sorted(map(repr, connection.execute(table.select()).all()))
    return found


def test_what_is_restored_is_what_was_saved(filled: World, target: Settings, at_target: Engine, tmp_path: Path) -> None:
    before = filled.everything()
    saved = backup(filled.engine, tmp_path / "b.zip")
    filled.hear(advisory("pump-3"))
    assert saved.manifest.rows["orders"] == 2
    done = restored(target, saved.file)
    assert (done.revision, done.aside, done.manifest) == (HEAD, None, saved.manifest)
    after = contents(at_target)
    (noted,) = [row for row in after["audit"] if row not in before["audit"]]
    assert "'restored'" in noted
    assert f"'orders', {2 + SKIPPED_NUMBERS})" in after["counters"][0]
    for table in before.keys() - {"audit", "counters"}:
        assert after[table] == before[table], table
    with reading(at_target) as connection:
        assert verify_audit(connection, TENANT).broken_at is None


def test_what_is_restored_goes_on(filled: World, target: Settings, at_target: Engine, tmp_path: Path) -> None:
    """Numbers that the database counts up are not given twice, and order numbers told since are not given again."""
    saved = backup(filled.engine, tmp_path / "b.zip")
    restored(target, saved.file)
    filled.hear(advisory("pump-3"))
    later = World(engine=at_target, clock=filled.clock, policy=Policy())
    later.hear(advisory("pump-3"))
    assert [order.number for order in filled.orders()] == ["SO-000001", "SO-000002", "SO-000003"]
    assert [order.number for order in later.orders()] == ["SO-000001", "SO-000002", "SO-001003"]


def test_a_backup_is_made_while_others_write(engine: Engine, tmp_path: Path) -> None:
    """Of one instant: what is counted with the records is what there is of them."""
    ingest, ended = Ingesting(engine), threading.Event()
    fill(engine)

    def go_on() -> None:
        seq = 3
        while not ended.is_set():
            ingest.feed(message(seq, *(telemetry(t=NOW + seq + i) for i in range(50)), node="edge-1"))
            seq += 50

    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        saved = [backup(engine, tmp_path / f"{i}.zip") for i in range(3)]
    finally:
        ended.set()
        writer.join()
    sizes = [one.manifest.rows["telemetry_blocks"] for one in saved]
    assert sizes == sorted(set(sizes)), "each saw more than the one before, for ingest was not held up"
    for one in saved:
        settings = Settings(data_dir=tmp_path / one.file.stem)
        restored(settings, one.file)
        copy = make_engine(settings.sqlalchemy_url)
        with reading(copy) as connection:
            stored = connection.execute(text("SELECT count(*) FROM telemetry_blocks")).scalar_one()
            counted = connection.execute(text("SELECT sum(records_stored) FROM lane_progress")).scalar_one()
        copy.dispose()
        assert stored == counted == one.manifest.rows["telemetry_blocks"]


def test_a_backup_of_many_pages_ends_while_every_commit_changes_the_source(tmp_path: Path) -> None:
    """SQLite's backup begins anew when it sees a change; it must not see any."""
    engine = make_engine(f"sqlite:///{tmp_path / 'a.db'}")
    migrate(engine)
    with writing(engine) as connection:
        many = [{"tenant": "local", "depot": f"d{i}", "name": "n" * 200} for i in range(60_000)]
        connection.execute(insert(schema.depots), many)
    commits = list[int]()

    def commit_in_between(what: str, done: int, total: int) -> None:
        if what == "copying" and 0 < done < total:
            with writing(engine) as connection:
                row = {"tenant": "local", "depot": f"x{len(commits)}", "name": "x"}
                connection.execute(insert(schema.depots).values(row))
            commits.append(done)

    saved = save(engine, tmp_path / "b.zip", START_MS, commit_in_between)
    engine.dispose()
    assert len(commits) > 1
    assert commits == sorted(set(commits)), "it never went back"
    assert saved.manifest.rows["depots"] == 60_000


def test_a_backup_is_a_file_for_its_owner_only_and_never_replaces_another(filled: World, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    saved = backup(filled.engine, folder)
    assert [file.name for file in folder.iterdir()] == [saved.file.name] == ["forewarn-20260528T202640Z.zip"]
    assert saved.file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Unavailable, match="no backup is overwritten"):
        backup(filled.engine, folder)
    with zipfile.ZipFile(saved.file) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert (manifest["revision"], manifest["taken_at"]) == (HEAD, "2026-05-28T20:26:40.000+00:00")


def test_where_nothing_can_be_written_nothing_is_left(filled: World, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="the backup cannot be made"):
        backup(filled.engine, tmp_path / "nowhere" / "b.zip")
    small = "the disk is full"

    def full(what: str, _done: int, _total: int) -> None:
        if what == "packing":
            raise OSError(28, small)

    with pytest.raises(Unavailable, match=small):
        save(filled.engine, tmp_path / "b.zip", START_MS, full)
    assert not [name for name in names(tmp_path) if "b.zip" in name]


def test_there_is_no_backup_of_nothing_of_a_newer_or_of_a_broken_database(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(NotFound, match="does not exist"):
        backup(engine, tmp_path / "b.zip")
    assert not (tmp_path / "none.db").exists()
    migrate(engine)
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'f999'"))
    with pytest.raises(SchemaTooNew):
        backup(engine, tmp_path / "b.zip")
    with writing(engine) as connection:
        connection.execute(text(f"UPDATE alembic_version SET version_num = '{HEAD}'"))  # noqa: S608
        many = [{"tenant": "local", "depot": f"d{i}", "name": "n" * 200} for i in range(1000)]
        connection.execute(insert(schema.depots), many)
    engine.dispose()
    broken = bytearray((tmp_path / "none.db").read_bytes())
    middle = broken.index(b"n" * 200)
    broken[middle - 600 : middle + 600] = b"\xff" * 1200
    (tmp_path / "none.db").write_bytes(broken)
    with pytest.raises(Unavailable, match="the database is broken"):
        backup(engine, tmp_path / "b.zip")
    assert [name for name in names(tmp_path) if "b.zip" in name] == []
    engine.dispose()


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """A backup out of a database that is gone."""
    engine = make_engine(f"sqlite:///{tmp_path / 'gone.db'}")
    migrate(engine)
    fill(engine)
    made = backup(engine, tmp_path / "b.zip")
    engine.dispose()
    return made


def cut(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def flip(file: Path) -> None:
    body = bytearray(file.read_bytes())
    body[len(body) // 3] ^= 0x10
    file.write_bytes(body)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def rewrite(**changes: object) -> Callable[[Path], None]:
    """The same archive with another manifest: None leaves the manifest out."""

    def work(file: Path) -> None:
        with zipfile.ZipFile(file) as archive:
            manifest, database = json.loads(archive.read("manifest.json")), archive.read("cloud.db")
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("cloud.db", database)
            if changes:
                archive.writestr("manifest.json", json.dumps(manifest | changes))

    return work


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": cut,
    "flipped": flip,
    "empty": empty,
    "gone": Path.unlink,
    "no manifest": rewrite(),
    "other content": rewrite(sha256="0" * 64),
    "longer than said": rewrite(bytes=4096),
    "other revision": rewrite(revision="0001"),
    "no revision": rewrite(revision=7),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_backup_is_refused_and_nothing_is_changed(saved: Saved, tmp_path: Path, damage: str) -> None:
    settings = Settings(data_dir=tmp_path / "target")
    DAMAGE[damage](saved.file)
    with pytest.raises(BackupDamaged, match="not a whole backup"):
        check_backup(settings, saved.file, quiet)
    with pytest.raises(BackupDamaged, match="not a whole backup"):
        restored(settings, saved.file, force=True)
    assert names(settings.data_dir) == ["cloud.lock"]


@pytest.mark.parametrize("newer", [{"format": 99}, {"revision": "f999"}])
def test_a_backup_of_a_newer_version_is_refused_clearly(saved: Saved, tmp_path: Path, newer: dict[str, object]) -> None:
    rewrite(**newer)(saved.file)
    with pytest.raises(BackupTooNew, match=r"a newer forewarn made this backup \(.*\): install that or a later one"):
        restored(Settings(data_dir=tmp_path / "target"), saved.file)


def test_what_is_there_is_kept_unless_told_otherwise_and_then_kept_aside(
    saved: Saved, target: Settings, at_target: Engine
) -> None:
    migrate(at_target)
    with writing(at_target) as connection:
        connection.execute(insert(schema.depots).values(tenant=TENANT, depot="precious", name="Precious"))
    at_target.dispose()
    before = contents(at_target)
    at_target.dispose()
    with pytest.raises(Conflict, match="is not empty: --force"):
        restored(target, saved.file)
    assert contents(at_target) == before
    at_target.dispose()
    done = restored(target, saved.file, force=True)
    assert len(contents(at_target)["orders"]) == 2
    assert done.aside is not None
    if at_target.dialect.name == "sqlite":
        kept = make_engine(f"sqlite:///{done.aside}")
        assert contents(kept) == before
        kept.dispose()
    else:
        name = done.aside.removeprefix("schema ")
        with reading(at_target) as connection:
            assert connection.execute(text(f'SELECT depot FROM "{name}".depots')).all() == [("precious",)]  # noqa: S608


def test_an_empty_database_is_replaced(saved: Saved, target: Settings, at_target: Engine) -> None:
    migrate(at_target)
    at_target.dispose()
    assert restored(target, saved.file).aside is None
    assert len(contents(at_target)["orders"]) == 2


def test_a_broken_database_can_be_replaced(saved: Saved, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "target")
    settings.data_dir.mkdir()
    (settings.data_dir / "cloud.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(Conflict):
        restored(settings, saved.file)
    done = restored(settings, saved.file, force=True)
    assert done.aside is not None
    assert Path(done.aside).read_bytes() == b"no database at all" * 1000
    engine = make_engine(settings.sqlalchemy_url)
    assert len(contents(engine)["orders"]) == 2
    engine.dispose()


def test_a_database_that_is_in_use_is_not_replaced(saved: Saved, target: Settings, at_target: Engine) -> None:
    migrate(at_target)
    with reading(at_target) as connection:
        connection.execute(text("SELECT 1 FROM orders"))
        with pytest.raises(AlreadyRunning, match="stop it"):
            restored(target, saved.file, force=True)
    at_target.dispose()
    with only_one(target.data_dir), pytest.raises(AlreadyRunning, match="another forewarn-cloud runs on"):
        restored(target, saved.file, force=True)
    restored(target, saved.file)


@pytest.mark.parametrize("revision", sorted(revisions()))
def test_a_backup_of_every_older_version_is_brought_up_to_date(
    revision: str, target: Settings, at_target: Engine, tmp_path: Path
) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'old.db'}")
    migrate(engine)
    fill(engine)
    downgrade(engine, revision)
    saved = backup(engine, tmp_path / "b.zip")
    engine.dispose()
    assert saved.manifest.revision == revision
    done = restored(target, saved.file)
    assert done.revision == current_revision(at_target) == HEAD
    assert len(contents(at_target)["orders"]) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from forewarn_cloud.backup import restoring
from forewarn_cloud.settings import Settings

where, folder, file = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
call = "hardlink_to" if where.endswith("link") else "replace"
usual = getattr(Path, call)

def killed(self, target):
    if where.startswith("before"):
        os.kill(os.getpid(), signal.SIGKILL)
    usual(self, target)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(Path, call, killed)
restoring.restore_backup(Settings(data_dir=folder), file, {}, force=True, progress=lambda *_: None)
"""


@pytest.mark.parametrize("where", ["before link", "after link", "before rename", "after rename"])
def test_a_kill_while_restoring_leaves_the_old_database_or_the_new_one(
    saved: Saved, tmp_path: Path, where: str
) -> None:
    settings = Settings(data_dir=tmp_path / "target")
    settings.data_dir.mkdir()
    shutil.copy(tmp_path / "gone.db", settings.data_dir / "cloud.db")
    with closing(sqlite3.connect(settings.data_dir / "cloud.db")) as connection:
        connection.execute("DELETE FROM outbox")
        connection.commit()
    command = [sys.executable, "-c", KILLED, where, str(settings.data_dir), str(saved.file)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    engine = make_engine(settings.sqlalchemy_url)
    sent = len(contents(engine)["outbox"])
    engine.dispose()
    assert (sent > 0) == (where == "after rename")
    restored(settings, saved.file, force=True)
    assert len(contents(engine)["outbox"]) == saved.manifest.rows["outbox"] > 0
    engine.dispose()
    assert ".restore.db" not in names(settings.data_dir)
