"""Everyone comes back at once after the broker was away."""

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import aiomqtt
import pytest
from sqlalchemy import func, select

from forewarn_cloud.adapters.sql import schema
from forewarn_edge_agent.uplink import _Client
from tests.conftest import wait_until
from tests.faults.chaos.evidence import looking_at
from tests.faults.chaos.fleet import Fleet, running_fleet
from tests.faults.chaos.plan import Plan
from tests.faults.chaos.run import drain
from tests.faults.chaos.schedule import BROKER

CLIENTS: Final = int(os.environ.get("FOREWARN_RECONNECTING_CLIENTS", "100"))
"""`make chaos-reconnect` has a thousand."""
PROCESSES: Final = 2
START_SECONDS: Final = 400.0
AWAY_SECONDS: Final = 8.0
LONGEST_SECONDS: Final = 60.0
SECONDS: Final = 60.0
_UP: Final = re.compile(r"at=(\S+) level=info event=uplink_up ")


def online_since(fleet: Fleet, since_ms: int) -> int:
    """How many nodes the cloud has heard to be born after that."""
    nodes = schema.nodes.c
    with looking_at(fleet.database) as connection:
        query = select(func.count()).select_from(schema.nodes).where(nodes.online, nodes.presence_at > since_ms)
        return int(connection.execute(query).scalar_one())


def connected_ms(fleet: Fleet, since_ms: int) -> list[int]:
    """When agents say that they were connected, epoch milliseconds."""
    logs = [fleet.programs[name].log.read_text(errors="replace") for name in fleet.agents]
    found = [_UP.match(line) for log in logs for line in log.splitlines()]
    times = [round(datetime.fromisoformat(match[1]).timestamp() * 1000) for match in found if match]
    return [at for at in times if at > since_ms]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def busiest_share(born_ms: Sequence[int], span_ms: int) -> float:
    """The share of those who came within the busiest span of time."""
    return max(Counter(at // span_ms for at in born_ms).values()) / len(born_ms)


@pytest.mark.e2e
@pytest.mark.timeout(1200)
@pytest.mark.long
def test_fault_18_all_clients_reconnect_within_a_minute_and_not_all_at_once(tmp_path: Path) -> None:
    """Real agents with the settings they ship with, the embedded broker, the real cloud."""
    plan = Plan(
        folder=tmp_path,
        seed=1,
        seconds=10.0,
        processes=PROCESSES,
        nodes_each=CLIENTS // PROCESSES,
        samples_per_second=0.5,
        reconnect_max_seconds=60.0,
        keep_alive_seconds=30,
    )
    with running_fleet(plan) as fleet:
        wait_until(lambda: online_since(fleet, 0) == CLIENTS, "all are connected", START_SECONDS)
        fleet.programs[BROKER].hold()
        time.sleep(AWAY_SECONDS)
        back_ms = now_ms()
        fleet.programs[BROKER].release()
        wait_until(lambda: fleet.ready_seconds(BROKER) > 0, "the broker is there again", START_SECONDS)
        ready_ms = now_ms()
        wait_until(lambda: len(connected_ms(fleet, back_ms)) >= CLIENTS, "all are connected again", LONGEST_SECONDS)
        times_ms = connected_ms(fleet, back_ms)
        print(f"{CLIENTS} clients were back {(max(times_ms) - ready_ms) / 1000:.1f} s after the broker")
        assert busiest_share(times_ms, 500) < 0.5, "they all came at once"
        wait_until(lambda: online_since(fleet, back_ms) == CLIENTS, "the cloud knows of all", START_SECONDS)
        assert drain(fleet)


def test_a_connection_that_ends_before_the_broker_answers_is_noticed_at_once() -> None:
    """Behind a load balancer without a broker each try once took ten seconds, whatever the pause between tries."""

    async def connect(port: int) -> None:
        async with _Client("127.0.0.1", port, timeout=SECONDS):
            raise AssertionError("there is no broker")

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async def try_it() -> float:
        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            began = time.monotonic()
            with pytest.raises(aiomqtt.MqttError):
                await connect(server.sockets[0].getsockname()[1])
            return time.monotonic() - began

    assert asyncio.run(try_it()) < SECONDS / 2
