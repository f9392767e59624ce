"""The demo: its people and its report as functions, and the whole of it with real processes that are killed."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from forewarn_device_simulator.demo.desk import Asset, CloudAway, Desk, Health, Message, Order, Reservation
from forewarn_device_simulator.demo.layout import lay_out
from forewarn_device_simulator.demo.people import OrderStep, ReceiptStep, RepairStep, Step, next_steps
from forewarn_device_simulator.demo.programs import Programs
from forewarn_device_simulator.demo.report import Report, coming_failures, false_orders, lane_counts
from forewarn_device_simulator.demo.screen import picture
from forewarn_device_simulator.demo.session import DRAIN_SECONDS, STILL_SECONDS, Counted, Overview, Patience
from forewarn_device_simulator.live.truth import Repaired, Truth, WouldFail
from forewarn_device_simulator.scenario import load_scenario
from tests.conftest import wait_until

HOUR_MS = 3_600_000
NOW = datetime(2026, 3, 20, tzinfo=UTC)
NOW_MS = round(NOW.timestamp() * 1000)
PROGRAM = Path(sys.executable).with_name("forewarn-sim")
TWIN = WouldFail(
    asset="pump-1",
    failure_mode="bearing_wear",
    started_at=NOW_MS - 100 * HOUR_MS,
    would_fail_at=NOW_MS + 200 * HOUR_MS,
    twin=True,
)
REPAIRED = Repaired(
    id="o1", asset="pump-1", failure_mode="bearing_wear", at=NOW_MS - 6 * HOUR_MS, back_at=NOW_MS - HOUR_MS
)


def reservation(state: str = "RESERVED", *, expected_in_hours: float = 0) -> Reservation:
    return Reservation(
        id="r1",
        part_no="PMP-BRG-6309",
        quantity=2,
        state=state,
        sourcing="stock",
        to_depot="north",
        expected_at=NOW + timedelta(hours=expected_in_hours),
    )


def order(**changes: Any) -> Order:
    made = Order(
        id="o1",
        number="SO-000001",
        state="OPEN",
        asset="pump-1",
        asset_type="centrifugal_pump",
        failure_mode="bearing_wear",
        opened_at=NOW - timedelta(hours=10),
        needed_by_at=NOW + timedelta(hours=100),
        ready_at=NOW + timedelta(hours=5),
        scheduled_at=None,
        started_at=None,
        version=1,
        reservations=[reservation()],
    )
    return msgspec.structs.replace(made, **changes)


def asset(condition: str, *, observed_hours_ago: float = 0) -> Asset:
    health = Health(
        observed_at=NOW - timedelta(hours=observed_hours_ago),
        condition=condition,
        health_index=1.0,
        rul_hours_p10=None,
        rul_hours_p50=None,
        rul_hours_p90=None,
        failure_mode=None,
        maturity="MATURE",
    )
    return Asset(asset="pump-1", asset_type="centrifugal_pump", node="north", health=health, open_orders=[])


def steps(found: Order, truths: list[Truth], assets: list[Asset] | None = None) -> list[Step]:
    return list(next_steps([found], assets or [], truths, NOW_MS))


def test_an_order_goes_its_way_and_waits_for_its_parts() -> None:
    (acknowledge,) = steps(order(), [TWIN])
    assert isinstance(acknowledge, OrderStep)
    assert acknowledge.action == "acknowledge"
    (plan,) = steps(order(state="ACKNOWLEDGED"), [TWIN])
    assert isinstance(plan, OrderStep)
    assert plan.body["at"] == "2026-03-20T05:00:00.000Z"
    due = order(state="SCHEDULED", scheduled_at=NOW - timedelta(hours=1))
    (begin,) = steps(due, [TWIN])
    assert isinstance(begin, OrderStep)
    assert begin.action == "start"
    assert steps(msgspec.structs.replace(due, reservations=[reservation("IN_TRANSFER")]), [TWIN]) == []
    assert steps(order(state="SCHEDULED", scheduled_at=NOW + timedelta(hours=1)), [TWIN]) == []


def test_the_warehouse_receives_what_is_due_and_nothing_else() -> None:
    scheduled = {"state": "SCHEDULED", "scheduled_at": NOW + timedelta(hours=1)}
    late = order(**scheduled, reservations=[reservation("BACK_ORDERED", expected_in_hours=1)])
    assert steps(late, []) == []
    due = order(**scheduled, reservations=[reservation("BACK_ORDERED", expected_in_hours=-1)])
    (receipt,) = steps(due, [])
    assert isinstance(receipt, ReceiptStep)


def test_the_technician_repairs_what_is_really_wrong_and_tests_it() -> None:
    started = order(state="IN_PROGRESS", started_at=NOW - timedelta(hours=7))
    (repair,) = steps(started, [TWIN])
    assert isinstance(repair, RepairStep)
    assert (repair.failure_mode, repair.hours) == ("bearing_wear", 5.0)
    assert steps(started, [TWIN, REPAIRED], [asset("ALARM")]) == []
    assert steps(started, [TWIN, REPAIRED], [asset("NORMAL", observed_hours_ago=2)]) == []
    (complete,) = steps(started, [TWIN, REPAIRED], [asset("NORMAL")])
    assert isinstance(complete, OrderStep)
    assert complete.body["outcome"] == "CONFIRMED"


@pytest.mark.parametrize(
    ("truths", "outcome", "mode"),
    [
        ([], "NO_FAULT_FOUND", None),
        ([msgspec.structs.replace(TWIN, started_at=NOW_MS + 100 * HOUR_MS)], "NO_FAULT_FOUND", None),
        ([msgspec.structs.replace(TWIN, asset="pump-2")], "NO_FAULT_FOUND", None),
        (
            [
                msgspec.structs.replace(TWIN, failure_mode="seal_leak"),
                msgspec.structs.replace(REPAIRED, failure_mode="seal_leak"),
            ],
            "OTHER_FAULT",
            "seal_leak",
        ),
    ],
)
def test_the_finding_is_the_truth(truths: list[Truth], outcome: str, mode: str | None) -> None:
    started = order(state="IN_PROGRESS", started_at=NOW - timedelta(hours=7))
    (complete,) = steps(started, truths, [asset("NORMAL")])
    assert isinstance(complete, OrderStep)
    assert complete.body["outcome"] == outcome
    assert complete.body.get("failure_mode") == mode


def test_the_report_counts_what_was_coming() -> None:
    soon = msgspec.structs.replace(TWIN, asset="pump-2", would_fail_at=NOW_MS - HOUR_MS)
    far = msgspec.structs.replace(TWIN, asset="pump-3", would_fail_at=NOW_MS + 900 * HOUR_MS)
    told = Message(
        channel="email",
        kind="order_opened",
        state="SENT",
        recipient="a@b.example",
        order_id="o1",
        created_at=NOW,
        sent_at=NOW,
    )
    failures = coming_failures([TWIN, soon, far], [order()], [told], NOW_MS)
    assert [(f.asset, f.order, f.lead_hours) for f in failures] == [
        ("pump-2", None, None),
        ("pump-1", "SO-000001", 210.0),
    ]
    assert failures[1].notified_at == "2026-03-20T00:00:00Z"
    assert failures[1].parts[0].part_no == "PMP-BRG-6309"


def test_an_order_after_the_failure_is_none_before_it() -> None:
    broke = msgspec.structs.replace(TWIN, would_fail_at=NOW_MS - 20 * HOUR_MS)
    (failure,) = coming_failures([broke], [order()], [], NOW_MS)
    assert failure.order is None


def test_an_order_is_false_where_nothing_was_wrong() -> None:
    elsewhere = order(asset="pump-9")
    again = order(id="o2", opened_at=NOW + timedelta(hours=1))
    assert false_orders([TWIN, REPAIRED], [order(), elsewhere, again]) == [elsewhere, again]


def test_a_lane_nobody_stored_counts_as_lost() -> None:
    (lane,) = lane_counts({("north", "telemetry"): 5}, {})
    assert (lane.sent, lane.stored) == (5, 0)


REPORT = {
    "seed": 1,
    "rate": 1.0,
    "began_at": "",
    "ended_at": "",
    "seconds": 1.0,
    "machines": 1,
    "failures": [],
    "missed": 0,
    "false_orders": 0,
    "orders": 0,
    "completed": 0,
    "breakdowns": 0,
    "repairs": 0,
    "samples_played": 10,
    "samples_recorded": 10,
    "records_sent": 5,
    "records_stored": 5,
    "lanes": [{"node": "north", "lane": "telemetry", "sent": 5, "stored": 5}],
    "messages": 0,
    "mails": 0,
    "mail_copies": 0,
    "messages_unsent": 0,
    "restarts": {},
}


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({}, False),
        ({"lanes": [{"node": "north", "lane": "telemetry", "sent": 5, "stored": 4}]}, True),
        ({"lanes": [{"node": "north", "lane": "telemetry", "sent": 5, "stored": 6}]}, True),
        ({"samples_recorded": 9}, True),
        ({"samples_recorded": 11}, False),
        ({"records_sent": 0}, True),
    ],
)
def test_the_report_knows_when_something_was_lost(changes: dict[str, Any], lost: bool) -> None:
    assert msgspec.convert(REPORT | changes, Report).lost is lost


def drawn(overview: Overview, rows: int) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(picture(overview, ["day  1 00h  something happened"], NOW_MS, "http://127.0.0.1:1/", rows))
    return console.export_text()


def test_the_live_table_shows_what_matters_where_there_is_little_room() -> None:
    well = [msgspec.structs.replace(asset("NORMAL"), asset=f"fan-{i}") for i in range(9)]
    overview = Overview(now_ms=NOW_MS, assets=[*well, asset("ALARM")], orders=[order()], truths=[TWIN])
    full, short = drawn(overview, 20), drawn(overview, 2)
    assert all(f"fan-{i}" in full for i in range(9))
    assert short.count("fan-") == 1
    for words in ("pump-1", "alarm", "SO-000001 open", "PMP-BRG-6309 reserved", "breaks in 8 d", "something happened"):
        assert words in short


def test_programs_are_started_again_and_stopped(tmp_path: Path) -> None:
    programs = Programs(tmp_path, dict(os.environ))
    programs.start("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"])
    first = programs.status()["sleeper"].pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: programs.tend() == ["sleeper"], "it is started again")
    second = programs.status()["sleeper"].pid
    assert second not in (None, first)
    assert json.loads((tmp_path / "processes.json").read_text()) == {"sleeper": {"pid": second, "restarts": 1}}
    programs.stop_all()
    assert programs.status()["sleeper"].pid is None
    assert programs.tend() == []


def test_every_machine_of_the_demo_has_an_agent_and_a_site(tmp_path: Path) -> None:
    scenario = load_scenario("demo")
    layout = lay_out(tmp_path, scenario, seed=3, rate=28_800)
    machines = [
        name for group in scenario.fleet for name in (f"{group.prefix}-{i:03d}" for i in range(1, group.count + 1))
    ]
    assert len(machines) == 24
    served = [layout.agent_config(plant).read_text() for plant in ("north", "south")]
    assert [text.count("[[assets]]") for text in served] == [12, 12]
    master_data = (tmp_path / "master-data.toml").read_text()
    assert all(f'asset = "{name}"' in master_data for name in machines)


def test_a_folder_of_another_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "truth.jsonl").write_text("")
    with pytest.raises(FileExistsError, match="not empty"):
        lay_out(tmp_path, load_scenario("demo"), seed=3, rate=28_800)


class Demo:
    """A running demo whose programs can be killed."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder / "run"
        self.report_path = folder / "report.json"
        self._output = folder / "output.log"
        options = ["--headless", "--dir", str(self.folder), "--report", str(self.report_path), *arguments]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen([PROGRAM, "demo", *options], stdout=output, stderr=output)

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, f"{what} did not happen: {self.output}"
            time.sleep(0.05)

    def wait_for_more_than(self, records: int) -> None:
        self.wait_until(lambda: self.stored() > records, "records stored again")

    @property
    def output(self) -> str:
        return self._output.read_text()

    def programs(self) -> dict[str, dict[str, int]]:
        path = self.folder / "processes.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def kill(self, name: str) -> None:
        before = self.programs()[name]
        os.kill(before["pid"], signal.SIGKILL)
        self.wait_until(lambda: self.programs()[name]["restarts"] > before["restarts"], f"{name} started again")

    def kill_nats(self) -> None:
        """The broker proper, which `forewarn-cloud broker` starts again."""
        self.wait_until(lambda: self._nats_pid() is not None, "nats runs")
        before = self._nats_pid()
        assert before is not None
        os.kill(before, signal.SIGKILL)
        self.wait_until(lambda: self._nats_pid() not in (None, before), "nats started again")

    def _nats_pid(self) -> int | None:
        """Of the nats-server that runs; its pid file outlives it."""
        pid_file = self.folder / "broker" / "broker" / "nats.pid"
        pid = pid_file.read_text() if pid_file.exists() else ""
        command = Path(f"/proc/{pid}/cmdline")
        return int(pid) if pid and command.exists() and b"nats.conf" in command.read_bytes() else None

    def stored(self) -> int:
        """Records the cloud has stored, 0 while it is away."""
        settings = tomllib.loads((self.folder / "cloud.toml").read_text())
        desk = Desk(f"http://127.0.0.1:{settings['port']}/api/v1")
        try:
            return sum(lane.records_stored for node in desk.nodes() for lane in node.lanes)
        except CloudAway:
            return 0
        finally:
            desk.close()


