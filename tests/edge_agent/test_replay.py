"""Replay of recorded telemetry, on its own and through the agent."""

import asyncio
import gzip
from pathlib import Path

import numpy as np
import pytest

from forewarn_edge_agent.clock import Clock
from forewarn_edge_agent.machine_message import Declared
from forewarn_edge_agent.sources import Delivery, Position
from forewarn_edge_agent.sources.replay import RecordingError, ReplaySource, read_recording
from forewarn_models import wire
from tests.conftest import Broker, wait_until
from tests.edge_agent.conftest import SECONDS, AgentProcess, Cloud, iso, now_ms

START = 1_700_000_000_000
CLOCK = Clock(wall=lambda: START)
ASSETS = {name: Declared(asset_type="generic", rename={}) for name in ("p1", "p2")}


def write(folder: Path, rows: list[str], header: str = "asset_id,observed_at,a,b", name: str = "telemetry.csv") -> Path:
    path = folder / name
    text = "\n".join([header, *rows, ""])
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def play(source: ReplaySource) -> list[Delivery]:
    async def played() -> list[Delivery]:
        deliveries: asyncio.Queue[Delivery] = asyncio.Queue()
        await source.run(deliveries)
        return [deliveries.get_nowait() for _ in range(deliveries.qsize())]

    return asyncio.run(played())


@pytest.mark.parametrize("name", ["telemetry.csv", "telemetry.csv.gz"])
def test_a_dataset_is_read_in_the_order_of_time(tmp_path: Path, name: str) -> None:
    write(tmp_path, [f"p1,{iso(START)},1,2", f"p2,{iso(START - 1000)},3,", f"p1,{iso(START - 2000)},5,6"], name=name)
    recording = read_recording(tmp_path)
    assert (recording.assets, recording.signals) == (("p1", "p2"), ("a", "b"))
    assert recording.t_ms.tolist() == [START - 2000, START - 1000, START]
    assert recording.asset.tolist() == [0, 1, 0]
    assert np.isnan(recording.values[1, 1])


@pytest.mark.parametrize(
    ("header", "row", "problem"),
    [
        ("asset_id,a", "p1,1", "column observed_at is missing"),
        ("observed_at,a", "2026-01-01T00:00:00Z,1", "name the asset of the file in the configuration"),
        ("asset_id,observed_at,a", "p1,2026-01-01T00:00:00,1", "telemetry.csv:2: observed_at: .* has no time zone"),
        ("asset_id,observed_at,a", "p1,yesterday,1", "telemetry.csv:2: "),
        ("asset_id,observed_at,a", "p1,2026-01-01T00:00:00Z,warm", "telemetry.csv:2: .*warm"),
        ("asset_id,observed_at,a", "p1,2026-01-01T00:00:00Z", "telemetry.csv:2: 2 fields, the header has 3"),
    ],
)
def test_what_cannot_be_replayed_is_told_with_its_line(tmp_path: Path, header: str, row: str, problem: str) -> None:
    with pytest.raises(RecordingError, match=problem):
        read_recording(write(tmp_path, [row], header))


def test_a_file_of_one_asset_needs_no_column_for_it(tmp_path: Path) -> None:
    path = write(tmp_path, [f"{iso(START)},1"], "observed_at,a")
    (delivery,) = play(ReplaySource(path, "p1", "none", ASSETS, CLOCK, None))
    assert delivery.records[0].asset == "p1"


@pytest.mark.parametrize(("align", "last_ms"), [("none", START - 1000), ("last", START)])
def test_history_is_played_at_once(tmp_path: Path, align: str, last_ms: int) -> None:
    write(tmp_path, [f"p{1 + i % 2},{iso(START - 10_000 + 1000 * i)},{i},0" for i in range(10)])
    (delivery,) = play(ReplaySource(tmp_path, None, align, ASSETS, CLOCK, None))  # type: ignore[arg-type]
    assert [record.asset for record in delivery.records] == ["p1", "p2"]
    assert int(delivery.records[1].t_ms[-1]) == last_ms
    assert delivery.position == Position(source=str(tmp_path), row=10, shift_ms=last_ms - (START - 1000))


def test_the_future_is_played_when_its_time_has_come(tmp_path: Path) -> None:
    write(tmp_path, [f"p1,{iso(START + 1000 * i)},{i},0" for i in range(4)])
    seen: list[int] = []

    def wall() -> int:
        """Time passes by a second each time someone looks at the clock."""
        seen.append(START - 2000 + 1000 * len(seen))
        return seen[-1]

    deliveries = play(ReplaySource(tmp_path, None, "none", ASSETS, Clock(wall=wall), None))
    played = [int(t) for delivery in deliveries for record in delivery.records for t in record.t_ms]
    assert played == [START + 1000 * i for i in range(4)]
    assert len(deliveries) > 1


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    write(tmp_path, [f"p1,{iso(START - 5000 + 1000 * i)},{i},0" for i in range(5)])
    start = Position(source=str(tmp_path), row=3, shift_ms=-7)
    (delivery,) = play(ReplaySource(tmp_path, None, "last", ASSETS, CLOCK, start))
    assert delivery.records[0].t_ms.tolist() == [START - 2007, START - 1007]


def test_what_is_too_old_or_not_declared_is_refused(tmp_path: Path) -> None:
    old = START - wire.MAX_AGE_MS - 1
    write(tmp_path, [f"p1,{iso(old)},1,1", f"p1,{iso(START)},1,1", f"who,{iso(START)},1,1"])
    (delivery,) = play(ReplaySource(tmp_path, None, "none", ASSETS, CLOCK, None))
    assert [record.t_ms.tolist() for record in delivery.records] == [[START]]
    assert sorted(refusal.kind for refusal in delivery.refusals) == ["time", "unknown_asset"]


@pytest.mark.e2e
def test_a_replay_through_a_killed_agent_sends_each_sample_once(
    agent: AgentProcess, mosquitto: Broker, cloud: Cloud
) -> None:
    t0 = now_ms() - 5_000_000
    times = [t0 + 1000 * i for i in range(4000)]
    write(agent.folder, [f"p{i % 4},{iso(t)},{i % 13},{i % 7}" for i, t in enumerate(times)])
    assets = "".join(f'[[assets]]\nasset = "p{k}"\nasset_type = "generic"\n' for k in range(4))
    source = '[[sources]]\nkind = "dataset"\npath = "."\n'
    agent.configure(uplink_port=mosquitto.port, source=source, assets=assets)
    assert agent.call("check").returncode == 0
    agent.start()
    wait_until(lambda: len(cloud.arrivals) > 0, "it flows", SECONDS)
    agent.kill()
    agent.start()

    def arrived() -> list[int]:
        return sorted(t for k in range(4) for t in cloud.times_ms(f"p{k}"))

    wait_until(lambda: len(arrived()) >= len(times), "everything is there", SECONDS)
    assert arrived() == times


@pytest.mark.e2e
def test_a_recording_that_cannot_be_read_stops_the_start(agent: AgentProcess, mosquitto: Broker) -> None:
    write(agent.folder, ["x"], name="bad.csv")
    source = '[[sources]]\nkind = "csv"\npath = "bad.csv"\n'
    agent.configure(
        uplink_port=mosquitto.port, source=source, assets='[[assets]]\nasset = "p"\nasset_type = "generic"\n'
    )
    for command in ("check", "run"):
        done = agent.call(command)
        assert (done.returncode, "bad.csv:2" in done.stderr) == (78, True)
