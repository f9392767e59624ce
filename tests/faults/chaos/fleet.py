"""The processes of a chaos run: started, killed, suspended, started again when they end, and stopped, by process id."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from forewarn_device_simulator.demo.programs import ending_with
from tests.faults.chaos.machine import ASSET_TYPE, BASELINE_SAMPLES
from tests.faults.chaos.plan import Plan
from tests.faults.chaos.schedule import BROKER, INGEST, NATS, agent_name
from tests.faults.proxy import FaultProxy
from tests.ports import free_port

TENANT: Final = "local"
REPOSITORY: Final = Path(__file__).parents[3]
RESTART_PAUSE_SECONDS: Final = 0.2
START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 20.0
STOCK: Final = 3
"""Bearings in each of the two depots: fewer than machines that will need one."""


class StartFailed(RuntimeError):
    """A program did not come up; the message says which, and what it said last."""


@dataclass(kw_only=True)
class Program:
    """A program that is started again whenever it ends, as its supervisor would. One thread uses it."""

    name: str
    command: list[str]
    log: Path
    environment: Mapping[str, str]
    ready_text: str = ""
    """What it logs when it is ready."""
    ended_by_itself: list[int] = field(default_factory=list)
    """Exit statuses that were not our doing."""
    _process: "subprocess.Popen[bytes] | None" = None
    held: bool = False
    """Not started again until `release`."""
    _killed: bool = False
    _restart_at: float | None = None
    _ready_at: float | None = None
    _log_begins: int = 0

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._log_begins = log.tell()
            self._process = subprocess.Popen(
                self.command,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,  # Ctrl-C is for the harness; it stops the others in order
                preexec_fn=ending_with(os.getpid()),
            )
        self._killed, self._restart_at, self._ready_at = False, None, None

    @property
    def pid(self) -> int | None:
        """None while it is away."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def kill(self) -> bool:
        """SIGKILL, which a suspended process obeys too; False if there is nothing to kill."""
        if self._process is None or self.pid is None:
            return False
        self._killed = True
        self._process.kill()
        self._process.wait()
        return True

    def hold(self) -> None:
        """SIGKILL it, and leave it like that."""
        self.held = True
        self.kill()

    def release(self) -> None:
        self.held = False
        self.start()

    def send(self, kind: signal.Signals) -> None:
        if self.pid is not None:
            os.kill(self.pid, kind)

    def tend(self) -> None:
        """Start it again if it has ended and its pause is over."""
        if self._process is None or self.held or self.pid is not None:
            return
        if self._restart_at is None:
            if not self._killed:
                self.ended_by_itself.append(self._process.returncode)
            self._restart_at = time.monotonic() + RESTART_PAUSE_SECONDS
        if time.monotonic() >= self._restart_at:
            self.start()

    def stop(self) -> int | None:
        """SIGTERM, in the end SIGKILL; the exit status, None if it was not running."""
        if self._process is None or self.pid is None:
            return None
        self.send(signal.SIGCONT)
        self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    @property
    def ready_seconds(self) -> float:
        """For how long it has been ready, 0.0 if it is not."""
        if self.pid is None:
            return 0.0
        if self._ready_at is None and self.ready_text.encode() in self._said():
            self._ready_at = time.monotonic()
        return 0.0 if self._ready_at is None else time.monotonic() - self._ready_at

    def _said(self) -> bytes:
        """What it has logged since it was started."""
        with self.log.open("rb") as log:
            log.seek(self._log_begins)
            return log.read()


