"""One batch, one transaction, then the acknowledgements. The only thread that commits what nodes send."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Event
from typing import Final, Protocol, TypeVar

import msgspec

from forewarn_cloud.beside import SharedInstant
from forewarn_cloud.clock import Clock
from forewarn_cloud.errors import Unavailable
from forewarn_cloud.ingest.figures import IngestFigures
from forewarn_cloud.ingest.handover import HandOver
from forewarn_cloud.ingest.judge import Judgement, body_of, judge
from forewarn_cloud.ingest.ledger import Changes, Facts, KnownNode, Ledger, LedgerTransaction, Refusal
from forewarn_cloud.ingest.messages import (
    NO_RECEIPT,
    AssetKey,
    ControlMessage,
    Delivery,
    Incoming,
    LaneKey,
    LaneMessage,
    NodeKey,
    Unreadable,
    read_delivery,
)
from forewarn_cloud.ingest.progress import Progress
from forewarn_cloud.ingest.quota import Quota
from forewarn_cloud.ingest.search import find_failing
from forewarn_cloud.ingest.suspects import SEARCH_SECONDS, Suspects, by_sender, halves, parts_to_blame
from forewarn_models import wire

T = TypeVar("T")
_log = logging.getLogger(__name__)

FILL_SECONDS: Final = 0.02
HOLD_SECONDS: Final = 1.0
"""How long records of undeclared machines wait for the birth of their node: the broker keeps no order across topics."""
MAX_HELD: Final = 1000
MAX_WAITING_BIRTHS: Final = 1000
MAX_KNOWN_SIGNALS: Final = 100_000
OUTAGE_PAUSE_SECONDS: Final = (0.2, 10.0)
MAX_TRIES: Final = 3
"""Of what cannot be stored while the database would store other things."""
MAX_RECORDS_GIVEN_UP_AN_HOUR: Final = 100
"""Beyond that, it is not the records that are at fault: they are not received, and their nodes keep them."""
ADVISE_AT_FILL: Final = 0.5
"""How full the hand-over is when nodes are asked to send their backlogs more slowly."""
MIN_ADVISED_RECORDS_PER_S: Final = 10
_HOUR_SECONDS: Final = 3600.0


class Recurring(Exception):
    """What was asked of the database fails each time, while other things do not."""


class Broker(Protocol):
    """What the writer needs of the connection. Neither call raises or waits: what is lost here comes again."""

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Give the broker its receipts."""
        ...

    def publish(self, topic: str, payload: bytes, *, qos: int) -> bool:
        """Send; whether it could be handed to a connection."""
        ...


