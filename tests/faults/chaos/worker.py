"""One process of agents: the real ones, each with its own configuration, spool and connection, fed by its machine.

Only two things are ours: where the samples come from, and that most machines are not assessed, which would cost more
than all the rest.

    python -m tests.faults.chaos.worker PLAN NUMBER
"""

import asyncio
import logging
import signal
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from forewarn_edge_agent import log
from forewarn_edge_agent.agent import Agent
from forewarn_edge_agent.clock import Clock
from forewarn_edge_agent.config import Setup, load
from forewarn_edge_agent.monitor import Judgement, Monitor
from forewarn_edge_agent.pipeline import Pipeline
from forewarn_edge_agent.sources import Deliveries, Delivery
from forewarn_edge_agent.storage import Place, Storage
from forewarn_models import wire
from tests.faults.chaos.journal import Journal
from tests.faults.chaos.machine import Machine
from tests.faults.chaos.plan import Plan

POLL_SECONDS: Final = 0.5
REPEATED_RECORDS: Final = 3
_LOG: Final = logging.getLogger(__name__)


class MachineSource:
    """Delivers what is due and has not been confirmed, as a machine does that keeps what nobody has acknowledged.

    After a crash some of what was confirmed comes again: the receipt need not have arrived.
    """

    def __init__(self, plan: Plan, machine: Machine, journal: Journal) -> None:
        self._plan = plan
        self._machine = machine
        self._journal = journal

    async def run(self, deliveries: Deliveries) -> None:
        record = max(1, self._journal.last + 1 - REPEATED_RECORDS)
        while record <= self._machine.records:
            if self._plan.due_ms(self._machine, record) > time.time() * 1000:
                await asyncio.sleep(POLL_SECONDS)
                continue
            confirm = partial(self._journal.confirm, record)
            await deliveries.put(Delivery(records=(self._machine.record(record),), confirm=confirm))
            record += 1


class Unassessed(Monitor):
    """Knows its assets and their signals, and thinks nothing of them."""

    def observe(self, _record: wire.Telemetry) -> Judgement:
        return Judgement()


class FedAgent(Agent):
    def __init__(self, setup: Setup, clock: Clock, spool: Storage, source: MachineSource, *, assesses: bool) -> None:
        super().__init__(setup, clock, spool)
        self._sources = [source]
        if not assesses:
            self._monitor = Unassessed(setup.asset_types, setup.config.models, spool.assets(), setup.knowledge)
            checkpoint_seconds = setup.config.spool.checkpoint_seconds
            self._pipeline = Pipeline(spool, self._monitor, checkpoint_seconds=checkpoint_seconds)


async def work(plan: Plan, number: int) -> None:
    stop, clock = asyncio.Event(), Clock()
    for kind in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(kind, stop.set)
    with ExitStack() as open_files:
        async with asyncio.TaskGroup() as agents:
            for machine in plan.machines_of(number):
                setup = load(plan.config(machine))
                journal = open_files.enter_context(Journal(plan.journal(machine)))
                max_bytes = setup.config.spool.max_mebibytes * 1024 * 1024
                spool = Storage(Place(state_dir=plan.state_dir(machine), max_bytes=max_bytes), clock.now_ms)
                open_files.callback(spool.close)
                source = MachineSource(plan, machine, journal)
                agent = FedAgent(setup, clock, spool, source, assesses=plan.is_assessed(machine))
                agents.create_task(agent.run(stop), name=machine.node)
            log.event(_LOG, logging.INFO, "started", agents=plan.nodes_each)


def main() -> None:
    plan = Plan.load(Path(sys.argv[1]))
    log.configure("info")
    asyncio.run(work(plan, int(sys.argv[2])))


if __name__ == "__main__":
    main()