@dataclass(kw_only=True)
class Fleet:
    """Everything of a run. `links`: by the name of the process whose link to the broker it is."""

    plan: Plan
    programs: dict[str, Program]
    links: dict[str, FaultProxy]
    supervised: bool
    """Whether the broker is the embedded one, whose supervisor starts it again. What is meant for the broker proper is
    for the program itself where it is another."""

    def tend(self) -> None:
        for program in self.programs.values():
            program.tend()

    def is_up(self, target: str) -> bool:
        if target == NATS and self.supervised:
            return self._nats_pid() is not None
        return self._program(target).pid is not None

    def ready_seconds(self, target: str) -> float:
        """For how long it has been ready; the broker proper, for how long there has been one."""
        if target != NATS or not self.supervised:
            return self._program(target).ready_seconds
        try:
            return time.time() - self._nats_pid_file.stat().st_mtime if self.is_up(NATS) else 0.0
        except OSError:
            return 0.0

    def kill(self, target: str) -> bool:
        """Whether there was something to kill."""
        if target != NATS or not self.supervised:
            return self._program(target).kill()
        pid = self._nats_pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        return pid is not None

    def send(self, target: str, kind: signal.Signals) -> None:
        if target != NATS or not self.supervised:
            self._program(target).send(kind)
        elif (pid := self._nats_pid()) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, kind)

    def stop(self, *names: str) -> dict[str, int | None]:
        """Stop these (default: all), the last started first; their exit statuses."""
        asked = names or tuple(self.programs)
        return {name: self.programs[name].stop() for name in reversed(self.programs) if name in asked}

    @property
    def agents(self) -> tuple[str, ...]:
        return tuple(agent_name(number) for number in range(self.plan.processes))

    @property
    def database(self) -> Path:
        return self.plan.folder / "cloud" / "cloud.db"

    def _program(self, target: str) -> Program:
        return self.programs[BROKER if target == NATS else target]

    def _nats_pid(self) -> int | None:
        """Of the broker proper, if it runs: its pid file outlives it."""
        try:
            pid = int(self._nats_pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if str(self._nats_pid_file.with_name("nats.conf")).encode() in command else None

    @property
    def _nats_pid_file(self) -> Path:
        return self.plan.folder / "broker" / "broker" / "nats.pid"


@contextmanager
def running_fleet(plan: Plan, broker: Callable[[int], list[str]] | None = None) -> Iterator[Fleet]:
    """Everything started and ready; all of it is stopped at the end, whatever happens.

    The machines begin to measure when their agents are started: the plan of the fleet says when that was. `broker`:
    the command of another broker than the embedded one, on a port.

    Raises:
        StartFailed: a program did not come up.
    """
    broker_port, web_port = free_port(), free_port()
    with ExitStack() as open_links:
        names = [INGEST, *(agent_name(number) for number in range(plan.processes))]
        links = {name: open_links.enter_context(FaultProxy(broker_port)) for name in names}
        fleet = Fleet(plan=plan, programs={}, links=links, supervised=broker is None)
        _write_files(plan, links, web_port)
        try:
            _start(fleet, broker_port, broker or (lambda port: embedded_broker(plan, port)))
            yield fleet
        finally:
            # Not through broken links: what is left to send can be sent.
            for link in links.values():
                link.restore()
            fleet.stop()


def embedded_broker(plan: Plan, port: int) -> list[str]:
    return [program("forewarn-cloud"), "broker", "--data-dir", str(plan.folder / "broker"), "--port", str(port)]


def _start(fleet: Fleet, broker_port: int, broker: Callable[[int], list[str]]) -> None:
    folder, cloud = fleet.plan.folder, [program("forewarn-cloud")]
    up = [*cloud, "up", "--config", str(folder / "cloud.toml")]
    seeding = [*cloud, "seed", str(folder / "master-data.toml"), "--config", str(folder / "cloud.toml")]
    done = subprocess.run(
        seeding, env=_environment(), capture_output=True, text=True, check=False, timeout=START_SECONDS
    )
    if done.returncode != 0:
        raise StartFailed(f"the master data could not be loaded: {done.stdout}{done.stderr}")
    _add(fleet, BROKER, broker(broker_port), "broker mqtt://" if fleet.supervised else "")
    _wait(fleet, BROKER, lambda: _accepts_connections(broker_port))
    _add(fleet, INGEST, up, "is up")
    _wait(fleet, INGEST, lambda: fleet.ready_seconds(INGEST) > 0)
    fleet.plan = replace(fleet.plan, began_ms=time.time_ns() // 1_000_000)
    plan_file = str(fleet.plan.save())
    for number, name in enumerate(fleet.agents):
        worker = [sys.executable, "-m", "tests.faults.chaos.worker", plan_file, str(number)]
        _add(fleet, name, worker, "event=started")
    for name in fleet.agents:
        _wait(fleet, name, lambda name=name: fleet.ready_seconds(name) > 0)  # type: ignore[misc]


def _add(fleet: Fleet, name: str, command: list[str], ready_text: str) -> None:
    log = fleet.plan.folder / f"{name}.log"
    fleet.programs[name] = Program(
        name=name, command=command, log=log, environment=_environment(), ready_text=ready_text
    )
    fleet.programs[name].start()


def _wait(fleet: Fleet, name: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if fleet.programs[name].pid is None or time.monotonic() > deadline:
            said = fleet.programs[name].log.read_text("utf-8", errors="replace")
            raise StartFailed(f"{name} did not come up: {said[-2000:]}")
        time.sleep(0.05)


def program(name: str) -> str:
    """The console script beside the Python that runs us."""
    return str(Path(sys.executable).with_name(name))


# --- files ------------------------------------------------------------------------------------------------------------


def _write_files(plan: Plan, links: Mapping[str, FaultProxy], web_port: int) -> None:
    settings = {
        "data_dir": str(plan.folder / "cloud"),
        "broker_url": f"mqtt://127.0.0.1:{links[INGEST].port}",
        "port": web_port,
        "tenant": TENANT,
    }
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    (plan.folder / "cloud.toml").write_text(lines)
    (plan.folder / "master-data.toml").write_text(_master_data(plan))
    for number in range(plan.processes):
        for machine in plan.machines_of(number):
            plan.node_folder(machine).mkdir()
            port = links[agent_name(number)].port
            plan.config(machine).write_text(_agent_config(plan, machine.node, machine.asset, port))


def _agent_config(plan: Plan, node: str, asset: str, port: int) -> str:
    """The source is a formality: the worker puts its own in its place."""
    return f"""
[node]
tenant = "{TENANT}"
node = "{node}"
state_dir = "state"
[uplink]
host = "127.0.0.1"
port = {port}
keep_alive_seconds = {plan.keep_alive_seconds}
reconnect_max_seconds = {plan.reconnect_max_seconds}
resend_after_seconds = 3.0
[spool]
checkpoint_seconds = 10.0
[models]
baseline_samples = {BASELINE_SAMPLES}
[[sources]]
kind = "mqtt"
host = "127.0.0.1"
[[assets]]
asset = "{asset}"
asset_type = "{ASSET_TYPE}"
"""


def _master_data(plan: Plan) -> str:
    return f"""
[[customers]]
customer = "works"
name = "Works"
email = "works@example.com"
[[depots]]
depot = "near"
name = "Near"
[[depots]]
depot = "far"
name = "Far"
[[sites]]
site = "works"
name = "Works"
customer = "works"
depot = "near"
[[transfers]]
from_depot = "far"
to_depot = "near"
hours = 24.0
cost = 50.0
[[parts]]
part_no = "FAN-BRG-22218"
name_en = "Bearing"
name_zh = "轴承"
unit_cost = 310.0
purchase_hours = 168.0
[[stock]]
part_no = "FAN-BRG-22218"
depot = "near"
on_hand = {STOCK}
[[stock]]
part_no = "FAN-BRG-22218"
depot = "far"
on_hand = {STOCK}
""" + "".join(
        f'[[nodes]]\nnode = "{machine.node}"\n[[assets]]\nasset = "{machine.asset}"\nnode = "{machine.node}"\n'
        f'asset_type = "{ASSET_TYPE}"\nname = "{machine.asset}"\nsite = "works"\n'
        for machine in plan.machines
    )


def _environment() -> dict[str, str]:
    """Ours, without settings meant for other runs, and with one thread for numpy: the processes are many."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FOREWARN_")}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _accepts_connections(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
