"""A worker in a process of its own ends with us, and does not end unseen."""

import subprocess
import sys
import threading
from math import inf
from pathlib import Path

from forewarn_cloud.beside import SharedInstant, beside
from tests.conftest import wait_until

PARENT = """
import os, signal, sys, threading
from pathlib import Path
from forewarn_cloud.beside import Ended, beside

folder, how = Path(sys.argv[1]), sys.argv[2]

def work(stopping):
    if how == "fails":
        raise ValueError("on purpose")
    if how == "deaf":
        stopping = threading.Event()
    (folder / "began").touch()
    stopping.wait()
    (folder / "stopped").touch()

with beside("the work", work) as beside_us:
    if how == "killed early":
        os.kill(beside_us.pid, signal.SIGKILL)
        os.waitid(os.P_PID, beside_us.pid, os.WEXITED | os.WNOWAIT)
    if how != "never started":
        beside_us.start()
    if how in ("fails", "killed early"):
        try:
            beside_us.watch(threading.Event())
        except Ended as error:
            print(error)
    else:
        while how != "never started" and not (folder / "began").exists():
            pass
        print(beside_us.pid)
"""


def run(folder: Path, how: str) -> str:
    command = [sys.executable, "-c", PARENT, str(folder), how]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_the_work_is_told_to_stop_and_ends(tmp_path: Path) -> None:
    pid = run(tmp_path, "works")
    assert (tmp_path / "stopped").exists()
    assert not Path(f"/proc/{pid}").exists()


def test_work_that_was_never_started_is_not_done(tmp_path: Path) -> None:
    pid = run(tmp_path, "never started")
    assert not any(tmp_path.iterdir())
    assert not Path(f"/proc/{pid}").exists()


def test_work_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    pid = run(tmp_path, "deaf")
    assert not (tmp_path / "stopped").exists()
    assert not Path(f"/proc/{pid}").exists()


def test_work_that_was_killed_before_it_was_started_is_seen(tmp_path: Path) -> None:
    assert run(tmp_path, "killed early") == "the work ended with status -9"


def test_work_that_fails_is_seen(tmp_path: Path) -> None:
    assert run(tmp_path, "fails") == "the work ended with status 1"


def test_an_instant_noted_in_one_process_is_seen_in_the_other() -> None:
    ours, theirs = SharedInstant(), SharedInstant()

    def work(stopping: threading.Event) -> None:
        while ours.seconds_ago == inf:
            stopping.wait(0.01)
        theirs.note()
        stopping.wait()

    with beside("the work", work) as beside_us:
        beside_us.start()
        assert theirs.seconds_ago == inf
        ours.note()
        wait_until(lambda: theirs.seconds_ago < inf, "the other process notes it, too")
        assert 0.0 <= theirs.seconds_ago <= ours.seconds_ago
