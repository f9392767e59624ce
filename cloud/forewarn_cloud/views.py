"""What the API and the console show: read-only queries that return plain dataclasses, each within one tenant.

Instants are epoch milliseconds. Lists come in pages: pass a page's `next_key` as `after` for the one that follows; a
page stays correct while rows come and go, because the key is a position in the order and not an offset.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    RowMapping,
    Select,
    and_,
    case,
    exists,
    false,
    func,
    or_,
    select,
)

from forewarn_cloud.adapters.sql.lanes import missing_of
from forewarn_cloud.adapters.sql.schema import (
    HOLDING_STATES,
    OPEN_ORDER_STATES,
    advisories,
    asset_health,
    assets,
    audit,
    commands,
    customers,
    decisions,
    depots,
    episodes,
    findings,
    gaps,
    lane_progress,
    mailbox,
    nodes,
    orders,
    outbox,
    parts,
    quarantine,
    reservations,
    sites,
    stock,
)
from forewarn_cloud.errors import Invalid
from forewarn_cloud.ingest.births import Trouble, trouble_of
from forewarn_models.wire import MAX_SEQ

T = TypeVar("T")
Key = tuple[int | str, ...]
"""Where a page ends: the values of the sort columns of its last row."""


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T]):
    items: tuple[T, ...]
    next_key: Key | None


@dataclass(frozen=True, kw_only=True)
class _SortBy:
    column: Column[Any]
    descending: bool = False


# --- assets and nodes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Health:
    """The latest word about an asset, or one of its history."""

    observed_at: int
    condition: str
    health_index: float
    anomaly_score: float
    rul_hours_p10: float | None
    rul_hours_p50: float | None
    rul_hours_p90: float | None
    failure_mode: str | None
    maturity: str
    advisory: dict[str, Any]
    """The advisory: contributions, residuals, probabilities, model. The latest one has the probabilities that findings
    have revised, those of the history are as they came over the wire."""


@dataclass(frozen=True, kw_only=True)
class Asset:
    asset: str
    asset_type: str
    name: str
    node: str
    site: str | None
    site_name: str | None
    time_zone: str | None
    customer: str | None
    customer_name: str | None
    tier: int | None
    created_at: int
    health: Health | None
    """The latest word, however old it is."""
    condition: str
    """As of now: UNKNOWN where nothing is known, or nothing is heard of its node."""
    silent: bool
    """Its node is offline, or has not been heard of for long."""
    heard_at: int | None
    """When its node was last heard of."""
    storm_at: int | None
    """When advisories about it last came in a storm."""
    open_orders: tuple["OrderRef", ...]


@dataclass(frozen=True, kw_only=True)
class OrderRef:
    id: str
    number: str
    state: str


@dataclass(frozen=True, kw_only=True)
class Lane:
    """How far one lane of one spool file is stored."""

    lane: str
    epoch: str
    contiguous_seq: int
    records_stored: int
    records_quarantined: int
    first_at: int
    updated_at: int


@dataclass(frozen=True, kw_only=True)
class Node:
    node: str
    enrolled_at: int
    declares_assets: bool
    online: bool
    presence_at: int | None
    version: str
    silent: bool
    heard_at: int | None
    trouble: Trouble
    """What its births look like: an unstable link, or two agents of one name."""
    assets: int
    lanes: tuple[Lane, ...]


def list_assets(
    connection: Connection,
    tenant: str,
    *,
    silent_before: int | None = None,
    after: Key | None = None,
    limit: int = 50,
    **equals: str | None,
) -> Page[Asset]:
    """Assets that were not deleted, by identifier. `equals`: asset_type, node, site, customer, condition.

    Here and below: a node that was last heard of before `silent_before` is silent; None: then nobody is.
    """
    filters = {
        "asset_type": assets.c.asset_type,
        "node": assets.c.node,
        "site": assets.c.site,
        "customer": sites.c.customer,
        "condition": _condition(silent_before),
    }
    query = _where(_select_assets(tenant, silent_before), filters, equals)
    rows, next_key = _page(connection, query, [_SortBy(column=assets.c.asset)], after, limit)
    return Page(items=_assets(connection, tenant, rows), next_key=next_key)


def sickest_assets(
    connection: Connection,
    tenant: str,
    *,
    silent_before: int | None = None,
    offset: int = 0,
    limit: int = 50,
    **equals: str | None,
) -> tuple[Asset, ...]:
    """Assets in the order the service desk looks at them: the lowest health first, those nothing is known of last."""
    query = _where(_select_assets(tenant, silent_before), {"condition": _condition(silent_before)}, equals)
    health = asset_health.c.health_index
    rows = connection.execute(query.order_by(health.is_(None), health, assets.c.asset).limit(limit).offset(offset))
    return _assets(connection, tenant, rows.all())


def get_asset(connection: Connection, tenant: str, asset: str, *, silent_before: int | None = None) -> Asset | None:
    rows = connection.execute(_select_assets(tenant, silent_before).where(assets.c.asset == asset)).all()
    return next(iter(_assets(connection, tenant, rows)), None)


def health_history(
    connection: Connection,
    tenant: str,
    asset: str,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
    after: Key | None = None,
    limit: int = 50,
) -> Page[Health]:
    """What was said about an asset within [from_ms, to_ms], the latest first."""
    query = select(advisories.c.id, advisories.c.observed_at, advisories.c.body).where(
        advisories.c.tenant == tenant, advisories.c.asset == asset
    )
    if from_ms is not None:
        query = query.where(advisories.c.observed_at >= from_ms)
    if to_ms is not None:
        query = query.where(advisories.c.observed_at <= to_ms)
    newest_first = [
        _SortBy(column=advisories.c.observed_at, descending=True),
        _SortBy(column=advisories.c.id, descending=True),
    ]
    rows, next_key = _page(connection, query, newest_first, after, limit)
    return Page(items=tuple(_health_of_advisory(row.body) for row in rows), next_key=next_key)


def list_nodes(
    connection: Connection,
    tenant: str,
    *,
    silent_before: int | None = None,
    now_ms: int = 0,
    after: Key | None = None,
    limit: int = 50,
) -> Page[Node]:
    rows, next_key = _page(
        connection, _select_nodes(tenant, silent_before), [_SortBy(column=nodes.c.node)], after, limit
    )
    return Page(items=_nodes(connection, tenant, rows, now_ms), next_key=next_key)


def get_node(
    connection: Connection, tenant: str, node: str, *, silent_before: int | None = None, now_ms: int = 0
) -> Node | None:
    rows = connection.execute(_select_nodes(tenant, silent_before).where(nodes.c.node == node)).all()
    return next(iter(_nodes(connection, tenant, rows, now_ms)), None)


def _last_received() -> Any:
    """When records of a node last came."""
    mine = (lane_progress.c.tenant == nodes.c.tenant, lane_progress.c.node == nodes.c.node)
    return select(func.max(lane_progress.c.updated_at)).where(*mine).correlate(nodes).scalar_subquery()


def _is_silent(silent_before: int | None) -> ColumnElement[bool]:
    """Of a node that was heard of once: it is offline, or nothing came for long. One that never came is no news."""
    if silent_before is None:
        return false()
    received, presence_at = _last_received(), nodes.c.presence_at
    gone = and_(presence_at.is_not(None), nodes.c.online.is_(False))
    heard_of = or_(presence_at.is_not(None), received.is_not(None))
    long_ago = and_(func.coalesce(presence_at, 0) < silent_before, func.coalesce(received, 0) < silent_before)
    return or_(gone, and_(heard_of, long_ago))


def _condition(silent_before: int | None) -> ColumnElement[str]:
    return case((_is_silent(silent_before), "UNKNOWN"), else_=func.coalesce(asset_health.c.condition, "UNKNOWN"))


def _heard_at(row: Row[Any]) -> int | None:
    return max((at for at in (row.presence_at, row.received_at) if at is not None), default=None)


def _select_assets(tenant: str, silent_before: int | None) -> Select[Any]:
    return (
        select(
            assets,
            nodes.c.presence_at,
            _last_received().label("received_at"),
            _is_silent(silent_before).label("silent"),
            _condition(silent_before).label("condition"),
            sites.c.name.label("site_name"),
            sites.c.time_zone,
            sites.c.customer,
            customers.c.name.label("customer_name"),
            customers.c.tier,
            *[column.label(f"health_{column.name}") for column in asset_health.c if column.name not in _KEY],
        )
        .select_from(assets)
        .join(nodes, and_(nodes.c.tenant == assets.c.tenant, nodes.c.node == assets.c.node))
        .outerjoin(sites, and_(sites.c.tenant == assets.c.tenant, sites.c.site == assets.c.site))
        .outerjoin(customers, and_(customers.c.tenant == sites.c.tenant, customers.c.customer == sites.c.customer))
        .outerjoin(asset_health, and_(asset_health.c.tenant == assets.c.tenant, asset_health.c.asset == assets.c.asset))
        .where(assets.c.tenant == tenant, assets.c.deleted_at.is_(None))
    )


def _assets(connection: Connection, tenant: str, rows: Sequence[Row[Any]]) -> tuple[Asset, ...]:
    query = select(orders.c.asset, orders.c.id, orders.c.number, orders.c.state).where(
        orders.c.tenant == tenant,
        orders.c.asset.in_([row.asset for row in rows]),
        orders.c.state.in_(OPEN_ORDER_STATES),
    )
    found = _group(connection, query.order_by(orders.c.number), "asset", OrderRef) if rows else {}
    return tuple(_asset(row, found.get(row.asset, ())) for row in rows)


def _asset(row: Row[Any], open_orders: tuple[OrderRef, ...]) -> Asset:
    return Asset(
        asset=row.asset,
        asset_type=row.asset_type,
        name=row.name,
        node=row.node,
        site=row.site,
        site_name=row.site_name,
        time_zone=row.time_zone,
        customer=row.customer,
        customer_name=row.customer_name,
        tier=row.tier,
        created_at=row.created_at,
        health=_health_of_row(row._mapping) if row.health_observed_at is not None else None,
        condition=row.condition,
        silent=bool(row.silent),
        heard_at=_heard_at(row),
        storm_at=row.storm_at,
        open_orders=open_orders,
    )


def _health_of_row(row: RowMapping) -> Health:
    names = [column.name for column in asset_health.c if column.name not in _KEY]
    return Health(**{name: row[f"health_{name}"] for name in names})


def _health_of_advisory(body: dict[str, Any]) -> Health:
    rul, modes = body.get("rul_hours") or {}, body.get("failure_modes") or {}
    return Health(
        observed_at=body["observed_at"],
        condition=body["condition"],
        health_index=body["health_index"],
        anomaly_score=body["anomaly_score"],
        rul_hours_p10=rul.get("p10"),
        rul_hours_p50=rul.get("p50"),
        rul_hours_p90=rul.get("p90"),
        failure_mode=max(modes, key=lambda mode: float(modes[mode])) if modes else None,
        maturity=body["maturity"],
        advisory=body,
    )


def _select_nodes(tenant: str, silent_before: int | None) -> Select[Any]:
    living = select(func.count()).where(
        assets.c.tenant == nodes.c.tenant, assets.c.node == nodes.c.node, assets.c.deleted_at.is_(None)
    )
    return select(
        nodes,
        living.scalar_subquery().label("assets"),
        _last_received().label("received_at"),
        _is_silent(silent_before).label("silent"),
    ).where(nodes.c.tenant == tenant, nodes.c.deleted_at.is_(None))


def _nodes(connection: Connection, tenant: str, rows: Sequence[Row[Any]], now_ms: int) -> tuple[Node, ...]:
    query = (
        select(lane_progress.c.node, *[lane_progress.c[name] for name in Lane.__dataclass_fields__])
        .where(lane_progress.c.tenant == tenant, lane_progress.c.node.in_([row.node for row in rows]))
        .order_by(lane_progress.c.lane, lane_progress.c.first_at, lane_progress.c.epoch)
    )
    lanes = _group(connection, query, "node", Lane) if rows else {}
    return tuple(
        Node(
            node=row.node,
            enrolled_at=row.enrolled_at,
            declares_assets=row.declares_assets,
            online=row.online,
            presence_at=row.presence_at,
            version=row.version,
            silent=bool(row.silent),
            heard_at=_heard_at(row),
            trouble=trouble_of([(at, epoch) for at, epoch in row.births or ()], now_ms),
            assets=row.assets,
            lanes=lanes.get(row.node, ()),
        )
        for row in rows
    )


# --- orders -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reservation:
    id: str
    part_no: str
    name_en: str
    name_zh: str
    quantity: int
    state: str
    sourcing: str
    from_depot: str | None
    to_depot: str
    cost: float
    created_at: int
    expected_at: int


@dataclass(frozen=True, kw_only=True)
class Order:
    """A line of the order queue."""

    id: str
    number: str
    state: str
    asset: str
    asset_name: str
    asset_type: str
    site: str | None
    site_name: str | None
    time_zone: str | None
    customer: str | None
    customer_name: str | None
    tier: int | None
    failure_mode: str
    priority: int
    opened_at: int
    needed_by_at: int
    ready_at: int | None
    scheduled_at: int | None
    acknowledged_at: int | None
    started_at: int | None
    closed_at: int | None
    assignee: str | None
    close_reason: str | None
    version: int
    health: Health | None
    reservations: tuple[Reservation, ...]


@dataclass(frozen=True, kw_only=True)
class Episode:
    id: str
    failure_mode: str
    state: str
    started_at: int
    opened_at: int
    last_evidence_at: int
    closed_at: int | None
    close_reason: str | None
    advisory_count: int
    advisory: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Decision:
    id: str
    decided_at: int
    action: str
    inputs: dict[str, Any]
    outcome: dict[str, Any]
    model_hash: str
    policy_hash: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    outcome: str
    failure_mode: str | None
    note: str
    reported_by: str
    reported_at: int


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    position: int
    at: int
    actor: str
    subject: str
    subject_id: str
    action: str
    detail: dict[str, Any]
    hash: str


@dataclass(frozen=True, kw_only=True)
class Notification:
    """A row of the outbox: one message to one recipient over one channel."""

    id: str
    news: str
    channel: str
    recipient: str
    kind: str
    language: str
    order_id: str | None
    created_at: int
    state: str
    attempts: int
    sent_at: int | None
    last_error: str | None


@dataclass(frozen=True, kw_only=True)
class OrderDetail:
    """Everything the order page shows."""

    order: Order
    episode: Episode
    decision: Decision
    finding: Finding | None
    timeline: tuple[AuditEntry, ...]
    messages: tuple[Notification, ...]


ORDER_SORTS: Final[Mapping[str, tuple[_SortBy, ...]]] = {
    "needed_by": (_SortBy(column=orders.c.needed_by_at), _SortBy(column=orders.c.id)),
    "-opened": (_SortBy(column=orders.c.opened_at, descending=True), _SortBy(column=orders.c.id)),
    "opened": (_SortBy(column=orders.c.opened_at), _SortBy(column=orders.c.id)),
    "-priority": (
        _SortBy(column=orders.c.priority, descending=True),
        _SortBy(column=orders.c.needed_by_at),
        _SortBy(column=orders.c.id),
    ),
    "number": (_SortBy(column=orders.c.number),),
}
"""What a list of orders may be sorted by; the first is the default."""


def list_orders(
    connection: Connection,
    tenant: str,
    *,
    states: Sequence[str] = (),
    sort: str = "needed_by",
    after: Key | None = None,
    limit: int = 50,
    **equals: str | None,
) -> Page[Order]:
    """`states`: any of these, all if empty; `sort`: of `ORDER_SORTS`; `equals`: asset, customer, site, failure_mode."""
    filters = {
        "asset": orders.c.asset,
        "customer": sites.c.customer,
        "site": assets.c.site,
        "failure_mode": orders.c.failure_mode,
    }
    query = _where(_select_orders(tenant), filters, equals)
    if states:
        query = query.where(orders.c.state.in_(states))
    rows, next_key = _page(connection, query, ORDER_SORTS[sort], after, limit)
    return Page(items=_orders(connection, tenant, rows), next_key=next_key)


def get_order(connection: Connection, tenant: str, order_id: str) -> Order | None:
    rows = connection.execute(_select_orders(tenant).where(orders.c.id == order_id)).all()
    return next(iter(_orders(connection, tenant, rows)), None)


def get_order_detail(connection: Connection, tenant: str, order_id: str) -> OrderDetail | None:
    order = get_order(connection, tenant, order_id)
    if order is None:
        return None
    keys = select(orders.c.episode_id, orders.c.decision_id).where(orders.c.tenant == tenant, orders.c.id == order_id)
    episode_id, decision_id = connection.execute(keys).one()
    finding = _all(connection, Finding, findings, findings.c.tenant == tenant, findings.c.order_id == order_id)
    return OrderDetail(
        order=order,
        episode=_all(connection, Episode, episodes, episodes.c.tenant == tenant, episodes.c.id == episode_id)[0],
        decision=_all(connection, Decision, decisions, decisions.c.tenant == tenant, decisions.c.id == decision_id)[0],
        finding=next(iter(finding), None),
        timeline=timeline(connection, tenant, "order", order_id),
        messages=_all(
            connection,
            Notification,
            outbox,
            outbox.c.tenant == tenant,
            outbox.c.order_id == order_id,
            order_by=[outbox.c.created_at, outbox.c.id],
        ),
    )


def message_facts(connection: Connection, tenant: str, order_id: str) -> dict[str, dict[str, Any]]:
    """What the messages about an order are written from, by message."""
    query = select(outbox.c.id, outbox.c.payload).where(outbox.c.tenant == tenant, outbox.c.order_id == order_id)
    return {row.id: row.payload for row in connection.execute(query)}


def timeline(connection: Connection, tenant: str, subject: str, subject_id: str) -> tuple[AuditEntry, ...]:
    """What happened to one thing, in order."""
    return _all(
        connection,
        AuditEntry,
        audit,
        audit.c.tenant == tenant,
        audit.c.subject == subject,
        audit.c.subject_id == subject_id,
        order_by=[audit.c.position],
    )


def _select_orders(tenant: str) -> Select[Any]:
    return (
        select(
            orders,
            assets.c.name.label("asset_name"),
            assets.c.asset_type,
            assets.c.site,
            sites.c.name.label("site_name"),
            sites.c.time_zone,
            sites.c.customer,
            customers.c.name.label("customer_name"),
            customers.c.tier,
            *[column.label(f"health_{column.name}") for column in asset_health.c if column.name not in _KEY],
        )
        .select_from(orders)
        .join(assets, and_(assets.c.tenant == orders.c.tenant, assets.c.asset == orders.c.asset))
        .outerjoin(sites, and_(sites.c.tenant == assets.c.tenant, sites.c.site == assets.c.site))
        .outerjoin(customers, and_(customers.c.tenant == sites.c.tenant, customers.c.customer == sites.c.customer))
        .outerjoin(asset_health, and_(asset_health.c.tenant == orders.c.tenant, asset_health.c.asset == orders.c.asset))
        .where(orders.c.tenant == tenant)
    )


def _orders(connection: Connection, tenant: str, rows: Sequence[Row[Any]]) -> tuple[Order, ...]:
    query = _select_reservations(tenant).where(reservations.c.order_id.in_([row.id for row in rows]))
    held = _group(connection, query, "order_id", Reservation) if rows else {}
    return tuple(_order(row, held.get(row.id, ())) for row in rows)


def _order(row: Row[Any], held: tuple[Reservation, ...]) -> Order:
    found = row._mapping
    plain = {name: found[name] for name in Order.__dataclass_fields__ if name not in ("health", "reservations")}
    health = _health_of_row(found) if found["health_observed_at"] is not None else None
    return Order(**plain, health=health, reservations=held)


def _select_reservations(tenant: str) -> Select[Any]:
    return (
        select(reservations, parts.c.name_en, parts.c.name_zh)
        .join(parts, and_(parts.c.tenant == reservations.c.tenant, parts.c.part_no == reservations.c.part_no))
        .where(reservations.c.tenant == tenant)
        .order_by(reservations.c.created_at, reservations.c.part_no, reservations.c.id)
    )


# --- parts and places ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Stock:
    depot: str
    on_hand: int
    reserved: int

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved


@dataclass(frozen=True, kw_only=True)
class PartReservation:
    """A reservation as seen from the part: for whom, and when it comes."""

    id: str
    order_id: str
    order_number: str
    quantity: int
    state: str
    sourcing: str
    from_depot: str | None
    to_depot: str
    expected_at: int


@dataclass(frozen=True, kw_only=True)
class Part:
    part_no: str
    name_en: str
    name_zh: str
    unit_cost: float
    purchase_hours: float
    expedite_hours: float | None
    expedite_cost: float | None
    version: int
    stock: tuple[Stock, ...]
    reservations: tuple[PartReservation, ...]
    """Those that still need the part."""

    @property
    def on_hand(self) -> int:
        return sum(row.on_hand for row in self.stock)

    @property
    def available(self) -> int:
        return sum(row.available for row in self.stock)

    @property
    def shortfall(self) -> int:
        """How many are back-ordered: needed, and not on any shelf yet."""
        return sum(row.quantity for row in self.reservations if row.state == "BACK_ORDERED")


@dataclass(frozen=True, kw_only=True)
class Depot:
    depot: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Customer:
    """A customer without the webhook secret, which leaves the database only to sign."""

    customer: str
    name: str
    email: str | None
    webhook_url: str | None
    language: str
    tier: int


@dataclass(frozen=True, kw_only=True)
class Site:
    site: str
    name: str
    customer: str
    depot: str
    dispatch_hours: float
    time_zone: str


def list_parts(connection: Connection, tenant: str, *, after: Key | None = None, limit: int = 50) -> Page[Part]:
    query = select(parts).where(parts.c.tenant == tenant)
    rows, next_key = _page(connection, query, [_SortBy(column=parts.c.part_no)], after, limit)
    return Page(items=_parts(connection, tenant, rows), next_key=next_key)


def get_part(connection: Connection, tenant: str, part_no: str) -> Part | None:
    rows = connection.execute(select(parts).where(parts.c.tenant == tenant, parts.c.part_no == part_no)).all()
    return next(iter(_parts(connection, tenant, rows)), None)


def list_depots(connection: Connection, tenant: str, *, after: Key | None = None, limit: int = 50) -> Page[Depot]:
    return _list(connection, Depot, depots, tenant, [_SortBy(column=depots.c.depot)], after, limit)


def list_customers(connection: Connection, tenant: str, *, after: Key | None = None, limit: int = 50) -> Page[Customer]:
    return _list(connection, Customer, customers, tenant, [_SortBy(column=customers.c.customer)], after, limit)


def list_sites(connection: Connection, tenant: str, *, after: Key | None = None, limit: int = 50) -> Page[Site]:
    return _list(connection, Site, sites, tenant, [_SortBy(column=sites.c.site)], after, limit)


def _parts(connection: Connection, tenant: str, rows: Sequence[Row[Any]]) -> tuple[Part, ...]:
    numbers = [row.part_no for row in rows]
    shelves = select(stock).where(stock.c.tenant == tenant, stock.c.part_no.in_(numbers)).order_by(stock.c.depot)
    needs = (
        select(reservations, orders.c.number.label("order_number"))
        .join(orders, orders.c.id == reservations.c.order_id)
        .where(
            reservations.c.tenant == tenant,
            reservations.c.part_no.in_(numbers),
            reservations.c.state.in_(HOLDING_STATES),
        )
        .order_by(reservations.c.expected_at, reservations.c.id)
    )
    on_shelf = _group(connection, shelves, "part_no", Stock) if rows else {}
    needed = _group(connection, needs, "part_no", PartReservation) if rows else {}
    return tuple(
        Part(
            **{column.name: row._mapping[column.name] for column in parts.c if column.name != "tenant"},
            stock=on_shelf.get(row.part_no, ()),
            reservations=needed.get(row.part_no, ()),
        )
        for row in rows
    )


# --- messages, and what was refused -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MailSummary:
    message_id: str
    received_at: int
    sender: str
    recipient: str
    subject: str
    copies: int


@dataclass(frozen=True, kw_only=True)
class Mail(MailSummary):
    body: str


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A message or record in quarantine. `body` is as it came, cut to what a page can show."""

    id: int
    topic: str
    node: str | None
    lane: str | None
    epoch: str | None
    seq: int | None
    reason: str
    security: bool
    times_seen: int
    received_at: int
    body: bytes

    @property
    def body_text(self) -> str:
        """The body for people: UTF-8 where it is, with escapes where it is not."""
        text = self.body.decode("utf-8", "backslashreplace")
        return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


