"""Master data from a TOML file: customers, depots, sites, routes, parts, first stock, nodes and assets.

Seeding again updates what the file says and leaves the rest alone; stock that is there is never overwritten, because it
is counted by what happens to it. `deploy/master-data.toml` shows every key.
"""

import re
import tomllib
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from sqlalchemy import Connection, Engine, Table, select
from sqlalchemy.dialects import postgresql, sqlite

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import retrying, writing
from forewarn_cloud.errors import Invalid

_IDENTIFIER: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z"
_LINE: Final = r"^[^\x00-\x1f\x7f\u2028\u2029]+\Z"
_EMAIL: Final = r"^[^@\s<>,;\"]+@[^@\s<>,;\"]+\Z"
_URL: Final = r"^https?://[^\s]+\Z"
_FIXES: Final = {
    _IDENTIFIER: "use letters, digits, _ and -, at most 64",
    _LINE: "give one line of text",
    _EMAIL: "give one e-mail address",
    _URL: "give an http:// or https:// address",
}
Identifier = Annotated[str, msgspec.Meta(pattern=_IDENTIFIER)]
Line = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=_LINE)]
Email = Annotated[str, msgspec.Meta(max_length=254, pattern=_EMAIL)]
Url = Annotated[str, msgspec.Meta(max_length=2000, pattern=_URL)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Hours = Annotated[float, msgspec.Meta(ge=0, le=1e5)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
_TABLES: Final = ("customers", "depots", "sites", "transfers", "parts", "stock", "nodes", "assets")
"""In an order in which every row's references come before it."""
_REFERENCES: Final = (
    ("sites", "customer", "customers"),
    ("sites", "depot", "depots"),
    ("transfers", "from_depot", "depots"),
    ("transfers", "to_depot", "depots"),
    ("stock", "part_no", "parts"),
    ("stock", "depot", "depots"),
    ("assets", "node", "nodes"),
    ("assets", "site", "sites"),
)
_PATH: Final = re.compile(r"(?P<problem>.*) - at `\$\.(?P<table>\w+)(?:\[(?P<row>\d+)\](?:\.(?P<field>\w+))?)?`")


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class CustomerRow(_Row, frozen=True, kw_only=True):
    customer: Identifier
    name: Line
    email: Email | None = None
    webhook_url: Url | None = None
    webhook_secret: Line | None = None
    language: Literal["en", "zh"] = "en"
    tier: Annotated[int, msgspec.Meta(ge=1, le=3)] = 2


class DepotRow(_Row, frozen=True, kw_only=True):
    depot: Identifier
    name: Line


class SiteRow(_Row, frozen=True, kw_only=True):
    site: Identifier
    name: Line
    customer: Identifier
    depot: Identifier
    dispatch_hours: Hours = 8.0
    time_zone: str = "UTC"


class TransferRow(_Row, frozen=True, kw_only=True):
    from_depot: Identifier
    to_depot: Identifier
    hours: Hours
    cost: Amount = 0.0


class PartRow(_Row, frozen=True, kw_only=True):
    part_no: Identifier
    name_en: Line
    name_zh: Line
    unit_cost: Amount
    purchase_hours: Hours
    expedite_hours: Hours | None = None
    expedite_cost: Amount | None = None


class StockRow(_Row, frozen=True, kw_only=True):
    part_no: Identifier
    depot: Identifier
    on_hand: Count


class NodeRow(_Row, frozen=True, kw_only=True):
    node: Identifier
    declares_assets: bool = True


class AssetRow(_Row, frozen=True, kw_only=True):
    asset: Identifier
    node: Identifier
    asset_type: Identifier
    name: Line
    site: Identifier | None = None


class MasterData(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file may say; every table is optional."""

    customers: tuple[CustomerRow, ...] = ()
    depots: tuple[DepotRow, ...] = ()
    sites: tuple[SiteRow, ...] = ()
    transfers: tuple[TransferRow, ...] = ()
    parts: tuple[PartRow, ...] = ()
    stock: tuple[StockRow, ...] = ()
    nodes: tuple[NodeRow, ...] = ()
    assets: tuple[AssetRow, ...] = ()


def parse_master_data(text: str) -> MasterData:
    """Read master data, completely checked but for references to what is in the database already.

    Raises:
        Invalid: names the table, the row (1 is the first) and the field, and what is wrong with it.
    """
    try:
        found = msgspec.convert(tomllib.loads(text), MasterData)
    except tomllib.TOMLDecodeError as error:
        raise Invalid("master data", f"not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    for table in _TABLES:
        _check_keys(table, getattr(found, table))
    for number, site in enumerate(found.sites, start=1):
        _check_time_zone(number, site.time_zone)
    return found


def seed(engine: Engine, tenant: str, found: MasterData, now_ms: int) -> dict[str, int]:
    """Write it, all or nothing; rows given per table.

    Raises:
        Invalid: a row refers to what is neither in the file nor in the database.
        Unavailable: the database cannot serve.
    """

    def once() -> None:
        with writing(engine) as connection:
            _check_references(connection, tenant, found)
            for table in _TABLES:
                _write(connection, tenant, table, getattr(found, table), now_ms)

    retrying(once)
    return {table: len(getattr(found, table)) for table in _TABLES}


def _write(connection: Connection, tenant: str, name: str, rows: Iterable[_Row], now_ms: int) -> None:
    table = schema.metadata.tables[name]
    key = [column.name for column in table.primary_key]
    made = {"nodes": {"enrolled_at": now_ms}, "assets": {"created_at": now_ms}}.get(name, {})
    for row in rows:
        said = msgspec.structs.asdict(row)
        statement = _insert(connection, table).values({"tenant": tenant, **said, **made})
        changed = {column: statement.excluded[column] for column in said if column not in key}
        if changed and name != "stock":
            connection.execute(statement.on_conflict_do_update(index_elements=key, set_=changed))
        else:
            connection.execute(statement.on_conflict_do_nothing())


def _check_references(connection: Connection, tenant: str, found: MasterData) -> None:
    for name, field, target in _REFERENCES:
        known = _known(connection, tenant, target) | {_key(target, row)[0] for row in getattr(found, target)}
        for number, row in enumerate(getattr(found, name), start=1):
            wanted = getattr(row, field)
            if wanted is not None and wanted not in known:
                raise Invalid(f"{name} row {number}, {field}", f"{wanted!r} is not in [[{target}]]")


def _known(connection: Connection, tenant: str, name: str) -> set[str]:
    table = schema.metadata.tables[name]
    return set(connection.scalars(select(table.c[_own_key(name)[0]]).where(table.c.tenant == tenant)))


def _own_key(name: str) -> list[str]:
    return [column.name for column in schema.metadata.tables[name].primary_key if column.name != "tenant"]


def _key(name: str, row: _Row) -> tuple[str, ...]:
    return tuple(getattr(row, column) for column in _own_key(name))


def _check_keys(name: str, rows: tuple[_Row, ...]) -> None:
    seen = dict[tuple[str, ...], int]()
    for number, row in enumerate(rows, start=1):
        key = _key(name, row)
        if key in seen:
            raise Invalid(f"{name} row {number}", f"{', '.join(key)} is given in row {seen[key]} already")
        seen[key] = number


def _check_time_zone(number: int, name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Invalid(
            f"sites row {number}, time_zone", f"{name!r} is no IANA time zone such as Asia/Shanghai"
        ) from None


def _invalid(message: str) -> Invalid:
    match = _PATH.fullmatch(message)
    if match is None:
        return Invalid("master data", message)
    row = f" row {int(match['row']) + 1}" if match["row"] is not None else ""
    field = f", {match['field']}" if match["field"] is not None else ""
    problem = next((fix for pattern, fix in _FIXES.items() if repr(pattern) in message), match["problem"])
    return Invalid(f"{match['table']}{row}{field}", problem)


def _insert(connection: Connection, table: Table) -> Any:
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
