"""A real agent comes back after a day offline: how long until the cloud has its backlog, and what is live meanwhile?

Its spool is filled beforehand. While it catches up, 500 samples a second come from its machines, and every quarter of
a second a machine is heard of for the first time, of which the agent tells the cloud in an advisory. The age of an
advisory is the time from the sample that caused it to the cloud's acknowledgement.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho

from forewarn_edge_agent.spool import Batch, Spool
from forewarn_models import wire
from tests.benchmarks.cloud_process import TENANT, cpu_seconds, listening, running_cloud

NODE = "plant"
SIGNALS = 8
PERIOD_MS = 100
LIVE_SAMPLES_PER_S = 500
LIVE_MESSAGES_PER_S = 50
LIVE_ASSETS = [f"live-{i}" for i in range(5)]
NEW_ASSETS = [f"new-{i}" for i in range(1200)]
NEW_EVERY_S = 0.25
WAITED = "backlog"
FILLED_AT_ONCE = 2000
LIMIT_S = 600.0
CONFIG = """
[node]
tenant = "{tenant}"
node = "{node}"
state_dir = "{folder}/state"
[uplink]
host = "127.0.0.1"
port = {port}
[spool]
max_mebibytes = 1024
[log]
level = "warning"
[[sources]]
kind = "mqtt"
host = "127.0.0.1"
port = {port}
topic = "machines/+"
"""


def measure(*, records: int, samples: int) -> dict[str, float]:
    """With so many records of so many samples each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_cloud(folder, {NODE: [WAITED, *LIVE_ASSETS, *NEW_ASSETS]}) as cloud:
            filled_bytes = fill_spool(folder / "state", records, samples)
            heard = Heard(backlog_end=records)
            topics = [wire.topic(TENANT, NODE, "ack"), wire.topic(TENANT, NODE, "advisory")]
            with listening(cloud.broker_port, topics, heard.take) as client:
                began = time.monotonic()
                with running_agent(folder, cloud.broker_port) as agent, live(client) as sent:
                    if not heard.caught_up.wait(LIMIT_S):
                        sys.exit(f"not caught up: {heard.acknowledged} of {records} records")
                    seconds, live_samples = time.monotonic() - began, sent.samples
                    agent_cpu_s, cloud_cpu_s = cpu_seconds(agent.pid), cloud.cpu_seconds
        ages = np.array(heard.advisory_ages_s())
        p50, p95, worst = np.percentile(ages, [50, 95, 100]) if len(ages) else (float("nan"),) * 3
        return {
            "samples": records * samples,
            "seconds": round(seconds, 1),
            "live_samples_per_s": round(live_samples / seconds),
            "live_advisories": len(ages),
            "live_advisory_p50_s": round(float(p50), 2),
            "live_advisory_p95_s": round(float(p95), 2),
            "live_advisory_max_s": round(float(worst), 2),
            "agent_cpu_s": agent_cpu_s,
            "cloud_cpu_s": cloud_cpu_s,
            "spool_mebibytes": round(filled_bytes / 1024 / 1024, 1),
        }


# --- the agent --------------------------------------------------------------------------------------------------------


def fill_spool(state_dir: Path, records: int, samples: int) -> int:
    """As an agent that was offline while it recorded; the bytes on the disk."""
    now_ms = time.time_ns() // 1_000_000
    spool = Spool.open(state_dir, max_bytes=1024**3, now_ms=now_ms)
    first_ms, rng = now_ms - records * samples * PERIOD_MS, np.random.default_rng(3)
    for start in range(0, records, FILLED_AT_ONCE):
        numbers = range(start, min(records, start + FILLED_AT_ONCE))
        bodies = [recorded(first_ms + i * samples * PERIOD_MS, samples, rng) for i in numbers]
        # `assets` makes it a checkpoint: these were assessed when they were recorded.
        spool.append(Batch(telemetry=bodies, assets=()), now_ms=now_ms - 10 * wire.MINUTE_MS)
    spool.close()
    return sum(file.stat().st_size for file in state_dir.iterdir())


