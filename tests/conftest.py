"""Real servers for tests, each on a free port and stopped by its process id."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import hypothesis
import psycopg
import pytest

from tests.ports import free_port as free_port

hypothesis.settings.register_profile("forewarn", deadline=None)  # a busy machine fails no test
hypothesis.settings.load_profile("forewarn")

REQUIRE_ALL = os.environ.get("FOREWARN_REQUIRE_ALL") == "1"
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, in two of the four processes of `make test`: they wait while the others compute, few of the
    heavy ones run side by side, and none is left to be waited for at the end."""
    long = [item for item in items if item.get_closest_marker("long")]
    rest = [item for item in items if not item.get_closest_marker("long")]
    half = len(rest) // 2
    items[:] = [*long[0::2], *rest[:half], *long[1::2], *rest[half:]]


def require(present: bool, reason: str) -> None:
    """Skip with the reason, or fail where skipping is not allowed (CI)."""
    if present:
        return
    if REQUIRE_ALL:
        pytest.fail(f"{reason}, and FOREWARN_REQUIRE_ALL=1 allows no skip")
    pytest.skip(reason)


def find_program(name: str, *folders: str) -> str | None:
    """Where a program is, also in folders that are not on the PATH."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))


def wait_until(ready: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Poll until `ready()`; fail after `seconds`, saying what did not happen."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


def together(*works: Callable[[], object]) -> list[BaseException]:
    """Run all at the same time; what they raised."""
    barrier, failures = threading.Barrier(len(works)), list[BaseException]()

    def run(work: Callable[[], object]) -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told to the test
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def accepts_connections(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def stop(process: "subprocess.Popen[bytes]", seconds: float = 10.0) -> int:
    """SIGTERM, then SIGKILL; the exit status."""
    process.terminate()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(seconds)


@dataclass(frozen=True, kw_only=True)
class Broker:
    """A running MQTT broker."""

    port: int
    process: "subprocess.Popen[bytes]"


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Broker]:
    """A mosquitto of the test's own, anonymous, on 127.0.0.1 and a free port."""
    program = find_program("mosquitto", "/usr/sbin")
    require(program is not None, "mosquitto is not installed (apt install mosquitto)")
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nuser {pwd.getpwuid(os.getuid()).pw_name}\n")
    process = subprocess.Popen([str(program), "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: accepts_connections(port), "mosquitto listens")
        yield Broker(port=port, process=process)
    finally:
        stop(process)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL cluster of this test run; the URL of its maintenance database, without a driver prefix."""
    folders = [str(folder) for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    initdb, postgres = find_program("initdb", *folders), find_program("postgres", *folders)
    require(initdb is not None and postgres is not None, "PostgreSQL is not installed (apt install postgresql)")
    # Not below pytest's own folder: each pytest that starts closes that to other users, PostgreSQL's among them.
    with tempfile.TemporaryDirectory(prefix="forewarn-postgres-") as home:
        yield from _postgres(str(initdb), str(postgres), Path(home))


def _postgres(initdb: str, postgres: str, home: Path) -> Iterator[str]:
    cluster, port = home / "cluster", free_port()
    user = postgres_user()
    if user is not None:  # PostgreSQL refuses to run as root
        shutil.chown(home, user)
    made = [initdb, "-D", str(cluster), "-A", "trust", "-U", "forewarn", "-E", "UTF8", "--no-sync"]
    subprocess.run(made, check=True, user=user, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={home}", "-c", "fsync=off"]
    served = [postgres, "-D", str(cluster), "-p", str(port), *options]
    process = subprocess.Popen(served, user=user, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    url = f"forewarn@127.0.0.1:{port}/postgres"
    try:
        wait_until(lambda: postgres_answers(url), "PostgreSQL answers", 30.0)
        yield url
    finally:
        stop(process)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """An empty database of the test's own, as a SQLAlchemy URL."""
    with new_database(postgres_server) as url:
        yield url


@contextmanager
def new_database(postgres_server: str) -> Iterator[str]:
    """An empty database, as a SQLAlchemy URL."""
    name = f"t{time.monotonic_ns()}"
    with psycopg.connect(f"postgresql://{postgres_server}", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    yield f"postgresql+psycopg://{postgres_server.rsplit('/', 1)[0]}/{name}"
    with psycopg.connect(f"postgresql://{postgres_server}", autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


@dataclass(kw_only=True)
class VictoriaMetrics:
    """A VictoriaMetrics of the tests' own, which may be stopped, killed and started again on the same port and data."""

    program: str
    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None
    started_second: int = 0
    """It tells when it was started to the second: no two starts are in one."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        wait_until(lambda: int(time.time()) > self.started_second, "the next second")
        self.started_second = int(time.time())
        options = [f"-storageDataPath={self.folder}", f"-httpListenAddr=127.0.0.1:{self.port}", "-retentionPeriod=100y"]
        command = [self.program, *options, "-memory.allowedBytes=200MB", "-loggerLevel=ERROR"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: accepts_connections(self.port), "VictoriaMetrics listens")

    def stop(self, *, kill: bool = False) -> None:
        if self.process is not None:
            if kill:
                self.process.kill()
            stop(self.process)
        self.process = None

    def make_visible(self) -> None:
        """What was written before can be read after; by itself that takes a few seconds."""
        httpx.get(f"{self.url}/internal/force_flush", timeout=20.0).raise_for_status()


@pytest.fixture(scope="session")
def victoria_metrics_program() -> str:
    program = find_program("victoria-metrics")
    require(program is not None, "VictoriaMetrics is not installed (apt install victoria-metrics)")
    return str(program)


@pytest.fixture(scope="session")
def victoria_metrics(
    victoria_metrics_program: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VictoriaMetrics]:
    """One for all tests: each takes a tenant of its own."""
    folder = tmp_path_factory.mktemp("victoria-metrics")
    server = VictoriaMetrics(program=victoria_metrics_program, folder=folder, port=free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_victoria_metrics(victoria_metrics_program: str, tmp_path: Path) -> Iterator[VictoriaMetrics]:
    """One of the test's own, to be stopped and killed."""
    server = VictoriaMetrics(program=victoria_metrics_program, folder=tmp_path / "metrics", port=free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium to drive."""
    program = find_program("chromium") or find_program("chromium-browser") or find_program("google-chrome")
    require(program is not None, "chromium is not installed (apt install chromium)")
    return str(program)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real machine histories beside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real machine histories (../shared/data) are not beside this checkout")
    return SHARED_DATA


def postgres_user() -> str | None:
    if os.getuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"


def postgres_answers(url: str) -> bool:
    try:
        psycopg.connect(f"postgresql://{url}", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
