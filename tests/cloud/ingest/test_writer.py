"""From deliveries to committed rows and acknowledgements, on both databases."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, update
from sqlalchemy.exc import IntegrityError

from forewarn_cloud.adapters.ingest_sql import SqlLedger, SqlLedgerTransaction
from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import make_engine, writing
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.adapters.telemetry_compaction import SqlCompaction
from forewarn_cloud.adapters.telemetry_shards import shard_of
from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from forewarn_cloud.errors import Contended, Unavailable
from forewarn_cloud.ingest.handover import BATCH_MESSAGES, HandOver
from forewarn_cloud.ingest.judge import judge
from forewarn_cloud.ingest.ledger import Facts, KnownAsset, KnownNode, Ledger, LedgerTransaction
from forewarn_cloud.ingest.messages import NO_RECEIPT, Delivery, read_delivery
from forewarn_cloud.ingest.quota import Limits, Quota
from forewarn_cloud.ingest.writer import MAX_RECORDS_GIVEN_UP_AN_HOUR, Writer
from forewarn_cloud.telemetry import TelemetryRecord
from forewarn_models import wire
from tests.cloud.clock import FixedClock
from tests.cloud.ingest.sending import (
    NOW,
    TENANT,
    advisory,
    birth,
    by_hand,
    enrol,
    gap,
    message,
    rows,
    telemetry,
)
from tests.conftest import wait_until

T = TypeVar("T")


@dataclass
class Listening:
    """Stands where the broker is: remembers what it was told."""

    acknowledged: list[Delivery] = field(default_factory=list)
    acks: list[tuple[str, wire.Ack]] = field(default_factory=list)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self.acknowledged += deliveries

    def publish(self, topic: str, payload: bytes, *, qos: int) -> bool:
        assert qos == 0
        self.acks.append((topic, wire.decode_control(payload, wire.Ack)))
        return True

    @property
    def last_ack(self) -> int:
        return self.acks[-1][1].seq


class Ingesting:
    """A writer and what it is connected to; `feed` runs a batch through it to its end."""

    def __init__(self, engine: Engine, ledger: Ledger | None = None) -> None:
        self.engine = engine
        self.broker = Listening()
        self.ledger = ledger or SqlLedger(engine)
        self.clock = FixedClock(at_ms=NOW)
        self.restart()

    def restart(self) -> None:
        """As after a crash: what was in memory is gone."""
        self.writer = Writer(
            handover=HandOver(),
            ledger=self.ledger,
            broker=self.broker,
            clock=self.clock,
            tenant=TENANT,
            stopping=threading.Event(),
            hold_seconds=0.0,
        )

    def feed(self, *deliveries: Delivery) -> None:
        handover, stopping = HandOver(), threading.Event()
        self.writer.handover, self.writer.stopping = handover, stopping
        for delivery in deliveries:
            assert handover.put(delivery)
        handover.close()
        stopping.set()
        self.writer.run()

    @property
    def quarantine(self) -> list[tuple[str, bool, int]]:
        return [tuple(row) for row in rows(self.engine, "quarantine", "reason", "security", "times_seen")]

    @property
    def stored(self) -> list[int]:
        return [seq for (seq,) in rows(self.engine, "telemetry_blocks", "seq")]


@pytest.fixture
def ingest(engine: Engine) -> Ingesting:
    enrol(engine, "n1", "pump-1")
    return Ingesting(engine)


def test_records_are_stored_then_acknowledged(ingest: Ingesting) -> None:
    sent = message(1, telemetry(), telemetry(t=NOW + 1))
    ingest.feed(sent)
    assert ingest.stored == [1, 2]
    assert ingest.broker.acknowledged == [sent]
    assert ingest.broker.acks == [("fw/v1/local/n1/ack", wire.Ack(lane="telemetry", epoch="e1", seq=2, at=NOW))]
    progress = rows(ingest.engine, "lane_progress", "lane", "epoch", "contiguous_seq", "records_stored")
    assert progress == [("telemetry", "e1", 2, 2)]


@pytest.mark.parametrize("messages", [BATCH_MESSAGES, BATCH_MESSAGES + 1])
def test_it_is_told_when_there_is_more_than_a_batch_can_hold(ingest: Ingesting, messages: int) -> None:
    ingest.feed(*(message(seq, telemetry()) for seq in range(1, messages + 1)))
    assert (ingest.writer.crowded.seconds_ago < inf) == (messages > BATCH_MESSAGES)


def test_a_hole_holds_the_acknowledgement_back_but_not_the_storing(ingest: Ingesting) -> None:
    ingest.feed(message(1, telemetry()), message(4, telemetry(t=NOW + 3)))
    assert (ingest.stored, ingest.broker.last_ack) == ([1, 4], 1)
    ingest.restart()
    ingest.feed(message(2, telemetry(t=NOW + 1), telemetry(t=NOW + 2)))
    assert (ingest.stored, ingest.broker.last_ack) == ([1, 2, 3, 4], 4)


def test_a_repeat_is_absorbed_and_acknowledged_again(ingest: Ingesting) -> None:
    ingest.feed(message(1, telemetry(), telemetry(t=NOW + 1)))
    ingest.restart()
    ingest.feed(message(1, telemetry(), telemetry(t=NOW + 1)))
    ingest.feed(message(2, telemetry(t=NOW + 1)), message(2, telemetry(t=NOW + 1)))
    assert ingest.stored == [1, 2]
    assert [ack.seq for _, ack in ingest.broker.acks] == [2, 2, 2]
    assert ingest.quarantine == []
    assert rows(ingest.engine, "lane_progress", "records_stored") == [(2,)]


@pytest.mark.parametrize("together", [True, False])
def test_the_same_identity_with_another_body_is_a_security_event(ingest: Ingesting, together: bool) -> None:
    first, other = message(1, telemetry(value=1.0)), message(1, telemetry(value=2.0))
    if together:
        ingest.feed(first, other)
    else:
        ingest.feed(first)
        ingest.feed(other)
    assert ingest.stored == [1]
    assert ingest.quarantine == [("seq: 1 was received before with another body", True, 1)]


def test_a_repeat_of_what_was_compacted_is_absorbed_and_another_body_is_not(ingest: Ingesting) -> None:
    ingest.feed(message(1, telemetry(), telemetry(t=NOW + 1)))
    compaction = SqlCompaction(engine=ingest.engine, rows_worth_a_step=1, look_seconds=0)
    while compaction.step(NOW):
        pass
    ingest.restart()
    ingest.feed(message(1, telemetry(), telemetry(t=NOW + 2)))
    assert ingest.stored == []
    assert ingest.quarantine == [("seq: 2 was received before with another body", True, 1)]


def test_another_body_that_names_another_machine_is_noticed_where_the_first_is_looked_for_last(engine: Engine) -> None:
    """New records lie by machine: those of the one that the repeat names are looked at first."""
    enrol(engine, "n1", "pump-1", "pump-2")
    assert shard_of(TENANT, "pump-1") != shard_of(TENANT, "pump-2")
    ingest = Ingesting(engine)
    ingest.feed(message(1, telemetry("pump-1")))
    ingest.feed(message(1, telemetry("pump-2")))
    assert ingest.quarantine == [("seq: 1 was received before with another body", True, 1)]


def test_a_lane_that_another_ingest_began_meanwhile_is_judged_anew(ingest: Ingesting) -> None:
    """No row of it could be locked, for there was none: its first row is the lock."""
    first = message(1, telemetry(), telemetry(t=NOW + 1))
    other = Ingesting(ingest.engine)
    facts_of_nothing = Facts(
        nodes={(TENANT, "n1"): KnownNode()}, assets={(TENANT, "pump-1"): KnownAsset(node="n1", asset_type="generic")}
    )
    incoming = read_delivery(first, now_ms=NOW)
    assert incoming is not None
    judgement = judge([incoming], facts_of_nothing, tenant=TENANT, at=NOW, last_chance=True)
    other.feed(first)
    with pytest.raises((Contended, IntegrityError)), writing(ingest.engine) as connection:
        SqlLedgerTransaction(connection).write(judgement.changes)
    ingest.feed(first)
    assert ingest.stored == [1, 2]
    assert ingest.quarantine == []


def test_another_body_of_a_quarantined_record_is_noticed_too(ingest: Ingesting) -> None:
    ingest.feed(message(1, telemetry("nobody")))
    ingest.feed(message(1, telemetry("nobody")), message(1, telemetry()))
    assert ("seq: 1 was received before with another body", True, 1) in ingest.quarantine
    assert len(ingest.quarantine) == 2
    assert ingest.stored == []


def test_lanes_and_epochs_count_separately(ingest: Ingesting) -> None:
    ingest.feed(message(1, telemetry()), message(1, advisory(), lane="advisory"), message(1, telemetry(), epoch="e2"))
    progress = rows(ingest.engine, "lane_progress", "lane", "epoch", "contiguous_seq")
    assert progress == [("advisory", "e1", 1), ("telemetry", "e1", 1), ("telemetry", "e2", 1)]
    ((observed_at, body, handled_at),) = rows(ingest.engine, "advisories", "observed_at", "body", "handled_at")
    assert (observed_at, body["condition"], handled_at) == (NOW, "ALARM", None)


def test_one_bad_record_of_a_hundred(ingest: Ingesting) -> None:
    good = {"asset": "pump-1", "asset_type": "generic", "t": [NOW], "signals": {"flow": [1.0]}}
    ingest.feed(by_hand(*[good] * 40, good | {"t": [0]}, *[good] * 59))
    assert len(ingest.stored) == 99
    assert ingest.broker.last_ack == 100, "the bad one counts as received, or it would be sent for ever"
    assert [(seq,) for (seq,) in rows(ingest.engine, "quarantine", "seq")] == [(41,)]
    assert rows(ingest.engine, "lane_progress", "records_stored", "records_quarantined") == [(99, 1)]


def test_machines_of_others_and_of_nobody_are_refused(ingest: Ingesting) -> None:
    enrol(ingest.engine, "n2", "fan-1")
    with writing(ingest.engine) as connection:
        connection.execute(update(schema.assets).where(schema.assets.c.asset == "pump-1").values(deleted_at=NOW))
    ingest.feed(message(1, telemetry("fan-1"), telemetry("unknown"), telemetry("pump-1")))
    assert ingest.quarantine == [
        ("asset: 'fan-1' belongs to node 'n2'", True, 1),
        ("asset: 'pump-1' was deleted", False, 1),
        ("asset: 'unknown' is not registered", False, 1),
    ]
    assert rows(ingest.engine, "assets", "asset") == [("fan-1",), ("pump-1",)]
    assert ingest.broker.last_ack == 3


def test_nodes_that_are_not_enrolled_get_no_acknowledgement_and_one_row(ingest: Ingesting) -> None:
    enrol(ingest.engine, "gone")
    with writing(ingest.engine) as connection:
        connection.execute(update(schema.nodes).where(schema.nodes.c.node == "gone").values(deleted_at=NOW))
    foreign = Delivery(topic="fw/v1/other/n1/telemetry", payload=wire.encode_message("e1", 1, [telemetry()]))
    sent = [message(n, telemetry(t=NOW + n), node=node) for n in range(1, 6) for node in ("unknown", "gone")]
    ingest.feed(*sent, foreign)
    assert ingest.quarantine == [
        ("node: 'gone' was deleted", True, 5),
        ("node: 'unknown' is not enrolled; `forewarn-cloud node add unknown` enrols it", False, 5),
        ("tenant: 'other' is not served here", True, 1),
    ]
    assert ingest.broker.acks == []
    assert len(ingest.broker.acknowledged) == 11
    assert ingest.stored == []


def test_a_birth_registers_machines_even_if_it_is_delivered_last(ingest: Ingesting) -> None:
    ingest.feed(message(1, telemetry("fan-7")), birth(assets={"fan-7": "motor_fan"}))
    assert ingest.stored == [1]
    assert ingest.quarantine == []
    assert ("fan-7", "n1", "motor_fan") in rows(ingest.engine, "assets", "asset", "node", "asset_type")
    assert rows(ingest.engine, "nodes", "online", "version") == [(True, "0.1")]
    noted = rows(ingest.engine, "audit", "actor", "subject_id", "action")
    assert noted == [("node n1", "fan-7", "declared")]


def test_records_that_overtake_the_birth_wait_for_it(engine: Engine) -> None:
    enrol(engine, "n1", "pump-1")
    ledger = Breaking(engine)
    ingest = Ingesting(engine, ledger)
    writer = ingest.writer
    writer.hold_seconds = 60.0
    running = threading.Thread(target=writer.run, daemon=True)
    running.start()
    early = msgspec.structs.replace(message(1, telemetry("fan-7")), receipt=(1, 7))
    late = msgspec.structs.replace(birth(assets={"fan-7": "motor_fan"}), receipt=(1, 8))
    writer.handover.put(early)
    assert ledger.served.wait(20), "the record is looked at"
    writer.handover.put(late)
    wait_until(lambda: bool(ingest.broker.acks), "the record is judged after the birth")
    writer.handover.close()
    writer.stopping.set()
    running.join()
    receipted = [delivery for delivery in ingest.broker.acknowledged if delivery.receipt != NO_RECEIPT]
    assert receipted == [early, late], "each once: a number with a receipt is given to another message"
    assert (ingest.stored, ingest.quarantine, ingest.broker.last_ack) == ([1], [], 1)


def test_an_older_birth_does_not_condemn_the_records_that_wait_for_a_newer_one(ingest: Ingesting) -> None:
    ingest.writer.hold_seconds = 60.0
    ingest.feed(message(1, telemetry("fan-7")))
    ingest.feed(birth(assets={"fan-6": "motor_fan"}))
    assert (ingest.stored, ingest.quarantine) == ([], [])
    ingest.feed(birth(assets={"fan-6": "motor_fan", "fan-7": "motor_fan"}))
    assert (ingest.stored, ingest.quarantine) == ([1], [])


def test_a_birth_before_the_enrolment_is_remembered(engine: Engine) -> None:
    ingest = Ingesting(engine)
    ingest.feed(birth(assets={"fan-7": "motor_fan"}), message(1, telemetry("fan-7")))
    enrol(engine, "n1")
    ingest.feed(message(1, telemetry("fan-7")))
    assert (ingest.stored, ingest.broker.last_ack) == ([1], 1)


def test_a_birth_cannot_take_a_machine_of_another_node(ingest: Ingesting) -> None:
    enrol(ingest.engine, "n2")
    ingest.feed(birth("n2", {"pump-1": "motor_fan"}), message(1, telemetry(), node="n2"))
    assert rows(ingest.engine, "assets", "asset", "node", "asset_type") == [("pump-1", "n1", "generic")]
    assert [(reason, security) for reason, security, _ in ingest.quarantine] == [
        ("asset: 'pump-1' belongs to node 'n1'", True)
    ] * 2


def test_a_node_that_may_not_declare_registers_nothing(engine: Engine) -> None:
    enrol(engine, "n1", declares_assets=False)
    ingest = Ingesting(engine)
    ingest.feed(birth(assets={"fan-7": "motor_fan"}), message(1, telemetry("fan-7")))
    assert rows(engine, "assets", "asset") == []
    assert ingest.quarantine == [("asset: 'fan-7' is not registered", False, 1)]


def test_the_last_presence_counts(ingest: Ingesting) -> None:
    ingest.feed(birth(), birth(state="offline", version=""))
    assert rows(ingest.engine, "nodes", "online", "version") == [(False, "0.1")]


def test_a_node_may_show_64_signals_and_no_more(ingest: Ingesting) -> None:
    ingest.feed(message(1, *(telemetry(signal=f"s{i}", t=NOW + i) for i in range(60))))
    ingest.restart()
    ingest.feed(message(61, *(telemetry(signal=f"s{i}", t=NOW + i) for i in range(55, 70))))
    assert len(ingest.stored) == 69
    assert len(rows(ingest.engine, "asset_signals", "signal")) == 64
    assert [reason for reason, _, _ in ingest.quarantine] == ["signals: asset 'pump-1' would have more than 64"] * 6
    ingest.feed(message(76, telemetry(signal="s3", t=NOW + 99)))
    assert len(ingest.stored) == 70


def test_a_gap_counts_as_received(ingest: Ingesting) -> None:
    ingest.feed(message(1, telemetry()), message(12, gap(2, 11, "spool full"), telemetry(t=NOW + 1)))
    assert ingest.broker.last_ack == 13
    assert rows(ingest.engine, "gaps", "first_seq", "last_seq", "reason") == [(2, 11, "spool full")]


def test_a_gap_cannot_speak_of_the_future(ingest: Ingesting) -> None:
    ingest.feed(message(1, gap(1, 2**50)))
    assert ingest.broker.last_ack == 1
    assert "gap: a node can only have dropped" in ingest.quarantine[0][0]


def test_a_cloud_that_was_reset_does_not_wait_for_what_cannot_come(ingest: Ingesting) -> None:
    ingest.feed(birth(epochs={"telemetry": "e1"}, first_seqs={"telemetry": 501}), message(501, telemetry()))
    assert ingest.broker.last_ack == 501
    assert rows(ingest.engine, "gaps", "first_seq", "last_seq") == [(1, 500)]
    ingest.feed(birth(epochs={"telemetry": "e1"}, first_seqs={"telemetry": 502}))
    assert len(rows(ingest.engine, "gaps", "first_seq")) == 1


def gaps(ingest: Ingesting) -> list[tuple[Any, ...]]:
    return rows(ingest.engine, "gaps", "first_seq", "last_seq", "missing", "filled_at")


def test_a_record_of_a_gap_that_comes_after_all_is_stored_once(ingest: Ingesting) -> None:
    ingest.feed(message(1, telemetry()), message(12, gap(2, 11, "spool full")))
    assert gaps(ingest) == [(2, 11, [[2, 11]], None)]
    late = message(5, telemetry(t=NOW - 5), telemetry(t=NOW - 4))
    for _ in range(2):
        ingest.restart()
        ingest.feed(late, late)
        assert ingest.stored == [1, 5, 6]
        assert gaps(ingest) == [(2, 11, [[2, 4], [7, 11]], None)]
    ingest.feed(message(5, telemetry(t=NOW - 1)))
    assert ingest.quarantine == [("seq: 5 was received before with another body", True, 1)]
    ingest.feed(message(2, *[telemetry()] * 3), message(7, *[telemetry()] * 4, telemetry("nobody")))
    assert gaps(ingest) == [(2, 11, [], NOW)], "a refused record has come, too"
    assert ingest.broker.last_ack == 12


def test_the_first_record_of_a_gap_that_the_cloud_noted_itself_is_no_repeat_when_it_comes(ingest: Ingesting) -> None:
    """It was once taken for a repeat of the gap with another body, and quarantined as a security event."""
    ingest.feed(birth(epochs={"telemetry": "e1"}, first_seqs={"telemetry": 3}), message(3, telemetry()))
    assert gaps(ingest) == [(1, 2, [[1, 2]], None)]
    ingest.restart()
    ingest.feed(message(1, telemetry(t=NOW - 2), telemetry(t=NOW - 1)))
    assert (ingest.stored, ingest.quarantine) == ([1, 2, 3], [])
    assert gaps(ingest) == [(1, 2, [], NOW)]


def test_a_gap_knows_what_of_it_has_come_before(ingest: Ingesting) -> None:
    ingest.feed(message(1, telemetry()), message(4, telemetry()))
    ingest.feed(message(6, telemetry()), message(12, gap(2, 11)), message(9, telemetry()))
    assert gaps(ingest) == [(2, 11, [[2, 3], [5, 5], [7, 8], [10, 11]], None)]
    ingest.feed(message(13, gap(1, 12)))
    assert gaps(ingest)[0] == (1, 12, [[2, 3], [5, 5], [7, 8], [10, 11]], None), (
        "what counts as received may be missing"
    )
    ingest.feed(message(5, telemetry()))
    assert [missing for _, _, missing, _ in gaps(ingest)] == [[[2, 3], [7, 8], [10, 11]]] * 2


def test_fault_06_a_gap_of_an_earlier_epoch_begins_behind_what_is_stored_of_it(ingest: Ingesting) -> None:
    ingest.feed(message(1, *[telemetry(t=NOW + i) for i in range(5)]), message(9, telemetry(t=NOW + 9)))
    lost = message(1, gap(3, wire.MAX_SEQ, "damaged", epoch="e1"), telemetry(t=NOW + 20), epoch="e2")
    ingest.feed(lost, lost)
    ingest.restart()
    ingest.feed(lost)
    known = "epoch", "first_seq", "last_seq", "missing", "reason"
    left = [[6, 8], [10, wire.MAX_SEQ]]
    assert rows(ingest.engine, "gaps", *known) == [("e1", 6, wire.MAX_SEQ, left, "damaged")]
    assert rows(ingest.engine, "lane_progress", "epoch", "contiguous_seq") == [("e1", wire.MAX_SEQ), ("e2", 2)]
    ingest.feed(message(6, telemetry(t=NOW + 6), telemetry(t=NOW + 7)))
    assert len(ingest.stored) == 9, "what was salvaged late is stored all the same"
    assert gaps(ingest)[0][2] == [[8, 8], [10, wire.MAX_SEQ]]
    assert ingest.quarantine == []


def test_fault_06_a_gap_of_an_epoch_nobody_has_heard_of(ingest: Ingesting) -> None:
    ingest.feed(message(1, gap(1, 9, epoch="e0"), gap(1, 3, epoch="e0"), epoch="e1"))
    assert rows(ingest.engine, "gaps", "epoch", "first_seq", "last_seq") == [("e0", 1, 9)]
    assert ingest.broker.last_ack in (2, 9)


def test_what_the_store_has_forgotten_is_not_taken_for_news(ingest: Ingesting) -> None:
    ingest.feed(message(1, telemetry(), telemetry(t=NOW + 1)))
    with writing(ingest.engine) as connection:
        connection.execute(schema.telemetry_blocks.delete())
    ingest.feed(message(1, telemetry(), telemetry(t=NOW + 1)))
    assert ingest.stored == []


def test_fault_34_a_birth_that_knows_of_more_than_is_stored_is_asked_for_the_rest(ingest: Ingesting) -> None:
    """A cloud restored from a backup: the node has deleted nothing yet, or keeps it in its archive."""
    ingest.feed(message(1, telemetry(), telemetry()))
    positions: dict[str, Any] = {
        "epochs": {"telemetry": "e1"},
        "first_seqs": {"telemetry": 5},
        "acknowledged": {"telemetry": 90},
    }
    for _ in range(2):
        ingest.restart()
        ingest.feed(birth(**positions), message(41, telemetry()))
    assert gaps(ingest) == [(3, 4, [[3, 4]], None)], "what the node no longer holds"
    asked = rows(ingest.engine, "commands", "command", "lane", "epoch", "first_seq", "last_seq", "state")
    wanted = [("resend", "telemetry", "e1", first, last, "PENDING") for first, last in ((5, 40), (42, 90))]
    assert asked == wanted, "each range once"


def test_many_holes_are_asked_for_as_one(ingest: Ingesting) -> None:
    ingest.feed(*(message(seq, telemetry(t=NOW + seq)) for seq in range(2, 80, 2)))
    ingest.feed(birth(epochs={"telemetry": "e1"}, acknowledged={"telemetry": 99}))
    assert rows(ingest.engine, "commands", "first_seq", "last_seq") == [(1, 99)]


@pytest.mark.parametrize("superseded", [True, False])
def test_what_a_node_cannot_send_of_an_earlier_spool_file_becomes_a_gap(ingest: Ingesting, superseded: bool) -> None:
    ingest.feed(message(1, telemetry()), message(9, telemetry()))
    if superseded:
        ingest.clock.advance(seconds=1)
        ingest.feed(message(1, telemetry(), epoch="e2"))
    command = {"id": "c1", "tenant": TENANT, "node": "n1", "asset": "", "command": "resend", "at": NOW}
    span = {"created_at": NOW, "lane": "telemetry", "epoch": "e1", "first_seq": 2, "last_seq": 8}
    with writing(ingest.engine) as connection:
        connection.execute(schema.commands.insert(), [command | span])
    reply = wire.Reply(schema=1, id="c1", ok=False, detail="unknown epoch")
    ingest.feed(Delivery(topic=wire.topic(TENANT, "n1", "reply"), payload=wire.encode_control(reply)))
    assert rows(ingest.engine, "commands", "state", "detail") == [("FAILED", "unknown epoch")]
    found = rows(ingest.engine, "gaps", "first_seq", "last_seq", "reason")
    assert found == ([(2, 8, "asked for again: unknown epoch")] if superseded else [])
    assert ingest.broker.acks[-1][1].seq == (9 if superseded else 1)


def hole_since(ingest: Ingesting) -> list[int | None]:
    return [since for (since,) in rows(ingest.engine, "lane_progress", "hole_since")]


def test_how_long_a_hole_is_open_is_known(ingest: Ingesting) -> None:
    ingest.feed(message(1, telemetry()))
    assert hole_since(ingest) == [None]
    ingest.clock.advance(seconds=1)
    ingest.feed(message(3, telemetry()))
    ingest.clock.advance(seconds=1)
    ingest.feed(message(5, telemetry()))
    assert hole_since(ingest) == [NOW + 1000]
    ingest.feed(message(2, telemetry()))
    assert hole_since(ingest) == [NOW + 2000], "the next hole"
    ingest.feed(message(4, telemetry()))
    assert hole_since(ingest) == [None]


def test_retained_records_are_no_news(ingest: Ingesting) -> None:
    old = message(1, telemetry())
    ingest.feed(Delivery(topic=old.topic, payload=old.payload, retained=True))
    assert (ingest.stored, ingest.quarantine) == ([], [])
    assert len(ingest.broker.acknowledged) == 1


def test_replies_end_commands_of_their_own_node_only(ingest: Ingesting) -> None:
    enrol(ingest.engine, "n2")
    with writing(ingest.engine) as connection:
        command = {"tenant": TENANT, "node": "n1", "asset": "pump-1", "command": "reset_baseline"}
        for command_id in ("c1", "c2", "c3"):
            connection.execute(schema.commands.insert(), [command | {"id": command_id, "at": NOW, "created_at": NOW}])

    def reply(node: str, command_id: str, ok: bool) -> Delivery:
        body = wire.Reply(schema=1, id=command_id, ok=ok, detail="why\0")
        return Delivery(topic=wire.topic(TENANT, node, "reply"), payload=wire.encode_control(body))

    ingest.feed(reply("n1", "c1", True), reply("n1", "c2", False), reply("n2", "c3", True))
    states = rows(ingest.engine, "commands", "id", "state", "detail")
    assert states == [("c1", "DONE", "why"), ("c2", "FAILED", "why"), ("c3", "PENDING", "")]


def test_the_quarantine_is_bounded(ingest: Ingesting) -> None:
    ingest.ledger = SqlLedger(ingest.engine, quarantine_rows=10)
    ingest.restart()
    for start in range(0, 60, 20):
        ingest.feed(
            *(Delivery(topic="fw/v1/local/n1/telemetry", payload=b"bad %d" % n) for n in range(start, start + 20))
        )
    kept = sorted(bytes(body) for (body,) in rows(ingest.engine, "quarantine", "body"))
    assert kept == [b"bad %d" % n for n in range(50, 60)]


@dataclass(frozen=True)
class Choking(SqlTelemetry):
    """Raises an error instead of storing certain records."""

    on: Callable[[TelemetryRecord], Exception | None]

    def append(self, records: Sequence[TelemetryRecord]) -> None:
        for error in filter(None, map(self.on, records)):
            raise error
        super().append(records)


class Breaking:
    """A ledger that cannot serve for a while, or that chokes on some records: when writing them, or at the commit."""

    def __init__(self, engine: Engine) -> None:
        self.real = SqlLedger(engine, telemetry=lambda connection: Choking(connection, self._choke))
        self.outages = 0
        self.poison: set[bytes] = set()
        self.error: Exception = ZeroDivisionError("a mistake of ours")
        self.at_commit = False
        self.runs = 0
        self.served = threading.Event()

    def run(self, work: Callable[[LedgerTransaction], T]) -> T:
        if self.outages:
            self.outages -= 1
            raise Unavailable("away")

        def checked(ledger: LedgerTransaction) -> T:
            result = work(ledger)
            changes = getattr(result, "changes", None)
            if changes is not None and any(record.digest in self.poison for record in changes.telemetry):
                raise self.error
            return result

        self.runs += 1
        found = self.real.run(checked)
        self.served.set()
        return found

    def serves(self) -> bool:
        return self.real.serves()

    def _choke(self, record: TelemetryRecord) -> Exception | None:
        return self.error if record.digest in self.poison and not self.at_commit else None


def test_a_poison_message_is_set_aside_and_the_others_are_stored(engine: Engine) -> None:
    enrol(engine, "n1", "pump-1")
    ledger = Breaking(engine)
    ingest = Ingesting(engine, ledger)
    ledger.poison = {wire.digest(telemetry(t=NOW + 5))}
    sent = [message(n, telemetry(t=NOW + n)) for n in range(1, 9)]
    ingest.feed(*sent)
    assert ingest.stored == [1, 2, 3, 4, 6, 7, 8]
    assert [reason for reason, _, _ in ingest.quarantine] == ["could not be stored: ZeroDivisionError"]
    assert ingest.broker.last_ack == 8, "it counts as received: it can be replayed, and what follows is not held up"
    assert {id(delivery) for delivery in ingest.broker.acknowledged} == {id(delivery) for delivery in sent}


def test_a_poison_record_is_refused_and_its_neighbours_are_stored(engine: Engine) -> None:
    enrol(engine, "n1", "pump-1")
    ledger = Breaking(engine)
    ingest = Ingesting(engine, ledger)
    ledger.poison = {wire.digest(telemetry(t=NOW + n)) for n in (7, 40)}
    sent = message(1, *(telemetry(t=NOW + n) for n in range(1, 51)))
    ingest.feed(sent)
    assert ingest.stored == [n for n in range(1, 51) if n not in (7, 40)]
    assert rows(engine, "quarantine", "seq", "reason") == [
        (n, "could not be stored: ZeroDivisionError") for n in (7, 40)
    ]
    assert (ingest.broker.last_ack, ingest.broker.acknowledged) == (50, [sent])
    ingest.feed(sent)
    assert len(ingest.quarantine) == 2, "a repeat is absorbed"


@pytest.mark.parametrize("at_commit", [False, True])
def test_poison_is_found_also_where_only_the_commit_fails(engine: Engine, at_commit: bool) -> None:
    nodes = [f"n{i}" for i in range(9)]
    for node in nodes:
        enrol(engine, node, f"asset-{node}")
    ledger = Breaking(engine)
    ledger.at_commit = at_commit
    ingest = Ingesting(engine, ledger)
    bad = telemetry("asset-n4", t=NOW + 3)
    ledger.poison = {wire.digest(bad)}
    records = [telemetry("asset-n4", t=NOW + 1), telemetry("asset-n4", t=NOW + 2), bad, telemetry("asset-n4")]
    sent = [message(1, *records, node="n4"), *(message(1, telemetry(f"asset-{n}"), node=n) for n in nodes if n != "n4")]
    ingest.feed(*sent)
    assert ingest.stored == sorted([1] * 9 + [2, 4])
    assert rows(engine, "quarantine", "node", "seq") == [("n4", 3)]
    assert {id(delivery) for delivery in ingest.broker.acknowledged} == set(map(id, sent))


def test_where_too_much_cannot_be_stored_the_nodes_keep_it(engine: Engine) -> None:
    """Then it is our code that is wrong, or the database, and not a hundred records of one hour."""
    enrol(engine, "n1", "pump-1")
    ledger = Breaking(engine)
    ingest = Ingesting(engine, ledger)
    bad = [telemetry(t=NOW + n) for n in range(MAX_RECORDS_GIVEN_UP_AN_HOUR + 20)]
    sent = [message(start + 1, *bad[start : start + 20]) for start in range(0, len(bad), 20)]
    ledger.poison = set(map(wire.digest, bad))
    ingest.feed(*sent)
    assert ingest.broker.last_ack == MAX_RECORDS_GIVEN_UP_AN_HOUR
    assert len(ingest.quarantine) == MAX_RECORDS_GIVEN_UP_AN_HOUR + 1, "and the last message, as a whole"
    ledger.poison = set()
    ingest.feed(*sent)
    assert ingest.broker.last_ack == len(bad), "the rest comes again once that is mended"


def test_poison_of_some_nodes_is_found_in_few_steps_and_kept_apart(engine: Engine) -> None:
    nodes = [f"n{i}" for i in range(50)]
    for node in nodes:
        enrol(engine, node, f"asset-{node}")
    ledger = Breaking(engine)
    ingest = Ingesting(engine, ledger)
    poison = [telemetry(f"asset-n{i}", t=NOW + 10) for i in (3, 17, 44)]
    ledger.poison = set(map(wire.digest, poison))
    sent = [message(seq, telemetry(f"asset-{node}", t=NOW + seq), node=node) for seq in range(1, 21) for node in nodes]
    ingest.feed(*sent)
    assert len(ingest.stored) == 1000 - 3
    assert len(ingest.quarantine) == 3
    assert ledger.runs < 25, "transactions: three for the batch, and a few more for each of those to blame"
    before = ledger.runs
    ingest.feed(
        message(21, telemetry("asset-n3", t=NOW + 10), node="n3"), message(21, telemetry("asset-n5"), node="n5")
    )
    assert len(ingest.stored) == 998
    assert ledger.runs - before < 8, "its next fault does not fail the others' batch"


def test_fault_25_what_fails_again_and_again_alone_ends_in_quarantine(engine: Engine) -> None:
    enrol(engine, "n1", "pump-1")
    ledger = Breaking(engine)
    ledger.error = Unavailable("busy", is_outage=False)
    ingest = Ingesting(engine, ledger)
    ledger.poison = {wire.digest(telemetry(t=NOW + 2))}
    ingest.feed(*(message(n, telemetry(t=NOW + n)) for n in range(1, 5)))
    assert (ingest.stored, ingest.broker.last_ack) == ([1, 3, 4], 4)
    assert ingest.quarantine == [("could not be stored: Recurring", False, 1)]


def test_fault_25_a_key_that_is_taken_each_time_ends_in_quarantine(ingest: Ingesting) -> None:
    """As after a restore of one table and not of the other: the record is there, and its lane knows nothing of it."""
    advice = [message(n, advisory(observed_at=NOW + n), lane="advisory") for n in range(1, 5)]
    ingest.feed(advice[1])
    with writing(ingest.engine) as connection:
        connection.execute(schema.lane_progress.delete())
    ingest.restart()
    ingest.feed(*advice)
    assert [seq for (seq,) in rows(ingest.engine, "advisories", "seq")] == [1, 2, 3, 4]
    assert ingest.broker.last_ack == 4
    assert [reason for reason, _, _ in ingest.quarantine] == ["could not be stored: IntegrityError"]


def test_fault_23_a_message_that_cannot_be_read_because_of_a_mistake_of_ours_is_quarantined(
    ingest: Ingesting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a mistake of ours")

    good = message(1, telemetry())
    monkeypatch.setattr(wire, "parse_topic", broken)
    ingest.feed(good)
    monkeypatch.undo()
    assert ingest.quarantine == [("could not be read: KeyError", False, 1)]
    assert ingest.broker.acknowledged == [good]
    ingest.feed(good)
    assert ingest.stored == [1]


def test_fault_23_a_message_that_could_not_be_handed_over_is_quarantined(ingest: Ingesting) -> None:
    lost = message(1, telemetry())
    ingest.writer.failed.append((lost, MemoryError()))
    ingest.feed()
    assert ingest.quarantine == [("could not be stored: MemoryError", False, 1)]
    assert (ingest.broker.acknowledged, ingest.stored) == ([lost], [])


def test_a_node_over_its_quota_is_slowed_and_loses_nothing(ingest: Ingesting, monkeypatch: pytest.MonkeyPatch) -> None:
    enrol(ingest.engine, "n2", "fan-1")
    ingest.writer.quota = Quota(limits=Limits(records_per_s=1.0))
    ingest.feed(*(message(n, telemetry(t=NOW + n)) for n in range(1, 6)))
    assert ingest.broker.acks[-1][1].replay_records_per_s is None, "a burst is no offence"
    monkeypatch.setattr("forewarn_cloud.ingest.quota.WITHHELD_SECONDS", 0.0)
    ingest.feed(*(message(n, telemetry(t=NOW + n)) for n in range(6, 21)))
    assert [ingest.broker.last_ack, ingest.broker.acks[-1][1].replay_records_per_s] == [20, 1]
    monkeypatch.undo()
    before = len(ingest.broker.acks)
    ingest.feed(message(21, telemetry(t=NOW + 21)), message(1, telemetry("fan-1"), node="n2"))
    assert ingest.stored == sorted([*range(1, 22), 1])
    told = [topic for topic, _ in ingest.broker.acks[before:]]
    assert told == ["fw/v1/local/n2/ack"], "the acknowledgement to the one is withheld, and to the other not"
    assert ingest.writer.figures.throttled == {"n1": 1}


def test_what_was_withheld_is_acknowledged_in_the_end(ingest: Ingesting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forewarn_cloud.ingest.quota.WITHHELD_SECONDS", 0.3)
    ingest.writer.quota = Quota(limits=Limits(records_per_s=1.0))
    running = threading.Thread(target=ingest.writer.run, daemon=True)
    running.start()
    for n in range(1, 21):
        ingest.writer.handover.put(message(n, telemetry(t=NOW + n)))
    wait_until(lambda: bool(ingest.broker.acks) and ingest.broker.last_ack == 20, "it is acknowledged")
    ingest.writer.handover.close()
    ingest.writer.stopping.set()
    running.join()


def test_a_node_that_floods_is_over_its_burst_by_far() -> None:
    quota = Quota(limits=Limits(records_per_s=1.0))
    node = (TENANT, "n1")
    quota.charge(node, records=20, size=1, now=time.monotonic())
    assert not quota.is_flooding(node)
    quota.charge(node, records=20, size=1, now=time.monotonic())
    assert quota.is_flooding(node)
    assert not quota.is_flooding((TENANT, "n2"))


def test_bytes_count_as_well_as_records() -> None:
    quota = Quota(limits=Limits(records_per_s=1000.0, bytes_per_s=1000.0))
    quota.charge((TENANT, "n1"), records=10, size=20_000, now=time.monotonic())
    assert quota.advised_records_per_s((TENANT, "n1")) == 1
    quota.charge((TENANT, "n2"), records=20_000, size=20_000, now=time.monotonic())
    assert quota.advised_records_per_s((TENANT, "n2")) == 800


def test_a_crowded_hand_over_asks_for_a_slower_pace(ingest: Ingesting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HandOver, "fill", 0.9)
    ingest.feed(message(1, telemetry()))
    pace = ingest.broker.acks[-1][1].replay_records_per_s
    assert pace is not None
    assert pace >= 10


def test_nothing_is_acknowledged_while_the_database_is_away(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    enrol(engine, "n1", "pump-1")
    ledger = Breaking(engine)
    ledger.outages = 2
    ingest = Ingesting(engine, ledger)
    ingest.writer.handover.put(message(1, telemetry()))
    running = threading.Thread(target=ingest.writer.run, daemon=True)
    running.start()
    assert ledger.served.wait(20)
    ingest.writer.handover.close()
    ingest.writer.stopping.set()
    running.join()
    assert (ingest.stored, ingest.broker.last_ack) == ([1], 1)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["ingest waits for the database: away"], "one outage is told once"


def test_stopping_during_an_outage_leaves_the_batch_to_be_delivered_again(engine: Engine) -> None:
    enrol(engine, "n1", "pump-1")
    ledger = Breaking(engine)
    ledger.outages = 1000
    ingest = Ingesting(engine, ledger)
    ingest.feed(message(1, telemetry()))
    assert (ingest.stored, ingest.broker.acknowledged, ingest.broker.acks) == ([], [], [])


deliveries = st.lists(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 4)), min_size=1, max_size=5), max_size=8)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deliveries)
def test_whatever_is_lost_repeated_or_reordered_what_is_acknowledged_is_stored_once(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, int]]]
) -> None:
    engine = make_engine(f"sqlite:///{tmp_path_factory.mktemp('ingest')}/cloud.db")
    migrate(engine)
    enrol(engine, "n1", "pump-1")
    ingest, sent = Ingesting(engine), set[int]()
    for batch in batches:
        ingest.restart()
        ingest.feed(*(message(n, *(telemetry(t=NOW + k) for k in range(n, n + count))) for n, count in batch))
        sent |= {seq for n, count in batch for seq in range(n, n + count)}
        assert ingest.stored == sorted(sent)
        contiguous = next(n for n in range(20) if n + 1 not in sent)
        assert ingest.broker.last_ack == contiguous
    assert ingest.quarantine == []
    engine.dispose()
