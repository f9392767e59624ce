"""One run of the demo: starts the programs, plays the people, waits until all is stored, and counts."""

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import aiomqtt
import msgspec

from forewarn_device_simulator.demo import report as reports
from forewarn_device_simulator.demo.desk import Asset, CloudAway, Desk, Mail, Message, Node, Order, Refused
from forewarn_device_simulator.demo.layout import PLANTS, Layout, program
from forewarn_device_simulator.demo.people import OrderStep, ReceiptStep, RepairStep, Step, next_steps
from forewarn_device_simulator.demo.programs import Programs, ProgramStatus
from forewarn_device_simulator.live.control import CONTROL_TOPIC, ControlMessage, RepairCommand
from forewarn_device_simulator.live.state import load_state
from forewarn_device_simulator.live.truth import Failed, Truth, WouldFail, read_truth
from forewarn_device_simulator.scenario import units_total

TICK_SECONDS: Final = 0.25
START_SECONDS: Final = 60.0
DRAIN_SECONDS: Final = 180.0
"""Mostly for a message whose sender was killed: nobody else may send it until its lease, a minute, has ended."""
STILL_SECONDS: Final = 20.0
REPEAT_COMMAND_SECONDS: Final = 1.0
OVERVIEW_SECONDS: Final = 1.0
COMMAND_SECONDS: Final = 30.0


