"""From MQTT to committed rows: the real `forewarn-cloud up` with its broker and a generator, on this machine.

A message counts when the cloud has acknowledged its records end to end, that is after the transaction is on disk. The
generator writes ready-made packets to plain sockets, so that little of the machine goes into it. The last line of the
output is one JSON object.
"""

import argparse
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forewarn_models import wire

PROGRAM = str(Path(sys.executable).parent / "forewarn-cloud")
IN_FLIGHT = 500
TENANT = "local"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What each node sends: messages of `records` records of `samples` samples of `signals` signals."""

    name: str
    records: int
    samples: int
    signals: int

    @property
    def values(self) -> int:
        """Signal values in a message."""
        return self.records * self.samples * self.signals


LOADS = (
    Load(name="one_sample", records=1, samples=1, signals=8),
    Load(name="blocks", records=1, samples=100, signals=8),
    Load(name="backlog", records=20, samples=100, signals=8),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000, help="of each load (default %(default)s)")
    parser.add_argument("--nodes", type=int, default=4, help="sending at once (default %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_cloud(Path(folder), options.nodes) as port:
        found = {load.name: measure(load, port, options.nodes, options.messages) for load in LOADS}
        bytes_a_value = stored_bytes_a_value(Path(folder))
    result = {"nodes": options.nodes, "cpus": os.cpu_count(), "stored_bytes_per_value": bytes_a_value, **found}
    print(json.dumps(result))


def measure(load: Load, port: int, nodes: int, messages: int) -> dict[str, float]:
    each = max(1, messages // nodes // load.records)
    names = [f"node-{i}" for i in range(nodes)]
    packets = {name: publish_packets(name, load, each) for name in names}
    done = Acknowledged(dict.fromkeys(names, each * load.records), epoch=load.name)
    with subscribed(port, done):
        began = time.perf_counter()
        senders = [threading.Thread(target=send, args=(port, f"{n}-{load.name}", packets[n])) for n in names]
        for sender in senders:
            sender.start()
        if not done.everything.wait(600):
            sys.exit(f"not everything was acknowledged: {done.reached}")
        seconds = time.perf_counter() - began
        for sender in senders:
            sender.join()
    sent = each * nodes
    figures = {
        "messages": sent,
        "seconds": round(seconds, 3),
        "messages_per_s": round(sent / seconds),
        "samples_per_s": round(sent * load.records * load.samples / seconds),
        "signal_values_per_s": round(sent * load.values / seconds),
    }
    print(f"{load.name}: {figures}", file=sys.stderr)
    return figures


# --- the cloud --------------------------------------------------------------------------------------------------------


@contextmanager
def running_cloud(folder: Path, nodes: int) -> Iterator[int]:
    """`forewarn-cloud up` on free ports; the port of its broker."""
    master_data = "".join(
        f'[[nodes]]\nnode = "node-{i}"\n[[assets]]\nasset = "asset-{i}"\nnode = "node-{i}"\n'
        f'asset_type = "generic"\nname = "asset {i}"\n'
        for i in range(nodes)
    )
    (folder / "seed.toml").write_text(master_data)
    options = ["--data-dir", str(folder / "data")]
    subprocess.run([PROGRAM, "seed", str(folder / "seed.toml"), *options], check=True, stdout=subprocess.DEVNULL)
    command = [PROGRAM, "up", *options, "--log-level", "warning", "--broker-port", str(free_port())]
    process = subprocess.Popen([*command, "--port", str(free_port())], stdout=subprocess.DEVNULL)
    try:
        yield broker_port(folder / "data" / "endpoints.json", process)
    finally:
        process.terminate()
        process.wait(30)


def broker_port(endpoints: Path, process: "subprocess.Popen[bytes]") -> int:
    deadline = time.monotonic() + 30
    while not endpoints.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit("forewarn-cloud up did not start")
        time.sleep(0.05)
    return int(json.loads(endpoints.read_text())["broker"].rpartition(":")[2])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stored_bytes_a_value(folder: Path) -> float:
    """Of the columns of the `blocks` load, without keys and indexes."""
    from sqlalchemy import func, select

    from forewarn_cloud.adapters.sql.engine import make_engine
    from forewarn_cloud.adapters.sql.schema import telemetry_blocks as blocks

    engine = make_engine(f"sqlite:///{folder}/data/cloud.db")
    query = select(func.sum(func.length(blocks.c.columns)), func.sum(blocks.c.samples)).where(
        blocks.c.epoch == "blocks"
    )
    with engine.connect() as connection:
        size, samples = connection.execute(query).one()
    engine.dispose()
    return round(float(size) / (int(samples) * 8), 2)


# --- the nodes --------------------------------------------------------------------------------------------------------


def publish_packets(node: str, load: Load, messages: int) -> list[bytes]:
    """MQTT PUBLISH packets with QoS 1."""
    rng = np.random.default_rng(7)
    now_ms = time.time_ns() // 1_000_000
    topic = wire.topic(TENANT, node, "telemetry").encode()
    head = struct.pack(">H", len(topic)) + topic
    packets = []
    for i in range(messages):
        records = [
            _record(node, load, now_ms - 86_400_000 + (i * load.records + r) * load.samples, rng)
            for r in range(load.records)
        ]
        payload = wire.encode_message(load.name, i * load.records + 1, records)
        body = head + struct.pack(">H", i % 65_000 + 1) + payload
        packets.append(b"\x32" + _length(len(body)) + body)
    return packets


def _record(node: str, load: Load, first_ms: int, rng: np.random.Generator) -> bytes:
    walk = np.cumsum(rng.normal(0, 0.02, (load.signals, load.samples)), axis=1) + 50
    noisy = np.round(walk + rng.normal(0, 0.05, walk.shape), 2).astype(np.float32)
    return wire.encode_telemetry(
        wire.Telemetry(
            asset=node.replace("node", "asset"),
            asset_type="generic",
            t_ms=first_ms + np.arange(load.samples, dtype=np.int64),
            signals={f"signal_{k}": column for k, column in enumerate(noisy)},
        )
    )


def _length(value: int) -> bytes:
    encoded = bytearray()
    while True:
        value, digit = divmod(value, 128)
        encoded.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def send(port: int, client_id: str, packets: list[bytes]) -> None:
    """Publish with at most IN_FLIGHT messages that the broker has not acknowledged."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        name = client_id.encode()
        variable = b"\x00\x04MQTT\x04\x02\x00\x00" + struct.pack(">H", len(name)) + name
        connection.sendall(b"\x10" + _length(len(variable)) + variable)
        answers = _Answers(connection)
        answers.skip(4)
        for sent, start in enumerate(range(0, len(packets), IN_FLIGHT // 2)):
            if sent >= 2:
                answers.skip(4 * (IN_FLIGHT // 2))
            connection.sendall(b"".join(packets[start : start + IN_FLIGHT // 2]))
        answers.skip(4 * (len(packets) - max(0, sent - 1) * (IN_FLIGHT // 2)))


@dataclass
class _Answers:
    connection: socket.socket

    def skip(self, count: int) -> None:
        while count:
            received = len(self.connection.recv(min(count, 65_536)))
            if not received:
                sys.exit("the broker ended a connection")
            count -= received


class Acknowledged:
    """Waits until every node's records are acknowledged by the cloud."""

    def __init__(self, wanted: dict[str, int], *, epoch: str) -> None:
        self.wanted, self.epoch = wanted, epoch
        self.reached = dict.fromkeys(wanted, 0)
        self.everything = threading.Event()

    def take(self, topic: str, payload: bytes) -> None:
        ack = wire.decode_control(payload, wire.Ack)
        node = wire.parse_topic(topic).node
        if ack.epoch == self.epoch and node in self.reached:
            self.reached[node] = max(self.reached[node], ack.seq)
            if self.reached == self.wanted:
                self.everything.set()


@contextmanager
def subscribed(port: int, done: Acknowledged) -> Iterator[None]:
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    ready = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    on_subscribe: Callable[..., None] = lambda *_: ready.set()  # noqa: E731 - paho wants an attribute
    client.on_subscribe = on_subscribe

    def on_message(_client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        done.take(message.topic, bytes(message.payload))

    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe(f"fw/v1/{TENANT}/+/ack")
    if not ready.wait(10):
        sys.exit("cannot subscribe to acknowledgements")
    yield
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main()
