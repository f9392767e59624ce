"""What goes into the spool and what comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from forewarn_edge_agent.sources import Position
from forewarn_models import wire

MOST_IN_A_PART: Final = 500

Range = tuple[int, int]
"""First and last sequence, both included."""


@dataclass(frozen=True, kw_only=True)
class AssetRow:
    """What is kept of one asset at a checkpoint. `state` and `memory` are what the models wrote."""

    asset: str
    asset_type: str
    signals: tuple[str, ...]
    state: bytes
    memory: bytes | None
    condition: str
    maturity: str
    health_index: float | None
    observed_at_ms: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Everything of one commit."""

    telemetry: list[bytes] = field(default_factory=list)
    advisories: list[bytes] = field(default_factory=list)
    assets: tuple[AssetRow, ...] | None = None
    """The states that changed since the last checkpoint, if this is one; they include this batch's telemetry."""
    positions: tuple[Position, ...] = ()
    reply: wire.Reply | None = None
    counters: Mapping[str, int] = field(default_factory=dict)

    def parts(self, max_bytes: int) -> list["Batch"]:
        """The same as several commits. All but the last hold telemetry only: a restart catches up with it."""
        groups, size = [list[bytes]()], 0
        for body in self.telemetry:
            if groups[-1] and (size + len(body) > max_bytes or len(groups[-1]) >= MOST_IN_A_PART):
                groups.append([])
                size = 0
            groups[-1].append(body)
            size += len(body)
        return [*(Batch(telemetry=group) for group in groups[:-1]), replace(self, telemetry=groups[-1])]


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """What a spool holds beside records, states and digests."""

    positions: tuple[Position, ...]
    replies: tuple[wire.Reply, ...]
    counters: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Consecutive records of a lane; the first has the sequence `seq` in `epoch`.

    `spooled_at_ms`: when the last of them was spooled, by the wall clock of then. `mark`: of records of earlier epochs,
    behind which to read on.
    """

    epoch: str
    seq: int
    bodies: tuple[bytes, ...]
    spooled_at_ms: int
    mark: int = 0

    @property
    def last_seq(self) -> int:
        return self.seq + len(self.bodies) - 1


@dataclass(frozen=True, kw_only=True)
class LaneState:
    """`last_seq` is the highest sequence ever given; `depth` counts what the cloud has not acknowledged.

    `archived` counts what it has acknowledged and what is kept all the same.
    """

    last_seq: int
    acknowledged_seq: int
    depth: int
    archived: int
    dropped: int
    oldest_at_ms: int | None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is kept, and for how long."""

    max_bytes: int
    """On the disk, with the write-ahead log and everything else beside the file."""
    max_age_ms: int = 7 * 24 * 3_600_000
    keep_acknowledged_ms: int = 24 * 3_600_000
    max_records: int | None = None
