"""Writers race for the last parts: `python -m tests.faults.last_part --runs 1000 --writers 16 DATABASE_URL...`.

Straight at the port, without the locks that the service takes: the last line of defence has to hold by itself. Ends
with one JSON line, and status 1 if a part was sold twice.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import update

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import make_engine, writing
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.adapters.sql.unit_of_work import SqlUnitOfWork
from forewarn_cloud.errors import Contended
from forewarn_cloud.service.policy import Policy
from tests.cloud.world import SEAL, TENANT, World, make_world
from tests.conftest import together

PARTS_A_RUN = 3


def race(world: World, *, runs: int, writers: int) -> dict[str, Any]:
    """Each run puts a few parts on the shelf and lets all writers grab one at once."""
    on_hand = sold = oversold = 0
    for _ in range(runs):
        _restock(world)
        taken = list[int]()

        def grab(taken: list[int] = taken) -> None:
            """Until the part is his, or there is none left."""
            while True:
                try:
                    with SqlUnitOfWork(world.engine) as uow:
                        uow.parts.change_stock(TENANT, SEAL, "north", reserved=1)
                except Contended:
                    if _sold_out(world):
                        return
                else:
                    taken.append(1)
                    return

        failures = together(*[grab] * writers)
        if failures:
            raise failures[0]
        there, reserved = world.stock(SEAL)
        on_hand, sold = on_hand + there, sold + len(taken)
        oversold += max(len(taken) - there, 0) + abs(reserved - len(taken))
    kind = world.engine.dialect.name
    return {"database": kind, "runs": runs, "writers": writers, "on_hand": on_hand, "sold": sold, "oversold": oversold}


def _restock(world: World) -> None:
    with writing(world.engine) as connection:
        shelf = schema.stock.c
        mine = update(schema.stock).where(shelf.part_no == SEAL, shelf.depot == "north")
        connection.execute(mine.values(on_hand=PARTS_A_RUN, reserved=0))


def _sold_out(world: World) -> bool:
    on_hand, reserved = world.stock(SEAL)
    return reserved >= on_hand


def main() -> int:
    asked = argparse.ArgumentParser(description="Is a part ever sold twice?")
    asked.add_argument("--runs", type=int, default=1000)
    asked.add_argument("--writers", type=int, default=16)
    asked.add_argument("urls", nargs="*", metavar="DATABASE_URL", help="empty databases; else a new SQLite file")
    given = asked.parse_args()
    with TemporaryDirectory() as folder:
        results = list[dict[str, Any]]()
        for url in given.urls or [f"sqlite:///{Path(folder) / 'parts.db'}"]:
            engine = make_engine(url)
            migrate(engine)
            world = make_world(engine, {SEAL: {"north": PARTS_A_RUN}}, Policy())
            results.append(race(world, runs=given.runs, writers=given.writers))
            engine.dispose()
    print(json.dumps({"oversold": sum(result["oversold"] for result in results), "races": results}))
    return int(any(result["oversold"] or result["sold"] != result["on_hand"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
