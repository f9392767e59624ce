"""What goes past SQLAlchemy's Core says the same as what goes through it."""

from sqlalchemy import Connection, Engine, Integer, bindparam, delete, insert, select

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.bulk import fetch_all, has_name, has_pair, names_of, pairs_of, run_many
from forewarn_cloud.adapters.sql.engine import writing

ODD_NAMES = ["plain", "with 'quotes' and \"these\"", "{braces, and}", "[1, 2]", "NULL", "ünï", "a\\b", "%s ? :x"]


def test_rows_are_found_by_names_of_any_text(engine: Engine) -> None:
    signals = schema.asset_signals
    with writing(engine) as connection:
        add_signals(connection, "a", ODD_NAMES)
        dialect = connection.dialect.name
        query = select(signals.c.signal).where(has_name(dialect, signals.c.signal))
        for wanted in (ODD_NAMES, ODD_NAMES[:1], ODD_NAMES[3:5]):
            found = connection.execute(query, names_of(dialect, [*wanted, "none of them"])).scalars()
            assert sorted(found) == sorted(wanted)


def test_rows_are_found_by_pairs_of_any_text(engine: Engine) -> None:
    signals = schema.asset_signals
    with writing(engine) as connection:
        for asset in ("a", *ODD_NAMES):
            add_signals(connection, asset, ODD_NAMES)
        dialect = connection.dialect.name
        query = select(signals.c.asset, signals.c.signal)
        query = query.where(has_pair(dialect, signals.c.asset, signals.c.signal))
        for wanted in ([("a", name) for name in ODD_NAMES], [(name, name) for name in ODD_NAMES], [("a", "plain")]):
            found = connection.execute(query, pairs_of(dialect, [*wanted, ("plain", "none"), ("none", "plain")])).all()
            assert sorted(map(tuple, found)) == sorted(wanted)


def test_what_is_inserted_is_read_as_if_core_had_inserted_it(engine: Engine) -> None:
    lanes = schema.lane_progress
    common = {"tenant": "t", "node": "n", "lane": "telemetry", "first_at": 1, "updated_at": 2, "hole_since": None}
    counts = {"contiguous_seq": 2**53, "records_stored": 0, "records_quarantined": 7}
    with writing(engine) as connection:
        connection.execute(insert(lanes), [common | counts | {"epoch": "core", "ahead": [[3, 4], [6, 9]]}])
        rows = [common | counts | {"epoch": epoch, "ahead": "[[3,4],[6,9]]"} for epoch in ("one", "two")]
        run_many(connection, insert(lanes), tuple(rows[0]), [tuple(row.values()) for row in rows])
        found = [row._asdict() for row in connection.execute(select(lanes))]
    assert len(found) == 3
    assert all(row | {"epoch": ""} == found[0] | {"epoch": ""} for row in found)


def test_a_query_past_core_finds_the_same(engine: Engine) -> None:
    """Constants of the statement, such as SQLite's OFFSET beside a limit, come along."""
    signals = schema.asset_signals
    of_asset = select(signals.c.signal, signals.c.asset).where(signals.c.asset == bindparam("of_asset"))
    query = of_asset.where(signals.c.tenant == "t").order_by(signals.c.signal).limit(bindparam("most", type_=Integer))
    with writing(engine) as connection:
        add_signals(connection, "a", ODD_NAMES)
        add_signals(connection, "b", ODD_NAMES[:3])
        for bound in ({"of_asset": "a", "most": 3}, {"of_asset": "b", "most": 9}, {"of_asset": "c", "most": 1}):
            assert fetch_all(connection, query, bound) == connection.execute(query, bound).all()


def test_a_statement_tells_how_many_rows_it_met(engine: Engine) -> None:
    signals = schema.asset_signals
    one = delete(signals).where(signals.c.asset == bindparam("of_asset"), signals.c.signal == bindparam("of_signal"))
    with writing(engine) as connection:
        add_signals(connection, "a", ["x", "y", "z"])
        assert run_many(connection, one, ("of_signal", "of_asset"), [("x", "a"), ("none", "a"), ("z", "a")]) == 2
        assert connection.execute(select(signals.c.signal)).scalars().all() == ["y"]


def add_signals(connection: Connection, asset: str, names: list[str]) -> None:
    node = {"tenant": "t", "node": f"node of {asset}", "enrolled_at": 1}
    machine = {"tenant": "t", "asset": asset, "node": node["node"], "asset_type": "x", "name": "a", "created_at": 1}
    connection.execute(insert(schema.nodes), [node])
    connection.execute(insert(schema.assets), [machine])
    columns = ("first_seen_at", "signal", "tenant", "asset")
    run_many(connection, insert(schema.asset_signals), columns, [(1, name, "t", asset) for name in names])