@dataclass(kw_only=True)
class Writer:
    """Takes batches from the hand-over until it is closed and empty.

    While the database cannot serve, nothing is acknowledged and nothing dropped: the batch is tried again until it can.
    """

    handover: HandOver
    ledger: Ledger
    broker: Broker
    clock: Clock
    tenant: str
    stopping: Event
    hold_seconds: float = HOLD_SECONDS
    quota: Quota = field(default_factory=Quota)
    crowded: SharedInstant = field(default_factory=SharedInstant)
    """When there was last more to do than a batch can hold: for those who can wait."""
    serving: bool = True
    """Whether the database took the last batch."""
    failed: deque[tuple[Delivery, Exception]] = field(default_factory=lambda: deque(maxlen=1000))
    """Messages that could not even be handed over."""
    set_aside: int = 0
    _suspects: Suspects = field(default_factory=Suspects)
    _given_up: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_RECORDS_GIVEN_UP_AN_HOUR))
    """When records were last given up."""
    _late_acks: dict[LaneKey, tuple[float, wire.Ack]] = field(default_factory=dict)
    _began: float | None = None
    _records_per_s: float = 0.0
    _held: list[tuple[float, Delivery]] = field(default_factory=list)
    _born_since: list[Delivery] = field(default_factory=list)
    """Was held, and its node has been born meanwhile: perhaps by the birth it waits for, perhaps by an older one."""
    _births: dict[NodeKey, ControlMessage] = field(default_factory=dict)
    _known_signals: dict[AssetKey, frozenset[str]] = field(default_factory=dict)

    def run(self) -> None:
        while True:
            batch = self.handover.take(wait_seconds=0.0 if self._suspects else 0.2, fill_seconds=FILL_SECONDS)
            self._began = time.monotonic() if batch else None
            if self.handover.left_over:
                self.crowded.note()
            others = self._suspects.sift(batch)
            if others:
                self._commit(others, last_chance=len(self._held) >= MAX_HELD)
            self._commit_held()
            self._try_suspects()
            self._tell_failed()
            self._send_late_acks()
            self._began = None
            if not batch and not self._suspects and self.stopping.is_set():
                return

    @property
    def figures(self) -> IngestFigures:
        """For other threads."""
        began = self._began
        return IngestFigures(
            waiting_messages=self.handover.waiting,
            fill=self.handover.fill,
            lag_seconds=0.0 if began is None else time.monotonic() - began,
            suspects=len(self._suspects),
            set_aside=self.set_aside,
            throttled=dict(self.quota.throttled),
            let_go=dict(self.quota.let_go),
        )

    def _commit_held(self) -> None:
        """Those that waited long enough. What still waits when the program stops, its node sends again."""
        again, self._born_since = self._born_since, []
        if again:
            self._commit(again, last_chance=False)
        now = time.monotonic()
        due = [delivery for until, delivery in self._held if until <= now]
        if due:
            self._held = [(until, delivery) for until, delivery in self._held if until > now]
            self._commit(due, last_chance=True)

    def _commit(self, batch: Sequence[Delivery], *, last_chance: bool) -> None:
        """Commit the batch; if that cannot be because of what is in it, all but the part that is to blame."""
        try:
            self._commit_whole(batch, last_chance=last_chance)
        except Unavailable:
            return  # only when stopping: unacknowledged, so it comes again
        except Exception as error:  # noqa: BLE001 - a poison message must not stop the others
            _log.error("%d messages could not be stored together", len(batch), exc_info=error)
            self._commit_others(batch, last_chance=last_chance)

    def _commit_others(self, batch: Sequence[Delivery], *, last_chance: bool) -> None:
        """Commit, of a batch that fails, what is not to blame. The rest is set apart, in smaller parts."""
        if len(batch) == 1:
            self._suspects.set_apart([batch])
            return
        apart, others = list[Sequence[Delivery]](), batch
        try:
            apart += self._find_blamed(batch, last_chance=last_chance)
            others = _without(batch, apart)
            if others:
                self._commit_whole(others, last_chance=last_chance)
        except Unavailable:
            return
        except Exception as error:  # noqa: BLE001 - what fails at the commit, or ends the transaction, is to be halved
            _log.error("it could not be found out within one transaction", exc_info=error)
            apart += halves(others)
        self._suspects.set_apart(apart)

    def _find_blamed(self, batch: Sequence[Delivery], *, last_chance: bool) -> list[Sequence[Delivery]]:
        """By node, or in halves where there was no time to tell them apart."""
        at = self.clock.now_ms()
        read = {id(delivery): _read(delivery, at) for delivery in batch}

        def messages(parts: Sequence[Sequence[Delivery]]) -> list[Incoming]:
            return [found for part in parts for delivery in part if (found := read[id(delivery)]) is not None]

        parts = parts_to_blame(batch)
        failing, unclear = self._find_failing(parts, messages, last_chance=last_chance, seconds=SEARCH_SECONDS)
        rest = [delivery for part in unclear for delivery in part]
        return [*(part for part, _ in failing), *(halves(rest) if rest else ())]

    def _find_failing(
        self,
        things: Sequence[T],
        messages: Callable[[Sequence[T]], list[Incoming]],
        *,
        last_chance: bool,
        seconds: float = math.inf,
    ) -> tuple[list[tuple[T, Exception]], list[T]]:
        """As `find_failing`, by storing their messages. All of that is undone again."""
        at = self.clock.now_ms()

        def work(ledger: LedgerTransaction) -> tuple[list[tuple[T, Exception]], list[T]]:
            _, facts = self._with_facts(ledger, messages(things))
            rehearse = ledger.rehearsal()

            def try_out(some: Sequence[T]) -> None:
                batch = self._with_births(messages(some), facts.nodes)
                rehearse(judge(batch, facts, tenant=self.tenant, at=at, last_chance=last_chance).changes)

            return find_failing(things, try_out, seconds=seconds)

        return self._store(work)

    def _try_suspects(self) -> None:
        for batch in self._suspects.take_some():
            if len(batch) == 1:
                self._commit_alone(batch[0])
            elif len(by_sender(batch)) == 1:
                self._commit(batch, last_chance=True)
            else:
                self._commit_others(batch, last_chance=True)

    def _commit_alone(self, delivery: Delivery) -> None:
        try:
            self._commit_whole([delivery], last_chance=True)
        except Unavailable:
            return
        except Exception as error:  # noqa: BLE001 - told when it is known which record it is
            self._suspects.suspect(delivery)
            self._give_up(delivery, error)

    def _give_up(self, delivery: Delivery, error: Exception) -> None:
        """A message that cannot be stored even alone: those of its records that can be are, the others are refused."""
        try:
            message = read_delivery(delivery, now_ms=self.clock.now_ms())
            if not isinstance(message, LaneMessage):
                raise error
            self._store_records(message, error)
        except Unavailable:
            return
        except Exception as found:  # noqa: BLE001 - whatever it is, it is this message's alone
            self._set_aside(delivery, found)
        else:
            self.broker.acknowledge([delivery])

    def _store_records(self, message: LaneMessage, error: Exception) -> None:
        """Those of a message that fails; the records at fault are quarantined and count as received.

        Raises:
            Exception: one can be neither stored nor refused, or too many were refused in this hour.
        """
        records = message.message.records
        failing = [(records[0], error)] if len(records) == 1 else self._find_failing_records(message)
        if failing:
            refused = {received.seq: self._refused(message, received, why) for received, why in failing}
            kept = [refused.get(received.seq, received) for received in records]
            self._commit_incoming([_with_records(message, kept)], self.clock.now_ms(), last_chance=True)
        else:
            for some in (records[: len(records) // 2], records[len(records) // 2 :]):
                self._store_some(_with_records(message, some))

    def _store_some(self, message: LaneMessage) -> None:
        try:
            self._commit_incoming([message], self.clock.now_ms(), last_chance=True)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - divided until it is known which record it is
            self._store_records(message, error)

    def _find_failing_records(self, message: LaneMessage) -> list[tuple[wire.Received, Exception]]:
        """None if they cannot be told apart within one transaction."""
        records = message.message.records
        try:
            failing, _ = self._find_failing(records, lambda some: [_with_records(message, some)], last_chance=True)
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001 - then the message is halved
            return []
        return failing

    def _refused(self, message: LaneMessage, received: wire.Received, error: Exception) -> wire.Received:
        now = time.monotonic()
        if len(self._given_up) == self._given_up.maxlen and now - self._given_up[0] < _HOUR_SECONDS:
            raise error
        self._given_up.append(now)
        self.set_aside += 1
        _log.error("a record on %r could not be stored and is refused", message.delivery.topic, exc_info=error)
        refused = wire.Rejected(reason=_reason(error), body=body_of(received.record))
        return wire.Received(seq=received.seq, digest=received.digest, record=refused)

    def _commit_whole(self, batch: Sequence[Delivery], *, last_chance: bool) -> None:
        at = self.clock.now_ms()
        incoming = [read for delivery in batch if (read := _read(delivery, at)) is not None]
        self._commit_incoming(incoming, at, last_chance=last_chance, receipts=batch)

    def _commit_incoming(
        self, incoming: Sequence[Incoming], at: int, *, last_chance: bool, receipts: Sequence[Delivery] = ()
    ) -> None:
        """Commit, and give the broker its receipts; then tell the nodes.

        What is held is receipted, too, though not acknowledged to its node: a broker that has no more than some twenty
        messages under way would never get to the birth they wait for.
        """
        began = time.monotonic()
        judgement = self._store(lambda ledger: self._judge_and_write(ledger, incoming, at, last_chance))
        self._remember(judgement)
        over_quota = self._charge(incoming, time.monotonic() - began)
        self.broker.acknowledge(receipts)
        self._acknowledge_lanes(judgement.changes, over_quota)
        _tell(judgement.changes.refusals)

    def _judge_and_write(
        self, ledger: LedgerTransaction, incoming: Sequence[Incoming], at: int, last_chance: bool
    ) -> Judgement:
        batch, facts = self._with_facts(ledger, incoming)
        judgement = judge(batch, facts, tenant=self.tenant, at=at, last_chance=last_chance)
        ledger.write(judgement.changes)
        return judgement

    def _with_facts(self, ledger: LedgerTransaction, incoming: Sequence[Incoming]) -> tuple[list[Incoming], Facts]:
        nodes = ledger.nodes(_senders(incoming))
        batch = self._with_births(incoming, nodes)
        return batch, read_facts(ledger, batch, nodes=nodes, known_signals=self._known_signals)

    def _with_births(self, incoming: Sequence[Incoming], nodes: dict[NodeKey, KnownNode]) -> list[Incoming]:
        """With those of these senders that waited for an enrolment that has come."""
        waiting = {node: birth for node, birth in self._births.items() if node in nodes and not nodes[node].deleted}
        senders = _senders(incoming) if waiting else ()
        return [*(birth for node, birth in waiting.items() if node in senders), *incoming]

    def _set_aside(self, delivery: Delivery, error: Exception) -> None:
        """A message that our own code cannot handle: kept with the error, to be looked into and replayed. What was in
        it is not received: its node still has it."""
        _log.error("a message on %r could not be stored and is set aside", delivery.topic, exc_info=error)
        self.set_aside += 1
        refusal = Refusal(
            tenant=self.tenant,
            topic=delivery.topic.replace("\0", "")[:300],
            reason=_reason(error),
            body=delivery.payload[: wire.MAX_MESSAGE_BYTES],
            digest=wire.digest(delivery.payload),
        )
        changes = Changes(at=self.clock.now_ms(), refusals=[refusal])
        try:
            self._store(lambda ledger: ledger.write(changes))
        except (Unavailable, Recurring):
            return
        self.broker.acknowledge([delivery])

    def _tell_failed(self) -> None:
        while self.failed:
            self._set_aside(*self.failed.popleft())

    def _store(self, work: Callable[[LedgerTransaction], T]) -> T:
        """Run it in a transaction, until the database can serve or the program stops.

        Raises:
            Unavailable: the program is stopping.
            Recurring: the database can serve, but not this.
        """
        pause, longest = OUTAGE_PAUSE_SECONDS
        tries = 0
        while True:
            try:
                result = self.ledger.run(work)
            except Unavailable as error:
                if not error.is_outage and self.ledger.serves():
                    tries += 1
                    if tries == MAX_TRIES:
                        raise Recurring(str(error)) from error
                    continue
                if self.serving:
                    _log.warning("ingest waits for the database: %s", error)
                self.serving = False
                if self.stopping.wait(pause):
                    raise
                pause = min(2 * pause, longest)
            else:
                if not self.serving:
                    _log.info("the database serves again")
                self.serving = True
                return result

    def _remember(self, judgement: Judgement) -> None:
        """What a committed batch taught. A birth of a node that is not enrolled waits here for its enrolment."""
        until = time.monotonic() + self.hold_seconds
        born = tuple(wire.topic(*node, "telemetry").removesuffix("telemetry") for node in judgement.changes.presence)
        self._born_since += [delivery for _, delivery in self._held if delivery.topic.startswith(born)]
        self._held = [(due, delivery) for due, delivery in self._held if not delivery.topic.startswith(born)]
        self._held += [(until, msgspec.structs.replace(delivery, receipt=NO_RECEIPT)) for delivery in judgement.held]
        for present in judgement.changes.presence:
            self._births.pop(present, None)
        self._births |= judgement.refused_births
        while len(self._births) > MAX_WAITING_BIRTHS:
            del self._births[next(iter(self._births))]
        if len(self._known_signals) > MAX_KNOWN_SIGNALS:
            self._known_signals.clear()
        self._known_signals |= {asset: _shared(names) for asset, names in judgement.signals.items()}
        for tenant, node, lane, epoch in judgement.new_epochs:
            _log.info("first records of %s/%s in the %s lane of epoch %s", tenant, node, lane, epoch)

    # --- acknowledging, at the pace of the quota --------------------------------------------------------------------

    def _charge(self, incoming: Sequence[Incoming], seconds: float) -> set[NodeKey]:
        """The nodes that are over their quota by now."""
        over, total, now = set[NodeKey](), 0, time.monotonic()
        for message in incoming:
            node = message.node
            if node is not None:
                count = len(message.message.records) if isinstance(message, LaneMessage) else 1
                total += count
                if self.quota.charge(node, records=count, size=len(message.delivery.payload), now=now):
                    over.add(node)
        self._records_per_s = total / max(seconds, 1e-3)
        return over

    def _acknowledge_lanes(self, changes: Changes, over_quota: Collection[NodeKey]) -> None:
        """Not retained and QoS 0: it is cumulative, and a node that misses one resends and is told again."""
        crowded, now_ms = self._crowded_records_per_s(len(changes.lanes)), self.clock.now_ms()
        for lane, change in changes.lanes.items():
            ack = wire.Ack(
                lane=lane[2],
                epoch=lane[3],
                seq=change.progress.contiguous,
                at=now_ms,
                replay_records_per_s=crowded,
            )
            wait = 0.0
            if lane[:2] in over_quota:
                ack, wait = self._slowed(lane, ack), self.quota.wait_seconds(lane[:2])
            if wait > 0:
                self.quota.throttled[lane[1]] += 1
                due = self._late_acks.get(lane, (time.monotonic() + wait, ack))[0]
                self._late_acks[lane] = (due, ack)
            else:
                self._late_acks.pop(lane, None)
                self._publish_ack(lane, ack)

    def _slowed(self, lane: LaneKey, ack: wire.Ack) -> wire.Ack:
        paces = (ack.replay_records_per_s, self.quota.advised_records_per_s(lane[:2]))
        pace = min((pace for pace in paces if pace is not None), default=None)
        return msgspec.structs.replace(ack, replay_records_per_s=pace)

    def _crowded_records_per_s(self, lanes: int) -> int | None:
        """Each lane's share of what can be stored, when the hand-over fills: live records come first at the nodes."""
        if self.handover.fill < ADVISE_AT_FILL:
            return None
        return max(MIN_ADVISED_RECORDS_PER_S, round(self._records_per_s / max(1, lanes)))

    def _send_late_acks(self) -> None:
        now = time.monotonic()
        for lane in [lane for lane, (due, _) in self._late_acks.items() if due <= now]:
            _, ack = self._late_acks.pop(lane)
            self._publish_ack(lane, msgspec.structs.replace(ack, at=self.clock.now_ms()))

    def _publish_ack(self, lane: LaneKey, ack: wire.Ack) -> None:
        self.broker.publish(wire.topic(*lane[:2], "ack"), wire.encode_control(ack), qos=0)


@lru_cache(maxsize=1024)
def _shared(names: frozenset[str]) -> frozenset[str]:
    """One object for all machines that have these signals: there are thousands of machines and few kinds of them."""
    return names


def _read(delivery: Delivery, at: int) -> Incoming | None:
    """What a delivery says; one that our own code cannot read is unreadable, too."""
    try:
        return read_delivery(delivery, now_ms=at)
    except Exception as error:  # noqa: BLE001 - a mistake of ours with one message
        _log.exception("a message on %r could not be read", delivery.topic)
        return Unreadable(delivery=delivery, node=None, reason=f"could not be read: {type(error).__name__}")


def _senders(incoming: Sequence[Incoming]) -> set[NodeKey]:
    return {message.node for message in incoming if message.node is not None}


def _without(batch: Sequence[Delivery], parts: Sequence[Sequence[Delivery]]) -> list[Delivery]:
    left_out = {id(delivery) for part in parts for delivery in part}
    return [delivery for delivery in batch if id(delivery) not in left_out]


def _with_records(message: LaneMessage, records: Sequence[wire.Received]) -> LaneMessage:
    some = msgspec.structs.replace(message.message, seq=records[0].seq, records=tuple(records))
    return msgspec.structs.replace(message, message=some)


def _reason(error: Exception) -> str:
    return f"could not be stored: {type(error).__name__}"[:500]


def _tell(refusals: Sequence[Refusal]) -> None:
    """Security events go to the log as well; a flood of them does not."""
    for refusal in [refusal for refusal in refusals if refusal.security][:10]:
        _log.warning("security: %r refused: %s", refusal.topic, refusal.reason)


def read_facts(
    ledger: LedgerTransaction,
    batch: Sequence[Incoming],
    *,
    nodes: dict[NodeKey, KnownNode],
    known_signals: dict[AssetKey, frozenset[str]],
) -> Facts:
    """What the database says about everything the batch mentions.

    `known_signals` is a memory of signals that are stored: they are never removed, so it cannot be wrong, and only
    machines that show a signal it lacks are looked up.
    """
    lanes = [message for message in batch if isinstance(message, LaneMessage) and message.node in nodes]
    births = [message for message in batch if isinstance(message, ControlMessage) and message.node in nodes]
    asked = ledger.asked({found for message in births if (found := _refused_command(message)) is not None})
    telling = [message for message in lanes if message.gaps]
    lost = set().union(*map(_earlier_epochs, telling))
    wanted = {message.lane for message in lanes}.union(lost, *map(_lanes_of_birth, births))
    progress = ledger.progress(wanted.union(found.lane for found in asked.values()))
    digests, unknown = _digests_of_repeats(ledger, lanes, progress)
    sure, unsure = _signals(lanes, known_signals)
    return Facts(
        nodes=nodes,
        assets=ledger.assets(set().union(*(message.assets for message in lanes), *map(_declared, births))),
        signals=sure | ledger.signals(unsure),
        progress=progress,
        digests=digests,
        gaps=ledger.open_gaps(unknown | lost | {message.lane for message in telling}),
        asked=asked,
    )


def _lanes_of_birth(birth: ControlMessage) -> set[LaneKey]:
    if not isinstance(birth.body, wire.Presence):
        return set()
    return {(*birth.node, lane, birth.body.epochs[lane]) for lane in wire.LANES if lane in birth.body.epochs}


def _refused_command(birth: ControlMessage) -> tuple[NodeKey, str] | None:
    """The command that a node does not carry out."""
    return (birth.node, birth.body.id) if isinstance(birth.body, wire.Reply) and not birth.body.ok else None


def _earlier_epochs(message: LaneMessage) -> set[LaneKey]:
    """Of which gap records tell."""
    return {(*message.lane[:3], gap.epoch) for gap in message.gaps if gap.epoch is not None}


def _declared(birth: ControlMessage) -> set[AssetKey]:
    assets = birth.body.assets if isinstance(birth.body, wire.Presence) else {}
    return {(birth.node[0], asset) for asset in assets}


def _signals(
    lanes: Sequence[LaneMessage], known_signals: dict[AssetKey, frozenset[str]]
) -> tuple[dict[AssetKey, frozenset[str]], set[AssetKey]]:
    """Those of the machines that show what is known of them, and the machines that show more."""
    sure, unsure = dict[AssetKey, frozenset[str]](), set[AssetKey]()
    for message in lanes:
        tenant = message.lane[0]
        for received in message.message.records:
            record = received.record
            if isinstance(record, wire.Telemetry):
                asset = (tenant, record.asset)
                known = known_signals.get(asset, _NO_SIGNALS)
                if known.issuperset(record.signals):
                    sure[asset] = known
                else:
                    unsure.add(asset)
    return sure, unsure


_NO_SIGNALS: Final = frozenset[str]()


def _digests_of_repeats(
    ledger: LedgerTransaction, lanes: Sequence[LaneMessage], progress: dict[LaneKey, Progress]
) -> tuple[dict[LaneKey, dict[int, bytes]], set[LaneKey]]:
    """The digests of what counts as received, and the lanes in which some of it has none: it may be in a gap."""
    repeats, assets = dict[LaneKey, set[int]](), dict[LaneKey, set[AssetKey]]()
    for message in lanes:
        known = progress.get(message.lane)
        if known is not None and message.message.seq <= known.last:
            again = {received.seq for received in message.message.records if known.has(received.seq)}
            if again:
                repeats.setdefault(message.lane, set()).update(again)
                assets.setdefault(message.lane, set()).update(message.assets)
    found = {lane: ledger.digests(lane, seqs, assets[lane]) for lane, seqs in repeats.items()}
    return found, {lane for lane, seqs in repeats.items() if not seqs <= found[lane].keys()}