GapState = Literal["LOST", "RESEND_REQUESTED", "FILLED"]


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Records that were told or found to be lost. Some or all of them may have come after all."""

    node: str
    lane: str
    epoch: str
    seq: int
    first_seq: int
    last_seq: int | None
    """None where the node does not know how far its lost file went."""
    reason: str
    received_at: int
    state: GapState
    missing: int | None
    """How many records have not come after all; None where that is not known."""
    filled_at: int | None


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command to a node. A resend has a range of a lane, others an asset."""

    id: str
    node: str
    command: str
    asset: str
    lane: str | None
    epoch: str | None
    first_seq: int | None
    last_seq: int | None
    created_at: int
    state: str
    detail: str


def list_notifications(
    connection: Connection,
    tenant: str,
    *,
    state: str | None = None,
    order_id: str | None = None,
    after: Key | None = None,
    limit: int = 50,
) -> Page[Notification]:
    """The outbox, the latest first."""
    wanted = _equal({outbox.c.state: state, outbox.c.order_id: order_id})
    order = _newest(outbox.c.created_at, outbox.c.id)
    return _list(connection, Notification, outbox, tenant, order, after, limit, wanted)


def get_notification(connection: Connection, tenant: str, notification_id: str) -> Notification | None:
    found = _all(connection, Notification, outbox, outbox.c.tenant == tenant, outbox.c.id == notification_id)
    return next(iter(found), None)


