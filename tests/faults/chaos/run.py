"""A chaos run: 50 agents, the broker and the cloud, all as real processes, killed, suspended and cut off by a schedule
that the seed decides; then everything is compared. The last line on standard output is one JSON object.

    make chaos ARGS="--seed 7 --seconds 600"
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from forewarn_cloud.errors import ServiceError
from tests.faults.chaos.comparison import Verdict, as_json, compare
from tests.faults.chaos.evidence import (
    confirmed_samples,
    read_appended,
    read_stored,
    records_stored,
    spool_of,
    waiting_in_cloud,
)
from tests.faults.chaos.fleet import Fleet, running_fleet
from tests.faults.chaos.plan import Plan
from tests.faults.chaos.schedule import BROKER, INGEST, Action, Fault, schedule
from tests.own_broker import mosquitto_as_deployed

TICK_SECONDS: Final = 0.05
PROGRESS_SECONDS: Final = 10.0
AGENT_READY_SECONDS: Final = 2.0
CLOUD_READY_SECONDS: Final = 15.0
"""For so long a victim has been ready when it is killed. The broker delivers again after ten seconds what was under
way: where kills have to wait for their victims, on a slow machine, the cloud would otherwise never store anything."""
LOOK_SECONDS: Final = 1.0
DRAIN_SECONDS: Final = 300.0
"""Mostly the longest waits that are as they should be: a dead link is noticed after 45 s, a lease ends after 60 s."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    verdict: Verdict
    kills: int
    drained: bool
    ended_by_itself: dict[str, list[int]]
    """Exit statuses of programs that ended although nobody had killed them."""

    @property
    def good(self) -> bool:
        return self.verdict.good and self.drained


@dataclass(kw_only=True)
class Chaos:
    """Carries out a schedule on a fleet; `step` again and again.

    A kill waits until its victim has been ready for a while: killing what only just starts proves little.
    """

    fleet: Fleet
    faults: deque[Fault]
    kills: Counter[str] = field(default_factory=Counter)
    _waiting: list[str] = field(default_factory=list)
    _ends: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def step(self, elapsed_seconds: float) -> None:
        self.fleet.tend()
        for at, end in [entry for entry in self._ends if entry[0] <= elapsed_seconds]:
            self._ends.remove((at, end))
            end()
        while self.faults and self.faults[0].at_seconds <= elapsed_seconds:
            self._begin(self.faults.popleft())
        self._kill_waiting()

    def finish(self) -> None:
        """End the faults that last."""
        for _, end in self._ends:
            end()
        self._ends.clear()
        self._waiting.clear()

    def _begin(self, fault: Fault) -> None:
        if fault.action is Action.KILL:
            self._waiting.append(fault.target)
        elif fault.action is Action.PAUSE:
            self.fleet.send(fault.target, signal.SIGSTOP)
            self._end_at(fault, lambda: self.fleet.send(fault.target, signal.SIGCONT))
        else:
            self._break_link(fault)

    def _break_link(self, fault: Fault) -> None:
        link = self.fleet.links[fault.target]
        match fault.action:
            case Action.CUT:
                link.cut()
                return
            case Action.REFUSE:
                link.refuse()
            case Action.BLACKHOLE:
                link.blackhole()
            case Action.SLOW:
                link.slow(fault.bytes_per_second)
            case _:
                link.flap(2.0)
        self._end_at(fault, link.restore)

    def _end_at(self, fault: Fault, end: Callable[[], None]) -> None:
        self._ends.append((fault.at_seconds + fault.seconds, end))

    def _kill_waiting(self) -> None:
        for target in list(self._waiting):
            least = AGENT_READY_SECONDS if target in self.fleet.agents else CLOUD_READY_SECONDS
            if self.fleet.ready_seconds(target) > least and self.fleet.kill(target):
                self._waiting.remove(target)
                self.kills[target] += 1


def run(
    plan: Plan,
    faults: Sequence[Fault],
    *,
    broker: Callable[[int], list[str]] | None = None,
    drain_seconds: float = DRAIN_SECONDS,
) -> Outcome:
    """Everything of one run; all programs have ended when this returns or raises. `broker`: as of `running_fleet`."""
    with running_fleet(plan, broker) as fleet:
        plan, chaos = fleet.plan, Chaos(fleet=fleet, faults=deque(faults))
        _tell("everything is up")
        began = told = time.monotonic()
        while (elapsed := time.monotonic() - began) < plan.seconds:
            chaos.step(elapsed)
            if time.monotonic() - told >= PROGRESS_SECONDS:
                told = time.monotonic()
                _tell(_progress(plan, fleet, chaos, elapsed))
            time.sleep(TICK_SECONDS)
        chaos.finish()
        drained = drain(fleet, drain_seconds)
        _tell(f"drained: {drained}; kills: {dict(chaos.kills)}")
        verdict = judged(fleet)
    ended = {name: found.ended_by_itself for name, found in fleet.programs.items() if found.ended_by_itself}
    return Outcome(verdict=verdict, kills=chaos.kills.total(), drained=drained, ended_by_itself=ended)


