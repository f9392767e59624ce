"""What is in quarantine, judged anew: after an enrolment, a registration, a correction of ours.

A replay goes the way of a delivery: the same reading, the same judge, the same writing. What is taken leaves the
quarantine; what is refused again stays there with its new reason.
"""

from dataclasses import dataclass, replace
from typing import Final, Protocol

import msgspec

from forewarn_cloud.clock import Clock
from forewarn_cloud.entities import AuditNote
from forewarn_cloud.errors import Conflict, NotFound, ServiceError
from forewarn_cloud.ingest.judge import Judgement, judge
from forewarn_cloud.ingest.ledger import LedgerTransaction, OpenGap
from forewarn_cloud.ingest.messages import Delivery, Incoming, LaneKey, LaneMessage, read_delivery
from forewarn_cloud.ingest.writer import read_facts
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.principal import Principal
from forewarn_models import wire

_NOBODY: Final = -1
_JSON_BEGINS: Final = tuple(bytes([byte]) for byte in b'{["tfn-0123456789')


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A whole message, or one record: then it has a lane and a sequence number, and counts as received."""

    id: int
    topic: str
    digest: bytes
    reason: str
    body: bytes
    lane: LaneKey | None
    seq: int | None


@dataclass(frozen=True, kw_only=True)
class Replayed:
    id: int
    taken: bool
    reason: str | None
    """Why it was refused again."""


class QuarantineTransaction(LedgerTransaction, Protocol):
    def take_out(self, tenant: str, refused_id: int) -> Quarantined | None:
        """Out of the quarantine, for this transaction to decide on; None if there is no such row."""
        ...

    def put_back(self, tenant: str, refused_id: int, reason: str) -> None: ...

    def handle_again(self, lane: LaneKey, seq: int) -> None:
        """An advisory that was received and could not be acted on waits for the workers once more."""
        ...


def replay(
    uow: UnitOfWork, ledger: QuarantineTransaction, principal: Principal, clock: Clock, refused_id: int
) -> Replayed:
    """Judge it anew, in the transaction of `uow` and `ledger`.

    Raises:
        NotFound: there is no such row.
        Conflict: it can be neither stored nor refused; the row stays as it is.
    """
    found = ledger.take_out(principal.tenant, refused_id)
    if found is None:
        raise NotFound("quarantined message", str(refused_id))
    try:
        reason = _judge_anew(ledger, found, principal.tenant, clock.now_ms())
    except ServiceError:
        raise
    except Exception as error:
        raise Conflict(f"it could still not be stored: {type(error).__name__}: {error}") from error
    if reason is not None:
        ledger.put_back(principal.tenant, refused_id, reason)
    uow.records.add_audit(
        AuditNote(
            tenant=principal.tenant,
            at=clock.now_ms(),
            actor=principal.name,
            subject="quarantine",
            subject_id=str(refused_id),
            action="replayed",
            detail={"topic": found.topic, "reason": found.reason, "taken": reason is None, "refused_again": reason},
        )
    )
    return Replayed(id=refused_id, taken=reason is None, reason=reason)


def _judge_anew(ledger: QuarantineTransaction, found: Quarantined, tenant: str, at: int) -> str | None:
    """Why it is refused again; None if it was taken."""
    incoming = _incoming(found, at)
    nodes = ledger.nodes([] if incoming.node is None else [incoming.node])
    facts = read_facts(ledger, [incoming], nodes=nodes, known_signals={})
    if found.lane is not None and found.seq is not None:
        if facts.digests.get(found.lane, {}).get(found.seq) == found.digest:
            ledger.handle_again(found.lane, found.seq)
            return None
        awaited = OpenGap(seq=_NOBODY, missing=((found.seq, found.seq),))
        facts = replace(facts, gaps=facts.gaps | {found.lane: (*facts.gaps.get(found.lane, ()), awaited)})
    judgement = judge([incoming], facts, tenant=tenant, at=at, last_chance=True)
    reason = _own_refusal(judgement, found)
    _correct(judgement, found)
    ledger.write(judgement.changes)
    return reason


def _incoming(found: Quarantined, at: int) -> Incoming:
    if found.lane is None or found.seq is None:
        read = read_delivery(Delivery(topic=found.topic, payload=found.body), now_ms=at)
        assert read is not None, "only what the broker had retained is ignored"
        return read
    delivery = Delivery(topic=found.topic, payload=_envelope(found.lane[3], found.seq, found.body))
    read = read_delivery(delivery, now_ms=at)
    assert read is not None, "only what the broker had retained is ignored"
    if not isinstance(read, LaneMessage):
        return read
    (received,) = read.message.records
    same = wire.Received(seq=received.seq, digest=found.digest, record=received.record)
    return msgspec.structs.replace(read, message=msgspec.structs.replace(read.message, records=(same,)))


def _envelope(epoch: str, seq: int, body: bytes) -> bytes:
    """A message of one record that is MessagePack or JSON."""
    if not _is_json(body):
        return wire.encode_message(epoch, seq, [body])
    head = msgspec.json.encode({"schema": wire.SCHEMA, "epoch": epoch, "seq": seq})
    return head[:-1] + b',"records":[' + body + b"]}"


def _is_json(body: bytes) -> bool:
    if body[:1] not in _JSON_BEGINS:
        return False
    try:
        msgspec.json.decode(body)
    except msgspec.DecodeError:
        return False
    return True


def _own_refusal(judgement: Judgement, found: Quarantined) -> str | None:
    """The refusal of what is replayed, taken out of the changes: its row is there already."""
    own = [one for one in judgement.changes.refusals if found.lane is not None or one.lane is None]
    judgement.changes.refusals = [one for one in judgement.changes.refusals if one not in own]
    return own[0].reason if own else None


def _correct(judgement: Judgement, found: Quarantined) -> None:
    """What is old news does not count as new: an old birth registers machines, but does not say who is online."""
    judgement.changes.presence.clear()
    if found.lane is not None and found.lane in judgement.changes.lanes:
        judgement.changes.lanes[found.lane].quarantined -= 1
        judgement.changes.filled.pop((found.lane, _NOBODY), None)
