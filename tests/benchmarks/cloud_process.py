"""A real `forewarn-cloud up` for benchmarks, and what it takes of the machine."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import find_program
from tests.own_broker import mosquitto_as_deployed
from tests.ports import free_port

PROGRAM = str(Path(sys.executable).parent / "forewarn-cloud")
TENANT = "local"
START_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """A running cloud and its broker."""

    folder: Path
    broker_port: int
    process: "subprocess.Popen[bytes]"

    @property
    def peak_mebibytes(self) -> float:
        """The most memory that ingest, the API and the workers were resident in, upkeep's process included though it
        shares much of it; the broker is another."""
        return round(sum(map(_peak_kibibytes, self._pids)) / 1024, 1)

    @property
    def cpu_seconds(self) -> float:
        return sum(map(cpu_seconds, self._pids))

    @property
    def _pids(self) -> list[int]:
        """Without the broker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        beside = [int(pid) for pid in children if b"nats-server" not in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return [self.process.pid, *beside]


def _peak_kibibytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def cpu_seconds(pid: int) -> float:
    """What a process has taken of the processors so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running_cloud(
    folder: Path,
    nodes: Mapping[str, Sequence[str]],
    *,
    telemetry_url: str | None = None,
    broker_url: str | None = None,
) -> Iterator[Cloud]:
    """On free ports, with these nodes and their machines; with a broker of its own if none is named."""
    (folder / "seed.toml").write_text("".join(master_data(node, assets) for node, assets in nodes.items()))
    options = ["--data-dir", str(folder / "data")]
    subprocess.run([PROGRAM, "seed", str(folder / "seed.toml"), *options], check=True, stdout=subprocess.DEVNULL)
    command = [PROGRAM, "up", *options, "--log-level", "warning", "--port", str(free_port())]
    command += ["--broker-port", str(free_port())] if broker_url is None else ["--broker-url", broker_url]
    environment = os.environ | ({} if telemetry_url is None else {"FOREWARN_TELEMETRY_URL": telemetry_url})
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    try:
        port = _broker_port(folder / "data" / "endpoints.json", process)
        yield Cloud(folder=folder, broker_port=port, process=process)
    finally:
        process.terminate()
        process.wait(60)


def master_data(node: str, assets: Sequence[str]) -> str:
    machines = (
        f'[[assets]]\nasset = "{asset}"\nnode = "{node}"\nasset_type = "generic"\nname = "{asset}"\n'
        for asset in assets
    )
    return f'[[nodes]]\nnode = "{node}"\n' + "".join(machines)


def _broker_port(endpoints: Path, process: "subprocess.Popen[bytes]") -> int:
    deadline = time.monotonic() + START_SECONDS
    while not endpoints.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit("forewarn-cloud up did not start")
        time.sleep(0.05)
    return int(json.loads(endpoints.read_text())["broker"].rpartition(":")[2])


@contextmanager
def victoria_metrics(folder: Path) -> Iterator[str | None]:
    """The URL of a real one for the InfluxDB adapter, None where it is not installed."""
    program = shutil.which("victoria-metrics")
    if program is None:
        yield None
        return
    port = free_port()
    command = [
        program,
        f"-storageDataPath={folder / 'victoria'}",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-retentionPeriod=1y",
    ]
    with _serving(command, port, "victoria-metrics"):
        yield f"victoriametrics://127.0.0.1:{port}"


@contextmanager
def mosquitto(folder: Path) -> Iterator[str | None]:
    """The URL of one as `deploy/mosquitto.conf` sets it up, None where it is not installed."""
    if find_program("mosquitto", "/usr/sbin") is None:
        yield None
        return
    port = free_port()
    with _serving(mosquitto_as_deployed(folder, port), port, "mosquitto"):
        yield f"mqtt://127.0.0.1:{port}"


@contextmanager
def _serving(command: Sequence[str], port: int, name: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not accepts_connections(port):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{name} did not start")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def listening(port: int, topics: Sequence[str], take: Callable[[str, bytes], None]) -> Iterator[paho.Client]:
    """A client that is subscribed; it can publish, too."""
    ready = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    on_subscribe: Callable[..., None] = lambda *_: ready.set()  # noqa: E731 - paho wants an attribute
    client.on_subscribe = on_subscribe

    def on_message(_client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        take(message.topic, bytes(message.payload))

    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe([(topic, 0) for topic in topics])
    if not ready.wait(10):
        sys.exit(f"cannot subscribe to {', '.join(topics)}")
    yield client
    client.disconnect()
    client.loop_stop()


def accepts_connections(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
