"""Backup and restore as an operator does them: commands beside, and after, a running cloud."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from forewarn_cloud.adapters.sql.engine import make_engine
from tests.cloud.ingest.sending import rows
from tests.cloud.test_up import NODE, Cloud, Node

pytestmark = pytest.mark.e2e


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path / "data")
    yield cloud
    if cloud.process is not None and cloud.process.poll() is None:
        cloud.kill()


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
    assert told["rows"]["telemetry_blocks"] > 0.2 * 2000
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
