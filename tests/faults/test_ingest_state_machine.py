"""Whatever becomes of messages on their way, the database ends as if they had come once and in order.

The machine lets nodes record, drop, publish, be born and lose their spool, and lets messages be delivered in any order
and number or be lost, while ingest and the workers of the service chain are killed and started. In the end each node
sends what it believes unacknowledged, and the database is compared with one that was fed plainly.

Restrictions, each for a reason: a node drops only what it never published (else whether the record got through is
chance); a node that lost its spool tells evidence about another machine than before (evidence of one machine that
overtakes itself from one spool file to the next is late evidence, which is counted and changes nothing). What is
decided depends on what was known at the time; so evidence that confirms is always the same, it is the last that a
machine tells, and orders are compared where that is so.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count as counting
from pathlib import Path
from typing import Any, ClassVar, Final

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import Engine, insert

from forewarn_cloud.adapters.ingest_sql import SqlLedger
from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import make_engine, reading, writing
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from forewarn_cloud.ingest.ledger import LedgerTransaction
from forewarn_cloud.ingest.messages import Delivery
from forewarn_cloud.service.policy import Policy
from forewarn_models import wire
from tests.cloud.clock import FixedClock
from tests.cloud.ingest import sending
from tests.cloud.ingest.test_writer import Ingesting
from tests.cloud.world import HOUR_MS, SEAL, START_MS, TENANT, World, advisory, make_world, normal

NODES: Final = ("edge-1", "edge-2")
LANES: Final = wire.LANES
NOW_MS: Final = START_MS + 25 * 24 * HOUR_MS
EXAMPLES: Final = int(os.environ.get("FOREWARN_STATE_MACHINE_EXAMPLES", "12"))
STEPS: Final = int(os.environ.get("FOREWARN_STATE_MACHINE_STEPS", "25"))
PHASES: Final = tuple(Phase) if os.environ.get("FOREWARN_STATE_MACHINE_SHRINK") else (Phase.explicit, Phase.generate)
"""Finding the smallest example takes minutes; the one found says enough, usually."""
PLENTY: Final = {SEAL: {"north": 1000}, "PMP-GSK-01": {"north": 1000}}


class Killed(BaseException):
    """Ingest ends here."""


@dataclass(frozen=True)
class FragileLedger(SqlLedger):
    """A ledger whose process dies before the next commit, if told so."""

    dies: list[bool] = field(default_factory=list)

    def run(self, work: Any) -> Any:
        def killed(transaction: LedgerTransaction) -> Any:
            result = work(transaction)
            if self.dies and self.dies.pop():
                raise Killed
            return result

        return super().run(killed)


@dataclass
class Stream:
    """One lane of one spool file: records by sequence, None where they were dropped."""

    node: str
    lane: wire.Lane
    epoch: str
    records: list[bytes | None] = field(default_factory=list)
    published: int = 0
    """Up to this sequence records have been given to the network at least once."""
    acknowledged: int = 0
    gaps: set[int] = field(default_factory=set)
    """Which of them are gap records: the last to be dropped."""

    @property
    def last_seq(self) -> int:
        return len(self.records)

    def first_held(self) -> int:
        """The first sequence the node can still send."""
        held = (seq for seq in range(self.acknowledged + 1, self.last_seq + 1) if self.records[seq - 1] is not None)
        return next(held, self.last_seq + 1)

    def messages(self, first: int, last: int, size: int) -> Iterator[Delivery]:
        """Records `first` to `last` in messages of at most `size`; one ends where a record was dropped."""
        chunk, start = list[bytes](), first
        for seq in range(first, last + 2):
            body = self.records[seq - 1] if seq <= last else None
            if body is not None:
                chunk.append(body)
            if chunk and (body is None or len(chunk) == size):
                yield self._message(start, chunk)
                chunk = []
            if not chunk:
                start = seq + 1

    def _message(self, seq: int, records: list[bytes]) -> Delivery:
        payload = wire.encode_message(self.epoch, seq, records)
        return Delivery(topic=wire.topic(TENANT, self.node, self.lane), payload=payload)


@dataclass
class Node:
    name: str
    epoch: int = 0
    hours: int = 0
    streams: dict[tuple[str, int], Stream] = field(default_factory=dict)

    def stream(self, lane: wire.Lane) -> Stream:
        new = Stream(self.name, lane, f"epoch-{self.epoch}")
        return self.streams.setdefault((lane, self.epoch), new)

    @property
    def asset(self) -> str:
        return f"{self.name}-pump-{self.epoch}"

    def birth(self) -> Delivery:
        """It tells from where on the node still holds records: above what it believes acknowledged."""
        lanes = {lane: self.stream(lane) for lane in LANES}
        return self._birth(
            epochs={lane: stream.epoch for lane, stream in lanes.items()},
            first_seqs={lane: stream.first_held() for lane, stream in lanes.items()},
        )

    def first_birth(self) -> Delivery:
        """Of a node whose records are all still to come."""
        return self._birth()

    def _birth(self, **changes: Any) -> Delivery:
        return sending.birth(
            self.name,
            {f"{self.name}-pump-{epoch}": "centrifugal_pump" for epoch in range(self.epoch + 1)},
            at=NOW_MS,
            **changes,
        )


def record(node: Node, lane: wire.Lane, kind: str) -> bytes:
    """A record of the next hour; `kind`: well, ill or bad."""
    node.hours += 2
    asset = "ghost" if kind == "bad" else node.asset
    if lane == "telemetry":
        return sending.telemetry(asset, t=START_MS + node.hours * HOUR_MS, value=float(node.hours), signal="flow_m3_h")
    made = normal(asset, at_hours=node.hours) if kind == "well" else advisory(asset, at_hours=node.hours)
    return wire.encode_advisory(made)


class Cloud:
    """A database with ingest and the workers, driven by hand."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.world = World(engine=engine, clock=FixedClock(at_ms=NOW_MS), policy=Policy())
        self.ledger = FragileLedger(engine)
        self.ingest = Ingesting(engine, self.ledger)
        self.ingest.clock = self.world.clock
        self.restart()

    def restart(self) -> None:
        self.ingest.restart()
        self.ingest.writer.hold_seconds = 1e9  # records of machines that are not declared wait for the birth

    def feed(self, *deliveries: Delivery) -> list[tuple[str, wire.Ack]]:
        """What was acknowledged by it."""
        self.ingest.broker.acks.clear()
        self.ingest.feed(*deliveries)
        return list(self.ingest.broker.acks)

    def facts(self) -> dict[str, Any]:
        """What the database says, without what depends on the order of arrival by its nature: row ids and counts of
        repeats."""
        lanes = sending.rows(self.engine, "lane_progress", "node", "lane", "epoch", "contiguous_seq", "ahead")
        counts = sending.rows(self.engine, "lane_progress", "node", "lane", "epoch", "records_stored")
        episode = ("asset", "failure_mode", "state", "started_at", "last_evidence_at", "cleared_at", "advisory_count")
        assets = sending.rows(self.engine, "assets", "asset", "node", "asset_type")
        return {
            "assets": assets,
            "signals": sending.rows(self.engine, "asset_signals", "asset", "signal"),
            "progress": lanes,
            "counts": counts,
            "telemetry": {asset: self._telemetry(asset) for asset, *_ in assets},
            "advisories": sending.rows(self.engine, "advisories", "node", "epoch", "seq", "digest", "handled_at"),
            "quarantine": sending.rows(self.engine, "quarantine", "node", "lane", "epoch", "seq", "reason", "security"),
            "gaps": self._lost(),
            "health": sending.rows(self.engine, "asset_health", "asset", "observed_at", "condition"),
            "episodes": sending.rows(self.engine, "episodes", *episode),
        }

    def orders(self) -> list[tuple[Any, ...]]:
        """Those that are open."""
        return sorted(
            (order.asset, order.failure_mode, order.state, sorted(self.world.reservations(order).items()))
            for order in self.world.orders()
            if order.state != "WITHDRAWN"
        )

    def _telemetry(self, asset: str) -> tuple[list[int], dict[str, list[float]]]:
        with reading(self.engine) as connection:
            found = SqlTelemetry(connection).read(
                tenant=TENANT, asset=asset, signals=None, from_ms=0, to_ms=2**62, max_points=10_000
            )
        return found.t_ms.tolist(), {name: column.tolist() for name, column in found.signals.items()}

    def _lost(self) -> set[tuple[str, str, str, int]]:
        """Records that will never come. Who said so first, the birth or the gap record, is chance."""
        return {
            (node, lane, epoch, seq)
            for node, lane, epoch, first, last in sending.rows(
                self.engine, "gaps", "node", "lane", "epoch", "first_seq", "last_seq"
            )
            for seq in range(first, last + 1)
        }


