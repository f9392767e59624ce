"""What the console asks the database, on SQLite and PostgreSQL."""

from sqlalchemy import Engine, insert

from forewarn_cloud import views
from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import reading, writing
from forewarn_cloud.api.events import high_water, parse_high_water
from forewarn_cloud.seed import parse_master_data, seed
from tests.browser.world import MASTER_DATA, NOW_MS


def record_health(engine: Engine, asset: str, health_index: float) -> None:
    row = {
        "tenant": "local",
        "asset": asset,
        "observed_at": NOW_MS,
        "condition": "ALERT",
        "health_index": health_index,
        "anomaly_score": 1.0,
        "maturity": "MATURE",
        "advisory": {},
    }
    with writing(engine) as connection:
        connection.execute(insert(schema.asset_health).values(row))


def test_the_sickest_machine_comes_first_and_the_unknown_last(engine: Engine) -> None:
    seed(engine, "local", parse_master_data(MASTER_DATA.read_text("utf-8")), NOW_MS)
    record_health(engine, "pump-1", 0.9)
    record_health(engine, "fan-1", 0.2)
    with reading(engine) as connection:
        found = views.sickest_assets(connection, "local")
        second = views.sickest_assets(connection, "local", offset=1, limit=1)
        alerts = views.sickest_assets(connection, "local", condition="ALERT")
    assert [row.asset for row in found] == ["fan-1", "pump-1", "compressor-1"]
    assert [row.asset for row in second] == ["pump-1"]
    assert [row.asset for row in alerts] == ["fan-1", "pump-1"]
    assert (found[0].time_zone, found[0].tier) == ("Asia/Shanghai", 2)


def test_the_high_water_mark_moves_with_what_happens_in_the_tenant(engine: Engine) -> None:
    seed(engine, "local", parse_master_data(MASTER_DATA.read_text("utf-8")), NOW_MS)
    with reading(engine) as connection:
        before, elsewhere = high_water(connection, "local"), high_water(connection, "other")
    record_health(engine, "pump-1", 0.9)
    message = {
        "id": "m1",
        "tenant": "local",
        "news": "n",
        "channel": "email",
        "recipient": "a@b.example",
        "kind": "order_opened",
        "language": "en",
        "payload": {},
        "created_at": NOW_MS,
    }
    with writing(engine) as connection:
        connection.execute(insert(schema.outbox).values(message))
    with reading(engine) as connection:
        after = high_water(connection, "local")
        assert high_water(connection, "other") == elsewhere
    assert before.differs_in(after) == ["health", "messages"]
    assert parse_high_water(after.text) == after