def list_mailbox(
    connection: Connection, tenant: str, *, recipient: str | None = None, after: Key | None = None, limit: int = 50
) -> Page[MailSummary]:
    wanted = _equal({mailbox.c.recipient: recipient})
    order = _newest(mailbox.c.received_at, mailbox.c.message_id)
    return _list(connection, MailSummary, mailbox, tenant, order, after, limit, wanted)


def get_mail(connection: Connection, tenant: str, message_id: str) -> Mail | None:
    found = _all(connection, Mail, mailbox, mailbox.c.tenant == tenant, mailbox.c.message_id == message_id)
    return next(iter(found), None)


def list_quarantine(
    connection: Connection,
    tenant: str,
    *,
    node: str | None = None,
    security: bool | None = None,
    after: Key | None = None,
    limit: int = 50,
) -> Page[Refused]:
    """What was refused, the latest first; bodies cut to `BODY_SHOWN_BYTES`."""
    wanted = _equal({quarantine.c.node: node, quarantine.c.security: security})
    shown = [quarantine.c[name] for name in Refused.__dataclass_fields__ if name != "body"]
    body = func.substr(quarantine.c.body, 1, BODY_SHOWN_BYTES).label("body")
    query = select(*shown, body).where(quarantine.c.tenant == tenant, *wanted)
    rows, next_key = _page(connection, query, [_SortBy(column=quarantine.c.id, descending=True)], after, limit)
    return Page(items=tuple(_build(Refused, row) for row in rows), next_key=next_key)