def drain(fleet: Fleet, seconds: float = DRAIN_SECONDS) -> bool:
    """Over good links: whether all that was measured is confirmed, acknowledged by the cloud and acted on in time."""
    for link in fleet.links.values():
        link.restore()
    deadline = told = time.monotonic()
    deadline += seconds
    while (now := time.monotonic()) < deadline:
        fleet.tend()
        waiting = _waiting(fleet)
        if not any(waiting.values()):
            return True
        if now - told >= PROGRESS_SECONDS:
            told = now
            _tell(f"draining: {waiting}")
        time.sleep(LOOK_SECONDS)
    return False


def judged(fleet: Fleet) -> Verdict:
    """Stops everything in order and compares."""
    fleet.stop(*fleet.agents)
    fleet.stop(INGEST, BROKER)
    return compare(read_appended(fleet.plan), read_stored(fleet.plan, fleet.database))


def _waiting(fleet: Fleet) -> dict[str, int]:
    plan = fleet.plan
    spools = [spool_of(plan, machine) for machine in plan.machines]
    return {
        "samples": sum(machine.samples - confirmed_samples(plan, machine) for machine in plan.machines),
        "spooled": sum(1 if spool is None else sum(lane.depth for lane in spool.lanes.values()) for spool in spools),
        "in_cloud": waiting_in_cloud(fleet.database),
    }


def _progress(plan: Plan, fleet: Fleet, chaos: Chaos, elapsed: float) -> str:
    confirmed = sum(confirmed_samples(plan, machine) for machine in plan.machines)
    try:
        stored = records_stored(fleet.database)
    except (ServiceError, SQLAlchemyError):
        stored = -1
    away = [name for name, program in fleet.programs.items() if program.pid is None]
    return (
        f"{elapsed:.0f} of {plan.seconds:.0f} s; kills {chaos.kills.total()}; samples confirmed {confirmed}; "
        f"records stored {stored}; away: {', '.join(away) or '-'}"
    )


def _tell(line: str) -> None:
    print(f"chaos: {line}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=480.0, help="of faults (default %(default)s)")
    parser.add_argument("--processes", type=int, default=10, help="of agents (default %(default)s)")
    parser.add_argument("--nodes-each", type=int, default=5, help="agents in each of them (default %(default)s)")
    parser.add_argument("--samples-per-second", type=float, default=5.5, help="of each machine (default %(default)s)")
    parser.add_argument("--kills", type=int, help="default: 220 in 480 s")
    parser.add_argument("--drain-seconds", type=float, default=DRAIN_SECONDS, help="(default %(default)s)")
    parser.add_argument("--mosquitto", action="store_true", help="as deploy/mosquitto.conf says, for a broker")
    parser.add_argument("--folder", type=Path, help="an empty one, which is kept; default: a temporary one")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        return _main(options, options.folder.resolve())
    with tempfile.TemporaryDirectory(prefix="forewarn-chaos-") as folder:
        return _main(options, Path(folder))


def _main(options: argparse.Namespace, folder: Path) -> int:
    plan = Plan(
        folder=folder,
        seed=options.seed,
        seconds=options.seconds,
        processes=options.processes,
        nodes_each=options.nodes_each,
        samples_per_second=options.samples_per_second,
    )
    faults = schedule(options.seed, seconds=options.seconds, agents=options.processes, kills=options.kills)
    broker = partial(mosquitto_as_deployed, folder) if options.mosquitto else None
    outcome = run(plan, faults, broker=broker, drain_seconds=options.drain_seconds)
    for remark in outcome.verdict.remarks:
        _tell(remark)
    for name, statuses in outcome.ended_by_itself.items():
        _tell(f"{name} ended by itself with {statuses}")
    print(json.dumps(as_json(outcome.verdict, seed=options.seed, seconds=options.seconds, kills=outcome.kills)))
    return 0 if outcome.good else 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
