"""From what the views found to what a line or a card says: pure, without HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any, Final, Literal

from forewarn_cloud.console.formatting import HOUR_MS, local
from forewarn_cloud.console.i18n import Words
from forewarn_cloud.console.knowledge import TypeWords
from forewarn_cloud.views import Asset, AuditEntry, Figures, Health, Node, Order, Reservation

MAX_SCALE_HOURS: Final = 45 * 24.0
"""Beyond six weeks one long life must not squeeze all other bars."""
URGENT_HOURS: Final = 72.0
VISIT_HOUR: Final = 9
SATURDAY: Final = 5
_INSTANTS: Final = ("visit_at", "needed_by_at", "since")
_LIMITED_BY: Final = ("BACK_ORDERED", "IN_TRANSFER", "RESERVED")

Urgency = Literal["overdue", "urgent", "calm"]
SupplyKind = Literal["none", "ready", "transfer", "back_order", "used", "released"]


@dataclass(frozen=True, kw_only=True)
class LifeFigure:
    """Where the remaining life lies on a bar: percent of its length, and the hours themselves."""

    p10: float
    p50: float
    width: float
    p10_hours: float
    p50_hours: float
    p90_hours: float


@dataclass(frozen=True, kw_only=True)
class SupplySummary:
    """The parts of an order in one word: that of the part that comes last."""

    kind: SupplyKind
    expected_at: int | None = None


@dataclass(frozen=True, kw_only=True)
class QueueLine:
    """One order in the queue."""

    order: Order
    problem: str
    urgency: Urgency
    late_hours: float
    """How much later than needed parts and technician can be there; 0 if in time."""
    life: LifeFigure | None
    supply: SupplySummary


@dataclass(frozen=True, kw_only=True)
class MachineLine:
    """One machine in the list."""

    asset: Asset
    type_title: str
    suspect: str | None
    life: LifeFigure | None


@dataclass(frozen=True, kw_only=True)
class LaneFigure:
    lane: str
    stored: int
    refused: int


@dataclass(frozen=True, kw_only=True)
class NodeLine:
    node: Node
    lanes: tuple[LaneFigure, ...]


@dataclass(frozen=True, kw_only=True)
class FigureCard:
    key: str
    number: int
    level: Literal["plain", "warn", "bad"]
    href: str


MomentKey = Literal["ready", "needed_by", "scheduled"]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A point on the plan of an order, in percent of the way from now to the horizon."""

    key: MomentKey
    at_ms: int
    percent: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Remaining life and what is to happen within it, on one scale from now on."""

    life: LifeFigure | None
    moments: tuple[Moment, ...]


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A failure mode and how probable it is."""

    title: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A signal and its share of the evidence."""

    name: str
    title: str
    unit: str
    share: float
    residual: float | None
    over_limit: bool


@dataclass(frozen=True, kw_only=True)
class Option:
    """One thing that could have been done and what it was expected to cost."""

    title: str
    expected_cost: float
    p_failure: float
    ready_hours: float
    is_chosen: bool


@dataclass(frozen=True, kw_only=True)
class TimelineEntry:
    at: int
    actor: str
    text: str
    facts: tuple[tuple[str, str], ...]


def queue_lines(orders: Sequence[Order], now_ms: int, words: Words) -> list[QueueLine]:
    """The lines of a queue, their bars on one scale."""
    lives = [_life_hours(order.health, now_ms) for order in orders]
    longest = max((life[2] for life in lives if life is not None), default=1.0)
    scale = min(longest, MAX_SCALE_HOURS)
    return [_queue_line(order, life, scale, now_ms, words) for order, life in zip(orders, lives, strict=True)]


def _queue_line(
    order: Order, life: tuple[float, float, float] | None, scale: float, now_ms: int, words: Words
) -> QueueLine:
    return QueueLine(
        order=order,
        problem=TypeWords(name=order.asset_type, words=words).problem(order.failure_mode),
        urgency=urgency(order, now_ms),
        late_hours=late_hours(order),
        life=life_figure(life, scale),
        supply=supply_summary(order.reservations),
    )


def urgency(order: Order, now_ms: int) -> Urgency:
    """How near the date is; a closed order is not urgent any more."""
    if order.closed_at is not None:
        return "calm"
    hours = (order.needed_by_at - now_ms) / HOUR_MS
    return "overdue" if hours < 0 else "urgent" if hours < URGENT_HOURS else "calm"


def late_hours(order: Order) -> float:
    """How much later than needed parts and technician can be there; 0 if in time."""
    return max(0.0, ((order.ready_at or 0) - order.needed_by_at) / HOUR_MS)


def _life_hours(health: Health | None, now_ms: int) -> tuple[float, float, float] | None:
    """P10, P50, P90 of the remaining life counted from now, not from when it was said."""
    if health is None or health.rul_hours_p10 is None or health.rul_hours_p50 is None or health.rul_hours_p90 is None:
        return None
    gone = max(0.0, (now_ms - health.observed_at) / HOUR_MS)
    low, middle, high = health.rul_hours_p10, health.rul_hours_p50, health.rul_hours_p90
    return max(0.0, low - gone), max(0.0, middle - gone), max(0.0, high - gone)


def life_figure(life: tuple[float, float, float] | None, scale_hours: float) -> LifeFigure | None:
    if life is None:
        return None
    p10, p50, p90 = (_percent(hours, scale_hours) for hours in life)
    return LifeFigure(
        p10=p10,
        p50=min(p50, 99.0),
        width=round(max(p90 - p10, 1.5), 2),
        p10_hours=life[0],
        p50_hours=life[1],
        p90_hours=life[2],
    )


def life_of(health: Health | None, now_ms: int) -> LifeFigure | None:
    """The remaining life of one machine, on a scale of its own."""
    life = _life_hours(health, now_ms)
    return life_figure(life, life[2] * 1.15) if life else None


def _percent(hours: float, scale_hours: float) -> float:
    return round(100 * min(1.0, max(0.0, hours / max(scale_hours, 1e-9))), 2)


def supply_summary(reservations: Sequence[Reservation]) -> SupplySummary:
    held = {state: [r for r in reservations if r.state == state] for state in _LIMITED_BY}
    for state in ("BACK_ORDERED", "IN_TRANSFER"):
        if held[state]:
            kind: SupplyKind = "back_order" if state == "BACK_ORDERED" else "transfer"
            return SupplySummary(kind=kind, expected_at=max(r.expected_at for r in held[state]))
    if held["RESERVED"]:
        return SupplySummary(kind="ready")
    if any(r.state == "CONSUMED" for r in reservations):
        return SupplySummary(kind="used")
    return SupplySummary(kind="released" if reservations else "none")


def machine_lines(assets: Sequence[Asset], now_ms: int, words: Words) -> list[MachineLine]:
    """The lines of the list of machines, their bars on one scale."""
    lives = [_life_hours(asset.health, now_ms) for asset in assets]
    scale = min(max((life[2] for life in lives if life is not None), default=1.0), MAX_SCALE_HOURS)
    return [_machine_line(asset, life_figure(life, scale), words) for asset, life in zip(assets, lives, strict=True)]


def _machine_line(asset: Asset, life: LifeFigure | None, words: Words) -> MachineLine:
    kind = TypeWords(name=asset.asset_type, words=words)
    health = asset.health
    is_suspect = health is not None and asset.condition in ("ALERT", "ALARM") and health.failure_mode is not None
    suspect = kind.problem(health.failure_mode) if is_suspect and health and health.failure_mode else None
    return MachineLine(asset=asset, type_title=kind.title, suspect=suspect, life=life)


def node_line(node: Node) -> NodeLine:
    """A node with its lanes summed over all its spool files."""
    stored: dict[str, int] = {}
    refused: dict[str, int] = {}
    for lane in node.lanes:
        stored[lane.lane] = stored.get(lane.lane, 0) + lane.records_stored
        refused[lane.lane] = refused.get(lane.lane, 0) + lane.records_quarantined
    lanes = tuple(LaneFigure(lane=name, stored=stored[name], refused=refused[name]) for name in sorted(stored))
    return NodeLine(node=node, lanes=lanes)


def figure_cards(figures: Figures, lines: Sequence[QueueLine]) -> list[FigureCard]:
    """The numbers above the queue; `lines` are the open orders."""
    waiting = sum(line.supply.kind in ("transfer", "back_order") for line in lines)
    due = sum(line.urgency != "calm" for line in lines)
    late = sum(line.late_hours > 0 for line in lines)
    alarms = figures.assets_by_condition.get("ALARM", 0)
    return [
        FigureCard(key="open", number=len(lines), level="plain", href="/orders"),
        FigureCard(key="due", number=due, level="warn" if due else "plain", href="/orders"),
        FigureCard(key="late", number=late, level="bad" if late else "plain", href="/orders"),
        FigureCard(key="waiting", number=waiting, level="plain", href="/stock"),
        FigureCard(key="alarms", number=alarms, level="bad" if alarms else "plain", href="/machines?condition=ALARM"),
        FigureCard(key="machines", number=figures.assets, level="plain", href="/machines"),
    ]


def plan(order: Order, now_ms: int) -> Plan:
    """The figure at the head of an open order."""
    life = _life_hours(order.health, now_ms)
    at: dict[MomentKey, int | None] = {
        "ready": order.ready_at,
        "needed_by": order.needed_by_at,
        "scheduled": order.scheduled_at,
    }
    ahead = {key: (at_ms - now_ms) / HOUR_MS for key, at_ms in at.items() if at_ms is not None and at_ms >= now_ms}
    horizon = max([*ahead.values(), *([min(life[2], MAX_SCALE_HOURS)] if life else []), 24.0]) * 1.06
    moments = [
        Moment(key=key, at_ms=at_ms, percent=_percent((at_ms - now_ms) / HOUR_MS, horizon))
        for key, at_ms in at.items()
        if at_ms is not None
    ]
    return Plan(life=life_figure(life, horizon), moments=tuple(sorted(moments, key=lambda moment: moment.at_ms)))


def suspects(advisory: Mapping[str, Any], kind: TypeWords) -> list[Suspect]:
    """Failure modes by probability; what none of them explains comes last."""
    modes: dict[str, float] = advisory.get("failure_modes") or {}
    ranked = sorted(modes.items(), key=lambda item: -item[1])
    rest = 1.0 - sum(modes.values())
    known = [Suspect(title=kind.problem(code), probability=p) for code, p in ranked if p >= 0.005]
    return [*known, Suspect(title=kind.words("order.no_mode"), probability=rest)] if rest >= 0.005 and known else known


def reasons(advisory: Mapping[str, Any], kind: TypeWords) -> list[Reason]:
    """The signals that carry the evidence, the strongest first."""
    contributions: dict[str, float] = advisory.get("contributions") or {}
    residuals: dict[str, float] = advisory.get("residuals") or {}
    over: Sequence[str] = advisory.get("limits_exceeded") or ()
    total = sum(contributions.values())
    ranked = sorted(contributions.items(), key=lambda item: -item[1])
    return [
        Reason(
            name=name,
            title=kind.signal_title(name),
            unit=kind.difference_unit(name),
            share=value / total if total > 0 else 0.0,
            residual=residuals.get(name),
            over_limit=name in over,
        )
        for name, value in ranked
        if (total > 0 and value / total >= 0.01) or name in over
    ]


def options(outcome: Mapping[str, Any], words: Words) -> list[Option]:
    """Every option the decision compared, the cheapest first."""
    return [
        Option(
            title=option_title(offer["option"], words),
            expected_cost=offer["expected_cost"],
            p_failure=offer["p_failure_before_ready"],
            ready_hours=offer["ready_hours_p50"],
            is_chosen=offer["option"] == outcome["option"],
        )
        for offer in outcome.get("expected_costs", ())
    ]


def option_title(code: str, words: Words) -> str:
    """What an option is called: "wait", "inspect", or "act:" and where the parts come from."""
    action, _, sources = code.partition(":")
    if action != "act":
        return words.known("option", action)
    named = [_source_title(source, words) for source in sources.split("+")]
    return words("option.act", sources=words("list.and").join(named))


def _source_title(source: str, words: Words) -> str:
    sourcing, _, depot = source.partition(":")
    return words("option.transfer", depot=depot) if depot else words.known("option", sourcing.replace(" ", "_"))


def timeline(entries: Sequence[AuditEntry], kind: TypeWords, zone: tzinfo) -> list[TimelineEntry]:
    """What happened, the latest first."""
    words = kind.words
    ordered = sorted(entries, key=lambda entry: entry.position, reverse=True)
    return [
        TimelineEntry(
            at=entry.at,
            actor=words.known("actor", entry.actor),
            text=words.known(f"audit.{entry.subject}", entry.action),
            facts=tuple(
                (words(f"fact.{key}"), _fact(key, value, kind, zone))
                for key, value in entry.detail.items()
                if f"fact.{key}" in words.catalogue and value not in (None, "", [])
            ),
        )
        for entry in ordered
    ]


def _fact(key: str, value: object, kind: TypeWords, zone: tzinfo) -> str:
    """A fact of an audit entry as text. What has no name in the catalogue is left to the API."""
    if key in _INSTANTS and isinstance(value, int):
        return local(value, zone)
    if key == "failure_mode":
        return kind.problem(str(value))
    if key == "outcome":
        return kind.words.known("outcome", str(value))
    return kind.words("list.and").join(str(item) for item in value) if isinstance(value, list) else str(value)


def suggested_visit(order: Order, now_ms: int, zone: tzinfo) -> datetime:
    """The first weekday morning when parts and technician can be there; at once if that were too late."""
    ready_ms = max(order.ready_at or now_ms, now_ms + HOUR_MS)
    ready = datetime.fromtimestamp(ready_ms / 1000, zone).replace(second=0, microsecond=0)
    morning = ready.replace(hour=VISIT_HOUR, minute=0)
    days = (morning + timedelta(days=n) for n in range(8))
    visit = next(day for day in days if day >= ready and day.weekday() < SATURDAY)
    if visit.timestamp() * 1000 <= order.needed_by_at:
        return visit
    return ready.replace(minute=0) + timedelta(hours=1)
