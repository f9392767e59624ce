"""The repositories of a unit of work, over one connection. Locks are row locks on PostgreSQL; SQLite has one writer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    and_,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.entities import (
    Asset,
    AuditNote,
    Customer,
    DecisionRecord,
    Diagnosis,
    Episode,
    Finding,
    Node,
    NodeCommand,
    Order,
    OutboxMessage,
    Part,
    Place,
    QueuedMessage,
    ReceivedAdvisory,
    Reservation,
    Site,
    StockLevel,
    Transfer,
)
from forewarn_cloud.errors import Contended
from forewarn_cloud.ports import OVERTAKEN_MS
from forewarn_cloud.service.audit import GENESIS, AuditEntry, AuditReport, check_chain, entry_hash
from forewarn_models import wire

T = TypeVar("T")
_CANDIDATES: Final = 50
_STORM_ROWS: Final = 100
_AUDIT_PAGE: Final = 1000


@dataclass(frozen=True)
class SqlAssets:
    connection: Connection

    def node(self, tenant: str, node: str) -> Node | None:
        return _one(self.connection, Node, schema.nodes, tenant=tenant, node=node)

    def save_node(self, node: Node) -> None:
        _upsert(self.connection, schema.nodes, values_of(node), ("tenant", "node"))

    def get(self, tenant: str, asset: str) -> Asset | None:
        return _one(self.connection, Asset, schema.assets, tenant=tenant, asset=asset)

    def save(self, asset: Asset) -> None:
        _upsert(self.connection, schema.assets, values_of(asset), ("tenant", "asset"))

    def lock(self, tenant: str, asset: str) -> Asset | None:
        query = _select(Asset, schema.assets, tenant=tenant, asset=asset).with_for_update(key_share=True)
        return _entity(Asset, self.connection.execute(query).one_or_none())

    def place(self, tenant: str, asset: str) -> Place | None:
        query = (
            select(*columns_of(Site, schema.sites))
            .join(schema.assets, _same(schema.assets, schema.sites, "tenant", "site"))
            .where(schema.assets.c.tenant == tenant, schema.assets.c.asset == asset)
        )
        site = _entity(Site, self.connection.execute(query).one_or_none())
        if site is None:
            return None
        customer = _one(self.connection, Customer, schema.customers, tenant=tenant, customer=site.customer)
        assert customer is not None, "a site's customer is a foreign key"
        return Place(site=site, customer=customer)

    def site(self, tenant: str, site: str) -> Site | None:
        return _one(self.connection, Site, schema.sites, tenant=tenant, site=site)

    def record_health(self, tenant: str, advisory: wire.Advisory) -> bool:
        statement = _insert(self.connection, schema.asset_health).values(_health_row(tenant, advisory))
        new = statement.excluded
        later = statement.on_conflict_do_update(
            index_elements=["tenant", "asset"],
            set_={column.name: new[column.name] for column in schema.asset_health.c if not column.primary_key},
            where=new.observed_at >= schema.asset_health.c.observed_at,
        )
        return self.connection.execute(later.returning(schema.asset_health.c.asset)).first() is not None

    def note_storm(self, tenant: str, asset: str, at: int, quiet_before: int) -> bool:
        table = schema.assets
        this = and_(table.c.tenant == tenant, table.c.asset == asset)
        earlier = self.connection.execute(select(table.c.storm_at).where(this)).scalar()
        self.connection.execute(update(table).where(this).values(storm_at=at))
        return earlier is None or earlier < quiet_before


@dataclass(frozen=True)
class SqlInbox:
    connection: Connection

    def next_asset(self, now_ms: int) -> tuple[str, str] | None:
        table = schema.advisories.c
        waiting = (
            select(table.tenant, table.asset)
            .where(table.handled_at.is_(None), _in_turn(now_ms))
            .group_by(table.tenant, table.asset)
            .order_by(func.count() > _STORM_ROWS, func.min(table.id))  # a storm about one asset waits for the others
            .limit(_CANDIDATES)
        )
        for tenant, asset in self.connection.execute(waiting).all():
            if self._lock(tenant, asset):
                return tenant, asset
        return None

    def _lock(self, tenant: str, asset: str) -> bool:
        """Whether the asset is ours now; one that does not exist needs no lock."""
        mine = _select(Asset, schema.assets, tenant=tenant, asset=asset)
        if self.connection.execute(mine.with_for_update(key_share=True, skip_locked=True)).first() is not None:
            return True
        return self.connection.execute(mine).first() is None

    def pending(self, tenant: str, asset: str, limit: int, now_ms: int) -> Sequence[ReceivedAdvisory]:
        table = schema.advisories.c
        query = (
            select(*columns_of(ReceivedAdvisory, schema.advisories))
            .where(table.handled_at.is_(None), table.tenant == tenant, table.asset == asset, _in_turn(now_ms))
            .order_by(table.observed_at, table.id)
            .limit(limit)
        )
        return _entities(ReceivedAdvisory, self.connection.execute(query))

    def mark_handled(self, ids: Sequence[int], at: int) -> None:
        table = schema.advisories
        waiting = update(table).where(table.c.id.in_(ids), table.c.handled_at.is_(None))
        self.connection.execute(waiting.values(handled_at=at))

    def set_aside(self, advisory_id: int, reason: str, at: int) -> None:
        row = self.connection.execute(select(schema.advisories).where(schema.advisories.c.id == advisory_id)).one()
        refused = {
            "tenant": row.tenant,
            "topic": wire.topic(row.tenant, row.node, "advisory"),
            "node": row.node,
            "lane": "advisory",
            "epoch": row.epoch,
            "seq": row.seq,
            "digest": row.digest,
            "reason": reason[:500],
            "body": msgspec.json.encode(row.body),
            "received_at": at,
        }
        self.connection.execute(_insert(self.connection, schema.quarantine).values(refused).on_conflict_do_nothing())
        self.mark_handled([advisory_id], at)


def _in_turn(now_ms: int) -> ColumnElement[bool]:
    """Whether an advisory has not overtaken others of its node, or has waited for them long enough."""
    waiting, lane = schema.advisories.c, schema.lane_progress.c
    overtook = exists().where(
        lane.tenant == waiting.tenant,
        lane.node == waiting.node,
        lane.lane == "advisory",
        lane.epoch == waiting.epoch,
        lane.contiguous_seq < waiting.seq,
    )
    return or_(waiting.received_at <= now_ms - OVERTAKEN_MS, ~overtook)


@dataclass(frozen=True)
class SqlEpisodes:
    connection: Connection

    def open_one(self, tenant: str, asset: str) -> Episode | None:
        table = schema.episodes.c
        query = _select(Episode, schema.episodes, tenant=tenant, asset=asset, state="OPEN")
        return _episode(self.connection.execute(query.order_by(table.opened_at.desc()).limit(1)).one_or_none())

    def get(self, tenant: str, episode_id: str) -> Episode | None:
        query = _select(Episode, schema.episodes, tenant=tenant, id=episode_id)
        return _episode(self.connection.execute(query).one_or_none())

    def next_due(self, at: int) -> Episode | None:
        table = schema.episodes.c
        due = select(*columns_of(Episode, schema.episodes)).where(table.state == "OPEN", table.revisit_at <= at)
        return _episode(self.connection.execute(due.order_by(table.revisit_at).limit(1)).one_or_none())

    def save(self, episode: Episode) -> None:
        row = values_of(episode) | {"advisory": msgspec.to_builtins(episode.advisory)}
        _upsert(self.connection, schema.episodes, row, ("id",))

    def add_decision(self, decision: DecisionRecord) -> None:
        self.connection.execute(insert(schema.decisions).values(values_of(decision)))


@dataclass(frozen=True)
class SqlOrders:
    connection: Connection

    def get(self, tenant: str, order_id: str) -> Order | None:
        return _one(self.connection, Order, schema.orders, tenant=tenant, id=order_id)

    def of_episode(self, tenant: str, episode_id: str) -> Sequence[Order]:
        query = _select(Order, schema.orders, tenant=tenant, episode_id=episode_id).order_by(schema.orders.c.opened_at)
        return _entities(Order, self.connection.execute(query))

    def last_repair_at(self, tenant: str, asset: str) -> int | None:
        table = schema.orders.c
        query = select(func.max(table.closed_at)).where(
            table.tenant == tenant, table.asset == asset, table.state == "COMPLETED"
        )
        last: int | None = self.connection.execute(query).scalar()
        return last

    def next_number(self, tenant: str) -> str:
        table = schema.counters
        first = _insert(self.connection, table).values(tenant=tenant, counter="orders", value=1)
        counted = first.on_conflict_do_update(
            index_elements=["tenant", "counter"], set_={"value": table.c.value + 1}
        ).returning(table.c.value)
        return f"SO-{self.connection.execute(counted).scalar_one():06d}"

    def add(self, order: Order) -> None:
        self.connection.execute(insert(schema.orders).values(values_of(order)))

    def update(self, order: Order) -> Order:
        table, changed = schema.orders, replace(order, version=order.version + 1)
        seen = and_(table.c.tenant == order.tenant, table.c.id == order.id, table.c.version == order.version)
        if self.connection.execute(update(table).where(seen).values(values_of(changed))).rowcount != 1:
            raise Contended(f"order {order.number} was changed by another transaction")
        return changed

    def add_finding(self, order: Order, finding: Finding, *, reported_by: str, reported_at: int) -> None:
        row = values_of(finding) | {
            "order_id": order.id,
            "tenant": order.tenant,
            "reported_by": reported_by,
            "reported_at": reported_at,
        }
        self.connection.execute(insert(schema.findings).values(row))


@dataclass(frozen=True)
class SqlDiagnoses:
    connection: Connection

    def get(self, tenant: str, asset_type: str) -> Diagnosis | None:
        return _one(self.connection, Diagnosis, schema.diagnoses, tenant=tenant, asset_type=asset_type)

    def lock(self, first: Diagnosis) -> Diagnosis:
        table = schema.diagnoses
        self.connection.execute(_insert(self.connection, table).values(values_of(first)).on_conflict_do_nothing())
        query = _select(Diagnosis, table, tenant=first.tenant, asset_type=first.asset_type).with_for_update()
        return Diagnosis(**self.connection.execute(query).one()._mapping)

    def save(self, diagnosis: Diagnosis) -> None:
        _upsert(self.connection, schema.diagnoses, values_of(diagnosis), ("tenant", "asset_type"))


@dataclass(frozen=True)
class SqlParts:
    connection: Connection

    def get(self, tenant: str, part_no: str) -> Part | None:
        return _one(self.connection, Part, schema.parts, tenant=tenant, part_no=part_no)

    def lock(self, tenant: str, part_nos: Sequence[str]) -> dict[str, Part]:
        table = schema.parts
        query = (
            select(*columns_of(Part, table))
            .where(table.c.tenant == tenant, table.c.part_no.in_(part_nos))
            .order_by(table.c.part_no)
            .with_for_update(key_share=True)
        )
        return {part.part_no: part for part in _entities(Part, self.connection.execute(query))}

    def levels(self, tenant: str, part_no: str) -> Sequence[StockLevel]:
        query = _select(StockLevel, schema.stock, tenant=tenant, part_no=part_no).order_by(schema.stock.c.depot)
        return _entities(StockLevel, self.connection.execute(query))

    def transfers_to(self, tenant: str, depot: str) -> Sequence[Transfer]:
        query = _select(Transfer, schema.transfers, tenant=tenant, to_depot=depot)
        return _entities(Transfer, self.connection.execute(query.order_by(schema.transfers.c.from_depot)))

    def has_depot(self, tenant: str, depot: str) -> bool:
        table = schema.depots.c
        query = select(exists().where(table.tenant == tenant, table.depot == depot))
        return bool(self.connection.execute(query).scalar_one())

    def change_stock(self, tenant: str, part_no: str, depot: str, *, on_hand: int = 0, reserved: int = 0) -> None:
        table, part = schema.stock, schema.parts
        there = and_(table.c.tenant == tenant, table.c.part_no == part_no, table.c.depot == depot)
        new_on_hand, new_reserved = table.c.on_hand + on_hand, table.c.reserved + reserved
        changed = (
            update(table)
            .where(there, new_reserved >= 0, new_reserved <= new_on_hand)
            .values(on_hand=new_on_hand, reserved=new_reserved, version=table.c.version + 1)
        )
        if self.connection.execute(changed).rowcount != 1:
            self._first_stock(tenant, part_no, depot, on_hand, reserved)
        self.connection.execute(
            update(part).where(part.c.tenant == tenant, part.c.part_no == part_no).values(version=part.c.version + 1)
        )

    def _first_stock(self, tenant: str, part_no: str, depot: str, on_hand: int, reserved: int) -> None:
        row = {"tenant": tenant, "part_no": part_no, "depot": depot, "on_hand": on_hand, "reserved": reserved}
        added = _insert(self.connection, schema.stock).values(row).on_conflict_do_nothing()
        added = added.returning(schema.stock.c.depot)
        if not 0 <= reserved <= on_hand or self.connection.execute(added).first() is None:
            raise Contended(f"part {part_no} in {depot} does not have what was asked of it")

    def add_reservation(self, reservation: Reservation) -> None:
        self.connection.execute(insert(schema.reservations).values(values_of(reservation)))

    def update_reservation(self, reservation: Reservation) -> None:
        table = schema.reservations
        changed = update(table).where(table.c.tenant == reservation.tenant, table.c.id == reservation.id)
        self.connection.execute(changed.values(values_of(reservation)))

    def reservations(self, tenant: str, order_id: str) -> Sequence[Reservation]:
        table = schema.reservations.c
        query = _select(Reservation, schema.reservations, tenant=tenant, order_id=order_id)
        return _entities(Reservation, self.connection.execute(query.order_by(table.part_no, table.created_at)))

    def waiting(self, tenant: str, part_no: str, depot: str) -> Sequence[Reservation]:
        query = _select(
            Reservation, schema.reservations, tenant=tenant, part_no=part_no, to_depot=depot, state="BACK_ORDERED"
        )
        return _entities(Reservation, self.connection.execute(query))

    def next_arrival(self, at: int) -> Reservation | None:
        table = schema.reservations.c
        due = _select(Reservation, schema.reservations, state="IN_TRANSFER").where(table.expected_at <= at)
        return _entity(Reservation, self.connection.execute(due.order_by(table.expected_at).limit(1)).one_or_none())


@dataclass(frozen=True)
class SqlRecords:
    connection: Connection
    _notes: list[AuditNote] = field(default_factory=list)

    def add_message(self, message: OutboxMessage) -> None:
        self.connection.execute(
            _insert(self.connection, schema.outbox)
            .values(values_of(message))
            .on_conflict_do_nothing(index_elements=["tenant", "news", "channel", "recipient"])
        )

    def queued(self, tenant: str, message_id: str) -> QueuedMessage | None:
        return _one(self.connection, QueuedMessage, schema.outbox, tenant=tenant, id=message_id)

    def requeue(self, tenant: str, message_id: str) -> None:
        outbox = schema.outbox
        self.connection.execute(
            update(outbox)
            .where(outbox.c.tenant == tenant, outbox.c.id == message_id, outbox.c.state == "DEAD")
            .values(state="PENDING", attempts=0, next_attempt_wall_ms=0, lease=None, lease_until_wall_ms=None)
        )

    def add_command(self, command: NodeCommand) -> None:
        self.connection.execute(insert(schema.commands).values(values_of(command)))

    def awaits_answer(self, asset: Asset, command: str) -> bool:
        waits = _select(
            NodeCommand,
            schema.commands,
            tenant=asset.tenant,
            node=asset.node,
            asset=asset.asset,
            command=command,
            state="PENDING",
        )
        return self.connection.execute(waits.limit(1)).first() is not None

    def add_audit(self, note: AuditNote) -> None:
        self._notes.append(note)

    def chain_audit(self) -> None:
        """Write what was noted to the end of each tenant's chain. Last in the transaction: the end is locked for it."""
        for tenant in sorted({note.tenant for note in self._notes}):
            position, head = self._end_of_chain(tenant)
            for note in (note for note in self._notes if note.tenant == tenant):
                position += 1
                entry = _chained(note, position, head)
                self.connection.execute(insert(schema.audit).values(values_of(entry)))
                head = entry.hash
        self._notes.clear()

    def _end_of_chain(self, tenant: str) -> tuple[int, str]:
        if self.connection.dialect.name == "postgresql":
            key = {"key": f"audit:{tenant}"}
            self.connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), key)
        table = schema.audit.c
        query = select(table.position, table.hash).where(table.tenant == tenant)
        last = self.connection.execute(query.order_by(table.position.desc()).limit(1)).one_or_none()
        return (0, GENESIS) if last is None else (last.position, last.hash)


