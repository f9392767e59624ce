"""What goes past SQLAlchemy's Core says the same as what goes through it."""

from sqlalchemy import Engine, insert, select

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.bulk import has_key, insert_many
from forewarn_cloud.adapters.sql.engine import reading, writing

ODD_NAMES = ["plain", "with 'quotes' and \"these\"", "{braces, and}", "[1, 2]", "NULL", "ünï", "a\\b", "%s ? :x"]


def test_rows_are_found_by_keys_of_any_text(engine: Engine) -> None:
    signals = schema.asset_signals
    rows = [{"tenant": "t", "asset": "a", "signal": name, "first_seen_at": 1} for name in ODD_NAMES]
    asset = {"tenant": "t", "asset": "a", "node": "n", "asset_type": "generic", "name": "a", "created_at": 1}
    node = {"tenant": "t", "node": "n", "enrolled_at": 1}
    with writing(engine) as connection:
        connection.execute(insert(schema.nodes), [node])
        connection.execute(insert(schema.assets), [asset])
        insert_many(connection, insert(signals), rows)
    columns = (signals.c.tenant, signals.c.asset, signals.c.signal)
    with reading(engine) as connection:
        for wanted in (ODD_NAMES, ODD_NAMES[:1], ODD_NAMES[3:5]):
            keys = {("t", "a", name) for name in wanted} | {("t", "b", ODD_NAMES[0]), ("other", "a", ODD_NAMES[2])}
            found = select(signals.c.signal).where(has_key(connection.dialect.name, columns, keys))
            assert sorted(connection.execute(found).scalars()) == sorted(wanted)


def test_what_is_inserted_is_read_as_if_core_had_inserted_it(engine: Engine) -> None:
    lanes = schema.lane_progress
    common = {"tenant": "t", "node": "n", "lane": "telemetry", "first_at": 1, "updated_at": 2, "hole_since": None}
    counts = {"contiguous_seq": 2**53, "records_stored": 0, "records_quarantined": 7}
    with writing(engine) as connection:
        connection.execute(insert(lanes), [common | counts | {"epoch": "core", "ahead": [[3, 4], [6, 9]]}])
        rows = [common | counts | {"epoch": epoch, "ahead": "[[3,4],[6,9]]"} for epoch in ("one", "two")]
        insert_many(connection, insert(lanes), rows)
        found = [row._asdict() for row in connection.execute(select(lanes))]
    assert len(found) == 3
    assert all(row | {"epoch": ""} == found[0] | {"epoch": ""} for row in found)