def get_refused(connection: Connection, tenant: str, refused_id: int) -> Refused | None:
    found = _all(connection, Refused, quarantine, quarantine.c.tenant == tenant, quarantine.c.id == refused_id)
    return next(iter(found), None)


def list_gaps(
    connection: Connection, tenant: str, *, node: str | None = None, after: Key | None = None, limit: int = 50
) -> Page[Gap]:
    """Gaps by node and position."""
    query = select(gaps, _is_asked_for().label("asked")).where(gaps.c.tenant == tenant, *_equal({gaps.c.node: node}))
    by_position = [_SortBy(column=column) for column in (gaps.c.node, gaps.c.lane, gaps.c.epoch, gaps.c.seq)]
    rows, next_key = _page(connection, query, by_position, after, limit)
    return Page(items=tuple(map(_gap, rows)), next_key=next_key)


def _is_asked_for() -> ColumnElement[bool]:
    """Of a gap: whether a request to send some of it again is open."""
    same_lane = and_(*(commands.c[name] == gaps.c[name] for name in ("tenant", "node", "lane", "epoch")))
    overlap = and_(commands.c.first_seq <= gaps.c.last_seq, commands.c.last_seq >= gaps.c.first_seq)
    return exists().where(same_lane, overlap, commands.c.command == "resend", commands.c.state == "PENDING")


