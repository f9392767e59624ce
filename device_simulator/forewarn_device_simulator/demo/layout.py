"""Where everything of a demo run lives: folders, ports, clock, and the configuration files of its programs."""

import json
import os
import socket
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Final

from forewarn_device_simulator.scenario import Scenario, asset_names
from forewarn_models.timebase import ENV_ORIGIN, ENV_RATE, ENV_START, Timebase

TENANT: Final = "local"
PLANTS: Final = ("north", "south")
"""Each has an agent of its own, which is called the same."""
HISTORY_HOURS: Final = 200.0
"""How long the machines have been recorded when the demo begins: the agents learn from it in a moment."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One run: everything in `folder`, everything on 127.0.0.1."""

    folder: Path
    broker_port: int
    web_port: int
    scenario: Scenario
    seed: int
    timebase: Timebase

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}/api/v1"

    @property
    def console_url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}/"

    @property
    def broker_url(self) -> str:
        return f"mqtt://127.0.0.1:{self.broker_port}"

    @property
    def truth_path(self) -> Path:
        return self.folder / "truth.jsonl"

    def agent_config(self, plant: str) -> Path:
        return self.folder / f"edge-{plant}.toml"

    @property
    def environment(self) -> dict[str, str]:
        """Of every program: ours, with the clock of the run and without settings meant for other runs."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FOREWARN_")}
        return kept | {
            ENV_START: _iso(self.timebase.start_ms),
            ENV_ORIGIN: _iso(self.timebase.origin_ms),
            ENV_RATE: repr(self.timebase.rate),
        }

    def now_ms(self) -> int:
        return self.timebase.at(round(time.time() * 1000))


def lay_out(folder: Path, scenario: Scenario, *, seed: int, rate: float) -> Layout:
    """Choose free ports, start the clock and write the configuration files.

    Raises:
        FileExistsError: there is something in the folder already, perhaps another run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; choose another folder or remove it")
    start_ms = scenario.start_ms + round(HISTORY_HOURS * 3_600_000)
    broker_port, web_port = _free_ports(2)
    layout = Layout(
        folder=folder,
        broker_port=broker_port,
        web_port=web_port,
        scenario=scenario,
        seed=seed,
        timebase=Timebase(origin_ms=round(time.time() * 1000), start_ms=start_ms, rate=rate),
    )
    (folder / "master-data.toml").write_text(_master_data(scenario), encoding="utf-8")
    (folder / "cloud.toml").write_text(_cloud_config(layout), encoding="utf-8")
    for plant in PLANTS:
        layout.agent_config(plant).write_text(_agent_config(layout, plant), encoding="utf-8")
    return layout


def program(name: str) -> str:
    """The console script beside the Python that runs us."""
    return str(Path(sys.executable).with_name(name))


def plant_of(topic: str) -> str:
    return topic.partition("/")[0]


def _cloud_config(layout: Layout) -> str:
    settings = {
        "data_dir": str(layout.folder / "cloud"),
        "broker_url": layout.broker_url,
        "port": layout.web_port,
        "tenant": TENANT,
    }
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())


def _agent_config(layout: Layout, plant: str) -> str:
    state_dir = json.dumps(str(layout.folder / f"edge-{plant}"))
    lines = [
        "[node]",
        f'tenant = "{TENANT}"',
        f'node = "{plant}"',
        f"state_dir = {state_dir}",
        "[uplink]",
        'host = "127.0.0.1"',
        f"port = {layout.broker_port}",
        "reconnect_max_seconds = 1.0",
        "resend_after_seconds = 3.0",
        "[[sources]]",
        'kind = "mqtt"',
        'host = "127.0.0.1"',
        f"port = {layout.broker_port}",
        f'topic = "{plant}/machines/+"',
    ]
    for group in layout.scenario.fleet:
        if plant_of(group.topic) == plant:
            for asset in asset_names(group):
                lines += ["[[assets]]", f'asset = "{asset}"', f'asset_type = "{group.asset_type}"']
    return "\n".join(lines) + "\n"


def _master_data(scenario: Scenario) -> str:
    """Customers, depots, parts and stock as they ship, and the machines of the scenario."""
    lines = [resources.files(__package__).joinpath("master-data.toml").read_text("utf-8")]
    for plant in PLANTS:
        lines.append(f'[[nodes]]\nnode = "{plant}"\n')
    for group in scenario.fleet:
        for number, asset in enumerate(asset_names(group), start=1):
            name = f"{group.prefix.replace('-', ' ').capitalize()} {number}"
            lines += ["[[assets]]", f'asset = "{asset}"', f'asset_type = "{group.asset_type}"']
            lines += [f'name = "{name}"', f'node = "{plant_of(group.topic)}"', f'site = "{plant_of(group.topic)}"', ""]
    return "\n".join(lines)


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _iso(t_ms: int) -> str:
    return datetime.fromtimestamp(t_ms / 1000, UTC).isoformat(timespec="milliseconds")