def skip_numbers(connection: Connection, count: int) -> None:
    """Leave out the next `count` numbers people would read."""
    table = schema.counters
    connection.execute(update(table).values(value=table.c.value + count))


def verify_audit(connection: Connection, tenant: str) -> AuditReport:
    """Whether the audit of a tenant is as it was written."""
    query = _select(AuditEntry, schema.audit, tenant=tenant).order_by(schema.audit.c.position)
    with connection.execute(query.execution_options(yield_per=_AUDIT_PAGE)) as rows:
        return check_chain(AuditEntry(**row._mapping) for row in rows)


# --- between rows and entities --------------------------------------------------------------------------------------


def columns_of(kind: type, table: Table) -> list[Column[Any]]:
    """The columns that make up an entity: they have the names of its fields."""
    return [table.c[column.name] for column in fields(kind)]


def values_of(entity: Any) -> dict[str, Any]:
    return {column.name: getattr(entity, column.name) for column in fields(entity)}


def _select(kind: type, table: Table, **keys: Any) -> Select[Any]:
    return select(*columns_of(kind, table)).where(*(table.c[name] == value for name, value in keys.items()))


def _one(connection: Connection, kind: type[T], table: Table, **keys: Any) -> T | None:
    return _entity(kind, connection.execute(_select(kind, table, **keys)).one_or_none())


