"""From MQTT to committed rows: the real `forewarn-cloud up` with its broker, generators and agents, on this machine.

A message counts when the cloud has acknowledged its records end to end, that is after the transaction is on disk. The
generators write ready-made packets to plain sockets, so that little of the machine goes into them. Figures are medians
of several runs. The last line of the output is one JSON object with a key per row of what was to be reached.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from forewarn_models import wire
from tests.benchmarks import catch_up, many_nodes, mqtt_bytes, poisoned_batch
from tests.benchmarks.cloud_process import TENANT, Cloud, listening, mosquitto, running_cloud, victoria_metrics

BENCH_STORES = Path(__file__).with_name("bench_stores.py")
SENDERS = 4
IN_FLIGHT = 500
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Load:
    """What each node sends: messages of one record of `samples` samples of `signals` signals."""

    name: str
    samples: int
    signals: int
    messages: int

    @property
    def values(self) -> int:
        """Signal values in a message."""
        return self.samples * self.signals


ONE_SAMPLE = Load(name="one_sample", samples=1, signals=8, messages=40_000)
BLOCKS = Load(name="blocks", samples=100, signals=8, messages=16_000)


@dataclass(frozen=True, kw_only=True)
class Options:
    runs: int
    quick: bool
    nodes: int
    minutes: float
    data: Path

    def share(self, load: Load) -> Load:
        return replace(load, messages=load.messages // 4) if self.quick else load


def main() -> None:
    options, rows = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    found: Figures = {"cpus": os.cpu_count(), "runs": options.runs}
    for name in rows:
        found[name] = ROWS[name](options)
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    print(json.dumps(found))


def parsed() -> tuple[Options, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short run of each, 500 nodes for 15 seconds")
    parser.add_argument("--runs", type=int, default=5, help="of the loads and the catch-up (default %(default)s)")
    parser.add_argument("--nodes", type=int, default=5000, help="of the row of that name (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=5.0, help="of the nodes (default %(default)s)")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="real data sets (default %(default)s)"
    )
    parser.add_argument("--rows", default=",".join(ROWS), help="which (default %(default)s)")
    given = parser.parse_args()
    if given.quick:
        given.runs, given.nodes, given.minutes = 1, min(given.nodes, 500), 0.25
    options = Options(runs=given.runs, quick=given.quick, nodes=given.nodes, minutes=given.minutes, data=given.data)
    return options, given.rows.split(",")


# --- the rows ---------------------------------------------------------------------------------------------------------


def one_sample(options: Options) -> Figures:
    with cloud_with_senders() as cloud:
        return measured(options.share(ONE_SAMPLE), cloud, options.runs)


def blocks(options: Options) -> Figures:
    """The same work with column rows and through the InfluxDB adapter, a line per sample as Telegraf writes it."""
    with cloud_with_senders() as cloud:
        found = measured(options.share(BLOCKS), cloud, options.runs)
    with tempfile.TemporaryDirectory() as folder, victoria_metrics(Path(folder)) as url:
        if url is None:
            return found | {"through_influxdb_api": "victoria-metrics is not installed"}
        with cloud_with_senders(url) as cloud:
            return found | {"through_influxdb_api": measured(options.share(BLOCKS), cloud, options.runs)}


def nodes(options: Options) -> Figures:
    """With the embedded broker, and with mosquitto."""
    many_nodes.raise_file_limit(options.nodes + many_nodes.SPARE_FILES)  # a broker started from here has it, too
    with tempfile.TemporaryDirectory() as folder, mosquitto(Path(folder)) as url:
        through = "mosquitto is not installed" if url is None else with_nodes(options, broker_url=url)
    return with_nodes(options) | {"through_mosquitto": through}


def with_nodes(options: Options, *, broker_url: str | None = None) -> Figures:
    names = {f"node-{i}": [f"asset-{i}"] for i in range(options.nodes)}
    with tempfile.TemporaryDirectory() as folder, running_cloud(Path(folder), names, broker_url=broker_url) as cloud:
        command = [sys.executable, "-m", "tests.benchmarks.many_nodes", "--port", str(cloud.broker_port)]
        command += ["--nodes", str(options.nodes), "--seconds", str(60 * options.minutes)]
        sent = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        found: Figures = json.loads(sent.stdout)
        stored = stored_records(Path(folder), many_nodes.EPOCH)
        return found | {"not_stored": found["messages"] - stored, "cloud_peak_mebibytes": cloud.peak_mebibytes}


def caught_up(options: Options) -> Figures:
    """With the blocks of a source that delivers blocks; and with records of one sample, the worst case."""
    blocks = [catch_up.measure(records=8640, samples=100) for _ in range(options.runs)]
    found = {key: statistics.median(run[key] for run in blocks) for key in blocks[0]}
    single = catch_up.measure(records=43_200 if options.quick else 172_800, samples=1)
    return found | {"as_single_samples": single}


def poison(options: Options) -> Figures:
    """Seconds until all other messages of a full batch are acknowledged, when it has none, one and twenty that cannot
    be stored."""
    return {f"of_{nodes}_nodes": poisoned_batch.measure(nodes, options.runs) for nodes in (100, 1000)}


def disk(options: Options) -> Figures:
    """Bytes a signal value of real data, once compacted."""
    return of_the_stores("disk", "bytes_per_value_fd001", options)


def last_day(options: Options) -> Figures:
    """Reading the last 24 hours of one signal of each of 1,000 machines."""
    return of_the_stores("day", "day_of_one_signal", options)


def of_the_stores(part: str, key: str, options: Options) -> Figures:
    command = [sys.executable, str(BENCH_STORES), "--only", part, "--data", str(options.data)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        return {"not_measured": (ran.stderr.strip() or "no reason given").splitlines()[-1]}
    figures: Figures = json.loads(ran.stdout.splitlines()[-1])[key]
    return figures


ROWS: dict[str, Callable[[Options], Figures]] = {
    "one_sample": one_sample,
    "blocks": blocks,
    "nodes": nodes,
    "catch_up": caught_up,
    "poison": poison,
    "disk": disk,
    "last_day": last_day,
}


# --- loads ------------------------------------------------------------------------------------------------------------


@contextmanager
def cloud_with_senders(telemetry_url: str | None = None) -> Iterator[Cloud]:
    names = {f"node-{i}": [f"asset-{i}"] for i in range(SENDERS)}
    with tempfile.TemporaryDirectory() as folder, running_cloud(Path(folder), names, telemetry_url=telemetry_url) as up:
        yield up


def measured(load: Load, cloud: Cloud, runs: int) -> Figures:
    """The median of the runs, after a short one that fills caches."""
    send_all(replace(load, name="warm-up", messages=load.messages // 10), cloud, 0)
    cpu_seconds = cloud.cpu_seconds
    seconds = [send_all(load, cloud, run) for run in range(runs)]
    median = statistics.median(seconds)
    return {
        "messages_per_s": round(load.messages / median),
        "signal_values_per_s": round(load.messages * load.values / median),
        "slowest_messages_per_s": round(load.messages / max(seconds)),
        "cloud_cpu_us_per_message": round((cloud.cpu_seconds - cpu_seconds) / (load.messages * runs) * 1e6, 1),
        "cloud_peak_mebibytes": cloud.peak_mebibytes,
    }


def send_all(load: Load, cloud: Cloud, run: int) -> float:
    """Seconds from the first message to the acknowledgement of the last."""
    epoch, each = f"{load.name}-{run}", max(1, load.messages // SENDERS)
    names = [f"node-{i}" for i in range(SENDERS)]
    packets = {name: publish_packets(name, load, epoch, each) for name in names}
    done = Acknowledged(wanted=dict.fromkeys(names, each), epoch=epoch)
    with subscribed(cloud.broker_port, done):
        senders = [threading.Thread(target=send, args=(cloud.broker_port, f"{n}-{epoch}", packets[n])) for n in names]
        began = time.perf_counter()
        for sender in senders:
            sender.start()
        if not done.everything.wait(600):
            sys.exit(f"not everything was acknowledged: {done.reached}")
        seconds = time.perf_counter() - began
        for sender in senders:
            sender.join()
    return seconds


def publish_packets(node: str, load: Load, epoch: str, messages: int) -> list[bytes]:
    rng = np.random.default_rng(7)
    first_ms = time.time_ns() // 1_000_000 - 86_400_000
    topic = wire.topic(TENANT, node, "telemetry")
    packets = []
    for i in range(messages):
        record = noisy_record(node.replace("node", "asset"), load, first_ms + i * load.samples, rng)
        packets.append(mqtt_bytes.publish(topic, wire.encode_message(epoch, i + 1, [record]), i))
    return packets


def noisy_record(asset: str, load: Load, first_ms: int, rng: np.random.Generator) -> bytes:
    """A slow walk with noise, to two decimals."""
    walk = np.cumsum(rng.normal(0, 0.02, (load.signals, load.samples)), axis=1) + 50
    readings = np.round(walk + rng.normal(0, 0.05, walk.shape), 2).astype(np.float32)
    return wire.encode_telemetry(
        wire.Telemetry(
            asset=asset,
            asset_type="generic",
            t_ms=first_ms + np.arange(load.samples, dtype=np.int64),
            signals={f"signal_{k}": column for k, column in enumerate(readings)},
        )
    )


def send(port: int, client_id: str, packets: list[bytes]) -> None:
    """Publish with at most IN_FLIGHT messages that the broker has not acknowledged."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(mqtt_bytes.connect(client_id))
        skip(connection, 4)
        for sent, start in enumerate(range(0, len(packets), IN_FLIGHT // 2)):
            if sent >= 2:
                skip(connection, 4 * (IN_FLIGHT // 2))
            connection.sendall(b"".join(packets[start : start + IN_FLIGHT // 2]))
        skip(connection, 4 * (len(packets) - max(0, sent - 1) * (IN_FLIGHT // 2)))


def skip(connection: socket.socket, count: int) -> None:
    """Receive and forget so many bytes: acknowledgements have four each."""
    while count:
        received = len(connection.recv(min(count, 65_536)))
        if not received:
            sys.exit("the broker ended a connection")
        count -= received


@dataclass(kw_only=True)
class Acknowledged:
    """Waits until every node's records are acknowledged by the cloud."""

    wanted: dict[str, int]
    epoch: str
    reached: dict[str, int] = field(default_factory=dict)
    everything: threading.Event = field(default_factory=threading.Event)

    def take(self, topic: str, payload: bytes) -> None:
        ack = wire.decode_control(payload, wire.Ack)
        node = wire.parse_topic(topic).node
        if ack.epoch == self.epoch and node in self.wanted:
            self.reached[node] = max(self.reached.get(node, 0), ack.seq)
            if self.reached == self.wanted:
                self.everything.set()


@contextmanager
def subscribed(port: int, done: Acknowledged) -> Iterator[None]:
    with listening(port, [f"fw/v1/{TENANT}/+/ack"], done.take):
        yield


def stored_records(folder: Path, epoch: str) -> int:
    """How many records of an epoch the database has counted as stored, in the transactions that stored them."""
    from sqlalchemy import func, select

    from forewarn_cloud.adapters.sql.engine import make_engine, reading
    from forewarn_cloud.adapters.sql.schema import lane_progress as lanes

    engine = make_engine(f"sqlite:///{folder}/data/cloud.db")
    with reading(engine) as connection:
        stored = connection.execute(select(func.sum(lanes.c.records_stored)).where(lanes.c.epoch == epoch)).scalar()
    engine.dispose()
    return int(stored or 0)


if __name__ == "__main__":
    main()
