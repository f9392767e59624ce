"""What a demo run shows: which failures were coming, which orders were opened in time, and that nothing was lost."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from forewarn_device_simulator.demo.desk import Message, Order
from forewarn_device_simulator.demo.people import fault_in
from forewarn_device_simulator.demo.programs import ProgramStatus
from forewarn_device_simulator.duty import HOUR_MS
from forewarn_device_simulator.live.truth import Failed, Repaired, Truth, WouldFail


class PartUsed(msgspec.Struct, frozen=True, kw_only=True):
    part_no: str
    quantity: int
    sourcing: str
    """stock, transfer, purchase or expedite."""
    state: str


class ComingFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A failure the untended twin has. The fields of the order are null if none was opened before it."""

    asset: str
    failure_mode: str
    would_fail_at: str
    order: str | None = None
    order_failure_mode: str | None = None
    order_state: str | None = None
    opened_at: str | None = None
    lead_hours: float | None = None
    parts: list[PartUsed] = []
    notified_at: str | None = None
    averted: bool = False
    """Whether the machine was repaired before it would have failed."""


class LaneCount(msgspec.Struct, frozen=True, kw_only=True):
    """Records of one lane of one agent: given a sequence number, and stored by the cloud."""

    node: str
    lane: str
    sent: int
    stored: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    seed: int
    rate: float
    began_at: str
    ended_at: str
    """Instants of the run's own clock."""
    seconds: float
    machines: int
    failures: list[ComingFailure]
    missed: int
    """Failures within the observed time before which no order was opened."""
    false_orders: int
    """Orders for machines in which nothing was wrong."""
    orders: int
    completed: int
    breakdowns: int
    """Failures that really happened, in spite of the orders."""
    repairs: int
    samples_played: int
    samples_recorded: int
    """By the agents; a sample that came twice counts twice."""
    records_sent: int
    records_stored: int
    lanes: list[LaneCount]
    messages: int
    """What customers were told; the demo has no channel but e-mail."""
    mails: int
    """Different e-mails in the mailbox."""
    mail_copies: int
    """E-mails that came again, kept once by their Message-ID: a program was killed before it noted them sent."""
    messages_unsent: int
    restarts: dict[str, int]

    @property
    def lost(self) -> bool:
        unstored = any(lane.sent != lane.stored for lane in self.lanes)
        return unstored or self.samples_recorded < self.samples_played or self.records_sent == 0

    @property
    def caught(self) -> int:
        return sum(failure.order is not None for failure in self.failures)


def coming_failures(
    truths: Sequence[Truth], orders: Sequence[Order], messages: Sequence[Message], end_ms: int
) -> list[ComingFailure]:
    """The twins' failures up to `end_ms`, and later ones for which an order exists already; the earliest first."""
    twins = sorted((truth for truth in truths if isinstance(truth, WouldFail) and truth.twin), key=_when)
    found = [_coming(twin, truths, orders, messages) for twin in twins]
    return [
        row for row, twin in zip(found, twins, strict=True) if twin.would_fail_at <= end_ms or row.order is not None
    ]


def false_orders(truths: Sequence[Truth], orders: Iterable[Order]) -> list[Order]:
    return [order for order in orders if fault_in(order.asset, truths, _ms(order.opened_at)) is None]


def breakdowns(truths: Iterable[Truth]) -> list[Failed]:
    return [truth for truth in truths if isinstance(truth, Failed)]


def repairs(truths: Iterable[Truth]) -> list[Repaired]:
    return [truth for truth in truths if isinstance(truth, Repaired)]


def lane_counts(sent: Mapping[tuple[str, str], int], stored: Mapping[tuple[str, str], int]) -> list[LaneCount]:
    keys = sorted(sent.keys() | stored.keys())
    return [
        LaneCount(node=node, lane=lane, sent=sent.get((node, lane), 0), stored=stored.get((node, lane), 0))
        for node, lane in keys
    ]


def restarts_of(status: Mapping[str, ProgramStatus]) -> dict[str, int]:
    return {name: program.restarts for name, program in status.items()}


def iso(t_ms: int) -> str:
    return datetime.fromtimestamp(t_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _coming(
    twin: WouldFail, truths: Sequence[Truth], orders: Sequence[Order], messages: Sequence[Message]
) -> ComingFailure:
    before = [order for order in orders if order.asset == twin.asset and _ms(order.opened_at) < twin.would_fail_at]
    row = ComingFailure(asset=twin.asset, failure_mode=twin.failure_mode, would_fail_at=iso(twin.would_fail_at))
    if not before:
        return row
    order = min(before, key=lambda order: order.opened_at)
    told = [message.sent_at for message in messages if message.order_id == order.id and message.sent_at is not None]
    return msgspec.structs.replace(
        row,
        order=order.number,
        order_failure_mode=order.failure_mode,
        order_state=order.state,
        opened_at=iso(_ms(order.opened_at)),
        lead_hours=round((twin.would_fail_at - _ms(order.opened_at)) / HOUR_MS, 1),
        parts=[
            PartUsed(part_no=part.part_no, quantity=part.quantity, sourcing=part.sourcing, state=part.state)
            for part in order.reservations
        ],
        notified_at=iso(_ms(min(told))) if told else None,
        averted=_averted(twin, truths),
    )


def _averted(twin: WouldFail, truths: Iterable[Truth]) -> bool:
    return any(
        isinstance(truth, Repaired)
        and truth.asset == twin.asset
        and truth.failure_mode in (None, twin.failure_mode)
        and truth.at < twin.would_fail_at
        for truth in truths
    )


def _when(twin: WouldFail) -> int:
    return twin.would_fail_at


def _ms(instant: datetime) -> int:
    return round(instant.timestamp() * 1000)