def _gap(row: Row[Any]) -> Gap:
    left = missing_of(row) if row.filled_at is None else ()
    is_known = row.last_seq < MAX_SEQ
    state: GapState = "FILLED" if row.filled_at is not None else "RESEND_REQUESTED" if row.asked else "LOST"
    return Gap(
        node=row.node,
        lane=row.lane,
        epoch=row.epoch,
        seq=row.seq,
        first_seq=row.first_seq,
        last_seq=row.last_seq if is_known else None,
        reason=row.reason,
        received_at=row.received_at,
        state=state,
        missing=sum(last - first + 1 for first, last in left) if is_known else None,
        filled_at=row.filled_at,
    )


def commands_by_id(connection: Connection, tenant: str, ids: Sequence[str]) -> tuple[Command, ...]:
    mine = (commands.c.tenant == tenant, commands.c.id.in_(ids))
    return _all(connection, Command, commands, *mine, order_by=(commands.c.epoch, commands.c.first_seq))


def list_commands(
    connection: Connection, tenant: str, *, node: str | None = None, after: Key | None = None, limit: int = 50
) -> Page[Command]:
    """Commands to nodes, the latest first."""
    wanted = _equal({commands.c.node: node})
    order = _newest(commands.c.created_at, commands.c.id)
    return _list(connection, Command, commands, tenant, order, after, limit, wanted)


