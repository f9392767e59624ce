"""What ingest has to know and what it writes: the port to the database, and the facts that cross it.

One batch is one transaction: facts are read, `judge.py` decides without side effects, the changes are written.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgspec

from forewarn_cloud.ingest.messages import AssetKey, LaneKey, NodeKey
from forewarn_cloud.ingest.progress import Progress, Range
from forewarn_cloud.telemetry import TelemetryRecord
from forewarn_models import wire

T = TypeVar("T")


class KnownNode(msgspec.Struct, frozen=True, kw_only=True):
    deleted: bool = False
    declares_assets: bool = True


class KnownAsset(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    asset_type: str
    deleted: bool = False


@dataclass(frozen=True, kw_only=True)
class OpenGap:
    """A gap that has not filled: `missing` counts as received, but is news if it comes after all."""

    seq: int
    missing: tuple[Range, ...]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Records that a node was asked for again. `superseded`: it has begun another spool file since."""

    lane: LaneKey
    first_seq: int
    last_seq: int
    superseded: bool


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the database says about everything a batch mentions. What is absent does not exist."""

    nodes: dict[NodeKey, KnownNode] = field(default_factory=dict)
    assets: dict[AssetKey, KnownAsset] = field(default_factory=dict)
    signals: dict[AssetKey, frozenset[str]] = field(default_factory=dict)
    progress: dict[LaneKey, Progress] = field(default_factory=dict)
    digests: dict[LaneKey, dict[int, bytes]] = field(default_factory=dict)
    """Of records that were received before; of those that were in quarantine and have been trimmed there is none."""
    gaps: dict[LaneKey, tuple[OpenGap, ...]] = field(default_factory=dict)
    """Of lanes in which that may matter."""
    asked: dict[tuple[NodeKey, str], Asked] = field(default_factory=dict)
    """By the id of the command, where it was refused."""


@dataclass(frozen=True, kw_only=True)
class StoredAdvisory:
    lane: LaneKey
    seq: int
    digest: bytes
    advisory: wire.Advisory


@dataclass(frozen=True, kw_only=True)
class StoredGap:
    """Records that are not expected any more. `digest` and `seq` are those of the record that said so; `missing`: those
    that have in fact not come, before it or with it."""

    lane: LaneKey
    seq: int
    digest: bytes
    first_seq: int
    last_seq: int
    reason: str
    missing: tuple[Range, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Resend:
    """Records that the node is to be asked for again."""

    lane: LaneKey
    first_seq: int
    last_seq: int


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Something to keep in quarantine. A refusal with a lane and a sequence is a record that counts as received."""

    tenant: str
    topic: str
    reason: str
    body: bytes
    digest: bytes
    node: str | None = None
    lane: LaneKey | None = None
    seq: int | None = None
    security: bool = False


class LaneChange(msgspec.Struct, kw_only=True):
    """`is_new`: nothing of the lane was known. If it is there after all, another was faster, and all is judged anew."""

    progress: Progress
    is_new: bool = False
    stored: int = 0
    quarantined: int = 0


@dataclass(frozen=True, kw_only=True)
class PresenceChange:
    online: bool
    version: str
    """Empty where it is not known: a will tells none."""
    epoch: str | None = None
    """Of a birth: the node's spool file."""


@dataclass(kw_only=True)
class Changes:
    """What a batch does to the database, all in one transaction."""

    at: int
    telemetry: list[TelemetryRecord] = field(default_factory=list)
    advisories: list[StoredAdvisory] = field(default_factory=list)
    gaps: list[StoredGap] = field(default_factory=list)
    filled: dict[tuple[LaneKey, int], tuple[Range, ...]] = field(default_factory=dict)
    """What is still missing of earlier gaps, by the sequence number of who told them."""
    resends: list[Resend] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    lanes: dict[LaneKey, LaneChange] = field(default_factory=dict)
    presence: dict[NodeKey, PresenceChange] = field(default_factory=dict)
    assets: dict[AssetKey, KnownAsset] = field(default_factory=dict)
    """Registered, or of another type now."""
    signals: dict[AssetKey, set[str]] = field(default_factory=dict)
    """Seen for the first time."""
    replies: list[tuple[NodeKey, wire.Reply]] = field(default_factory=list)


class LedgerTransaction(Protocol):
    """Reads lock what they read against other ingest workers until the transaction ends."""

    def nodes(self, keys: Collection[NodeKey]) -> dict[NodeKey, KnownNode]: ...

    def assets(self, keys: Collection[AssetKey]) -> dict[AssetKey, KnownAsset]: ...

    def signals(self, keys: Collection[AssetKey]) -> dict[AssetKey, frozenset[str]]: ...

    def progress(self, keys: Collection[LaneKey]) -> dict[LaneKey, Progress]: ...

    def digests(self, lane: LaneKey, seqs: Collection[int], assets: Collection[AssetKey]) -> dict[int, bytes]:
        """Of those that are stored. `assets`: whom they are likely to be about."""
        ...

    def open_gaps(self, keys: Collection[LaneKey]) -> dict[LaneKey, tuple[OpenGap, ...]]: ...

    def asked(self, keys: Collection[tuple[NodeKey, str]]) -> dict[tuple[NodeKey, str], Asked]:
        """What nodes were asked to send again, by command."""
        ...

    def write(self, changes: Changes) -> None: ...

    def rehearsal(self) -> Callable[[Changes], None]:
        """What writes and undoes that again, in this transaction, which must write nothing else meanwhile.

        It raises Unavailable where the transaction cannot go on, and else what writing would raise.
        """
        ...


class Ledger(Protocol):
    """How ingest reaches the database."""

    def run(self, work: Callable[[LedgerTransaction], T]) -> T:
        """Run `work` in one durable transaction, again from its start if another was faster.

        Raises:
            Unavailable: the database cannot serve. Nothing was changed.
        """
        ...

    def serves(self) -> bool:
        """Whether the database would begin a transaction that writes, now."""
        ...
