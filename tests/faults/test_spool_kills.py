"""SIGKILL of a real process that appends, deletes and saves model states as fast as it can."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forewarn_edge_agent.spool import FILE_NAME, Batch, Spool
from forewarn_models import wire
from tests.edge_agent.test_spool import NOW, everything, held

KILLS = 15
# Each commit holds ten records, and now and then the state of a model that says which was the last of them; what is
# committed is printed, then acknowledged, and so deleted at once: nothing acknowledged is kept here.
WORKER = """
import sys
from pathlib import Path
from forewarn_edge_agent.spool import AssetRow, Batch, Spool
spool = Spool.open(Path(sys.argv[1]), max_bytes=4 * 1024 * 1024, now_ms=0, keep_acknowledged_hours=0)
print("ready", flush=True)
while True:
    first = spool.last_seq("telemetry") + 1
    bodies = [b"%d " % seq * 50 for seq in range(first, first + 10)]
    state = b"%020d" % (first + 9) * 10_000
    row = AssetRow(asset="a", asset_type="generic", signals=("x",), state=state, memory=None, condition="NORMAL",
                   maturity="MATURE", health_index=1.0, observed_at_ms=0, samples=first)
    spool.append(Batch(telemetry=bodies, assets=(row,) if first % 3 == 1 else None), now_ms=0)
    print(first + 9, flush=True)
    spool.acknowledge("telemetry", spool.epoch, first + 4)
"""


def work_and_die(folder: Path, chance: random.Random) -> int:
    """The last record that the process said was committed before it was killed."""
    command = [sys.executable, "-c", WORKER, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for _ in range(chance.randrange(1, 15)):
        process.stdout.readline()
    time.sleep(chance.random() * 0.01)  # anywhere within a commit
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    rest = process.stdout.read().split("\n")[:-1]
    process.stdout.close()
    return int(rest[-1]) if rest else 0


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, int, dict[int, bytes], list[bytes]]]:
    """Of each kill: the last confirmed record, the last sequence given, what is held, and the saved states."""
    folder, chance, found = tmp_path_factory.mktemp("killed"), random.Random(7), []
    for _ in range(KILLS):
        confirmed = work_and_die(folder, chance)
        spool = Spool.open(folder, max_bytes=4 * 1024 * 1024, now_ms=NOW, keep_acknowledged_hours=0)
        states = [row.state for row in spool.assets()]
        found.append((confirmed, spool.last_seq("telemetry"), held(spool), states))
        spool.close()
    return found


def test_fault_03_sigkill_during_spool_delete_reuses_no_sequence(
    killed: list[tuple[int, int, dict[int, bytes], list[bytes]]],
) -> None:
    """Each body says under which sequence it was meant to be: one that was given twice would hold another."""
    before = 0
    for confirmed, last_seq, records, _ in killed:
        assert last_seq >= max(confirmed, before)
        assert records == {seq: b"%d " % seq * 50 for seq in records}
        assert set(range(last_seq - 4, last_seq + 1)) <= set(records), "what was not acknowledged is there"
        before = last_seq
    assert before > 100


def test_fault_04_sigkill_during_model_state_save_leaves_the_old_or_the_new_state(
    killed: list[tuple[int, int, dict[int, bytes], list[bytes]]],
) -> None:
    for _, last_seq, _, states in killed:
        (state,) = states
        assert state == state[:20] * 10_000, "never half"
        assert last_seq - 30 < int(state[:20]) <= last_seq, "and of the records that are there"


def test_fault_03_without_autoincrement_an_empty_lane_would_begin_again(tmp_path: Path) -> None:
    """What the keyword is for: SQLite gives the highest row plus one, and of no row there is none."""
    with sqlite3.connect(tmp_path / "plain.db") as connection:
        connection.execute("CREATE TABLE lane (seq INTEGER PRIMARY KEY, body BLOB)")
        given = []
        for _ in range(2):
            given.append(connection.execute("INSERT INTO lane (body) VALUES (x'00')").lastrowid)
            connection.execute("DELETE FROM lane")
    connection.close()
    assert given == [1, 1]
    spool = Spool.open(tmp_path, max_bytes=1024 * 1024, now_ms=NOW, keep_acknowledged_hours=0)
    lanes: tuple[wire.Lane, ...] = wire.LANES
    for round_number in (1, 2):
        spool.append(Batch(telemetry=[b"a"], advisories=[b"b"], assets=()), now_ms=NOW)
        for lane in lanes:
            assert set(everything(spool, lane)) == {round_number}
            assert spool.acknowledge(lane, spool.epoch, round_number)
        spool.append(Batch(assets=()), now_ms=NOW)
        assert [held(spool, lane) for lane in lanes] == [{}, {}]
    spool.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        tables = connection.execute("SELECT sql FROM sqlite_master WHERE name IN ('telemetry', 'advisory')").fetchall()
    connection.close()
    assert all("AUTOINCREMENT" in sql for (sql,) in tables)
