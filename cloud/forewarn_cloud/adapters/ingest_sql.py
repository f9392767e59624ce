"""What ingest reads and writes, in the relational database."""

import logging
import uuid
from collections.abc import Callable, Collection, ItemsView, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import (
    Connection,
    Engine,
    Insert,
    Select,
    String,
    Table,
    Text,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.bulk import has_name, has_pair, names_of, pairs_of, run_many
from forewarn_cloud.adapters.sql.engine import is_unique_violation, rehearsing, retrying, writing
from forewarn_cloud.adapters.sql.lanes import missing_of
from forewarn_cloud.adapters.sql.repositories import SqlRecords
from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from forewarn_cloud.entities import AuditNote
from forewarn_cloud.errors import Contended, Unavailable
from forewarn_cloud.ingest.births import Trouble, trouble_of, with_birth
from forewarn_cloud.ingest.ledger import (
    Asked,
    Changes,
    KnownAsset,
    KnownNode,
    LaneChange,
    LedgerTransaction,
    OpenGap,
    Refusal,
    Resend,
    StoredAdvisory,
    StoredGap,
)
from forewarn_cloud.ingest.messages import AssetKey, LaneKey, NodeKey
from forewarn_cloud.ingest.progress import Progress, Range
from forewarn_cloud.ingest.replay import Quarantined
from forewarn_cloud.telemetry import TelemetryStore
from forewarn_models import wire

T = TypeVar("T")
_log = logging.getLogger(__name__)
Values = dict[str, Any]
Telemetry = Callable[[Connection], TelemetryStore]
"""In the transaction of a connection."""
QUARANTINE_ROWS: Final = 10_000
"""Kept for each tenant; beyond that the oldest go."""
UNIQUE_TRIES: Final = 2
_KEYS_A_QUERY: Final = 500


@dataclass(frozen=True)
class SqlLedger:
    """`Ledger` over SQLite or PostgreSQL."""

    engine: Engine
    quarantine_rows: int = QUARANTINE_ROWS
    telemetry: Telemetry = SqlTelemetry

    def run(self, work: Callable[[LedgerTransaction], T]) -> T:
        taken = 0

        def once() -> T:
            nonlocal taken
            try:
                with writing(self.engine) as connection:
                    return work(SqlLedgerTransaction(connection, self.quarantine_rows, self.telemetry))
            except Contended as error:
                taken += is_unique_violation(error)
                if taken < UNIQUE_TRIES or error.__cause__ is None:
                    raise
                raise error.__cause__ from None  # nobody else takes that key each time: it is in the batch

        return retrying(once)

    def serves(self) -> bool:
        try:
            with writing(self.engine) as connection:
                connection.execute(select(1))
        except Unavailable:
            return False
        return True


@dataclass(frozen=True)
class SqlLedgerTransaction:
    connection: Connection
    quarantine_rows: int = QUARANTINE_ROWS
    telemetry: Telemetry = SqlTelemetry
    _taken_out: dict[int, Values] = field(default_factory=dict)
    _troubles: list[AuditNote] = field(default_factory=list)

    def nodes(self, keys: Collection[NodeKey]) -> dict[NodeKey, KnownNode]:
        return {
            (tenant, node): KnownNode(deleted=deleted_at is not None, declares_assets=declares_assets)
            for tenant, names in _by_tenant(keys)
            for node, deleted_at, declares_assets in self._named(_nodes_named, names, tenant)
        }

    def assets(self, keys: Collection[AssetKey]) -> dict[AssetKey, KnownAsset]:
        return {
            (tenant, asset): KnownAsset(node=node, asset_type=asset_type, deleted=deleted_at is not None)
            for tenant, names in _by_tenant(keys)
            for asset, node, asset_type, deleted_at in self._named(_assets_named, names, tenant)
        }

    def signals(self, keys: Collection[AssetKey]) -> dict[AssetKey, frozenset[str]]:
        found = dict[AssetKey, set[str]]()
        for tenant, names in _by_tenant(keys):
            for asset, signal in self._named(_signals_named, names, tenant):
                found.setdefault((tenant, asset), set()).add(signal)
        return {key: frozenset(names) for key, names in found.items()}

    def progress(self, keys: Collection[LaneKey]) -> dict[LaneKey, Progress]:
        return {
            (tenant, node, lane, epoch): Progress(contiguous=contiguous, ahead=_ranges(ahead) if ahead else ())
            for (tenant, lane), pairs in _by_lane(keys)
            for node, epoch, contiguous, ahead in self._paired(_progress_paired, pairs, tenant, lane)
        }

    def digests(self, lane: LaneKey, seqs: Collection[int], assets: Collection[AssetKey]) -> dict[int, bytes]:
        tenant, node, name, epoch = lane
        found = self._digests(schema.quarantine, lane, seqs) | self._digests(schema.gaps, lane, seqs)
        if name == "telemetry":
            names = {asset for _, asset in assets}
            return found | self.telemetry(self.connection).digests(tenant, node, epoch, seqs, assets=names)
        return found | self._digests(schema.advisories, lane, seqs)

    def open_gaps(self, keys: Collection[LaneKey]) -> dict[LaneKey, tuple[OpenGap, ...]]:
        found = dict[LaneKey, tuple[OpenGap, ...]]()
        for (tenant, lane), pairs in _by_lane(keys):
            for row in self._paired(_gaps_paired, pairs, tenant, lane):
                if row.filled_at is None:
                    key = (tenant, row.node, lane, row.epoch)
                    found[key] = (*found.get(key, ()), OpenGap(seq=row.seq, missing=missing_of(row)))
        return found

    def asked(self, keys: Collection[tuple[NodeKey, str]]) -> dict[tuple[NodeKey, str], Asked]:
        table, found = schema.commands, dict[tuple[NodeKey, str], Asked]()
        wanted = select(table).where(table.c.id.in_({command for _, command in keys}), table.c.command == "resend")
        for row in self.connection.execute(wanted) if keys else ():
            node = (row.tenant, row.node)
            if (node, row.id) in keys:
                found[node, row.id] = Asked(
                    lane=(*node, row.lane, row.epoch),
                    first_seq=row.first_seq,
                    last_seq=row.last_seq,
                    superseded=self._latest_epoch(row) not in (None, row.epoch),
                )
        return found

    def _latest_epoch(self, command: Any) -> str | None:
        table = schema.lane_progress.c
        same_lane = (table.tenant == command.tenant, table.node == command.node, table.lane == command.lane)
        latest = select(table.epoch).where(*same_lane).order_by(table.first_at.desc()).limit(1)
        epoch: str | None = self.connection.execute(latest).scalar()
        return epoch

    def write(self, changes: Changes) -> None:
        self._write_assets(changes)
        self._write_nodes(changes)
        self.telemetry(self.connection).append(changes.telemetry)
        self._insert(schema.advisories, [_advisory_row(row, changes.at) for row in changes.advisories])
        gaps = [_gap_row(gap, changes.at) for gap in changes.gaps]
        if gaps:
            self.connection.execute(self._upsert(schema.gaps).on_conflict_do_nothing(), gaps)
        self._write_filled(changes)
        self._write_refusals(changes)
        self._write_lanes(changes)
        resends = [_resend_row(resend, changes.at) for resend in changes.resends]
        if resends:
            self.connection.execute(self._upsert(schema.commands).on_conflict_do_nothing(), resends)
        self._note_declared(changes)

    def rehearsal(self) -> Callable[[Changes], None]:
        undone = rehearsing(self.connection)

        def rehearse(changes: Changes) -> None:
            with undone():
                SqlLedgerTransaction(self.connection, self.quarantine_rows, self.telemetry).write(changes)

        return rehearse

    # --- what is replayed -------------------------------------------------------------------------------------------

    def take_out(self, tenant: str, refused_id: int) -> Quarantined | None:
        table = schema.quarantine
        query = select(table).where(table.c.tenant == tenant, table.c.id == refused_id).with_for_update()
        row = self.connection.execute(query).one_or_none()
        if row is None:
            return None
        self._taken_out[refused_id] = dict(row._mapping)
        self.connection.execute(delete(table).where(table.c.id == refused_id))
        is_record = row.seq is not None and row.lane is not None and row.node is not None
        return Quarantined(
            id=row.id,
            topic=row.topic,
            digest=bytes(row.digest),
            reason=row.reason,
            body=bytes(row.body),
            lane=(tenant, row.node, row.lane, row.epoch) if is_record else None,
            seq=row.seq if is_record else None,
        )

    def put_back(self, tenant: str, refused_id: int, reason: str) -> None:
        row = self._taken_out.pop(refused_id)
        assert row["tenant"] == tenant
        self._insert(schema.quarantine, [row | {"reason": reason}])

    def handle_again(self, lane: LaneKey, seq: int) -> None:
        table, (tenant, node, _, epoch) = schema.advisories, lane
        this = (table.c.tenant == tenant, table.c.node == node, table.c.epoch == epoch, table.c.seq == seq)
        self.connection.execute(update(table).where(*this).values(handled_at=None))

    # --- reading ----------------------------------------------------------------------------------------------------

    def _named(self, query: Callable[[str], Select[Any]], names: Collection[str], tenant: str) -> Sequence[Any]:
        dialect = self.connection.dialect.name
        return self.connection.execute(query(dialect), {"of_tenant": tenant} | names_of(dialect, names)).all()

    def _paired(
        self, query: Callable[[str], Select[Any]], pairs: Collection[tuple[str, str]], tenant: str, lane: wire.Lane
    ) -> Sequence[Any]:
        dialect = self.connection.dialect.name
        bound = {"of_tenant": tenant, "of_lane": lane} | pairs_of(dialect, pairs)
        return self.connection.execute(query(dialect), bound).all()

    def _digests(self, table: Table, lane: LaneKey, seqs: Collection[int]) -> dict[int, bytes]:
        wanted, found = list(seqs), dict[int, bytes]()
        of_lane = [table.c[column] == value for column, value in zip(_LANE, lane, strict=True) if column in table.c]
        for start in range(0, len(wanted), _KEYS_A_QUERY):
            some = table.c.seq.in_(wanted[start : start + _KEYS_A_QUERY])
            rows = self.connection.execute(select(table.c.seq, table.c.digest).where(*of_lane, some))
            found.update((row.seq, bytes(row.digest)) for row in rows)
        return found

    # --- writing ----------------------------------------------------------------------------------------------------

    def _write_assets(self, changes: Changes) -> None:
        rows = [_asset_row(key, asset, changes.at) for key, asset in changes.assets.items()]
        if rows:
            statement = self._upsert(schema.assets)
            changed = {"asset_type": statement.excluded.asset_type}
            self.connection.execute(
                statement.on_conflict_do_update(index_elements=["tenant", "asset"], set_=changed), rows
            )
        signals = [
            (tenant, asset, name, changes.at)
            for (tenant, asset), names in changes.signals.items()
            for name in sorted(names)
        ]
        if signals:
            run_many(self.connection, _add_signals(self.connection.dialect.name), _SIGNAL_COLUMNS, signals)

    def _note_declared(self, changes: Changes) -> None:
        """Last, because it locks the end of the audit."""
        records = SqlRecords(self.connection)
        for (tenant, name), asset in changes.assets.items():
            note = AuditNote(
                tenant=tenant,
                at=changes.at,
                actor=f"node {asset.node}",
                subject="asset",
                subject_id=name,
                action="declared",
                detail={"node": asset.node, "asset_type": asset.asset_type},
            )
            records.add_audit(note)
        for note in self._troubles:
            records.add_audit(note)
        self._troubles.clear()
        records.chain_audit()

    def _write_nodes(self, changes: Changes) -> None:
        nodes, commands = schema.nodes, schema.commands
        for (tenant, node), presence in sorted(changes.presence.items()):
            values: Values = {"online": presence.online, "presence_at": changes.at}
            if presence.version:
                values["version"] = presence.version
            if presence.epoch is not None:
                values["births"] = self._births(tenant, node, presence.epoch, changes.at)
            self.connection.execute(update(nodes).where(nodes.c.tenant == tenant, nodes.c.node == node).values(values))
        for (tenant, node), reply in changes.replies:
            asked = (commands.c.tenant == tenant, commands.c.node == node, commands.c.id == reply.id)
            state = "DONE" if reply.ok else "FAILED"
            detail = reply.detail.replace("\0", "")[:500]
            self.connection.execute(
                update(commands).where(*asked, commands.c.state == "PENDING").values(state=state, detail=detail)
            )

    def _births(self, tenant: str, node: str, epoch: str, at: int) -> list[list[object]]:
        """With this one; where they begin to look like trouble, that is told and noted."""
        this = (schema.nodes.c.tenant == tenant, schema.nodes.c.node == node)
        found = self.connection.execute(select(schema.nodes.c.births).where(*this)).scalar()
        before = [(when, of) for when, of in found or ()]
        births = with_birth(before, at, epoch)
        trouble = trouble_of(births, at)
        if trouble not in ("none", trouble_of(before, at)):
            _log.warning("node %s/%s was born %d times lately: %s", tenant, node, len(births), trouble)
            self._troubles.append(_trouble_note(tenant, node, trouble, at))
        return [list(birth) for birth in births]

    def _write_filled(self, changes: Changes) -> None:
        for (lane, seq), missing in changes.filled.items():
            told = [schema.gaps.c[name] == value for name, value in zip(_LANE, lane, strict=True)]
            left = {"missing": [list(span) for span in missing], "filled_at": None if missing else changes.at}
            self.connection.execute(update(schema.gaps).where(*told, schema.gaps.c.seq == seq).values(left))

    def _write_refusals(self, changes: Changes) -> None:
        if not changes.refusals:
            return
        table, statement = schema.quarantine, self._upsert(schema.quarantine)
        seen_again = statement.on_conflict_do_update(
            index_elements=["tenant", "topic", "digest"],
            set_={"times_seen": table.c.times_seen + 1, "received_at": statement.excluded.received_at},
        )
        self.connection.execute(seen_again, [_refusal_row(refusal, changes.at) for refusal in changes.refusals])
        for tenant in {refusal.tenant for refusal in changes.refusals}:
            mine = select(table.c.id).where(table.c.tenant == tenant).order_by(table.c.id.desc())
            newest_to_go = mine.offset(self.quarantine_rows).limit(1).scalar_subquery()
            self.connection.execute(delete(table).where(table.c.tenant == tenant, table.c.id <= newest_to_go))

    def _write_lanes(self, changes: Changes) -> None:
        for is_new, statement in ((True, _NEW_LANES), (False, _add_to_lanes(self.connection.dialect.name))):
            lanes = sorted(lane for lane, change in changes.lanes.items() if change.is_new == is_new)
            if lanes:
                rows = [_lane_row(lane, changes.lanes[lane], changes.at) for lane in lanes]
                run_many(self.connection, statement, _LANE_COLUMNS, rows)

    def _insert(self, table: Table, rows: Sequence[Values]) -> None:
        if rows:
            self.connection.execute(insert(table), rows)

    def _upsert(self, table: Table) -> Any:
        return _upsert(self.connection.dialect.name, table)


_LANE: Final = ("tenant", "node", "lane", "epoch")


def _by_tenant(keys: Iterable[tuple[str, str]]) -> ItemsView[str, list[str]]:
    found = dict[str, list[str]]()
    for tenant, name in keys:
        found.setdefault(tenant, []).append(name)
    return found.items()


def _by_lane(keys: Iterable[LaneKey]) -> ItemsView[tuple[str, wire.Lane], list[tuple[str, str]]]:
    """Node and epoch of each, by tenant and lane."""
    found = dict[tuple[str, wire.Lane], list[tuple[str, str]]]()
    for tenant, node, lane, epoch in keys:
        found.setdefault((tenant, lane), []).append((node, epoch))
    return found.items()


_TENANT: Final = bindparam("of_tenant", type_=String)


@cache
def _nodes_named(dialect: str) -> Select[Any]:
    table = schema.nodes.c
    wanted = select(table.node, table.deleted_at, table.declares_assets)
    return wanted.where(table.tenant == _TENANT, has_name(dialect, table.node))


@cache
def _assets_named(dialect: str) -> Select[Any]:
    table = schema.assets.c
    wanted = select(table.asset, table.node, table.asset_type, table.deleted_at)
    return wanted.where(table.tenant == _TENANT, has_name(dialect, table.asset))


@cache
def _signals_named(dialect: str) -> Select[Any]:
    table = schema.asset_signals.c
    return select(table.asset, table.signal).where(table.tenant == _TENANT, has_name(dialect, table.asset))


@cache
def _progress_paired(dialect: str) -> Select[Any]:
    """In order, so that two that lock the same rows do not wait for each other."""
    table = schema.lane_progress.c
    ahead = func.nullif(cast(table.ahead, Text), _NO_RANGES)
    wanted = select(table.node, table.epoch, table.contiguous_seq, ahead)
    return _of_lanes(dialect, wanted, schema.lane_progress).order_by(table.node, table.epoch).with_for_update()


@cache
def _gaps_paired(dialect: str) -> Select[Any]:
    return _of_lanes(dialect, select(schema.gaps), schema.gaps)


def _of_lanes(dialect: str, query: Select[Any], table: Table) -> Select[Any]:
    of_lane = (table.c.tenant == _TENANT, table.c.lane == bindparam("of_lane", type_=String))
    return query.where(*of_lane, has_pair(dialect, table.c.node, table.c.epoch))


def _upsert(dialect: str, table: Table) -> Any:
    """An insert that can say what to do where the row exists; both databases have it, SQLAlchemy's core has not."""
    return {"sqlite": sqlite, "postgresql": postgresql}[dialect].insert(table)


_SIGNAL_COLUMNS: Final = ("tenant", "asset", "signal", "first_seen_at")


@cache
def _add_signals(dialect: str) -> Insert:
    statement: Insert = _upsert(dialect, schema.asset_signals).on_conflict_do_nothing()
    return statement


_NEW_LANES: Final = insert(schema.lane_progress)
"""Where another was faster it fails. Of lanes that were known the progress is locked."""


@cache
def _add_to_lanes(dialect: str) -> Insert:
    table, statement = schema.lane_progress, _upsert(dialect, schema.lane_progress)
    new = statement.excluded
    added: Insert = statement.on_conflict_do_update(
        index_elements=list(_LANE),
        set_={
            "contiguous_seq": new.contiguous_seq,
            "ahead": new.ahead,
            "records_stored": table.c.records_stored + new.records_stored,
            "records_quarantined": table.c.records_quarantined + new.records_quarantined,
            "updated_at": new.updated_at,
            "hole_since": case(
                (new.hole_since.is_(None), None),
                (
                    table.c.contiguous_seq == new.contiguous_seq,
                    func.coalesce(table.c.hole_since, new.hole_since),
                ),
                else_=new.hole_since,
            ),
        },
    )
    return added


def _trouble_note(tenant: str, node: str, trouble: Trouble, at: int) -> AuditNote:
    return AuditNote(
        tenant=tenant,
        at=at,
        actor="forewarn",
        subject="node",
        subject_id=node,
        action="connection_trouble",
        detail={"trouble": trouble},
    )


def _asset_row(key: AssetKey, asset: KnownAsset, at: int) -> Values:
    tenant, name = key
    return {
        "tenant": tenant,
        "asset": name,
        "node": asset.node,
        "asset_type": asset.asset_type,
        "name": name,
        "created_at": at,
    }


def _advisory_row(row: StoredAdvisory, at: int) -> Values:
    tenant, node, _, epoch = row.lane
    return {
        "tenant": tenant,
        "node": node,
        "epoch": epoch,
        "seq": row.seq,
        "digest": row.digest,
        "asset": row.advisory.asset,
        "observed_at": row.advisory.observed_at,
        "received_at": at,
        "body": msgspec.to_builtins(row.advisory),
    }


def _gap_row(gap: StoredGap, at: int) -> Values:
    return dict(zip(_LANE, gap.lane, strict=True)) | {
        "seq": gap.seq,
        "digest": gap.digest,
        "first_seq": gap.first_seq,
        "last_seq": gap.last_seq,
        "reason": gap.reason,
        "received_at": at,
        "missing": [list(span) for span in gap.missing],
        "filled_at": None if gap.missing else at,
    }


def _refusal_row(refusal: Refusal, at: int) -> Values:
    return {
        "tenant": refusal.tenant,
        "topic": refusal.topic,
        "node": refusal.node,
        "lane": None if refusal.lane is None else refusal.lane[2],
        "epoch": None if refusal.lane is None else refusal.lane[3],
        "seq": refusal.seq,
        "digest": refusal.digest,
        "reason": refusal.reason,
        "security": refusal.security,
        "body": refusal.body,
        "received_at": at,
    }


_NO_RANGES: Final = "[]"
"""As nearly all lanes have it: not worth reading as JSON each time."""


def _ranges(ahead: str) -> tuple[Range, ...]:
    return msgspec.json.decode(ahead, type=tuple[Range, ...])


_LANE_COLUMNS: Final = (
    *_LANE,
    "contiguous_seq",
    "ahead",
    "records_stored",
    "records_quarantined",
    "first_at",
    "updated_at",
    "hole_since",
)


def _lane_row(lane: LaneKey, change: LaneChange, at: int) -> tuple[object, ...]:
    """Values for `_LANE_COLUMNS`."""
    contiguous, ahead = change.progress.contiguous, change.progress.ahead
    holes = msgspec.json.encode(ahead).decode() if ahead else _NO_RANGES
    return (*lane, contiguous, holes, change.stored, change.quarantined, at, at, at if ahead else None)


def _resend_row(resend: Resend, at: int) -> Values:
    tenant, node, lane, epoch = resend.lane
    return {
        "id": str(uuid.uuid4()),
        "tenant": tenant,
        "node": node,
        "asset": "",
        "command": "resend",
        "at": at,
        "created_at": at,
        "lane": lane,
        "epoch": epoch,
        "first_seq": resend.first_seq,
        "last_seq": resend.last_seq,
    }
