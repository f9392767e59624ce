"""Faults 24 and 26 on the whole cloud as a process: its database goes away, or its disk is full."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.endpoints import Endpoints
from tests.cloud.ingest.sending import rows
from tests.cloud.test_up import NODE, Cloud, Node
from tests.conftest import Broker, postgres_user, require, wait_until
from tests.faults.postgres import PostgresServer, make_postgres

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

OUTAGE_SECONDS = 60.0 if os.environ.get("FOREWARN_FULL_LENGTH") == "1" else 8.0
"""`make outages` has a minute."""
RECORDS = 4000


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="forewarn-postgres-") as home:
        server = make_postgres(Path(home))
        server.start()
        yield server
        if server.process is not None:
            server.kill()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path / "data")
    yield cloud
    if cloud.process is not None and cloud.process.poll() is None:
        cloud.kill()


def status_of(endpoints: Endpoints, path: str) -> int:
    """0 where there is no answer in time."""
    try:
        return httpx.get(endpoints.console + path, timeout=3, follow_redirects=True).status_code
    except httpx.TransportError:
        return 0


def enrol(endpoints: Endpoints, node: str) -> int:
    key = {"Idempotency-Key": f"{node}-{time.monotonic_ns()}"}
    try:
        return httpx.post(f"{endpoints.api}/nodes", json={"node": node}, headers=key, timeout=60).status_code
    except httpx.TransportError:
        return 0


def stored_once(url: str, total: int, log: Path) -> None:
    engine = make_engine(url)
    try:
        progress = rows(engine, "lane_progress", "contiguous_seq", "ahead", "records_stored", "records_quarantined")
        assert rows(engine, "quarantine", "reason") == [], log.read_text()
        assert progress == [(total, [], total, 0)], log.read_text()
    finally:
        engine.dispose()


# --- 24 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stopped", "killed", "suspended"])
@pytest.mark.long
def test_fault_24_postgresql_goes_away_under_a_running_cloud_nothing_is_acknowledged_and_it_resumes(
    cloud: Cloud, postgres: PostgresServer, how: str
) -> None:
    database = ["--database-url", postgres.url]
    assert cloud.run("node", "add", NODE, *database).returncode == 0
    ports = ["--broker-port", str(cloud.broker_port), "--port", str(cloud.port)]
    endpoints = cloud.start(*ports, *database)
    node = Node(cloud.broker_port, RECORDS)
    node.start()
    node.wait_for(0.1)
    {"stopped": postgres.stop, "killed": postgres.kill, "suspended": postgres.suspend}[how]()
    time.sleep(1.0)  # acknowledgements that were under way
    acknowledged, began = node.acknowledged, time.monotonic()
    assert acknowledged < RECORDS
    while time.monotonic() - began < OUTAGE_SECONDS:
        assert status_of(endpoints, "readyz") != 200 or time.monotonic() - began < OUTAGE_SECONDS / 2
        assert node.acknowledged == acknowledged, "nothing is acknowledged that is not committed"
        time.sleep(0.2)
    (postgres.resume if how == "suspended" else postgres.start)()
    node.join(180)
    assert node.acknowledged == RECORDS
    wait_until(lambda: status_of(endpoints, "readyz") == 200, "it is ready again, without being started anew", 60)
    assert cloud.process is not None
    assert cloud.process.poll() is None
    assert cloud.stop()[0] == 0
    stored_once(postgres.url, RECORDS, cloud.log)


# --- 26 -------------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(mebibytes: int) -> Iterator[Path]:
    """A disk that can be filled without harm."""
    require_root()
    with tempfile.TemporaryDirectory(prefix="forewarn-disk-") as folder:
        mounted = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0777", "tmpfs", folder]
        require(subprocess.run(mounted, check=False).returncode == 0, "a tmpfs cannot be mounted here")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def require_root() -> None:
    if os.getuid() != 0:
        pytest.skip("a small disk can be mounted by root only")


def fill(disk: Path) -> Path:
    """Take all space that is left; the file that takes it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as out:
        for size in (1 << 20, 4096):
            try:
                while out.write(b"\0" * size) == size:
                    pass
            except OSError:
                continue
    return ballast


def outlive_a_full_disk(cloud: Cloud, endpoints: Endpoints, disk: Path, port: int, write: Callable[[], int]) -> None:
    node = Node(port, RECORDS)
    node.start()
    node.wait_for(0.05)
    ballast = fill(disk)
    wait_until(lambda: write() == 503, "writes are refused", 120)
    assert [status_of(endpoints, path) for path in ("api/v1/orders", "api/v1/nodes", "orders")] == [200] * 3
    wait_until(lambda: status_of(endpoints, "readyz") == 503, "it says that it is not ready", 60)
    acknowledged = node.acknowledged
    assert acknowledged < RECORDS, "what is not stored is not acknowledged: the edge keeps it"
    time.sleep(1.0)
    assert node.acknowledged == acknowledged
    ballast.unlink()
    node.join(180)
    assert node.acknowledged == RECORDS, "it goes on by itself once there is room"
    wait_until(lambda: write() == 201, "writes are taken", 60)
    assert cloud.process is not None
    assert cloud.process.poll() is None


@pytest.mark.long
def test_fault_26_disk_full_under_sqlite_reads_work_writes_503_and_the_edge_keeps_its_data(
    cloud: Cloud, mosquitto: Broker
) -> None:
    with small_disk(8) as disk:
        cloud.folder = disk / "data"
        assert cloud.run("node", "add", NODE).returncode == 0
        endpoints = cloud.start("--broker-url", f"mqtt://127.0.0.1:{mosquitto.port}", "--port", str(cloud.port))
        numbers = iter(range(100_000))
        outlive_a_full_disk(cloud, endpoints, disk, mosquitto.port, lambda: enrol(endpoints, f"x{next(numbers)}"))
        assert cloud.stop()[0] == 0
        stored_once(f"sqlite:///{cloud.folder}/cloud.db", RECORDS, cloud.log)


@pytest.mark.long
def test_fault_26_disk_full_under_postgresql_reads_work_writes_503_and_the_edge_keeps_its_data(
    cloud: Cloud, postgres: PostgresServer, mosquitto: Broker
) -> None:
    """The disk of the tables; where PostgreSQL's own log has no room, it stops, which is fault 24."""
    with small_disk(24) as disk:
        user = postgres_user()
        (disk / "tables").mkdir()
        if user is not None:
            shutil.chown(disk / "tables", user)
        postgres.execute(
            f"CREATE TABLESPACE small LOCATION '{disk / 'tables'}'", "CREATE DATABASE cloud TABLESPACE small"
        )
        url = postgres.url.removesuffix("postgres") + "cloud"
        database = ["--database-url", url]
        assert cloud.run("node", "add", NODE, *database).returncode == 0
        broker = ["--broker-url", f"mqtt://127.0.0.1:{mosquitto.port}"]
        endpoints = cloud.start(*broker, "--port", str(cloud.port), *database)
        numbers = iter(range(100_000))

        def write() -> int:
            """Until the pages that have room are full, too."""
            return max(enrol(endpoints, f"x{next(numbers)}-{'y' * 50}") for _ in range(50))

        outlive_a_full_disk(cloud, endpoints, disk, mosquitto.port, write)
        assert cloud.stop()[0] == 0
        stored_once(url, RECORDS, cloud.log)
        postgres.kill()