class IngestMachine(RuleBasedStateMachine):
    """Everything between the spools and the database that can go wrong."""

    databases: ClassVar["Databases"]

    def __init__(self) -> None:
        super().__init__()
        self.nodes = [Node(name) for name in NODES]
        self.cloud = Cloud(self.databases.fresh())
        self.under_way = list[Delivery]()

    # --- nodes ------------------------------------------------------------------------------------------------------

    @rule(
        node=st.sampled_from(range(len(NODES))),
        lane=st.sampled_from(LANES),
        kinds=st.lists(st.sampled_from(["well", "well", "ill", "ill", "bad"]), min_size=1, max_size=6),
        size=st.integers(0, 3),
    )
    def record(self, node: int, lane: wire.Lane, kinds: list[str], size: int) -> None:
        """What is recorded is published at once, in messages of `size`, or not yet."""
        at = self.nodes[node]
        at.stream(lane).records += [record(at, lane, kind) for kind in kinds]
        if size:
            self.publish(node, lane, size, again=False)

    @rule(
        node=st.sampled_from(range(len(NODES))),
        lane=st.sampled_from(LANES),
        size=st.integers(1, 5),
        again=st.booleans(),
    )
    def publish_more(self, node: int, lane: wire.Lane, size: int, again: bool) -> None:
        self.publish(node, lane, size, again)

    def publish(self, node: int, lane: wire.Lane, size: int, again: bool) -> None:
        stream = self.nodes[node].stream(lane)
        first = stream.acknowledged if again else stream.published
        self.under_way += stream.messages(first + 1, stream.last_seq, size)
        stream.published = stream.last_seq

    @rule(node=st.sampled_from(range(len(NODES))), lane=st.sampled_from(LANES), count=st.integers(1, 4))
    def drop(self, node: int, lane: wire.Lane, count: int) -> None:
        """The spool is full: the oldest that was never published goes, and a gap record tells."""
        stream = self.nodes[node].stream(lane)
        first = stream.published + 1
        last = min(first + count - 1, stream.last_seq, *(gap - 1 for gap in stream.gaps if gap >= first))
        if first > last:
            return
        stream.records[first - 1 : last] = [None] * (last - first + 1)
        stream.records.append(wire.encode_gap(wire.Gap(first_seq=first, last_seq=last, reason="spool full")))
        stream.gaps.add(stream.last_seq)
        stream.published = last

    @rule(node=st.sampled_from(range(len(NODES))))
    def bear(self, node: int) -> None:
        self.under_way.append(self.nodes[node].birth())

    @precondition(lambda self: any(node.epoch < 2 for node in self.nodes))
    @rule(node=st.sampled_from(range(len(NODES))))
    def lose_the_spool(self, node: int) -> None:
        """A new spool file begins, with what could be read of the old one: all but the newest, which counts as never
        recorded."""
        at = self.nodes[node]
        if at.epoch >= 2:
            return
        for lane in LANES:
            stream = at.stream(lane)
            del stream.records[max(stream.published, *stream.gaps, 0) :]
        at.epoch += 1
        self.under_way.append(at.birth())

    # --- the network ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.under_way)
    @rule(chosen=st.lists(st.integers(0, 10_000), min_size=1, max_size=12), kept=st.booleans(), heard=st.booleans())
    def deliver(self, chosen: list[int], kept: bool, heard: bool) -> None:
        """Some of what is under way, in any order, some of it more than once. Acknowledgements may be lost."""
        acks = self.cloud.feed(*self._choose(chosen, kept))
        if heard:
            self._hear(acks)

    @precondition(lambda self: self.under_way)
    @rule(chosen=st.lists(st.integers(0, 10_000), min_size=1, max_size=12), count=st.integers(1, 12))
    def lose(self, chosen: list[int], count: int) -> None:
        self._choose(chosen[:count], kept=False)

    # --- the cloud --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.under_way)
    @rule(chosen=st.lists(st.integers(0, 10_000), min_size=1, max_size=12), committed=st.booleans())
    def kill_ingest(self, chosen: list[int], committed: bool) -> None:
        """Before the commit, or after it and before anybody was told."""
        batch = self._choose(chosen, kept=True)
        if committed:
            self.cloud.feed(*batch)
        else:
            self.cloud.ledger.dies.append(True)
            with pytest.raises(Killed):
                self.cloud.feed(*batch)
        self.cloud.restart()

    @rule()
    def handle(self) -> None:
        """The workers of the service chain have a turn."""
        self.cloud.world.work()

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def no_more_is_acknowledged_than_recorded_and_no_more_ordered_than_needed(self) -> None:
        for node in self.nodes:
            for stream in node.streams.values():
                assert stream.acknowledged <= stream.last_seq
        of = [order.episode_id for order in self.cloud.world.orders()]
        assert len(of) == len(set(of))

    def teardown(self) -> None:
        """Each node sends what it believes unacknowledged; then the database is as plain delivery makes it."""
        try:
            self.cloud.restart()
            self._finish()
            plain = self._plainly()
            found, expected = self.cloud.facts(), plain.facts()
            for what, value in expected.items():
                assert found[what] == value, what
            telling = {node.asset for node in self.nodes}
            orders = [[order for order in cloud.orders() if order[0] in telling] for cloud in (self.cloud, plain)]
            assert orders[0] == orders[1]
            assert len(orders[0]) == len(telling)
            for cloud in (self.cloud, plain):
                held = [part for *_, parts in cloud.orders() for part in parts if part[0] == SEAL]
                assert cloud.world.stock(SEAL)[1] == len(held), "each open order holds its part"
        finally:
            self.databases.done()

    def _plainly(self) -> Cloud:
        """A cloud to which everything came once and in order."""
        plain = Cloud(self.databases.fresh())
        plain.ingest.writer.hold_seconds = 0.0
        for node in self.nodes:
            plain.feed(node.first_birth())
            for stream in node.streams.values():
                for message in stream.messages(1, stream.last_seq, 500):
                    plain.feed(message)
                    plain.world.work()
        return plain

    def _finish(self) -> None:
        for node in self.nodes:
            node.stream("advisory").records.append(record(node, "advisory", "ill"))
            self._hear(self.cloud.feed(node.birth()))
        self.cloud.ingest.writer.hold_seconds = 0.0
        for node in self.nodes:
            for stream in node.streams.values():
                self._hear(self.cloud.feed(*stream.messages(stream.acknowledged + 1, stream.last_seq, 7)))
                assert stream.acknowledged == stream.last_seq, "what a node sends last is acknowledged"
        self.cloud.world.work()

    def _choose(self, chosen: list[int], kept: bool) -> list[Delivery]:
        places = [place % len(self.under_way) for place in chosen]
        found = [self.under_way[place] for place in places]
        if not kept:
            self.under_way = [one for place, one in enumerate(self.under_way) if place not in places]
        return found

    def _hear(self, acks: list[tuple[str, wire.Ack]]) -> None:
        for topic, ack in acks:
            for node in self.nodes:
                for stream in node.streams.values():
                    if topic == wire.topic(TENANT, node.name, "ack") and (ack.lane, ack.epoch) == (
                        stream.lane,
                        stream.epoch,
                    ):
                        stream.acknowledged = max(stream.acknowledged, ack.seq)


