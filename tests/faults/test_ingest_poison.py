"""Messages that the database or our own code cannot store, in the midst of those of others."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Final, TypeVar

import pytest
from sqlalchemy import Engine

from forewarn_cloud.adapters.ingest_sql import SqlLedger
from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from forewarn_cloud.errors import Unavailable
from forewarn_cloud.ingest import writer as writer_module
from forewarn_cloud.ingest.ledger import LedgerTransaction
from forewarn_cloud.ingest.messages import Delivery, sender_of
from forewarn_cloud.telemetry import TelemetryRecord
from tests.cloud.ingest.sending import NOW, advisory, birth, enrol, message, rows, telemetry
from tests.cloud.ingest.test_writer import Ingesting
from tests.conftest import together, wait_until
from tests.faults.refusing import BAD, Kind, execute, refusing

T = TypeVar("T")
NODES: Final = [f"n{i:02}" for i in range(60)]
GUILTY: Final = NODES[1::12]
INNOCENT: Final = [node for node in NODES if node not in GUILTY]


class Counting(SqlLedger):
    """Counts its transactions."""

    transactions = 0

    def run(self, work: Callable[[LedgerTransaction], T]) -> T:
        type(self).transactions += 1
        return super().run(work)


@dataclass(frozen=True)
class Failing(SqlTelemetry):
    before: Callable[[], None]

    def append(self, records: Sequence[TelemetryRecord]) -> None:
        self.before()
        super().append(records)


def enrol_all(engine: Engine) -> None:
    for node in NODES:
        enrol(engine, node, f"asset-{node}")


def batch(each: int = 5) -> list[Delivery]:
    """Of every node some messages, one of which is poison where the node is to blame."""
    middle = each // 2 + 1
    return [
        message(seq, telemetry(f"asset-{n}", t=BAD if n in GUILTY and seq == middle else NOW + seq), node=n)
        for seq in range(1, each + 1)
        for n in NODES
    ]


def assert_all_done(ingest: Ingesting, sent: Sequence[Delivery], each: int = 5) -> None:
    assert {id(delivery) for delivery in ingest.broker.acknowledged} == set(map(id, sent))
    assert len(ingest.stored) == each * len(NODES) - len(GUILTY)
    assert rows(ingest.engine, "quarantine", "node", "seq") == [(node, each // 2 + 1) for node in GUILTY]
    reached = rows(ingest.engine, "lane_progress", "contiguous_seq", "records_stored", "records_quarantined")
    assert set(reached) == {(each, each, 0), (each, each - 1, 1)}


def feed_counting(
    ingest: Ingesting, sent: Sequence[Delivery], monkeypatch: pytest.MonkeyPatch, nodes: Sequence[str] = INNOCENT
) -> int:
    """How many transactions it takes until all that these nodes sent is acknowledged."""
    innocent = {id(delivery) for delivery in sent if sender_of(delivery.topic)[1] in nodes}
    acknowledge, needed = ingest.broker.acknowledge, list[int]()
    Counting.transactions = 0

    def noting(deliveries: Sequence[Delivery]) -> None:
        acknowledge(deliveries)
        if innocent <= {id(delivery) for delivery in ingest.broker.acknowledged}:
            needed.append(Counting.transactions)

    monkeypatch.setattr(ingest.broker, "acknowledge", noting)
    ingest.feed(*sent)
    return needed[0]


def test_fault_23_poison_of_some_nodes_costs_the_others_two_transactions_more(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch, a search, the batch without those to blame: however many these are."""
    monkeypatch.setattr(writer_module, "SEARCH_SECONDS", 60.0)
    enrol_all(engine)
    ingest, sent = Ingesting(engine, Counting(engine)), batch()
    with refusing(engine):
        assert feed_counting(ingest, sent, monkeypatch) == 3
    assert_all_done(ingest, sent)


def all_poison_is_found(engine: Engine, kind: Kind = "at the row") -> None:
    enrol_all(engine)
    ingest, sent = Ingesting(engine), batch()
    with refusing(engine, kind):
        ingest.feed(*sent)
    assert_all_done(ingest, sent)


@pytest.mark.parametrize("kind", ["at the row", "with the whole transaction", "at the commit"])
def test_fault_23_poison_is_found_wherever_the_database_refuses_it(engine: Engine, kind: Kind) -> None:
    all_poison_is_found(engine, kind)


