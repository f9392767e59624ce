"""Clocks that jump, and nodes that all come back at once."""

import asyncio
import contextlib
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from forewarn_edge_agent.link import backoff_seconds
from forewarn_models import wire
from tests.conftest import require, wait_until
from tests.edge_agent.conftest import SECONDS, AgentProcess, Cloud, FarBroker, Machine, now_ms
from tests.edge_agent.test_agent import is_empty

pytestmark = pytest.mark.e2e

YEAR_SECONDS = 365 * 24 * 3600
JUMPS_SECONDS = {
    "an hour ahead": 3600,
    "an hour behind": -3600,
    "1970": -int(time.time()) + 60,
    "beyond 2038": 15 * YEAR_SECONDS,
    "right again": 0,
}


def start_with_a_clock(agent: AgentProcess, file: Path) -> None:
    """Run it under libfaketime: the wall clock is wrong by what `file` says, such as +3600 seconds."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    require(bool(libraries), "libfaketime is not installed (apt install faketime)")
    faked = {
        "LD_PRELOAD": str(libraries[0]),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
    }
    with (agent.folder / "agent.log").open("ab") as log:
        environment = os.environ | {"PYTHONWARNINGS": "error"} | faked
        agent.processes.append(subprocess.Popen(agent.command("run"), stderr=log, env=environment))
    wait_until(lambda: "source_up" in agent.log(), "the source is connected", SECONDS)


def set_clock(file: Path, seconds: int) -> None:
    new = file.with_suffix(".new")
    new.write_text(f"{seconds:+d}\n")
    new.replace(file)


@pytest.mark.parametrize("tells_time", [False, True])
def test_fault_09_clock_jumps_neither_reorder_nor_lose_nor_page(
    agent: AgentProcess, machine: Machine, cloud: Cloud, tmp_path: Path, tells_time: bool
) -> None:
    file, sent = tmp_path / "clock", list[int]()
    cloud.tells_time = tells_time
    set_clock(file, 0)
    start_with_a_clock(agent, file)
    for about, seconds in JUMPS_SECONDS.items():
        set_clock(file, seconds)
        for _ in range(5):
            sent.append(max(now_ms(), sent[-1] + 1 if sent else 0))
            machine.send_samples(sent[-1:])
        wait_until(lambda: cloud.times_ms() == sent, f"all arrives, in order: {about}", SECONDS)
    agent.wait_for_status(is_empty, "all is acknowledged")
    assert cloud.conflicts == []
    assert len(cloud.lanes) == 2, "one epoch in two lanes"
    advisories = [received.record for received in cloud.records("advisory")]
    conditions = {advisory.condition for advisory in advisories if isinstance(advisory, wire.Advisory)}
    assert not conditions & {"ALERT", "ALARM"}
    assert "uplink_lost" not in agent.log()
    assert agent.status()["counters"].get("refused.time", 0) == 0


def test_fault_09_samples_timed_on_receipt_get_the_time_of_the_cloud(
    agent: AgentProcess, machine: Machine, cloud: Cloud, tmp_path: Path
) -> None:
    file = tmp_path / "clock"
    cloud.tells_time = True
    set_clock(file, -7 * 24 * 3600)
    start_with_a_clock(agent, file)
    machine.send_samples([now_ms()])
    wait_until(lambda: agent.status()["live"]["clock"]["wrong"], "it is measured", SECONDS)
    set_clock(file, 15 * YEAR_SECONDS)
    machine.send({"signals": {"a": 1.0, "b": 2.0}})
    wait_until(lambda: len(cloud.times_ms()) == 2, "it arrives", SECONDS)
    assert abs(cloud.times_ms()[1] - now_ms()) < 60_000
    assert "clock_wrong" in agent.log()


class _Node:
    """A real MQTT client, as small as can be, that waits as the agent does."""

    def __init__(self, number: int, port: int) -> None:
        name = f"node-{number}".encode()
        head = b"\x00\x04MQTT\x04\x02" + (120).to_bytes(2) + len(name).to_bytes(2) + name
        self._connect = bytes([0x10, len(head)]) + head
        self._port = port
        self._chance = random.Random(number)
        self.tries: list[float] = []
        self.connected_at: float | None = None

    async def run(self) -> None:
        failures = 0
        while True:
            self.tries.append(time.monotonic())
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._session()
                failures = 0
            self.connected_at = None
            failures += 1
            await asyncio.sleep(backoff_seconds(failures, 60.0, self._chance.random()))

    async def _session(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(self._connect)
            answer = await reader.readexactly(4)
            assert answer[3] == 0
            self.connected_at = time.monotonic()
            await reader.read()  # until it ends
        finally:
            writer.transport.abort()


@pytest.mark.timeout(300)
@pytest.mark.long
def test_fault_18_a_thousand_clients_come_back_within_a_minute_and_not_at_once(far_broker: FarBroker) -> None:
    nodes = [_Node(number, far_broker.port) for number in range(1000)]

    def online() -> int:
        return sum(node.connected_at is not None for node in nodes)

    async def outage() -> float:
        running = [asyncio.create_task(node.run()) for node in nodes]
        await _until(lambda: online() == 1000)
        far_broker.kill()
        await asyncio.sleep(20.0)  # the outage itself
        back_at = time.monotonic()
        await asyncio.to_thread(far_broker.start)
        await _until(lambda: online() == 1000)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        return back_at

    back_at = asyncio.run(outage())
    seconds = [node.connected_at - back_at for node in nodes if node.connected_at is not None]
    assert len(seconds) == 1000
    assert max(seconds) <= 60.0
    first_tries = [next(at for at in node.tries if at >= back_at) - back_at for node in nodes]
    by_second = Counter(int(s) for s in first_tries)
    assert max(by_second.values()) <= 250, "no second has more than a quarter of them"
    assert len(by_second) >= 10


async def _until(ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(120.0):
        while not ready():
            await asyncio.sleep(0.05)
