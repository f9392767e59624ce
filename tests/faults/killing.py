"""Kills a program at each statement of a piece of work: `python -m tests.faults.killing WORK DATABASE_URL [STEP]`.

For each STEPth statement a child is forked that sends itself SIGKILL just before it, and one more for the commit. After
each kill the database is looked at; one JSON line a kill tells what was found. The last line is that of the work done.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Engine, event, inspect

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.adapters.sql.migrating import current_revision, migrate
from forewarn_cloud.service.policy import Policy
from forewarn_cloud.workers.advisories import Advisories
from tests.cloud.clock import FixedClock
from tests.cloud.world import START_MS, World

MAX_KILLS: Final = 500
CHAIN: Final = (
    "episodes",
    "decisions",
    "orders",
    "counters",
    "reservations",
    "outbox",
    "audit",
    "advisories",
    "stock",
    "asset_health",
)


def order(engine: Engine) -> None:
    """An alarm becomes an order with its parts and messages."""
    world = World(engine=engine, clock=FixedClock(at_ms=START_MS), policy=Policy())
    Advisories(transactions=world.transactions, chain=world.chain).handle_next()


def chain_of(engine: Engine) -> dict[str, Any]:
    """Rows by table, what is reserved, and the advisories that wait."""
    world = World(engine=engine, clock=FixedClock(at_ms=START_MS), policy=Policy())
    rows = {name: len(world.rows(schema.metadata.tables[name])) for name in CHAIN}
    reserved = sum(row.reserved for row in world.rows(schema.stock))
    waiting = sum(row.handled_at is None for row in world.rows(schema.advisories))
    return {**rows, "reserved": reserved, "waiting": waiting}


def schema_of(engine: Engine) -> dict[str, Any]:
    """The revision, and the columns of all tables."""
    inspector = inspect(engine)
    columns = {table: len(inspector.get_columns(table)) for table in inspector.get_table_names()}
    return {"revision": current_revision(engine), **columns}


WORKS: Final[dict[str, tuple[Callable[[Engine], None], Callable[[Engine], dict[str, Any]]]]] = {
    "order": (order, chain_of),
    "migrate": (migrate, schema_of),
}


@dataclass
class _Countdown:
    left: int

    def count(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)


def _child(url: str, work: Callable[[Engine], None], kill_at: int) -> None:
    engine, countdown = make_engine(url), _Countdown(kill_at)
    event.listen(engine, "before_cursor_execute", countdown.count)
    event.listen(engine, "commit", countdown.count)
    work(engine)
    os._exit(0)


def _killed(url: str, work: Callable[[Engine], None], kill_at: int) -> bool:
    """Whether the work was cut off; else it is done."""
    child = os.fork()
    if child == 0:
        _child(url, work, kill_at)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == signal.SIGKILL
    assert os.waitstatus_to_exitcode(status) == 0, "the work failed"
    return False


def _look(url: str, look: Callable[[Engine], dict[str, Any]]) -> str:
    """In a process of its own, too: SQLite's locks and a fork do not go together."""
    engine = make_engine(url)
    found = json.dumps(look(engine))
    engine.dispose()
    return found


def main(name: str, url: str, step: str = "1") -> None:
    work, look = WORKS[name]
    for kill_at in range(1, MAX_KILLS, int(step)):
        cut_off = _killed(url, work, kill_at)
        print(_look(url, look), flush=True)
        if not cut_off:
            return
    raise AssertionError("the work does not come to an end")


if __name__ == "__main__":
    main(*sys.argv[1:])