def _entity(kind: type[T], row: Row[Any] | None) -> T | None:
    return None if row is None else kind(**row._mapping)


def _entities(kind: type[T], rows: Iterable[Row[Any]]) -> list[T]:
    return [kind(**row._mapping) for row in rows]


def _episode(row: Row[Any] | None) -> Episode | None:
    if row is None:
        return None
    return Episode(**{**row._mapping, "advisory": msgspec.convert(row.advisory, wire.Advisory)})


def _same(left: Table, right: Table, *names: str) -> Any:
    return and_(*(left.c[name] == right.c[name] for name in names))


def _insert(connection: Connection, table: Table) -> Any:
    """An insert that can say what to do where the row exists: both databases have it, SQLAlchemy's core has not."""
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def _upsert(connection: Connection, table: Table, row: dict[str, Any], key: tuple[str, ...]) -> None:
    statement = _insert(connection, table).values(row)
    changed = {name: statement.excluded[name] for name in row if name not in key}
    connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=changed))


def _chained(note: AuditNote, position: int, previous_hash: str) -> AuditEntry:
    entry = AuditEntry(
        tenant=note.tenant,
        position=position,
        at=note.at,
        actor=note.actor,
        subject=note.subject,
        subject_id=note.subject_id,
        action=note.action,
        detail=note.detail,
        previous_hash=previous_hash,
        hash="",
    )
    return replace(entry, hash=entry_hash(entry))


def _health_row(tenant: str, advisory: wire.Advisory) -> dict[str, Any]:
    rul = advisory.rul_hours
    likeliest = max(advisory.failure_modes, key=lambda mode: advisory.failure_modes[mode], default=None)
    return {
        "tenant": tenant,
        "asset": advisory.asset,
        "observed_at": advisory.observed_at,
        "condition": advisory.condition,
        "health_index": advisory.health_index,
        "anomaly_score": advisory.anomaly_score,
        "rul_hours_p10": None if rul is None else rul.p10,
        "rul_hours_p50": None if rul is None else rul.p50,
        "rul_hours_p90": None if rul is None else rul.p90,
        "failure_mode": likeliest,
        "maturity": advisory.maturity,
        "advisory": msgspec.to_builtins(advisory),
    }
