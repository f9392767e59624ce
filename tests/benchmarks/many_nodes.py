"""Thousands of connected nodes in one process: each sends a message a second and listens to its acknowledgements.

Run by bench_ingest.py as a program of its own. Ready-made bytes to plain sockets and one epoll, so that little of the
machine goes into it. The output is one JSON object.
"""

import argparse
import json
import resource
import select
import socket
import struct
import sys
import time
import zlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec
import numpy as np

from forewarn_models import wire
from tests.benchmarks import mqtt_bytes

TENANT = "local"
EPOCH = "nodes"
SIGNALS = 8
SPARE_FILES = 200
CONNECTS_A_TURN = 50
SETTLE_SECONDS = 60.0
TICK_SECONDS = 0.01
ACKNOWLEDGEMENT = msgspec.json.Decoder(wire.Ack)
"""Without the checks of a node, which take longer than all the rest."""


@dataclass(slots=True)
class Node:
    """One connection. `sent_at[i]` is when record i + 1 was sent, monotonic seconds."""

    name: str
    topic: str
    connection: socket.socket
    record: bytes
    sent_at: "array[float]" = field(default_factory=lambda: array("d"))
    acknowledged: int = 0
    received: bytes = b""
    subscribed: bool = False
    lost: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    raise_file_limit(options.nodes + SPARE_FILES)
    print(json.dumps(Fleet(options.port, options.nodes).run(options.seconds)))


def raise_file_limit(files: int) -> None:
    """As far as is allowed; a program started from here has the same limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < files:
        if hard != resource.RLIM_INFINITY and hard < files:
            sys.exit(f"{files} open files are needed, {hard} are allowed (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


class Fleet:
    def __init__(self, port: int, nodes: int) -> None:
        self.poll = select.epoll()
        self.nodes = dict[int, Node]()
        self.latencies = array("f")
        self.lost_connections = 0
        for start in range(0, nodes, CONNECTS_A_TURN):
            for i in range(start, min(nodes, start + CONNECTS_A_TURN)):
                self._connect(port, f"node-{i}")
            self._until(lambda: all(node.subscribed for node in self.nodes.values()), 60, "subscribe")

    def run(self, seconds: float) -> dict[str, float]:
        nodes = list(self.nodes.values())
        began = time.monotonic()
        sent = 0
        while (now := time.monotonic() - began) < seconds:
            due, at = int(now * len(nodes)), struct.pack("<q", time.time_ns() // 1_000_000)
            for place in range(sent, due):
                publish(nodes[place % len(nodes)], at)
            sent = max(sent, due)
            self._take(TICK_SECONDS)
        sending_seconds = time.monotonic() - began
        self._until(lambda: self._waiting() == 0, SETTLE_SECONDS, "be acknowledged", needed=False)
        p50, p99, worst = np.percentile(np.array(self.latencies), [50, 99, 100]) if self.latencies else [0.0] * 3
        return {
            "nodes": len(nodes),
            "messages": sent,
            "messages_per_s": round(sent / sending_seconds),
            "lost": self._waiting(),
            "connections_lost": self.lost_connections,
            "commit_p50_ms": round(1000 * float(p50), 1),
            "commit_p99_ms": round(1000 * float(p99), 1),
            "commit_max_ms": round(1000 * float(worst), 1),
        }

    def _waiting(self) -> int:
        return sum(len(node.sent_at) - node.acknowledged for node in self.nodes.values())

    def _connect(self, port: int, name: str) -> None:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(mqtt_bytes.connect(name) + mqtt_bytes.subscribe(wire.topic(TENANT, name, "ack")))
        connection.setblocking(False)
        topic = wire.topic(TENANT, name, "telemetry")
        self.nodes[connection.fileno()] = Node(name=name, topic=topic, connection=connection, record=example(name))
        self.poll.register(connection, select.EPOLLIN)

    def _take(self, seconds: float) -> None:
        """What has come, waiting for so long if nothing has."""
        for descriptor, _ in self.poll.poll(seconds):
            node = self.nodes[descriptor]
            try:
                received = node.connection.recv(65_536)
            except OSError:
                received = b""
            if not received:
                self.poll.unregister(descriptor)
                self.lost_connections += 1
                node.lost = True
                continue
            self._read(node, node.received + received)

    def _read(self, node: Node, received: bytes) -> None:
        at = 0
        while (found := mqtt_bytes.next_packet(received, at)) is not None:
            kind, body, at = found
            if kind == mqtt_bytes.SUBACK:
                node.subscribed = True
            elif kind == mqtt_bytes.PUBLISH:
                self._acknowledged(node, mqtt_bytes.payload_of(body))
        node.received = received[at:]

    def _acknowledged(self, node: Node, payload: bytes) -> None:
        ack, now = ACKNOWLEDGEMENT.decode(payload), time.monotonic()
        if ack.epoch == EPOCH:
            self.latencies.extend(now - at for at in node.sent_at[node.acknowledged : ack.seq])
            node.acknowledged = max(node.acknowledged, ack.seq)

    def _until(self, ready: Callable[[], bool], seconds: float, what: str, *, needed: bool = True) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                if needed:
                    sys.exit(f"the nodes could not {what} in {seconds} s")
                return
            self._take(0.1)


def publish(node: Node, at: bytes) -> None:
    """The next record of the node, measured at this time; of one that lost its connection it is lost, too, in these
    figures."""
    seq = len(node.sent_at) + 1
    payload = envelope(seq) + node.record.replace(bytes(8), at, 1)
    sent = mqtt_bytes.publish(node.topic, payload, seq)
    node.sent_at.append(time.monotonic())
    try:
        whole = node.lost or node.connection.send(sent) == len(sent)
    except ConnectionError:
        return  # told when it is read
    if not whole:
        sys.exit(f"{node.name}: the broker takes nothing any more")


@lru_cache(maxsize=16)
def envelope(seq: int) -> bytes:
    """A message of one record, all before the record: the same of all nodes."""
    return wire.encode_message(EPOCH, seq, [b"\xc0"])[:-1]


def example(node: str) -> bytes:
    """A record with eight zero bytes where its time goes."""
    rng = np.random.default_rng(zlib.crc32(node.encode()))
    return wire.encode_telemetry(
        wire.Telemetry(
            asset=node.replace("node", "asset"),
            asset_type="generic",
            t_ms=np.zeros(1, dtype=np.int64),
            signals={f"signal_{k}": rng.normal(50, 1, 1).astype(np.float32) for k in range(SIGNALS)},
        )
    )


if __name__ == "__main__":
    main()