def list_audit(
    connection: Connection,
    tenant: str,
    *,
    subject: str | None = None,
    subject_id: str | None = None,
    after: Key | None = None,
    limit: int = 50,
) -> Page[AuditEntry]:
    """The audit trail, the latest first."""
    wanted = _equal({audit.c.subject: subject, audit.c.subject_id: subject_id})
    newest_first = [_SortBy(column=audit.c.position, descending=True)]
    return _list(connection, AuditEntry, audit, tenant, newest_first, after, limit, wanted)


# --- figures ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Counts for the metrics and the head of the console."""

    assets: int
    assets_by_condition: dict[str, int]
    orders_by_state: dict[str, int]
    notifications_by_state: dict[str, int]
    reservations_by_state: dict[str, int]
    advisories_unhandled: int
    quarantined: int
    quarantined_security: int
    nodes: int
    nodes_online: int
    nodes_silent: int
    records_stored_by_lane: dict[str, int]
    quarantined_by_kind: dict[str, int]
    """By what the reason is about: see `REASON_KINDS`."""
    gaps_by_state: dict[str, int]
    resends_by_state: dict[str, int]
    oldest_unhandled_at: int | None
    """When the advisory that waits longest was received."""


REASON_KINDS: Final = frozenset(
    {"message", "envelope", "records", "record", "schema", "epoch", "seq", "t", "signals", "asset", "node", "tenant"}
    | {"topic", "gap", "advisory", "presence", "telemetry", "reply", "observed_at", "health_index", "contributions"}
    | {"failure_modes", "rul_hours"}
)


