"""Both sides of the comparison, read from the files of a run once everything has stopped."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, func, select

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import make_engine, reading
from forewarn_edge_agent.monitor import Monitor
from forewarn_edge_agent.spool import Inspection, inspect
from forewarn_models import wire
from forewarn_models.asset_type import builtin_asset_type
from forewarn_models.kernel import Settings
from tests.faults.chaos.comparison import AdvisoryKey, Appended, LaneKey, Shelf, Stored, StoredLane
from tests.faults.chaos.journal import last_confirmed
from tests.faults.chaos.machine import ASSET_TYPE, BASELINE_SAMPLES, Machine
from tests.faults.chaos.plan import Plan
from tests.stored import stored_samples, stored_seqs

HOLDING_STOCK: Final = ("RESERVED", "IN_TRANSFER")


# --- the side of the nodes --------------------------------------------------------------------------------------------


def confirmed_samples(plan: Plan, machine: Machine) -> int:
    return last_confirmed(plan.journal(machine)) * machine.samples_per_record


def spool_of(plan: Plan, machine: Machine) -> Inspection | None:
    return inspect(plan.state_dir(machine))


def read_appended(plan: Plan) -> Appended:
    samples = {machine.asset: confirmed_samples(plan, machine) for machine in plan.machines}
    last_seqs = dict[LaneKey, dict[str, int]]()
    for machine in plan.machines:
        if (spool := spool_of(plan, machine)) is not None:
            for lane, state in spool.lanes.items():
                last_seqs[machine.node, lane] = {spool.epoch: state.last_seq}
    assessed = [machine for machine in plan.machines if plan.is_assessed(machine)]
    return Appended(
        samples=samples,
        nodes={machine.asset: machine.node for machine in plan.machines},
        last_seqs=last_seqs,
        advisories=[key for machine in assessed for key in expected_advisories(machine, samples[machine.asset])],
    )


def expected_advisories(machine: Machine, samples: int) -> Iterator[AdvisoryKey]:
    """What the models say of the machine, without any crash."""
    asset_types = {machine.asset: builtin_asset_type(ASSET_TYPE)}
    monitor = Monitor(asset_types, Settings(baseline_samples=BASELINE_SAMPLES))
    for number in range(1, samples // machine.samples_per_record + 1):
        for advisory in monitor.observe(machine.record(number)).advisories:
            yield _advisory_key(machine, advisory, wire.digest(wire.encode_advisory(advisory)))


def _advisory_key(machine: Machine, advisory: wire.Advisory, digest: bytes) -> AdvisoryKey:
    return AdvisoryKey(
        asset=machine.asset,
        sample=machine.number_of(advisory.observed_at),
        condition=advisory.condition,
        reason=advisory.reason,
        digest=digest,
    )


# --- the side of the cloud --------------------------------------------------------------------------------------------


@contextmanager
def looking_at(database: Path) -> Iterator[Connection]:
    engine = make_engine(f"sqlite:///{database}")
    try:
        with reading(engine) as connection:
            yield connection
    finally:
        engine.dispose()


def records_stored(database: Path) -> int:
    with looking_at(database) as connection:
        return int(connection.execute(select(func.sum(schema.lane_progress.c.records_stored))).scalar() or 0)


def waiting_in_cloud(database: Path) -> int:
    """Advisories nobody has acted on, and messages that have not gone out."""
    unhandled = select(func.count()).select_from(schema.advisories).where(schema.advisories.c.handled_at.is_(None))
    unsent = select(func.count()).select_from(schema.outbox).where(schema.outbox.c.state == "PENDING")
    with looking_at(database) as connection:
        return sum(int(connection.execute(query).scalar_one()) for query in (unhandled, unsent))


def read_stored(plan: Plan, database: Path) -> Stored:
    with looking_at(database) as connection:
        samples, wrong = _samples(plan, connection)
        return Stored(
            samples=samples,
            wrong_samples=wrong,
            lanes=_lanes(connection),
            advisories=_advisories(plan, connection),
            episodes=list(connection.execute(select(schema.episodes.c.id)).scalars()),
            orders=list(connection.execute(select(schema.orders.c.episode_id)).scalars()),
            messages=_messages(connection),
            mails=_mails(connection),
            shelves=_shelves(connection),
        )


def _samples(plan: Plan, connection: Connection) -> tuple[dict[str, Counter[int]], Counter[str]]:
    machines = {machine.asset: machine for machine in plan.machines}
    found, wrong = defaultdict[str, Counter[int]](Counter), Counter[str]()
    for asset, (t_ms, readings) in stored_samples(connection):
        numbers = [machines[asset].number_of(int(t)) for t in t_ms]
        found[asset].update(numbers)
        wrong[asset] += _wrong(machines[asset], numbers, readings)
    return found, wrong


def _wrong(machine: Machine, numbers: Sequence[int], readings: Any) -> int:
    """How many of these samples are not what the machine measured, to the last bit."""
    if readings.keys() != machine.readings.keys() or not all(1 <= number <= machine.samples for number in numbers):
        return len(numbers)
    rows = np.asarray(numbers) - 1
    same = [machine.readings[name][rows] == readings[name] for name in readings]
    return int((~np.logical_and.reduce(same)).sum())


def _lanes(connection: Connection) -> dict[LaneKey, dict[str, StoredLane]]:
    seqs = defaultdict[tuple[str, str, str], list[int]](list)
    seqs |= {(node, "telemetry", epoch): stored for (node, epoch), stored in stored_seqs(connection).items()}
    told = schema.advisories.c
    for node, epoch, seq in connection.execute(select(told.node, told.epoch, told.seq)):
        seqs[node, "advisory", epoch].append(seq)
    gaps, gap_seqs = defaultdict[tuple[str, str, str], list[tuple[int, int]]](list), defaultdict[Any, list[int]](list)
    for row in connection.execute(select(schema.gaps)):
        gaps[row.node, row.lane, row.epoch].append((row.first_seq, row.last_seq))
        gap_seqs[row.node, row.lane, row.epoch].append(row.seq)
    quarantined = defaultdict[Any, list[int]](list)
    for row in connection.execute(select(schema.quarantine).where(schema.quarantine.c.seq.is_not(None))):
        quarantined[row.node, row.lane, row.epoch].append(row.seq)
    lanes = defaultdict[LaneKey, dict[str, StoredLane]](dict)
    for key in {*seqs, *gaps, *quarantined}:
        node, lane, epoch = key
        lanes[node, lane][epoch] = StoredLane(
            seqs=seqs[key], gaps=gaps[key], gap_seqs=gap_seqs[key], quarantined=quarantined[key]
        )
    return lanes


def _advisories(plan: Plan, connection: Connection) -> list[AdvisoryKey]:
    machines, table = {machine.asset: machine for machine in plan.machines}, schema.advisories.c
    return [
        AdvisoryKey(
            asset=row.asset,
            sample=machines[row.asset].number_of(row.observed_at),
            condition=row.body["condition"],
            reason=row.body["reason"],
            digest=bytes(row.digest),
        )
        for row in connection.execute(select(table.asset, table.observed_at, table.body, table.digest))
    ]


def _messages(connection: Connection) -> list[tuple[str, ...]]:
    """One for each thing there is to tell: an order of these machines is opened once and withdrawn once."""
    table = schema.outbox.c
    rows = connection.execute(select(table.kind, table.order_id, table.channel, table.recipient))
    return [tuple(map(str, row)) for row in rows]


def _mails(connection: Connection) -> list[tuple[str, ...]]:
    """Copies under one message id are not counted: who receives them knows them by it."""
    table = schema.mailbox.c
    return [tuple(map(str, row)) for row in connection.execute(select(table.recipient, table.subject, table.body))]


def _shelves(connection: Connection) -> list[Shelf]:
    held, table = Counter[tuple[str, str]](), schema.reservations.c
    query = select(table.part_no, table.from_depot, table.quantity).where(table.state.in_(HOLDING_STOCK))
    for part_no, depot, quantity in connection.execute(query):
        held[part_no, depot] += quantity
    return [
        Shelf(
            part_no=row.part_no,
            depot=row.depot,
            on_hand=row.on_hand,
            reserved=row.reserved,
            held=held[row.part_no, row.depot],
        )
        for row in connection.execute(select(schema.stock))
    ]