class DemoFailed(RuntimeError):
    """The demo cannot go on; the message says which program and what it said last."""


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What there is to see at one moment."""

    now_ms: int
    assets: Sequence[Asset] = ()
    orders: Sequence[Order] = ()
    mails: Sequence[Mail] = ()
    nodes: Sequence[Node] = ()
    truths: Sequence[Truth] = ()
    programs: dict[str, ProgramStatus] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """`recorded`: samples the agents have put into their spools; a sample that came twice counts twice."""

    recorded: int
    lanes: list[reports.LaneCount]
    unsent: int

    @property
    def nothing_waits(self) -> bool:
        return self.unsent == 0 and all(lane.sent == lane.stored for lane in self.lanes)


@dataclass(kw_only=True)
class Patience:
    """How long to wait for the end: as long as something moves, and for messages though nothing does."""

    began_at: float
    _before: Counted | None = None
    _still_since: float | None = None

    def lasts(self, counted: Counted | None, now: float) -> bool:
        """Whether to wait on, having counted at `now`; None: an agent or the cloud could not be asked."""
        if counted is None or counted != self._before or counted.unsent or self._still_since is None:
            self._before, self._still_since = counted, now
        return now - self.began_at < DRAIN_SECONDS and now - self._still_since < STILL_SECONDS


class Session:
    """Use as a context manager: every program is stopped at the end, whatever happens."""

    def __init__(self, layout: Layout) -> None:
        self.say: Callable[[str], None] = print
        """Where events are told; may be changed at any time."""
        self._layout = layout
        self._programs = Programs(layout.folder, layout.environment)
        self._desk = Desk(layout.api_url)
        self._overview = Overview(now_ms=layout.now_ms())
        self._looked_at = 0.0
        self._commanded_at = dict[str, float]()
        self._broker_away = False

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._programs.stop_all()
        self._desk.close()

    @property
    def overview(self) -> Overview:
        return self._overview

    # --- beginning ---

    def start(self) -> None:
        """Start everything, each part as soon as what it needs is there.

        Raises:
            DemoFailed: a part did not come up.
        """
        folder, cloud_config = self._layout.folder, str(self._layout.folder / "cloud.toml")
        broker = ["broker", "--data-dir", str(folder / "broker"), "--port", str(self._layout.broker_port)]
        self._programs.start("broker", [program("forewarn-cloud"), *broker])
        seeding = self._seed(cloud_config)
        self._wait("broker", partial(self._has_logged, "broker", "broker mqtt://"))
        for plant in PLANTS:
            config = str(self._layout.agent_config(plant))
            self._programs.start(f"edge-{plant}", [program("forewarn-edge"), "run", "--config", config])
        self._finish(seeding)
        self._programs.start("cloud", [program("forewarn-cloud"), "up", "--config", cloud_config])
        for plant in PLANTS:
            self._wait(f"edge-{plant}", partial(self._has_logged, f"edge-{plant}", "source_up"))
        self._wait("cloud", self._desk.ready)
        self._programs.start("simulator", [program("forewarn-sim"), "run", *self._simulator_arguments()])

    def _seed(self, cloud_config: str) -> "subprocess.Popen[str]":
        command = [program("forewarn-cloud"), "seed", str(self._layout.folder / "master-data.toml")]
        return subprocess.Popen(
            [*command, "--config", cloud_config],
            env=self._layout.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @staticmethod
    def _finish(seeding: "subprocess.Popen[str]") -> None:
        try:
            said, _ = seeding.communicate(timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            seeding.kill()
            said, _ = seeding.communicate()
        if seeding.returncode != 0:
            raise DemoFailed(f"the master data could not be loaded: {said.strip()}")

    def _simulator_arguments(self) -> list[str]:
        layout = self._layout
        begin = datetime.fromtimestamp(layout.scenario.start_ms / 1000, UTC).isoformat()
        files = ["--state", str(layout.folder / "simulator.state.json"), "--truth", str(layout.truth_path)]
        run = ["--seed", str(layout.seed), "--begin", begin, "--reconnect-max-seconds", "1"]
        return [layout.scenario.name, "--broker", layout.broker_url, *run, *files]

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if time.monotonic() > deadline:
                raise DemoFailed(f"{name} did not come up in {START_SECONDS:g} s; it said: {self._log(name)[-2000:]}")
            self.tend()
            time.sleep(0.05)

    def _has_logged(self, name: str, text: str) -> bool:
        return text in self._log(name)

    def _log(self, name: str) -> str:
        return self._programs.log_of(name).read_text("utf-8", errors="replace")

    # --- while it runs ---

    def step(self) -> None:
        """Restart what died, look, and do what the people do next."""
        self.tend()
        with self._unless_away():
            self._look()
            seen = self._overview
            for step in list(next_steps(seen.orders, seen.assets, seen.truths, seen.now_ms)):
                self._do(step)

    def tend(self) -> None:
        """Start again what has ended."""
        for name in self._programs.tend():
            self.say(f"{name} had ended and was started again")

    def _look(self) -> None:
        """Orders at each tick, the rest once a second."""
        now = time.monotonic()
        everything = now - self._looked_at >= OVERVIEW_SECONDS
        before = self._overview
        self._overview = Overview(
            now_ms=self._layout.now_ms(),
            orders=self._desk.orders(),
            truths=read_truth(self._layout.truth_path),
            programs=self._programs.status(),
            assets=self._desk.assets() if everything else before.assets,
            mails=self._desk.mailbox() if everything else before.mails,
            nodes=self._desk.nodes() if everything else before.nodes,
        )
        if everything:
            self._looked_at = now
        for line in (*changes(before.orders, self._overview.orders), *breaks(before, self._overview)):
            self.say(line)

    def _do(self, step: Step) -> None:
        try:
            if isinstance(step, OrderStep):
                self._desk.act(step.order, step.action, step.body)
            elif isinstance(step, ReceiptStep):
                self._desk.receive(step.reservation)
                self.say(f"goods received: {step.reservation.quantity} x {step.reservation.part_no}")
            else:
                self._repair(step)
        except Refused:
            return  # the order has changed since we looked; the next look decides anew

    def _repair(self, step: RepairStep) -> None:
        """Tell the machine; again every second until its repair shows in the truth."""
        if time.monotonic() - self._commanded_at.get(step.order.id, 0.0) < REPEAT_COMMAND_SECONDS:
            return
        self._commanded_at[step.order.id] = time.monotonic()
        repair = RepairCommand(at=step.at_ms, hours=step.hours, failure_mode=step.failure_mode)
        payload = msgspec.json.encode(ControlMessage(id=step.order.id, repair=repair))
        try:
            asyncio.run(_publish(self._layout.broker_port, f"{CONTROL_TOPIC}/{step.order.asset}", payload))
            self._broker_away = False
        except aiomqtt.MqttError:
            if not self._broker_away:
                self.say("the broker is away; machines hear of their repair when it is back")
            self._broker_away = True

    @contextmanager
    def _unless_away(self) -> Iterator[None]:
        try:
            yield
        except CloudAway:
            now_ms, programs = self._layout.now_ms(), self._programs.status()
            self._overview = replace(self._overview, now_ms=now_ms, programs=programs)

    # --- the end ---

    def stop_feeding(self) -> int:
        """Stop the simulator; samples of each machine that it played."""
        self._programs.stop("simulator")
        state = load_state(self._layout.folder / "simulator.state.json")
        return 0 if state is None else state.published

    def drain(self, samples: int) -> None:
        """Wait until the agents have read everything played, the cloud has stored it all and every message is out.

        Returns as well when nothing has moved for a while: then the report shows what is missing.
        """
        played, patience = samples * units_total(self._layout.scenario), Patience(began_at=time.monotonic())
        counted = self._counted()
        while patience.lasts(counted, time.monotonic()):
            if counted is not None and counted.recorded >= played and counted.nothing_waits:
                return
            self.tend()
            time.sleep(TICK_SECONDS)
            counted = self._counted()

    def report(self, *, samples: int, seconds: float, began_ms: int, end_ms: int) -> reports.Report:
        """Raises: DemoFailed, if the cloud does not answer any more."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self._report(samples, seconds, began_ms, end_ms)
            except CloudAway as error:
                if time.monotonic() > deadline:
                    raise DemoFailed(f"the cloud does not answer: {error}") from None
                self.tend()
                time.sleep(TICK_SECONDS)

    def _report(self, samples: int, seconds: float, began_ms: int, end_ms: int) -> reports.Report:
        truths, orders, messages = read_truth(self._layout.truth_path), self._desk.orders(), self._desk.messages()
        mails, agents = self._desk.mailbox(), self._agents()
        lanes = self._lanes(agents)
        failures = reports.coming_failures(truths, orders, messages, end_ms)
        return reports.Report(
            seed=self._layout.seed,
            rate=self._layout.timebase.rate,
            began_at=reports.iso(began_ms),
            ended_at=reports.iso(end_ms),
            seconds=round(seconds, 1),
            machines=units_total(self._layout.scenario),
            failures=failures,
            missed=sum(failure.order is None for failure in failures),
            false_orders=len(reports.false_orders(truths, orders)),
            orders=len(orders),
            completed=sum(order.state == "COMPLETED" for order in orders),
            breakdowns=len(reports.breakdowns(truths)),
            repairs=len(reports.repairs(truths)),
            samples_played=samples * units_total(self._layout.scenario),
            samples_recorded=_recorded(agents),
            records_sent=sum(lane.sent for lane in lanes),
            records_stored=sum(lane.stored for lane in lanes),
            lanes=lanes,
            messages=len(messages),
            mails=len(mails),
            mail_copies=sum(mail.copies - 1 for mail in mails),
            messages_unsent=_unsent(messages),
            restarts=reports.restarts_of(self._programs.status()),
        )

    def _counted(self) -> Counted | None:
        """None if an agent or the cloud cannot be asked now."""
        agents = self._agents()
        if len(agents) < len(PLANTS):
            return None
        try:
            lanes, unsent = self._lanes(agents), _unsent(self._desk.messages())
            return Counted(recorded=_recorded(agents), lanes=lanes, unsent=unsent)
        except CloudAway:
            return None

    def _lanes(self, agents: dict[str, Any]) -> list[reports.LaneCount]:
        sent = {
            (plant, name): int(lane["last_seq"])
            for plant, agent in agents.items()
            for name, lane in agent["lanes"].items()
        }
        stored = dict.fromkeys(sent, 0)
        for node in self._desk.nodes():
            for lane in node.lanes:
                key = (node.node, lane.lane)
                stored[key] = stored.get(key, 0) + lane.records_stored
        return reports.lane_counts(sent, stored)

    def _agents(self) -> dict[str, Any]:
        """What `forewarn-edge status` says of each agent that can be asked now."""
        found = dict[str, Any]()
        for plant in PLANTS:
            command = [program("forewarn-edge"), "status", "--json", "--config", str(self._layout.agent_config(plant))]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
            if done.returncode == 0:
                found[plant] = json.loads(done.stdout)
        return found


