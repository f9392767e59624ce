"""What to do with each message and record of a batch. Pure: facts in, changes out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from forewarn_cloud.ingest.ledger import (
    Changes,
    Facts,
    KnownAsset,
    LaneChange,
    PresenceChange,
    Refusal,
    Resend,
    StoredAdvisory,
    StoredGap,
)
from forewarn_cloud.ingest.messages import (
    AssetKey,
    ControlMessage,
    Delivery,
    Incoming,
    LaneKey,
    LaneMessage,
    NodeKey,
    Unreadable,
)
from forewarn_cloud.ingest.progress import (
    Progress,
    Range,
    advance,
    extend,
    missing_below,
    ranges_of,
    subtract,
    within,
)
from forewarn_cloud.telemetry import TelemetryRecord
from forewarn_models import wire
from forewarn_models.asset_type import IDENTIFIER, MAX_SIGNALS

MAX_HOLES: Final = 1000
"""Of a lane. Records that would make more are left to be resent once the earlier ones have come."""
MAX_RESENDS: Final = 20
"""Of a lane at once. Beyond that, one request spans all that is missing; what came of it is absorbed."""
NO_LONGER_HELD: Final = "not received, and the node no longer holds it"


class _Refused(Exception):
    """A record that is not to be stored; the message is the reason."""

    def __init__(self, reason: str, *, security: bool = False) -> None:
        super().__init__(reason)
        self.security = security


@dataclass(kw_only=True)
class Judgement:
    changes: Changes
    held: list[Delivery] = field(default_factory=list)
    """Not judged: they name machines whose node may be about to declare them."""
    refused_births: dict[NodeKey, ControlMessage] = field(default_factory=dict)
    """Of nodes that are not enrolled, or not yet."""
    new_epochs: list[LaneKey] = field(default_factory=list)
    signals: dict[AssetKey, frozenset[str]] = field(default_factory=dict)
    """All signals, old and new, of the machines whose telemetry is stored."""


def judge(batch: Sequence[Incoming], facts: Facts, *, tenant: str, at: int, last_chance: bool) -> Judgement:
    """Decide on a batch.

    `tenant` is whom this cloud serves. Presence comes first, whatever the order of delivery: a birth registers the
    machines that the node's records speak of. `last_chance`: hold nothing back any more.
    """
    judging = _Judging(facts=facts, tenant=tenant, last_chance=last_chance, result=Judgement(changes=Changes(at=at)))
    for incoming in sorted(batch, key=lambda incoming: not isinstance(incoming, ControlMessage)):
        judging.consider(incoming)
    return judging.finish()


class _Lane(msgspec.Struct, kw_only=True):
    """What a batch does to a lane."""

    change: LaneChange
    digests: dict[int, bytes]
    """Of the records that are here by now, as far as they matter."""
    received: list[Range]


@dataclass(kw_only=True)
class _Judging:
    facts: Facts
    tenant: str
    last_chance: bool
    result: Judgement
    changes: Changes = field(init=False)
    assets: dict[AssetKey, KnownAsset] = field(init=False)
    lanes: dict[LaneKey, _Lane] = field(default_factory=dict)
    told: dict[LaneKey, list[Range]] = field(default_factory=dict)
    """Ranges of the gaps."""
    believed: dict[LaneKey, int] = field(default_factory=dict)
    """Up to where the nodes that were born believe everything committed."""

    def __post_init__(self) -> None:
        self.changes = self.result.changes
        self.assets = dict(self.facts.assets)

    def consider(self, incoming: Incoming) -> None:
        refusal = None if incoming.node is None else self._refused_node(incoming.node)
        if refusal is not None:
            self._refuse_node(incoming, refusal)
        elif isinstance(incoming, Unreadable):
            self._refuse(incoming, incoming.reason, body=incoming.delivery.payload)
        elif isinstance(incoming, LaneMessage):
            self._take_lane(incoming)
        elif isinstance(incoming.body, wire.Reply):
            self._take_reply(incoming.node, incoming.body)
        else:
            self._take_presence(incoming, incoming.body)

    def finish(self) -> Judgement:
        self._settle_gaps()
        for lane, change in self.changes.lanes.items():
            change.progress = advance(change.progress, [*self.lanes[lane].received, *self.told.get(lane, ())])
        for lane, acknowledged in self.believed.items():
            self._ask_again(lane, acknowledged)
        return self.result

    def _settle_gaps(self) -> None:
        """What has come, before or in this batch, is not missing, whatever gaps say."""
        for lane, open_gaps in self.facts.gaps.items():
            for gap in open_gaps:
                missing = subtract(gap.missing, self.lanes[lane].received if lane in self.lanes else ())
                if missing != gap.missing:
                    self.changes.filled[lane, gap.seq] = missing
        self.changes.gaps = [replace(gap, missing=self._missing(gap)) for gap in self.changes.gaps]

    def _missing(self, gap: StoredGap) -> tuple[Range, ...]:
        missing_before = [span for known in self.facts.gaps.get(gap.lane, ()) for span in known.missing]
        of_lane = self.lanes[gap.lane]
        came_before = subtract(ranges_of(of_lane.change.progress), missing_before)
        return subtract([(gap.first_seq, gap.last_seq)], [*came_before, *of_lane.received])

    def _ask_again(self, lane: LaneKey, acknowledged: int) -> None:
        """The node believes more committed than is: this database was restored from a backup."""
        change = self.changes.lanes.get(lane)
        progress = self.facts.progress.get(lane, Progress()) if change is None else change.progress
        missing = missing_below(progress, acknowledged + 1)
        if len(missing) > MAX_RESENDS:
            missing = ((missing[0][0], missing[-1][1]),)
        self.changes.resends += [Resend(lane=lane, first_seq=first, last_seq=last) for first, last in missing]

    # --- nodes ------------------------------------------------------------------------------------------------------

    def _refused_node(self, key: NodeKey) -> _Refused | None:
        node = self.facts.nodes.get(key)
        if key[0] != self.tenant:
            return _Refused(f"tenant: {key[0]!r} is not served here", security=True)
        if node is None:
            return _Refused(f"node: {key[1]!r} is not enrolled; `forewarn-cloud node add {key[1]}` enrols it")
        return _Refused(f"node: {key[1]!r} was deleted", security=True) if node.deleted else None

    def _refuse_node(self, incoming: Incoming, refusal: _Refused) -> None:
        """One row a topic, however much the node sends: it must not push out of quarantine what others sent."""
        same = wire.digest(str(refusal).encode())
        body = incoming.delivery.payload
        self._refuse(incoming, str(refusal), body=body, security=refusal.security, digest=same)
        if isinstance(incoming, ControlMessage) and isinstance(incoming.body, wire.Presence):
            self.result.refused_births[incoming.node] = incoming

    def _take_presence(self, incoming: ControlMessage, presence: wire.Presence) -> None:
        node = incoming.node
        names = [*presence.assets, *presence.assets.values(), *presence.epochs.values()]
        if presence.schema != wire.SCHEMA or not all(IDENTIFIER.fullmatch(name) for name in names):
            reason = "presence: an unknown schema, or a name that is no identifier"
            self._refuse(incoming, reason, body=incoming.delivery.payload)
            return
        online = presence.state == "online"
        earlier = self.changes.presence.get(node)
        version = presence.version or (earlier.version if earlier is not None else "")
        self.changes.presence[node] = PresenceChange(
            online=online,
            version=_text(version, 64),
            epoch=next(iter(presence.epochs.values()), "") if online else None,
        )
        if online:
            for asset, asset_type in presence.assets.items():
                self._declare(incoming, asset, asset_type)
            for lane in wire.LANES:
                if lane in presence.epochs:
                    self._take_positions((*node, lane, presence.epochs[lane]), presence)

    def _take_positions(self, lane: LaneKey, presence: wire.Presence) -> None:
        """What is missing below the first record that the node still holds cannot come any more."""
        first_held, acknowledged = presence.first_seqs.get(lane[2], 0), presence.acknowledged.get(lane[2], 0)
        if 1 <= first_held <= wire.MAX_SEQ:
            progress = self.facts.progress.get(lane, Progress())
            self._note_lost(lane, missing_below(progress, first_held), NO_LONGER_HELD)
        if 1 <= acknowledged <= wire.MAX_SEQ:
            self.believed[lane] = acknowledged

    def _take_reply(self, node: NodeKey, reply: wire.Reply) -> None:
        """A node that began another spool file, and refuses to send from an earlier one again, never will."""
        self.changes.replies.append((node, reply))
        asked = self.facts.asked.get((node, reply.id))
        if asked is not None and asked.superseded:
            progress = self.facts.progress.get(asked.lane, Progress())
            missing = subtract([(asked.first_seq, asked.last_seq)], ranges_of(progress))
            self._note_lost(asked.lane, missing, f"asked for again: {reply.detail or 'the node cannot send it'}")

    def _declare(self, incoming: ControlMessage, asset: str, asset_type: str) -> None:
        tenant, node = incoming.node
        known = self.assets.get((tenant, asset))
        if known is None and not self.facts.nodes[incoming.node].declares_assets:
            return
        declared = KnownAsset(node=node, asset_type=asset_type)
        if known is None or (known.node == node and not known.deleted and known != declared):
            self.assets[tenant, asset] = declared
            self.changes.assets[tenant, asset] = declared
        elif known.node != node:
            body = f"{asset} {asset_type}".encode()
            reason = f"asset: {asset!r} belongs to node {known.node!r}"
            self._refuse(incoming, reason, body=body, security=True)

    def _note_lost(self, lane: LaneKey, missing: Iterable[Range], reason: str) -> None:
        for first, last in missing:
            self._lane(lane)
            self._tell_gap_of_our_own(lane, first, last, wire.digest(f"{lane} {first} {last}".encode()), reason)

    def _tell_gap_of_our_own(self, lane: LaneKey, first: int, last: int, digest: bytes, reason: str) -> None:
        """No record of this lane said so: with a sequence of the lane, the record that has it would be a repeat."""
        self._tell_gap(
            StoredGap(lane=lane, seq=-first, digest=digest, first_seq=first, last_seq=last, reason=_text(reason, 200))
        )

    def _tell_gap(self, gap: StoredGap) -> None:
        self.changes.gaps.append(gap)
        self.told.setdefault(gap.lane, []).append((gap.first_seq, gap.last_seq))

    # --- records ----------------------------------------------------------------------------------------------------

    def _take_lane(self, incoming: LaneMessage) -> None:
        declares = self.facts.nodes[incoming.node].declares_assets
        if not self.last_chance and declares and not incoming.assets <= self.assets.keys():
            self.result.held.append(incoming.delivery)
            return
        of_lane = self._lane(incoming.lane)
        for received in incoming.message.records:
            self._take_record(incoming, of_lane, received)

    def _lane(self, lane: LaneKey) -> _Lane:
        of_lane = self.lanes.get(lane)
        if of_lane is None:
            progress = self.facts.progress.get(lane)
            if progress is None:
                self.result.new_epochs.append(lane)
            change = self.changes.lanes[lane] = LaneChange(progress=progress or Progress(), is_new=progress is None)
            of_lane = _Lane(change=change, digests=dict(self.facts.digests.get(lane, ())), received=[])
            self.lanes[lane] = of_lane
        return of_lane

    def _take_record(self, incoming: LaneMessage, of_lane: _Lane, received: wire.Received) -> None:
        lane, seq, change = incoming.lane, received.seq, of_lane.change
        if seq in of_lane.digests or (change.progress.has(seq) and not self._fills_gap(lane, seq)):
            self._take_repeat(incoming, of_lane, received)
            return
        if len(change.progress.ahead) >= MAX_HOLES and seq > change.progress.contiguous + wire.MAX_RECORDS:
            return
        of_lane.digests[seq] = received.digest
        extend(of_lane.received, seq)
        try:
            self._store(lane, received)
            change.stored += 1
        except _Refused as refusal:
            self._refuse_record(incoming, received, str(refusal), security=refusal.security)
            change.quarantined += 1

    def _fills_gap(self, lane: LaneKey, seq: int) -> bool:
        """Whether the record counts as received but has never come."""
        return any(within(gap.missing, seq) for gap in self.facts.gaps.get(lane, ()))

    def _take_repeat(self, incoming: LaneMessage, of_lane: _Lane, received: wire.Received) -> None:
        first = of_lane.digests.get(received.seq)
        if first is None or first == received.digest:
            return
        reason = f"seq: {received.seq} was received before with another body"
        self._refuse_record(incoming, received, reason, security=True)

    def _store(self, lane: LaneKey, received: wire.Received) -> None:
        record = received.record
        if isinstance(record, wire.Telemetry):
            asset = (lane[0], record.asset)
            self._check_asset(asset, lane[1])
            self._check_signals(asset, record.signals)
            self.changes.telemetry.append(_telemetry(lane, received, record))
        elif isinstance(record, wire.Rejected):
            raise _Refused(record.reason)
        elif isinstance(record, wire.Gap):
            self._store_gap(lane, received, record)
        else:
            self._check_asset((lane[0], record.asset), lane[1])
            self.changes.advisories.append(
                StoredAdvisory(lane=lane, seq=received.seq, digest=received.digest, advisory=record)
            )

    def _store_gap(self, lane: LaneKey, received: wire.Received, gap: wire.Gap) -> None:
        if gap.epoch is not None and gap.epoch != lane[3]:
            self._store_gap_of_earlier_epoch((*lane[:3], gap.epoch), received, gap)
            return
        if gap.last_seq >= received.seq:
            raise _Refused("gap: a node can only have dropped records before this one")
        self._tell_gap(
            StoredGap(
                lane=lane,
                seq=received.seq,
                digest=received.digest,
                first_seq=gap.first_seq,
                last_seq=gap.last_seq,
                reason=_text(gap.reason, 200),
            )
        )

    def _store_gap_of_earlier_epoch(self, lane: LaneKey, received: wire.Received, gap: wire.Gap) -> None:
        """A node that lost its spool file knows neither how far it went nor what of it is committed."""
        missing = subtract([(gap.first_seq, gap.last_seq)], ranges_of(self._lane(lane).change.progress))
        if missing:
            self._tell_gap_of_our_own(lane, missing[0][0], missing[-1][1], received.digest, gap.reason)

    def _check_asset(self, asset: AssetKey, node: str) -> None:
        known = self.assets.get(asset)
        if known is None:
            raise _Refused(f"asset: {asset[1]!r} is not registered")
        if known.node != node:
            raise _Refused(f"asset: {asset[1]!r} belongs to node {known.node!r}", security=True)
        if known.deleted:
            raise _Refused(f"asset: {asset[1]!r} was deleted")

    def _check_signals(self, asset: AssetKey, names: Iterable[str]) -> None:
        known = self.result.signals.get(asset)
        if known is None:
            known = self.result.signals[asset] = self.facts.signals.get(asset, frozenset())
        if known.issuperset(names):
            return
        new = known.union(names)
        if len(new) > MAX_SIGNALS:
            raise _Refused(f"signals: asset {asset[1]!r} would have more than {MAX_SIGNALS}")
        self.result.signals[asset] = new
        self.changes.signals.setdefault(asset, set()).update(new - known)

    # --- quarantine -------------------------------------------------------------------------------------------------

    def _refuse(
        self,
        incoming: Incoming,
        reason: str,
        *,
        body: bytes,
        digest: bytes | None = None,
        lane: LaneKey | None = None,
        seq: int | None = None,
        security: bool = False,
    ) -> None:
        node = incoming.node
        self.changes.refusals.append(
            Refusal(
                tenant=self.tenant,
                topic=_text(incoming.delivery.topic, 300),
                node=node[1] if node is not None and node[0] == self.tenant else None,
                lane=lane,
                seq=seq,
                reason=_text(reason, 500),
                body=body[: wire.MAX_MESSAGE_BYTES],
                digest=digest or wire.digest(body),
                security=security,
            )
        )

    def _refuse_record(self, incoming: LaneMessage, received: wire.Received, reason: str, *, security: bool) -> None:
        self._refuse(
            incoming,
            reason,
            body=body_of(received.record),
            digest=received.digest,
            lane=incoming.lane,
            seq=received.seq,
            security=security,
        )


def _telemetry(lane: LaneKey, received: wire.Received, record: wire.Telemetry) -> TelemetryRecord:
    tenant, node, _, epoch = lane
    return TelemetryRecord(
        tenant=tenant,
        node=node,
        epoch=epoch,
        seq=received.seq,
        digest=received.digest,
        asset=record.asset,
        t_ms=record.t_ms,
        signals=record.signals,
    )


def body_of(record: wire.Record | wire.Rejected) -> bytes:
    """As it came, or as we would send it."""
    if isinstance(record, wire.Rejected):
        return record.body
    if isinstance(record, wire.Telemetry):
        return wire.encode_telemetry(record)
    return wire.encode_advisory(record) if isinstance(record, wire.Advisory) else wire.encode_gap(record)


def _text(text: str, limit: int) -> str:
    """Fit for a column: PostgreSQL stores no NUL."""
    return text.replace("\0", "�")[:limit]