def reason_kind(reason: str) -> str:
    """What a reason is about, of a few: a reason itself may name anything."""
    if reason.startswith("could not be"):
        return "not_stored"
    kind = re.split(r"[:.]", reason, maxsplit=1)[0]
    return kind if kind in REASON_KINDS else "other"


def figures(connection: Connection, tenant: str, *, silent_before: int | None = None) -> Figures:
    living = (assets.c.tenant == tenant, assets.c.deleted_at.is_(None))
    enrolled = (nodes.c.tenant == tenant, nodes.c.deleted_at.is_(None))
    unhandled = (advisories.c.tenant == tenant, advisories.c.handled_at.is_(None))
    stored = (
        select(lane_progress.c.lane, func.sum(lane_progress.c.records_stored))
        .where(lane_progress.c.tenant == tenant)
        .group_by(lane_progress.c.lane)
    )
    return Figures(
        assets=_count(connection, *living),
        assets_by_condition=_conditions(connection, tenant, silent_before),
        orders_by_state=_count_by(connection, tenant, orders.c.state),
        notifications_by_state=_count_by(connection, tenant, outbox.c.state),
        reservations_by_state=_count_by(connection, tenant, reservations.c.state),
        advisories_unhandled=_count(connection, *unhandled),
        quarantined=_count(connection, quarantine.c.tenant == tenant),
        quarantined_security=_count(connection, quarantine.c.tenant == tenant, quarantine.c.security),
        nodes=_count(connection, *enrolled),
        nodes_online=_count(connection, *enrolled, nodes.c.online),
        nodes_silent=_count(connection, *enrolled, _is_silent(silent_before)),
        records_stored_by_lane={lane: int(records) for lane, records in connection.execute(stored)},
        quarantined_by_kind=_kinds(_count_by(connection, tenant, quarantine.c.reason)),
        gaps_by_state=_gap_states(connection, tenant),
        resends_by_state=_count_by(connection, tenant, commands.c.state, commands.c.command == "resend"),
        oldest_unhandled_at=connection.execute(select(func.min(advisories.c.received_at)).where(*unhandled)).scalar(),
    )


def _conditions(connection: Connection, tenant: str, silent_before: int | None) -> dict[str, int]:
    condition = _condition(silent_before).label("condition")
    found = (
        select(condition)
        .select_from(asset_health)
        .join(assets, and_(assets.c.tenant == asset_health.c.tenant, assets.c.asset == asset_health.c.asset))
        .join(nodes, and_(nodes.c.tenant == assets.c.tenant, nodes.c.node == assets.c.node))
        .where(asset_health.c.tenant == tenant)
        .subquery()
    )
    counted = select(found.c.condition, func.count()).group_by(found.c.condition)
    return {str(value): int(count) for value, count in connection.execute(counted)}


