"""Backup and restore as an operator does them: commands beside, and after, a running cloud.

Fault 34: a cloud that is restored from a backup of an hour ago knows less than its agents believe.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forewarn_cloud.adapters.sql.engine import make_engine, reading
from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from tests.cloud.ingest.sending import TENANT, rows
from tests.cloud.test_up import NODE, Cloud, Node
from tests.cloud.world import MASTER_DATA
from tests.conftest import Broker, wait_until
from tests.edge_agent.conftest import AgentProcess, Machine, mqtt_source, now_ms
from tests.stored import stored_seqs

pytestmark = pytest.mark.e2e


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path / "data")
    yield cloud
    if cloud.process is not None and cloud.process.poll() is None:
        cloud.kill()


@pytest.mark.long
def test_a_backup_beside_a_running_cloud_and_a_restore_after_it(cloud: Cloud, tmp_path: Path) -> None:
    file = tmp_path / "b.zip"
    assert cloud.run("backup", str(file)).returncode == 1, "there is nothing yet"
    assert cloud.run("node", "add", NODE).returncode == 0
    cloud.start()
    node = Node(cloud.broker_port, 2000)
    node.start()
    node.wait_for(0.2)
    saved = cloud.run("backup", str(file), "--json")
    assert (saved.returncode, saved.stderr) == (0, "")
    told = json.loads(saved.stdout)
    assert cloud.run("restore", str(file), "--check").returncode == 0
    refused = cloud.run("restore", str(file), "--force")
    assert (refused.returncode, "another forewarn-cloud runs on" in refused.stderr) == (1, True)
    node.join(90)
    assert node.acknowledged == node.total, "ingest went on"
    cloud.kill()
    refused = cloud.run("restore", str(file))
    assert (refused.returncode, "is not empty: --force" in refused.stderr) == (1, True)
    done = cloud.run("restore", str(file), "--force")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the one that was there is kept as" in done.stdout
    engine = make_engine(f"sqlite:///{cloud.folder}/cloud.db")
    assert len(rows(engine, "telemetry_blocks", "seq")) == told["rows"]["telemetry_blocks"]
    with reading(engine) as connection:
        assert sum(map(len, stored_seqs(connection).values())) >= 0.2 * 2000
    engine.dispose()
    assert "whole; the last has the hash" in cloud.run("audit", "verify").stdout
    cloud.start()
    assert cloud.stop()[0] == 0


def test_a_damaged_backup_says_so(cloud: Cloud, tmp_path: Path) -> None:
    assert cloud.run("node", "add", NODE).returncode == 0
    file = tmp_path / "b.zip"
    assert cloud.run("backup", str(file)).returncode == 0
    body = file.read_bytes()
    file.write_bytes(body[:-40])
    damaged = cloud.run("restore", str(file), "--force")
    assert (damaged.returncode, "not a whole backup" in damaged.stderr) == (1, True)
    assert "Traceback" not in damaged.stderr


# --- fault 34 -------------------------------------------------------------------------------------------------------

WELL = {
    "speed_rpm": 1480.0,
    "valve_position_pct": 70.0,
    "ambient_temperature_c": 21.0,
    "flow_m3_h": 80.0,
    "discharge_pressure_bar": 6.0,
    "motor_power_kw": 30.0,
    "vibration_rms_mm_s": 1.2,
    "bearing_temperature_c": 55.0,
    "seal_leakage_ml_h": 5.0,
}
HOT = WELL | {"bearing_temperature_c": 130.0}


class Plant:
    """A pump, its agent and the cloud, each a process; the pump's own broker is not the cloud's."""

    def __init__(self, cloud: Cloud, folder: Path, machine: Machine, source_port: int, keep_hours: float) -> None:
        self.cloud, self.machine = cloud, machine
        self.agent = AgentProcess(folder=folder)
        self.agent.config.write_text(
            f"""