def test_fault_23_a_search_without_time_finds_all_poison_in_the_end(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine so loaded that each try takes longer than the whole search may."""
    monkeypatch.setattr(writer_module, "SEARCH_SECONDS", 0.0)
    all_poison_is_found(engine)


def test_fault_23_who_is_cleared_in_a_search_without_time_does_not_wait_for_the_next(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "SEARCH_SECONDS", 0.0)
    enrol_all(engine)
    ingest = Ingesting(engine, Counting(engine))
    sent = [message(1, telemetry(f"asset-{n}", t=BAD if n == NODES[20] else NOW), node=n) for n in NODES]
    cleared = [*NODES[:15], *NODES[30:]]
    with refusing(engine):
        assert feed_counting(ingest, sent, monkeypatch, cleared) == 3
    assert len(ingest.stored) == len(NODES) - 1
    assert rows(engine, "quarantine", "node", "seq") == [(NODES[20], 1)]


def test_fault_23_keys_that_are_taken_cost_the_others_two_transactions_more(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restore of one table and not of the other."""
    monkeypatch.setattr(writer_module, "SEARCH_SECONDS", 60.0)
    enrol_all(engine)
    ingest = Ingesting(engine, Counting(engine))
    ingest.feed(*(message(3, advisory(f"asset-{node}"), node=node, lane="advisory") for node in GUILTY))
    execute(engine, ["DELETE FROM lane_progress"])
    ingest.restart()
    ingest.broker.acknowledged.clear()
    sent = [message(seq, advisory(f"asset-{n}"), node=n, lane="advisory") for seq in range(1, 6) for n in NODES]
    assert feed_counting(ingest, sent, monkeypatch) == 3
    assert {id(delivery) for delivery in ingest.broker.acknowledged} == set(map(id, sent))
    assert rows(engine, "quarantine", "node", "seq") == [(node, 3) for node in GUILTY]
    assert len(rows(engine, "advisories", "seq")) == 5 * len(NODES)


def test_fault_23_a_message_with_many_poison_records_costs_few_transactions(engine: Engine) -> None:
    enrol(engine, "n1", "pump-1")
    ingest = Ingesting(engine, Counting(engine))
    Counting.transactions = 0
    bad = set(range(0, 100, 3))
    sent = message(1, *(telemetry(t=BAD if n in bad else NOW, value=n) for n in range(100)))
    with refusing(engine):
        ingest.feed(sent)
    assert Counting.transactions == 4, "the message twice, a search, what remains"
    assert ingest.stored == [n + 1 for n in range(100) if n not in bad]
    assert rows(engine, "quarantine", "seq") == [(n + 1,) for n in sorted(bad)]
    assert (ingest.broker.last_ack, ingest.broker.acknowledged) == (100, [sent])


def test_fault_24_an_outage_in_the_midst_of_a_search_leaves_everything_undone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "SEARCH_SECONDS", 60.0)
    enrol_all(engine)
    appended, away = count(1), threading.Event()

    def before() -> None:
        if next(appended) >= 8 and not away.is_set():
            raise Unavailable("away")

    ingest = Ingesting(engine, SqlLedger(engine, telemetry=lambda connection: Failing(connection, before)))
    running, sent = threading.Thread(target=ingest.writer.run, daemon=True), batch()
    for delivery in sent:
        ingest.writer.handover.put(delivery)
    with refusing(engine):
        running.start()
        wait_until(lambda: not ingest.writer.serving, "the outage is noticed")
        assert (ingest.stored, ingest.broker.acknowledged, ingest.broker.acks, ingest.quarantine) == ([], [], [], [])
        away.set()
        wait_until(lambda: len(ingest.broker.acknowledged) == len(sent), "everything is done after it", 60)
        ingest.writer.handover.close()
        ingest.writer.stopping.set()
        running.join()
    assert_all_done(ingest, sent)


def test_fault_23_what_overtakes_its_birth_is_held_although_there_is_poison_in_its_batch(engine: Engine) -> None:
    enrol_all(engine)
    ingest = Ingesting(engine)
    ingest.writer.hold_seconds = 60.0
    early, bad = message(1, telemetry("fan-7"), node="n00"), message(1, telemetry("asset-n01", t=BAD), node="n01")
    with refusing(engine):
        ingest.feed(early, bad)
        assert (ingest.stored, len(ingest.quarantine)) == ([], 1)
        ingest.feed(birth("n00", {"fan-7": "motor_fan"}))
    assert rows(engine, "telemetry_blocks", "asset") == [("fan-7",)]
    assert rows(engine, "quarantine", "node") == [("n01",)]


def test_fault_23_a_search_teaches_no_signal_that_is_not_stored(engine: Engine) -> None:
    enrol_all(engine)
    ingest = Ingesting(engine)
    with refusing(engine):
        ingest.feed(
            message(1, telemetry("asset-n01", t=BAD, signal="torque"), node="n01"),
            message(1, telemetry("asset-n02", signal="flow"), node="n02"),
        )
        assert rows(engine, "asset_signals", "asset", "signal") == [("asset-n02", "flow")]
        ingest.feed(message(2, telemetry("asset-n01", signal="torque"), node="n01"))
    assert ("asset-n01", "torque") in rows(engine, "asset_signals", "asset", "signal")


def test_fault_25_two_ingests_that_store_the_same_at_once_blame_nobody(engine: Engine) -> None:
    """As when one is started while another still runs: each key is taken by the other, and none is poison."""
    enrol_all(engine)
    both = Ingesting(engine), Ingesting(engine)
    for epoch in ("a", "b", "c"):
        sent = [
            message(seq, telemetry(f"asset-{n}", t=NOW + seq), node=n, epoch=epoch) for seq in (1, 2, 3) for n in NODES
        ]
        assert together(*(partial(ingest.feed, *sent) for ingest in both)) == []
    assert rows(engine, "quarantine", "reason") == []
    assert len(both[0].stored) == 3 * 3 * len(NODES)
    assert set(rows(engine, "lane_progress", "contiguous_seq", "records_stored")) == {(3, 3)}
    assert [len(ingest.broker.acknowledged) for ingest in both] == [3 * 3 * len(NODES)] * 2