def _kinds(reasons: Mapping[str, int]) -> dict[str, int]:
    found = dict[str, int]()
    for reason, count in reasons.items():
        found[reason_kind(reason)] = found.get(reason_kind(reason), 0) + count
    return found


def _gap_states(connection: Connection, tenant: str) -> dict[str, int]:
    filled = _count(connection, gaps.c.tenant == tenant, gaps.c.filled_at.is_not(None))
    asked = _count(connection, gaps.c.tenant == tenant, gaps.c.filled_at.is_(None), _is_asked_for())
    lost = _count(connection, gaps.c.tenant == tenant, gaps.c.filled_at.is_(None)) - asked
    return {"FILLED": filled, "RESEND_REQUESTED": asked, "LOST": lost} if filled or asked or lost else {}


def _count(connection: Connection, *wanted: ColumnElement[bool]) -> int:
    return int(connection.execute(select(func.count()).where(*wanted)).scalar_one())


def _count_by(connection: Connection, tenant: str, column: Column[Any], *wanted: ColumnElement[bool]) -> dict[str, int]:
    query = select(column, func.count()).where(column.table.c.tenant == tenant, *wanted).group_by(column)
    return {str(value): int(count) for value, count in connection.execute(query)}


# --- from rows to dataclasses, page by page -------------------------------------------------------------------------

BODY_SHOWN_BYTES: Final = 4096
_KEY: Final = ("tenant", "asset")


def _build(kind: Callable[..., T], row: Row[Any]) -> T:
    """A dataclass from the columns of a row that are named like its fields."""
    fields: Mapping[str, Any] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    return kind(**{name: row._mapping[name] for name in fields})


def _all(
    connection: Connection, kind: type[T], table: Any, *wanted: ColumnElement[bool], order_by: Sequence[Any] = ()
) -> tuple[T, ...]:
    query = select(table).where(*wanted).order_by(*order_by)
    return tuple(_build(kind, row) for row in connection.execute(query))


def _group(connection: Connection, query: Select[Any], by: str, kind: type[T]) -> dict[str, tuple[T, ...]]:
    found: dict[str, tuple[T, ...]] = {}
    for row in connection.execute(query):
        key = row._mapping[by]
        found[key] = (*found.get(key, ()), _build(kind, row))
    return found


def _list(
    connection: Connection,
    kind: type[T],
    table: Any,
    tenant: str,
    order: Sequence[_SortBy],
    after: Key | None,
    limit: int,
    wanted: Sequence[ColumnElement[bool]] = (),
) -> Page[T]:
    query = select(table).where(table.c.tenant == tenant, *wanted)
    rows, next_key = _page(connection, query, order, after, limit)
    return Page(items=tuple(_build(kind, row) for row in rows), next_key=next_key)


def _page(
    connection: Connection, query: Select[Any], order: Sequence[_SortBy], after: Key | None, limit: int
) -> tuple[Sequence[Row[Any]], Key | None]:
    """The rows of one page, and where the next begins, if there is more."""
    if after is not None:
        query = query.where(_beyond(order, after))
    query = query.order_by(*[by.column.desc() if by.descending else by.column.asc() for by in order])
    rows = connection.execute(query.limit(limit + 1)).all()
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]._mapping
    return rows[:limit], tuple(last[by.column.name] for by in order)


def _beyond(order: Sequence[_SortBy], after: Key) -> ColumnElement[bool]:
    """Rows behind `after`: equal in the first columns and beyond in the next, for each column.

    Raises:
        Invalid: `after` does not fit these columns.
    """
    kinds = [by.column.type.python_type for by in order]
    if len(after) != len(order) or not all(map(_fits, after, kinds)):
        raise Invalid("cursor", "give the next_cursor of the same list, or none")
    steps = []
    for i, (by, value) in enumerate(zip(order, after, strict=True)):
        equal = [earlier.column == same for earlier, same in zip(order[:i], after[:i], strict=True)]
        steps.append(and_(*equal, by.column < value if by.descending else by.column > value))
    return or_(*steps)


def _fits(value: object, kind: type) -> bool:
    if isinstance(value, str):
        return kind is str and value.isprintable()
    return type(value) is int and kind is int and abs(value) < 2**63


def _newest(at: Column[Any], identity: Column[Any]) -> tuple[_SortBy, ...]:
    return _SortBy(column=at, descending=True), _SortBy(column=identity, descending=True)


def _equal(wanted: Mapping[Any, object | None]) -> list[ColumnElement[bool]]:
    return [column == value for column, value in wanted.items() if value is not None]


def _where(query: Select[Any], filters: Mapping[str, Any], equals: Mapping[str, str | None]) -> Select[Any]:
    return query.where(*_equal({filters[name]: value for name, value in equals.items()}))