def changes(before: Sequence[Order], after: Sequence[Order]) -> Iterator[str]:
    """What happened to the orders between two looks, in words."""
    known = {order.id: order for order in before}
    for order in sorted(after, key=lambda order: order.number):
        was = known.get(order.id)
        if was is None:
            parts = ", ".join(f"{part.part_no} ({part.sourcing})" for part in order.reservations) or "no parts"
            yield f"{order.number} opened: {order.asset}, {order.failure_mode}; {parts}"
        elif was.state != order.state:
            yield f"{order.number} {order.state.lower().replace('_', ' ')}: {order.asset}"


def breaks(before: Overview, after: Overview) -> Iterator[str]:
    """Which untended twins, and which machines in spite of everything, broke between two looks."""
    for truth in after.truths:
        if isinstance(truth, WouldFail) and truth.twin and before.now_ms < truth.would_fail_at <= after.now_ms:
            yield f"the untended twin of {truth.asset} breaks now: {truth.failure_mode}"
        elif isinstance(truth, Failed) and truth not in before.truths:
            yield f"{truth.asset} has broken down: {truth.failure_mode}"


def _unsent(messages: Sequence[Message]) -> int:
    return sum(message.state != "SENT" for message in messages)


def _recorded(agents: dict[str, Any]) -> int:
    return sum(int(agent["counters"].get("samples", 0)) for agent in agents.values())


async def _publish(port: int, topic: str, payload: bytes) -> None:
    async with aiomqtt.Client("127.0.0.1", port, timeout=3.0) as client:
        await client.publish(topic, payload, qos=1)
