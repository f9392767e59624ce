"""What is in quarantine is judged anew, the way a delivery is."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, insert, select, update
from typer.testing import CliRunner

from forewarn_cloud.adapters.ingest_sql import SqlLedgerTransaction
from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import make_engine, reading, writing
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.adapters.sql.unit_of_work import SqlTransactions, run_in_transaction
from forewarn_cloud.cli import app
from forewarn_cloud.console.pages import router as console
from forewarn_cloud.errors import Conflict, NotFound
from forewarn_cloud.ingest.messages import Delivery
from forewarn_cloud.ingest.replay import Replayed, replay
from forewarn_models import wire
from tests.cloud.api.serving import ADMIN, assert_problem, deps_of, serving
from tests.cloud.ingest.sending import NOW, TENANT, advisory, birth, by_hand, enrol, message, rows, telemetry
from tests.cloud.ingest.test_writer import Ingesting
from tests.cloud.world import World


@pytest.fixture
def ingest(engine: Engine) -> Ingesting:
    enrol(engine, "n1", "pump-1")
    return Ingesting(engine)


def register(ingest: Ingesting, asset: str) -> None:
    row = {"tenant": TENANT, "asset": asset, "node": "n1", "asset_type": "generic", "name": asset, "created_at": NOW}
    with writing(ingest.engine) as connection:
        connection.execute(insert(schema.assets).values(row))


def only_id(engine: Engine) -> int:
    ((found,),) = rows(engine, "quarantine", "id")
    return int(found)


def again(ingest: Ingesting, refused_id: int | None = None) -> Replayed:
    chosen = only_id(ingest.engine) if refused_id is None else refused_id
    return run_in_transaction(
        ingest.engine,
        lambda uow: replay(uow, SqlLedgerTransaction(uow.connection), ADMIN, ingest.clock, chosen),
    )


def test_a_record_of_a_machine_that_was_registered_since_is_taken(ingest: Ingesting) -> None:
    refused = message(1, telemetry("fan-7"))
    ingest.feed(refused)
    register(ingest, "fan-7")
    assert again(ingest).taken
    assert (ingest.stored, ingest.quarantine) == ([1], [])
    assert rows(ingest.engine, "lane_progress", "records_stored", "records_quarantined") == [(1, 0)]
    noted = rows(ingest.engine, "audit", "actor", "subject", "action")
    assert noted == [("ada", "quarantine", "replayed")]
    ingest.feed(refused)
    assert (ingest.stored, ingest.quarantine) == ([1], []), "a repeat of it is absorbed"


def test_what_is_refused_again_stays_with_its_new_reason(ingest: Ingesting) -> None:
    ingest.feed(message(1, telemetry("fan-7")))
    refused_id = only_id(ingest.engine)
    register(ingest, "fan-7")
    with writing(ingest.engine) as connection:
        gone = update(schema.assets).where(schema.assets.c.asset == "fan-7").values(deleted_at=NOW)
        connection.execute(gone)
    assert again(ingest) == Replayed(id=refused_id, taken=False, reason="asset: 'fan-7' was deleted")
    assert rows(ingest.engine, "quarantine", "id", "reason") == [(refused_id, "asset: 'fan-7' was deleted")]
    assert rows(ingest.engine, "lane_progress", "records_quarantined") == [(1,)]


@pytest.mark.parametrize("t", [NOW + 360_000])
def test_a_json_record_that_was_ahead_of_its_time_is_taken_when_it_has_come(ingest: Ingesting, t: int) -> None:
    ingest.feed(by_hand({"asset": "pump-1", "asset_type": "generic", "t": [t], "signals": {"flow": [1.0]}}))
    assert not again(ingest).taken
    ingest.clock.advance(seconds=120)
    assert again(ingest).taken
    assert ingest.stored == [1]


def test_a_whole_message_of_a_node_that_was_enrolled_since_is_taken(engine: Engine) -> None:
    ingest = Ingesting(engine)
    ingest.feed(message(1, telemetry(), telemetry("nobody")))
    assert again(ingest).reason == "node: 'n1' is not enrolled; `forewarn-cloud node add n1` enrols it"
    enrol(engine, "n1", "pump-1")
    assert again(ingest).taken
    assert ingest.stored == [1]
    assert [reason for reason, _, _ in ingest.quarantine] == ["asset: 'nobody' is not registered"]


def test_an_old_birth_registers_machines_and_says_nothing_of_now(engine: Engine) -> None:
    ingest = Ingesting(engine)
    ingest.feed(birth(assets={"fan-7": "motor_fan"}))
    enrol(engine, "n1")
    assert again(ingest).taken
    assert rows(engine, "assets", "asset") == [("fan-7",)]
    assert rows(engine, "nodes", "online") == [(False,)]


def test_the_same_number_with_another_body_is_refused_for_ever(ingest: Ingesting) -> None:
    ingest.feed(message(1, telemetry(value=1.0)), message(1, telemetry(value=2.0)))
    assert again(ingest).reason == "seq: 1 was received before with another body"
    assert ingest.stored == [1]


def test_an_advisory_that_could_not_be_acted_on_waits_for_the_workers_again(ingest: Ingesting) -> None:
    ingest.feed(message(1, advisory(), lane="advisory"))
    with reading(ingest.engine) as connection:
        (advisory_id,) = connection.execute(select(schema.advisories.c.id)).one()
    SqlTransactions(ingest.engine).run(lambda uow: uow.inbox.set_aside(advisory_id, "advisory: broken", NOW))
    assert rows(ingest.engine, "advisories", "handled_at") == [(NOW,)]
    assert again(ingest).taken
    assert rows(ingest.engine, "advisories", "handled_at") == [(None,)]
    assert ingest.quarantine == []


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[1]", b'{"a":1}', b"x" * 300_000])
def test_what_nobody_can_read_stays(ingest: Ingesting, body: bytes) -> None:
    ingest.feed(Delivery(topic=wire.topic(TENANT, "n1", "telemetry"), payload=body))
    before = rows(ingest.engine, "quarantine", "id", "reason", "body")
    assert not again(ingest).taken
    assert [row[0] for row in rows(ingest.engine, "quarantine", "id")] == [before[0][0]]


@pytest.mark.parametrize("record", ["text", 3, [1], {"asset": "pump-1"}, None])
def test_a_record_nobody_can_read_stays(ingest: Ingesting, record: Any) -> None:
    ingest.feed(by_hand(record))
    before = rows(ingest.engine, "quarantine", "id", "reason", "body", "seq")
    assert not again(ingest).taken
    assert rows(ingest.engine, "quarantine", "id", "reason", "body", "seq") == before


def test_one_that_can_still_not_be_stored_stays_as_it_is(ingest: Ingesting, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest.feed(message(1, telemetry("fan-7")))
    before = rows(ingest.engine, "quarantine", "id", "reason")

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr("forewarn_cloud.ingest.replay.judge", broken)
    with pytest.raises(Conflict, match="a mistake of ours"):
        again(ingest)
    assert rows(ingest.engine, "quarantine", "id", "reason") == before
    with pytest.raises(NotFound):
        again(ingest, 999)


def test_it_is_listed_shown_and_replayed_through_the_api_and_the_console(world: World) -> None:
    ingest = Ingesting(world.engine)
    ingest.clock.at_ms = world.clock.at_ms
    now = world.clock.now_ms()
    ingest.feed(*(message(n, telemetry(f"fan-{n}", t=now), node="edge-1") for n in (1, 2, 3)))
    with serving(deps_of(world)) as api:
        listed = api.get("/api/v1/quarantine")["items"]
        ids = sorted(row["id"] for row in listed)
        shown = api.get(f"/api/v1/quarantine/{ids[0]}")
        assert (shown["reason"], shown["seq"]) == ("asset: 'fan-1' is not registered", 1)
        for n in (1, 2):
            asset = {"asset": f"fan-{n}", "asset_type": "generic", "node": "edge-1"}
            assert api.post("/api/v1/assets", asset).status_code == 201
        path = f"/api/v1/quarantine/{ids[0]}/replay"
        first = api.post(path, Idempotency_Key="k")
        assert (first.status_code, first.json()["taken"]) == (200, True)
        assert api.post(path, Idempotency_Key="k").text == first.text
        assert_problem(api.post(path), 404)
        assert api.done(f"/api/v1/quarantine/{ids[2]}/replay")["reason"] == "asset: 'fan-3' is not registered"
        assert api.get("/api/v1/audit", subject="quarantine")["items"][0]["subject_id"] == str(ids[2])
        for bad in ("0", "-1", "x", str(2**70)):
            assert api.post(f"/api/v1/quarantine/{bad}/replay").status_code == 422
    with serving(deps_of(world), console) as pages:
        assert f'action="/quarantine/{ids[1]}/replay"' in pages.client.get("/nodes").text
        for refused_id, said in ((ids[1], "It is taken now"), (ids[2], "refused again")):
            answer = pages.client.post(f"/quarantine/{refused_id}/replay")
            assert answer.status_code == 303
            assert said in pages.client.get(answer.headers["location"]).text
        assert "重新处理" in pages.client.get("/nodes?lang=zh").text
    assert ingest.stored == [1, 2]
    assert isinstance(pages.client, httpx.Client)


def test_it_is_listed_shown_and_replayed_from_the_command_line(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/cloud.db")
    migrate(engine)
    enrol(engine, "n1", "pump-1")
    ingest = Ingesting(engine)
    ingest.feed(Delivery(topic=wire.topic(TENANT, "n1", "telemetry"), payload=b"nonsense"))

    def run(*words: str) -> tuple[int, str]:
        found = CliRunner().invoke(app, [*words, "--data-dir", str(tmp_path)])
        return found.exit_code, found.output

    refused_id = str(only_id(engine))
    assert "Expected `object`" in run("quarantine", "list")[1]
    assert '"body": "nonsense"' in run("quarantine", "show", refused_id)[1]
    status, said = run("quarantine", "replay", refused_id)
    assert (status, f"{refused_id}: refused again: " in said) == (1, True)
    assert run("quarantine", "replay", "999")[0] == 1
    assert run("gap", "list") == (0, "no record is missing\n")
    engine.dispose()