def recorded(first_ms: int, samples: int, rng: np.random.Generator) -> bytes:
    return wire.encode_telemetry(
        wire.Telemetry(
            asset=WAITED,
            asset_type="generic",
            t_ms=first_ms + PERIOD_MS * np.arange(samples, dtype=np.int64),
            signals={f"signal_{k}": np.round(rng.normal(50, 1, samples), 2).astype(np.float32) for k in range(SIGNALS)},
        )
    )


@contextmanager
def running_agent(folder: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    assets = "".join(f'[[assets]]\nasset = "{asset}"\nasset_type = "generic"\n' for asset in LIVE_ASSETS + NEW_ASSETS)
    config = folder / "edge.toml"
    config.write_text(CONFIG.format(tenant=TENANT, node=NODE, folder=folder, port=port) + assets)
    program = str(Path(sys.executable).parent / "forewarn-edge")
    process = subprocess.Popen([program, "run", "--config", str(config)], stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


# --- what is live -----------------------------------------------------------------------------------------------------


@dataclass
class Sent:
    samples: int = 0


@contextmanager
def live(client: paho.Client) -> Iterator[Sent]:
    """Machines that publish until the block ends."""
    sent, ending = Sent(), threading.Event()
    thread = threading.Thread(target=publish_live, args=(client, sent, ending))
    thread.start()
    yield sent
    ending.set()
    thread.join()


def publish_live(client: paho.Client, sent: Sent, ending: threading.Event) -> None:
    began, each = time.monotonic(), LIVE_SAMPLES_PER_S // LIVE_MESSAGES_PER_S
    messages = new = 0
    while not ending.wait(0.005):
        elapsed = time.monotonic() - began
        while messages < elapsed * LIVE_MESSAGES_PER_S:
            publish_samples(client, LIVE_ASSETS[messages % len(LIVE_ASSETS)], each)
            messages += 1
            sent.samples += each
        while new < min(elapsed / NEW_EVERY_S, len(NEW_ASSETS)):
            publish_samples(client, NEW_ASSETS[new], 1)
            new += 1


def publish_samples(client: paho.Client, asset: str, samples: int) -> None:
    """The last of them is measured now."""
    now_ms = time.time_ns() // 1_000_000
    times = [now_ms - 2 * i for i in reversed(range(samples))]
    signals = {f"signal_{k}": [50.0 + k + i / 100 for i in range(samples)] for k in range(SIGNALS)}
    client.publish(f"machines/{asset}", json.dumps({"t": times, "signals": signals}), qos=1)


@dataclass
class Heard:
    """What the agent says of its advisories, and what the cloud acknowledges."""

    backlog_end: int
    acknowledged: int = 0
    caught_up: threading.Event = field(default_factory=threading.Event)
    observed_ms: dict[int, int] = field(default_factory=dict)
    advisories_acknowledged: list[tuple[int, int]] = field(default_factory=list)
    """When, and up to which."""

    def take(self, topic: str, payload: bytes) -> None:
        now_ms = time.time_ns() // 1_000_000
        if topic.endswith("/advisory"):
            message = wire.decode_message("advisory", payload, now_ms=now_ms)
            for received in message.records:
                if isinstance(received.record, wire.Advisory):
                    self.observed_ms.setdefault(received.seq, received.record.observed_at)
            return
        ack = wire.decode_control(payload, wire.Ack)
        if ack.lane == "advisory":
            self.advisories_acknowledged.append((now_ms, ack.seq))
        else:
            self.acknowledged = max(self.acknowledged, ack.seq)
            if self.acknowledged >= self.backlog_end:
                self.caught_up.set()

    def advisory_ages_s(self) -> list[float]:
        """Of those that were acknowledged."""
        ages, last = list[float](), 0
        for at_ms, seq in self.advisories_acknowledged:
            ages += [
                (at_ms - self.observed_ms[known]) / 1000
                for known in range(last + 1, seq + 1)
                if known in self.observed_ms
            ]
            last = max(last, seq)
        return ages
