"""Fault 33: migrations that are interrupted, that meet, and that find a schema newer than the program."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, select, text

from forewarn_cloud.adapters.sql.engine import make_engine, reading, writing
from forewarn_cloud.adapters.sql.migrating import current_revision, downgrade, migrate, revisions
from tests.cloud.backup.test_backup import fill
from tests.cloud.test_up import PROGRAM

REVISIONS = sorted(revisions())
OLDEST, NEWEST = REVISIONS[0], REVISIONS[-1]
PROJECT = Path(__file__).parents[2]


def rows(engine: Engine, tables: MetaData) -> dict[str, list[tuple[Any, ...]]]:
    """What is in these tables, by these columns."""
    with reading(engine) as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
            for table in tables.sorted_tables
            if table.name != "alembic_version"
        }


def test_fault_33_every_revision_down_and_up_again_keeps_what_it_knows(engine: Engine) -> None:
    fill(engine)
    known = {NEWEST: rows(engine, reflected(engine))}
    for revision in reversed(REVISIONS[:-1]):
        before = rows(engine, before_columns := reflected(engine))
        downgrade(engine, revision)
        kept = reflected(engine)
        assert rows(engine, kept) == only(before, before_columns, kept), revision
        known[revision] = rows(engine, kept)
    for revision in REVISIONS[1:]:
        before, columns = rows(engine, reflected(engine)), reflected(engine)
        migrate(engine, revision)
        assert rows(engine, columns) == before, revision
    assert current_revision(engine) == NEWEST
    assert len(rows(engine, reflected(engine))["orders"]) == 2


def reflected(engine: Engine) -> MetaData:
    found = MetaData()
    with reading(engine) as connection:
        found.reflect(bind=connection)
    return found


def only(found: dict[str, list[tuple[Any, ...]]], of: MetaData, kept: MetaData) -> dict[str, list[tuple[Any, ...]]]:
    """Of these rows the columns that are kept."""
    result = {}
    for name in found.keys() & kept.tables.keys():
        names = [column.name for column in of.tables[name].columns]
        places = [names.index(column.name) for column in kept.tables[name].columns]
        result[name] = sorted((tuple(row[place] for place in places) for row in found[name]), key=repr)
    return result


@pytest.mark.parametrize(("revision", "step"), [(None, 5), (OLDEST, 1)], ids=["empty", "filled"])
def test_fault_33_sigkill_at_each_statement_of_a_migration_leaves_the_old_schema(
    database_url: str, revision: str | None, step: int
) -> None:
    if revision is not None:
        engine = make_engine(database_url)
        migrate(engine)
        fill(engine)
        downgrade(engine, revision)
        engine.dispose()
    command = [sys.executable, "-m", "tests.faults.killing", "migrate", database_url, str(step)]
    killed = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT, timeout=170)
    assert killed.returncode == 0, killed.stderr
    *cut_off, done = [json.loads(line) for line in killed.stdout.splitlines()]
    assert len(cut_off) > 10
    assert all(found == cut_off[0] for found in cut_off), "nothing is half done"
    assert (cut_off[0]["revision"], done["revision"]) == (revision, NEWEST)
    engine = make_engine(database_url)
    if revision is not None:
        assert len(rows(engine, reflected(engine))["orders"]) == 2
    engine.dispose()


@pytest.mark.e2e
def test_fault_33_an_old_program_refuses_a_newer_schema_and_leaves_it_alone(engine: Engine, tmp_path: Path) -> None:
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'f999'"))
    url = engine.url.render_as_string(hide_password=False)
    engine.dispose()
    where = ["--data-dir", str(tmp_path / "data"), "--database-url", url]
    for command in (["up"], ["migrate"], ["backup", str(tmp_path / "b.zip")]):
        refused = subprocess.run([PROGRAM, *command, *where], capture_output=True, text=True, check=False, timeout=60)
        assert refused.returncode == 78
        assert "a newer forewarn has written this database (revision f999): install that or a later" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert current_revision(engine) == "f999"


@pytest.mark.e2e
def test_fault_33_programs_that_migrate_at_once_wait_for_each_other(database_url: str, tmp_path: Path) -> None:
    command = [PROGRAM, "migrate", "--data-dir", str(tmp_path / "data"), "--database-url", database_url]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ended = [process.communicate(timeout=90) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ended
    assert {said for said, _ in ended} == {f"the database is at revision {NEWEST}\n"}