@dataclass
class Databases:
    """Fresh databases with the same small world; `make` gives an engine and how to be rid of it."""

    make: Callable[[ExitStack], Engine]
    open: ExitStack = field(default_factory=ExitStack)

    def fresh(self) -> Engine:
        return self.make(self.open)

    def done(self) -> None:
        self.open.close()


def seed(engine: Engine) -> None:
    """Two nodes. The first machine of each is known and has its place; those that come later are only declared."""
    migrate(engine)
    make_world(engine, PLENTY, Policy())
    sending.enrol(engine, "edge-2")
    known = {"tenant": TENANT, "asset_type": "centrifugal_pump", "site": "works", "created_at": START_MS}
    with writing(engine) as connection:
        for node in NODES:
            name = f"{node}-pump-0"
            connection.execute(insert(schema.assets).values(**known, node=node, asset=name, name=name))


def run(databases: Databases, examples: int, steps: int) -> None:
    profile = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=PHASES,
    )
    machine = type("Machine", (IngestMachine,), {"databases": databases})
    run_state_machine_as_test(machine, settings=profile)


def test_any_fate_of_messages_ends_in_the_same_database_sqlite(tmp_path: Path) -> None:
    template = tmp_path / "template.db"
    engine = make_engine(f"sqlite:///{template}")
    seed(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    numbers = counting()

    def make(opened: ExitStack) -> Engine:
        file = tmp_path / f"{next(numbers)}.db"
        shutil.copy(template, file)
        made = make_engine(f"sqlite:///{file}")
        opened.callback(file.unlink)
        opened.callback(made.dispose)
        return made

    run(Databases(make), EXAMPLES, STEPS)


def test_any_fate_of_messages_ends_in_the_same_database_postgresql(postgres_url: str) -> None:
    engine = make_engine(postgres_url)
    seed(engine)
    engine.dispose()
    server, _, template = postgres_url.replace("+psycopg", "").rpartition("/")
    numbers = counting()

    def make(opened: ExitStack) -> Engine:
        name = f"{template}_{next(numbers)}"
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        made = make_engine(postgres_url.replace(template, name))
        opened.callback(drop, name)
        opened.callback(made.dispose)
        return made

    def drop(name: str) -> None:
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())

    run(Databases(make), max(EXAMPLES // 5, 2), STEPS)