def counted(**changes: int) -> Counted:
    return Counted(**{"recorded": 10, "lanes": [], "unsent": 0} | changes)  # type: ignore[arg-type]


def test_the_end_waits_for_a_message_whose_sender_was_killed() -> None:
    """Its lease holds it for a minute in which nothing moves; the demo once gave up after eight seconds."""
    patience = Patience(began_at=0.0)
    assert all(patience.lasts(counted(unsent=1), float(now)) for now in range(90))
    assert patience.lasts(counted(), 90.0)


def test_the_end_does_not_wait_for_ever() -> None:
    patience = Patience(began_at=0.0)
    assert patience.lasts(counted(), 0.0)
    assert not patience.lasts(counted(), STILL_SECONDS)
    assert patience.lasts(counted(recorded=11), STILL_SECONDS + 1.0)
    assert not patience.lasts(counted(unsent=1), DRAIN_SECONDS)


@pytest.mark.e2e
@pytest.mark.timeout(900)
@pytest.mark.long
def test_whatever_is_killed_nothing_is_lost_or_done_twice(tmp_path: Path) -> None:
    """At half the speed, so that a busy machine keeps up; it goes on until everything has been killed."""
    demo = Demo(tmp_path, "--seconds", "900", "--rate", "14400")
    try:
        demo.wait_until(lambda: "SO-000001 opened" in demo.output, "the first order")
        for name in ("edge-north", "cloud", "broker", "simulator", "edge-south", "cloud", "broker"):
            known = demo.stored()
            demo.kill(name)
            demo.wait_for_more_than(known + 20)
        known = demo.stored()
        demo.kill_nats()
        demo.wait_for_more_than(known + 20)
        demo.process.terminate()
        assert demo.process.wait(400) == 0, demo.output
    finally:
        demo.process.kill()
        demo.process.wait()
    report = json.loads(demo.report_path.read_text())
    assert [(lane["sent"], lane["stored"]) for lane in report["lanes"]] == [
        (lane["sent"], lane["sent"]) for lane in report["lanes"]
    ]
    assert report["records_sent"] > 1000
    assert report["samples_recorded"] >= report["samples_played"]
    assert report["mails"] == report["messages"] > 0
    assert report["messages_unsent"] == 0
    assert sum(report["restarts"].values()) >= 7
    opened = [failure["order"] for failure in report["failures"]]
    assert len(opened) == len(set(opened))
