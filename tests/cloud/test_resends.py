"""Records that never came are asked for again: by the cloud itself, by the desk, from the command line."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, update
from typer.testing import CliRunner

from forewarn_cloud.adapters.commands_sql import SqlCommands, SqlResends
from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import make_engine, writing
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.cli import app
from forewarn_cloud.console.pages import router as console
from forewarn_cloud.workers.downlink import Downlink
from forewarn_cloud.workers.resends import HOLE_SECONDS, NO_REPLY_SECONDS, HoleWatch
from forewarn_models import wire
from tests.cloud.api.serving import Api, assert_problem, deps_of, serving
from tests.cloud.clock import FixedClock
from tests.cloud.ingest.sending import NOW, TENANT, enrol, rows
from tests.cloud.test_downlink import Wire
from tests.cloud.world import World


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(at_ms=NOW)


@pytest.fixture
def watch(engine: Engine, clock: FixedClock) -> HoleWatch:
    enrol(engine, "n1", "pump-1")
    return HoleWatch(resends=SqlResends(engine), clock=clock)


def lane(
    engine: Engine, contiguous: int, ahead: list[list[int]], *, since: int | None = NOW, epoch: str = "e1"
) -> None:
    row = {"tenant": TENANT, "node": "n1", "lane": "telemetry", "epoch": epoch, "contiguous_seq": contiguous}
    with writing(engine) as connection:
        connection.execute(
            insert(schema.lane_progress).values(
                row | {"ahead": ahead, "first_at": NOW, "updated_at": NOW, "hole_since": since}
            )
        )


def move(engine: Engine, contiguous: int, ahead: list[list[int]], since: int | None) -> None:
    with writing(engine) as connection:
        moved = {"contiguous_seq": contiguous, "ahead": ahead, "hole_since": since}
        connection.execute(update(schema.lane_progress).values(moved))


def commands(engine: Engine, *columns: str) -> list[tuple[Any, ...]]:
    return rows(engine, "commands", *(columns or ("first_seq", "last_seq", "state")))


def test_a_hole_that_stays_open_is_asked_for_once(engine: Engine, watch: HoleWatch, clock: FixedClock) -> None:
    lane(engine, 4, [[8, 9], [12, 12]])
    assert watch.look() == 0, "it may still be on its way"
    clock.advance(seconds=HOLE_SECONDS)
    assert [watch.look() for _ in range(3)] == [2, 0, 0]
    clock.advance(hours=20)
    assert watch.look() == 0, "as long as a request is open"
    assert commands(engine) == [(5, 7, "PENDING"), (10, 11, "PENDING")]


def test_what_is_asked_for_goes_down_as_a_resend(engine: Engine, watch: HoleWatch, clock: FixedClock) -> None:
    lane(engine, 4, [[8, 9]])
    clock.advance(seconds=HOLE_SECONDS)
    watch.look()
    line = Wire()
    Downlink(commands=SqlCommands(engine), publish=line.publish, clock=clock).send_due()
    ((command_id,),) = commands(engine, "id")
    body = wire.Resend(schema=1, id=command_id, lane="telemetry", epoch="e1", first_seq=5, last_seq=7)
    assert line.sent == [("fw/v1/local/n1/command", body)]


def test_a_refused_request_is_repeated_after_ever_longer_pauses(
    engine: Engine, watch: HoleWatch, clock: FixedClock
) -> None:
    lane(engine, 4, [[8, 9]])
    waited = []
    for _ in range(3):
        steps = 0
        while not watch.look():
            clock.advance(seconds=HOLE_SECONDS)
            steps += 1
        waited.append(steps)
        with writing(engine) as connection:
            connection.execute(update(schema.commands).values(state="FAILED"))
    assert waited == [1, 2, 4]


def test_a_request_ends_when_its_records_have_come(engine: Engine, watch: HoleWatch, clock: FixedClock) -> None:
    lane(engine, 4, [[8, 9]])
    clock.advance(seconds=HOLE_SECONDS)
    watch.look()
    move(engine, 9, [], None)
    watch.look()
    assert commands(engine, "state", "detail") == [("DONE", "received")]


def test_a_request_about_a_gap_ends_when_the_gap_has_filled(engine: Engine, watch: HoleWatch) -> None:
    lane(engine, 20, [], since=None)
    told = {"tenant": TENANT, "node": "n1", "lane": "telemetry", "epoch": "e1", "seq": 12, "digest": b"d" * 16}
    span = {"first_seq": 5, "last_seq": 9, "reason": "full", "received_at": NOW}
    asked = {"id": "c", "tenant": TENANT, "node": "n1", "asset": "", "command": "resend", "at": NOW, "created_at": NOW}
    with writing(engine) as connection:
        connection.execute(insert(schema.gaps).values(told | span))
        connection.execute(
            insert(schema.commands).values(asked | {"lane": "telemetry", "epoch": "e1", "first_seq": 5, "last_seq": 9})
        )
    watch.look()
    assert commands(engine, "state") == [("PENDING",)]
    with writing(engine) as connection:
        connection.execute(update(schema.gaps).values(missing=[], filled_at=NOW))
    watch.look()
    assert commands(engine, "state") == [("DONE",)]


def test_a_request_without_reply_is_given_up_and_made_anew(engine: Engine, watch: HoleWatch, clock: FixedClock) -> None:
    lane(engine, 4, [[8, 9]])
    clock.advance(seconds=HOLE_SECONDS)
    watch.look()
    clock.advance(seconds=NO_REPLY_SECONDS + 1)
    assert watch.look() == 1
    assert commands(engine, "state") == [("FAILED",), ("PENDING",)]


def test_a_deleted_node_is_asked_for_nothing(engine: Engine, watch: HoleWatch, clock: FixedClock) -> None:
    lane(engine, 4, [[8, 9]])
    with writing(engine) as connection:
        connection.execute(update(schema.nodes).values(deleted_at=NOW))
    clock.advance(hours=1)
    assert watch.look() == 0


# --- by people ------------------------------------------------------------------------------------------------------


def fill_world(engine: Engine, now: int) -> None:
    """Node edge-1 with a gap [5, 9] told at 12, measured between 5 and 4 minutes ago."""
    keys = {"tenant": TENANT, "node": "edge-1", "epoch": "e1"}
    progress = {"lane": "telemetry", "contiguous_seq": 20, "ahead": [], "first_at": now, "updated_at": now}
    told = {"lane": "telemetry", "seq": 12, "digest": b"d" * 16, "first_seq": 5, "last_seq": 9, "reason": "full"}
    block = {"digest": b"d" * 16, "asset": "pump-1", "shard": 0, "samples": 1, "columns": b""}
    with writing(engine) as connection:
        connection.execute(insert(schema.lane_progress).values(keys | progress))
        connection.execute(insert(schema.gaps).values(keys | told | {"received_at": now, "missing": [[5, 6], [9, 9]]}))
        for seq, minutes in ((4, 5), (10, 4)):
            at = now - minutes * 60_000
            connection.execute(
                insert(schema.telemetry_blocks).values(
                    keys | block | {"id": seq, "seq": seq, "first_ms": at, "last_ms": at}
                )
            )


@pytest.fixture
def gap_api(world: World) -> Iterator[Api]:
    fill_world(world.engine, world.clock.now_ms())
    with serving(deps_of(world)) as running:
        yield running


RESEND = "/api/v1/nodes/edge-1/resend"


def test_a_gap_says_what_has_become_of_it(gap_api: Api, world: World) -> None:
    (gap,) = gap_api.get("/api/v1/gaps")["items"]
    assert (gap["state"], gap["missing"], gap["filled_at"]) == ("LOST", 3, None)
    asked = gap_api.done(RESEND, {"first_seq": 5, "last_seq": 9})["requests"]
    assert [(one["first_seq"], one["last_seq"], one["state"]) for one in asked] == [
        (5, 6, "PENDING"),
        (9, 9, "PENDING"),
    ]
    assert gap_api.get("/api/v1/nodes/edge-1/commands")["items"][0]["command"] == "resend"
    assert gap_api.get("/api/v1/gaps")["items"][0]["state"] == "RESEND_REQUESTED"
    with writing(world.engine) as connection:
        connection.execute(update(schema.gaps).values(missing=[], filled_at=world.clock.now_ms()))
    assert gap_api.get("/api/v1/gaps")["items"][0]["state"] == "FILLED"
    (entry,) = gap_api.get("/api/v1/audit", subject="node")["items"][:1]
    assert (entry["action"], entry["detail"]["ranges"]) == ("resend_requested", [["e1", 5, 6], ["e1", 9, 9]])


def test_a_repeated_request_asks_once(gap_api: Api) -> None:
    first = gap_api.post(RESEND, {"first_seq": 1}, Idempotency_Key="k")
    again = gap_api.post(RESEND, {"first_seq": 1}, Idempotency_Key="k")
    assert (first.status_code, again.text) == (200, first.text)
    assert_problem(gap_api.post(RESEND, {"first_seq": 1}), 409, "is being asked for already")


def test_a_gap_is_found_by_the_time_it_is_of(gap_api: Api, world: World) -> None:
    from forewarn_cloud.api.fields import to_iso

    def minutes_ago(minutes: float) -> str:
        return to_iso(world.clock.now_ms() - round(minutes * 60_000))

    for first, last in ((9, 6), (3, 1)):
        refused = gap_api.post(RESEND, {"from": minutes_ago(first), "to": minutes_ago(last)})
        assert_problem(refused, 409, "nothing of that time is missing")
    asked = gap_api.done(RESEND, {"from": minutes_ago(4.6), "to": minutes_ago(4.4)})["requests"]
    assert [(one["first_seq"], one["last_seq"]) for one in asked] == [(5, 6), (9, 9)]


REFUSED: list[tuple[dict[str, Any], int]] = [
    ({}, 422),
    ({"first_seq": 0}, 422),
    ({"first_seq": 9, "last_seq": 3}, 422),
    ({"first_seq": 2**63}, 422),
    ({"first_seq": 1.5}, 422),
    ({"lane": "presence", "first_seq": 1}, 422),
    ({"first_seq": 1, "from": "2026-01-01T00:00:00Z"}, 422),
    ({"from": "2026-01-01T00:00:00Z"}, 422),
    ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, 422),
    ({"first_seq": 1, "last_seq": 4}, 409),
    ({"first_seq": 1, "epoch": "other"}, 409),
    ({"lane": "advisory", "first_seq": 1}, 404),
]


def test_a_request_for_nothing_is_refused(gap_api: Api) -> None:
    for body, status in REFUSED:
        assert_problem(gap_api.post(RESEND, body), status)
    assert_problem(gap_api.post("/api/v1/nodes/nobody/resend", {"first_seq": 1}), 404)
    assert gap_api.get("/api/v1/nodes/edge-1/commands")["items"] == []


def test_the_console_has_a_button_at_each_gap(world: World) -> None:
    fill_world(world.engine, world.clock.now_ms())
    with serving(deps_of(world), console) as pages:
        text = pages.client.get("/nodes?lang=en").text
        form = dict(re.findall(r'name="(node|lane|epoch|first_seq|last_seq)" value="([^"]*)"', text))
        assert form == {"node": "edge-1", "lane": "telemetry", "epoch": "e1", "first_seq": "5", "last_seq": "9"}
        assert pages.client.post("/gaps/resend", data=form).status_code == 303
        assert "Asked for again" in pages.client.get("/nodes").text
        assert "已请求重发" in pages.client.get("/nodes?lang=zh").text
    assert commands(world.engine) == [(5, 6, "PENDING"), (9, 9, "PENDING")]


def test_the_command_line_asks_too(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/cloud.db")
    migrate(engine)
    enrol(engine, "edge-1", "pump-1")
    fill_world(engine, NOW)

    def run(*options: str) -> tuple[int, str]:
        found = CliRunner().invoke(app, ["node", "resend", "edge-1", *options, "--data-dir", str(tmp_path)])
        return found.exit_code, found.output

    assert run()[0] == 2
    assert run("--from-seq", "1", "--to-seq", "4")[0] == 1
    assert run("--from", "yesterday", "--to", "2026-01-01T00:00:00Z")[0] == 2
    assert run("--from", "2023-11-14T22:08:20Z", "--to", "2023-11-14T22:09:00Z") == (
        0,
        "asked edge-1 for telemetry 5 to 6 of e1\nasked edge-1 for telemetry 9 to 9 of e1\n",
    )
    assert commands(engine) == [(5, 6, "PENDING"), (9, 9, "PENDING")]
    assert run("--from-seq", "5")[0] == 1
    engine.dispose()
