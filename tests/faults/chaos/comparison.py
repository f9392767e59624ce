"""What was appended beside what is stored. Pure: the figures of a run, and in words what is wrong."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

LaneKey = tuple[str, str]
"""Node and lane."""
MAX_REMARKS: Final = 20
WATCHDOG_REASON: Final = "silent"
"""Of advisories that follow from the clock and from no sample: how many there are depends on how long things took."""


@dataclass(frozen=True, kw_only=True)
class AdvisoryKey:
    """An advisory: about which sample, in short what it says, and all of it as a digest."""

    asset: str
    sample: int
    condition: str
    reason: str
    digest: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Appended:
    """What the harness knows of its own.

    `samples`: of each asset, how many samples (from 1) are in records that were confirmed to their source, that is
    committed. `last_seqs`: of each lane, by epoch, the highest sequence the spool has ever given.
    `advisories`: what the models say of all those samples when they are shown to them once and in order.
    """

    samples: Mapping[str, int]
    nodes: Mapping[str, str]
    """Asset -> its node."""
    last_seqs: Mapping[LaneKey, Mapping[str, int]]
    advisories: Sequence[AdvisoryKey]


@dataclass(frozen=True, kw_only=True)
class StoredLane:
    """Of one epoch: the sequences whose records are stored, the gaps that were told, and the ones in quarantine."""

    seqs: Sequence[int] = ()
    gaps: Sequence[tuple[int, int]] = ()
    gap_seqs: Sequence[int] = ()
    quarantined: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Of one part in one depot; `held`: what the reservations that hold stock there add up to."""

    part_no: str
    depot: str
    on_hand: int
    reserved: int
    held: int


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What the cloud has.

    `samples`: asset -> sample number -> how often it is stored; `wrong_samples`: asset -> how many are not what the
    machine measured; `orders`: the episode of each order; `messages`: what each queued message tells, by its identity
    and by what it says; `mails`: subjects and bodies that arrived, each message id once.
    """

    samples: Mapping[str, Counter[int]]
    wrong_samples: Mapping[str, int]
    lanes: Mapping[LaneKey, Mapping[str, StoredLane]]
    advisories: Sequence[AdvisoryKey]
    episodes: Sequence[str]
    orders: Sequence[str]
    messages: Sequence[tuple[str, ...]]
    mails: Sequence[tuple[str, ...]]
    shelves: Sequence[Shelf]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    records: int
    lost: int
    duplicates_in_effect: int
    gaps_unreported: int
    orders_per_episode_max: int
    oversold: int
    remarks: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        nothing_wrong = not (self.lost or self.duplicates_in_effect or self.gaps_unreported or self.oversold)
        return nothing_wrong and self.orders_per_episode_max == 1


def compare(appended: Appended, stored: Stored) -> Verdict:
    """Machines fail in every run, so no order at all is wrong as well."""
    lost = list(chain(_lost_samples(appended, stored), _missing_advisories(appended, stored)))
    twice = list(chain(_repeated_samples(stored), _extra_advisories(appended, stored), _told_twice(stored)))
    untold = list(_untold(appended, stored))
    oversold = list(_oversold(stored))
    found = chain(lost, twice, untold, oversold)
    return Verdict(
        records=sum(chain.from_iterable(epochs.values() for epochs in appended.last_seqs.values())),
        lost=_total(lost),
        duplicates_in_effect=_total(twice),
        gaps_unreported=_total(untold),
        orders_per_episode_max=max(Counter(stored.orders).values(), default=0),
        oversold=_total(oversold),
        remarks=[f"{count} {what}" for count, what in found][:MAX_REMARKS],
    )


_Found = tuple[int, str]
"""How many, and of what."""


def _total(found: Sequence[_Found]) -> int:
    return sum(count for count, _ in found)


def _lost_samples(appended: Appended, stored: Stored) -> Iterator[_Found]:
    """Samples that are not there, or not as they were measured. A reported gap excuses as many records as it covers."""
    for asset, count in appended.samples.items():
        present = stored.samples.get(asset, Counter())
        missing = [sample for sample in range(1, count + 1) if not present[sample]]
        excused = _excused(appended, stored, appended.nodes[asset])
        if len(missing) > excused:
            yield len(missing) - excused, f"samples of {asset} are lost: {_ranges(missing)}"
        if wrong := stored.wrong_samples.get(asset, 0):
            yield wrong, f"samples of {asset} are not what it measured"


def _excused(appended: Appended, stored: Stored, node: str) -> int:
    """How many records the gaps that were told cover."""
    lanes = stored.lanes.get((node, "telemetry"), {})
    return sum(
        len(_covered(lanes[epoch], last_seq) - {*lanes[epoch].seqs, *lanes[epoch].gap_seqs})
        for epoch, last_seq in appended.last_seqs.get((node, "telemetry"), {}).items()
        if epoch in lanes
    )


def _missing_advisories(appended: Appended, stored: Stored) -> Iterator[_Found]:
    for key, count in (Counter(appended.advisories) - Counter(stored.advisories)).items():
        yield count, f"advisories are lost: {key}"


def _extra_advisories(appended: Appended, stored: Stored) -> Iterator[_Found]:
    for key, count in (Counter(stored.advisories) - Counter(appended.advisories)).items():
        excess = count - 1 if key.reason == WATCHDOG_REASON else count
        if excess:
            yield excess, f"advisories too many: {key}"


def _repeated_samples(stored: Stored) -> Iterator[_Found]:
    for asset, counts in stored.samples.items():
        repeated = [sample for sample, count in counts.items() if count > 1]
        if repeated:
            again = sum(counts[sample] - 1 for sample in repeated)
            yield again, f"samples of {asset} are stored again: {_ranges(sorted(repeated))}"


def _told_twice(stored: Stored) -> Iterator[_Found]:
    for what, told in (("messages", stored.messages), ("mails", stored.mails)):
        for key, count in Counter(told).items():
            if count > 1:
                yield count - 1, f"{what} tell again what was told: {key}"


def _untold(appended: Appended, stored: Stored) -> Iterator[_Found]:
    """Sequences the spool has given that are neither stored, nor within a gap the node told, nor refused by name."""
    for (node, lane), epochs in appended.last_seqs.items():
        for epoch, last_seq in epochs.items():
            found = stored.lanes.get((node, lane), {}).get(epoch, StoredLane())
            known = {*found.seqs, *found.gap_seqs, *found.quarantined} | _covered(found, last_seq)
            missing = set(range(1, last_seq + 1)) - known
            if found.quarantined:
                yield len(found.quarantined), f"records of {node}/{lane} were refused"
            if missing:
                yield len(missing), f"sequences of {node}/{lane} are missing untold: {_ranges(sorted(missing))}"


def _covered(lane: StoredLane, last_seq: int) -> set[int]:
    """A gap may be told without an end."""
    return set(chain.from_iterable(range(first, min(last, last_seq) + 1) for first, last in lane.gaps))


def _oversold(stored: Stored) -> Iterator[_Found]:
    """More promised than there is, by either way of counting; or the two ways disagree."""
    for shelf in stored.shelves:
        where = f"{shelf.part_no} in {shelf.depot}"
        if (over := max(shelf.held, shelf.reserved) - shelf.on_hand) > 0:
            yield over, f"{where} are promised beyond the {shelf.on_hand} there are"
        elif shelf.held != shelf.reserved:
            yield abs(shelf.held - shelf.reserved), f"{where}: {shelf.reserved} counted, {shelf.held} reserved"


def _ranges(numbers: Sequence[int]) -> str:
    """1-3, 7, 9-12 and so on, cut short."""
    spans = list[list[int]]()
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    words = [str(first) if first == last else f"{first}-{last}" for first, last in spans]
    return ", ".join(words[:8]) + (" ..." if len(words) > 8 else "")


def as_json(verdict: Verdict, *, seed: int, seconds: float, kills: int) -> dict[str, Any]:
    """The last line of a run."""
    return {
        "seed": seed,
        "seconds": seconds,
        "kills": kills,
        "records": verdict.records,
        "lost": verdict.lost,
        "duplicates_in_effect": verdict.duplicates_in_effect,
        "gaps_unreported": verdict.gaps_unreported,
        "orders_per_episode_max": verdict.orders_per_episode_max,
        "oversold": verdict.oversold,
    }