[node]
tenant = "{TENANT}"
node = "edge-1"
state_dir = "state"
[uplink]
host = "127.0.0.1"
port = {cloud.broker_port}
reconnect_max_seconds = 1.0
resend_after_seconds = 2.0
[spool]
keep_acknowledged_hours = {keep_hours}
checkpoint_seconds = 0
{mqtt_source(source_port)}
[[assets]]
asset = "pump-1"
asset_type = "centrifugal_pump"
"""
        )
        self.t_ms = now_ms() - 20 * 3_600_000
        self.sent = list[int]()

    def measure(self, signals: dict[str, float], samples: int) -> None:
        """A sample every five minutes of the machine's time."""
        for _ in range(samples):
            self.t_ms += 300_000
            self.sent.append(self.t_ms)
            self.machine.send({"t": self.t_ms, "signals": signals | {"flow_m3_h": 80.0 + len(self.sent) % 7}})

    def stored(self) -> dict[str, Any]:
        """What the database holds of the node, once all that the agent has recorded is accounted for."""
        wait_until(self.is_level, "the cloud and the agent agree", 120)
        engine = make_engine(f"sqlite:///{self.cloud.folder}/cloud.db")
        try:
            with reading(engine) as connection:
                series = SqlTelemetry(connection).read(
                    tenant=TENANT, asset="pump-1", signals=None, from_ms=0, to_ms=2**62, max_points=100_000
                )
            gaps = rows(engine, "gaps", "lane", "missing")
            missing = [span for lane, spans in gaps if lane == "telemetry" for span in spans]
            return {
                "times": series.t_ms.tolist(),
                "missing": sum(last - first + 1 for first, last in missing),
                "orders": [state for (state,) in rows(engine, "orders", "state")],
                "episodes": [state for (state,) in rows(engine, "episodes", "state")],
                "mails": rows(engine, "mailbox", "copies"),
            }
        finally:
            engine.dispose()

    def is_level(self) -> bool:
        lanes = self.agent.status()["lanes"]
        engine = make_engine(f"sqlite:///{self.cloud.folder}/cloud.db")
        try:
            found = rows(engine, "lane_progress", "lane", "contiguous_seq", "ahead")
            waiting = [handled for (handled,) in rows(engine, "advisories", "handled_at") if handled is None]
        finally:
            engine.dispose()
        level = {lane: contiguous for lane, contiguous, ahead in found if not ahead}
        return not waiting and level == {lane: about["last_seq"] for lane, about in lanes.items()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("keep_hours", [24.0, 0.0], ids=["spool-keeps-it", "spool-holds-nothing"])
@pytest.mark.long
def test_fault_34_a_cloud_restored_to_an_hour_ago_is_refilled_from_the_spools_or_has_gaps(
    cloud: Cloud, tmp_path: Path, mosquitto: Broker, keep_hours: float
) -> None:
    master = tmp_path / "master.toml"
    master.write_text(MASTER_DATA)
    assert cloud.run("seed", str(master)).returncode == 0
    cloud.start()
    folder = tmp_path / "agent"
    folder.mkdir()
    machine = Machine(mosquitto.port)
    plant = Plant(cloud, folder, machine, mosquitto.port, keep_hours)
    try:
        plant.agent.start_listening()
        plant.measure(WELL, 40)
        wait_until(lambda: plant.is_level(), "the first samples are stored", 120)
        assert cloud.run("backup", str(tmp_path / "b.zip")).returncode == 0
        at_backup = len(plant.sent)
        plant.measure(WELL, 40)
        plant.measure(HOT, 20)
        before = plant.stored()
        assert (before["times"], before["missing"], before["orders"]) == (plant.sent, 0, ["OPEN"])
        cloud.kill()
        lost = len(plant.sent) - at_backup
        restored = cloud.run("restore", str(tmp_path / "b.zip"), "--force")
        assert restored.returncode == 0, restored.stderr
        cloud.start()
        plant.measure(HOT, 5)
        after = plant.stored()
    finally:
        machine.close()
        if plant.agent.processes:
            plant.agent.stop()
    if keep_hours:
        assert (after["times"], after["missing"]) == (plant.sent, 0)
        assert (after["orders"], after["episodes"]) == (["OPEN"], ["OPEN"]), "one order for the one episode"
    else:
        assert after["times"] == plant.sent[:at_backup] + plant.sent[at_backup + lost :]
        assert after["missing"] == lost, "what cannot come again is told"
        assert len(after["orders"]) <= 1
    assert cloud.run("audit", "verify").returncode == 0
    assert cloud.stop()[0] == 0
