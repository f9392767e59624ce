"""One batch, one transaction, then the acknowledgements. The only thread that commits what nodes send."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Final, Protocol, TypeVar

from forewarn_cloud.clock import Clock
from forewarn_cloud.errors import Unavailable
from forewarn_cloud.ingest.handover import HandOver
from forewarn_cloud.ingest.judge import Judgement, judge
from forewarn_cloud.ingest.ledger import Changes, Facts, KnownNode, Ledger, LedgerTransaction, Refusal
from forewarn_cloud.ingest.messages import (
    AssetKey,
    ControlMessage,
    Delivery,
    Incoming,
    LaneKey,
    LaneMessage,
    NodeKey,
    read_delivery,
)
from forewarn_cloud.ingest.progress import Progress
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
    serving: bool = True
    """Whether the database took the last batch."""
    _held: list[tuple[float, Delivery]] = field(default_factory=list)
    _births: dict[NodeKey, ControlMessage] = field(default_factory=dict)
    _known_signals: dict[AssetKey, frozenset[str]] = field(default_factory=dict)

    def run(self) -> None:
        while True:
            batch = self.handover.take(wait_seconds=0.2, fill_seconds=FILL_SECONDS)
            if batch:
                self._commit(batch, last_chance=len(self._held) >= MAX_HELD)
            self._commit_held()
            if not batch and self.stopping.is_set():
                return

    def _commit_held(self) -> None:
        """Those that waited long enough. What still waits when the program stops is unacknowledged: it comes again."""
        now = time.monotonic()
        due = [delivery for until, delivery in self._held if until <= now]
        if due:
            self._held = [(until, delivery) for until, delivery in self._held if until > now]
            self._commit(due, last_chance=True)

    def _commit(self, batch: Sequence[Delivery], *, last_chance: bool) -> None:
        """Commit the batch; if that cannot be because of what is in it, by halves, to find the message to blame."""
        try:
            self._commit_whole(batch, last_chance=last_chance)
        except Unavailable:
            return  # only when stopping: unacknowledged, so it comes again
        except Exception as error:  # noqa: BLE001 - a poison message must not stop the others
            if len(batch) > 1:
                middle = len(batch) // 2
                self._commit(batch[:middle], last_chance=last_chance)
                self._commit(batch[middle:], last_chance=last_chance)
            else:
                self._set_aside(batch[0], error)

    def _commit_whole(self, batch: Sequence[Delivery], *, last_chance: bool) -> None:
        at = self.clock.now_ms()
        incoming = [read for delivery in batch if (read := read_delivery(delivery, now_ms=at)) is not None]
        judgement = self._store(lambda ledger: self._judge_and_write(ledger, incoming, at, last_chance))
        self._remember(judgement)
        held = set(map(id, judgement.held))
        self.broker.acknowledge([delivery for delivery in batch if id(delivery) not in held])
        self._acknowledge_lanes(judgement.changes)
        _tell(judgement.changes.refusals)

    def _judge_and_write(
        self, ledger: LedgerTransaction, incoming: Sequence[Incoming], at: int, last_chance: bool
    ) -> Judgement:
        nodes = ledger.nodes({message.node for message in incoming if message.node is not None})
        births = [birth for key, birth in self._births.items() if key in nodes and not nodes[key].deleted]
        batch = [*births, *incoming]
        facts = read_facts(ledger, batch, nodes=nodes, known_signals=self._known_signals)
        judgement = judge(batch, facts, tenant=self.tenant, at=at, last_chance=last_chance)
        ledger.write(judgement.changes)
        return judgement

    def _set_aside(self, delivery: Delivery, error: Exception) -> None:
        """A message that our own code cannot handle: kept with the error, to be looked into and sent anew."""
        _log.error("a message on %r could not be stored and is set aside", delivery.topic, exc_info=error)
        refusal = Refusal(
            tenant=self.tenant,
            topic=delivery.topic.replace("\0", "")[:300],
            reason=f"could not be stored: {type(error).__name__}"[:500],
            body=delivery.payload[: wire.MAX_MESSAGE_BYTES],
            digest=wire.digest(delivery.payload),
        )
        changes = Changes(at=self.clock.now_ms(), refusals=[refusal])
        try:
            self._store(lambda ledger: ledger.write(changes))
        except Unavailable:
            return
        self.broker.acknowledge([delivery])

    def _store(self, work: Callable[[LedgerTransaction], T]) -> T:
        """Run it in a transaction, until the database can serve or the program stops.

        Raises:
            Unavailable: the program is stopping.
        """
        pause, longest = OUTAGE_PAUSE_SECONDS
        while True:
            try:
                result = self.ledger.run(work)
            except Unavailable as error:
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
        self._held = [(0.0 if delivery.topic.startswith(born) else due, delivery) for due, delivery in self._held]
        self._held += [(until, delivery) for delivery in judgement.held]
        for present in judgement.changes.presence:
            self._births.pop(present, None)
        self._births |= judgement.refused_births
        while len(self._births) > MAX_WAITING_BIRTHS:
            del self._births[next(iter(self._births))]
        if len(self._known_signals) > MAX_KNOWN_SIGNALS:
            self._known_signals.clear()
        self._known_signals |= {asset: frozenset(names) for asset, names in judgement.signals.items()}
        for tenant, node, lane, epoch in judgement.new_epochs:
            _log.info("first records of %s/%s in the %s lane of epoch %s", tenant, node, lane, epoch)

    def _acknowledge_lanes(self, changes: Changes) -> None:
        """Not retained and QoS 0: it is cumulative, and a node that misses one resends and is told again."""
        for (tenant, node, lane, epoch), change in changes.lanes.items():
            ack = wire.Ack(lane=lane, epoch=epoch, seq=change.progress.contiguous, at=self.clock.now_ms())
            self.broker.publish(wire.topic(tenant, node, "ack"), wire.encode_control(ack), qos=0)


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
    wanted = {message.lane for message in lanes}.union(*map(_lanes_of_birth, births))
    progress = ledger.progress(wanted.union(found.lane for found in asked.values()))
    digests, unknown = _digests_of_repeats(ledger, lanes, progress)
    signals = _signals(lanes)
    unsure = {asset for asset, names in signals.items() if not names <= known_signals.get(asset, frozenset())}
    return Facts(
        nodes=nodes,
        assets=ledger.assets(set().union(*(message.assets for message in lanes), *map(_declared, births))),
        signals={asset: known_signals[asset] for asset in signals.keys() - unsure} | ledger.signals(unsure),
        progress=progress,
        digests=digests,
        gaps=ledger.open_gaps(unknown | {message.lane for message in lanes if _tells_gap(message)}),
        asked=asked,
    )


def _lanes_of_birth(birth: ControlMessage) -> set[LaneKey]:
    if not isinstance(birth.body, wire.Presence):
        return set()
    return {(*birth.node, lane, birth.body.epochs[lane]) for lane in wire.LANES if lane in birth.body.epochs}


def _refused_command(birth: ControlMessage) -> tuple[NodeKey, str] | None:
    """The command that a node does not carry out."""
    return (birth.node, birth.body.id) if isinstance(birth.body, wire.Reply) and not birth.body.ok else None


def _tells_gap(message: LaneMessage) -> bool:
    return any(isinstance(received.record, wire.Gap) for received in message.message.records)


def _declared(birth: ControlMessage) -> set[AssetKey]:
    assets = birth.body.assets if isinstance(birth.body, wire.Presence) else {}
    return {(birth.node[0], asset) for asset in assets}


def _signals(lanes: Sequence[LaneMessage]) -> dict[AssetKey, set[str]]:
    layouts = {
        ((message.lane[0], record.asset), tuple(record.signals)) for message in lanes for record in message.telemetry
    }
    found = dict[AssetKey, set[str]]()
    for asset, names in layouts:
        found.setdefault(asset, set()).update(names)
    return found


def _digests_of_repeats(
    ledger: LedgerTransaction, lanes: Sequence[LaneMessage], progress: dict[LaneKey, Progress]
) -> tuple[dict[tuple[LaneKey, int], bytes], set[LaneKey]]:
    """The digests of what counts as received, and the lanes in which some of it has none: it may be in a gap."""
    repeats = dict[LaneKey, set[int]]()
    for message in lanes:
        known = progress.get(message.lane)
        if known is not None and message.message.seq <= known.last:
            again = {received.seq for received in message.message.records if known.has(received.seq)}
            if again:
                repeats.setdefault(message.lane, set()).update(again)
    found = {
        (lane, seq): digest for lane, seqs in repeats.items() for seq, digest in ledger.digests(lane, seqs).items()
    }
    return found, {lane for lane, seqs in repeats.items() if any((lane, seq) not in found for seq in seqs)}
