"""The agent as a process, between a machine and a cloud on a real broker."""

import os
import random
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from forewarn_edge_agent.lanes import WINDOW_RECORDS
from forewarn_edge_agent.spool import Batch, Spool
from forewarn_models import wire
from tests.conftest import Broker, free_port, wait_until
from tests.edge_agent.conftest import (
    PUMP,
    SECONDS,
    AgentProcess,
    Cloud,
    FarBroker,
    Machine,
    connected,
    disconnect,
    iso,
    mqtt_source,
    now_ms,
)


def recent(n: int, before_ms: int = 0) -> list[int]:
    """n times, a second apart, the last one now or `before_ms` ago."""
    last = now_ms() - before_ms
    return [last - 1000 * (n - 1 - i) for i in range(n)]


def _has_arrived(cloud: Cloud, records: int) -> bool:
    return len(cloud.arrivals) > records


def is_empty(status: dict[str, Any]) -> bool:
    return all(lane["depth"] == 0 for lane in status["lanes"].values())


@pytest.mark.e2e
def test_a_sample_goes_all_the_way_and_is_forgotten_when_the_cloud_has_it(
    agent: AgentProcess, machine: Machine, cloud: Cloud
) -> None:
    times = recent(50)
    agent.start()
    wait_until(lambda: len(cloud.presences) > 0, "the birth", SECONDS)
    machine.send_samples(times)
    wait_until(lambda: cloud.times_ms() == times, "all samples are in the cloud", SECONDS)
    status = agent.wait_for_status(is_empty, "all is acknowledged")
    telemetry = status["lanes"]["telemetry"]
    assert (telemetry["last_seq"], telemetry["acknowledged_seq"]) == (50, 50)
    assert status["running"] is True
    assert status["assets"]["pump-1"]["maturity"] == "LEARNING"
    advisories = [received.record for received in cloud.records("advisory")]
    assert isinstance(advisories[0], wire.Advisory)
    assert advisories[0].asset == "pump-1"


@pytest.mark.e2e
def test_birth_and_an_orderly_end(agent: AgentProcess, cloud: Cloud) -> None:
    agent.start()
    wait_until(lambda: len(cloud.presences) == 1, "the birth", SECONDS)
    birth = cloud.presences[0]
    assert (birth.state, birth.assets) == ("online", {"pump-1": "generic"})
    assert birth.epochs.keys() == birth.first_seqs.keys() == {"telemetry", "advisory"}
    assert agent.stop() == 0
    wait_until(lambda: len(cloud.presences) == 2, "the goodbye", SECONDS)
    assert cloud.presences[1].state == "offline"
    assert agent.status()["running"] is False
    assert "Traceback" not in agent.log()


@pytest.mark.e2e
def test_the_will_says_offline_when_the_agent_is_killed(agent: AgentProcess, cloud: Cloud) -> None:
    agent.start()
    wait_until(lambda: len(cloud.presences) == 1, "the birth", SECONDS)
    agent.kill()
    wait_until(lambda: len(cloud.presences) == 2, "the will", SECONDS)
    assert cloud.presences[1].state == "offline"
    assert cloud.presences[1].at >= cloud.presences[0].at, "or the birth would be taken for the newer news"


@pytest.mark.e2e
def test_killed_again_and_again_while_samples_flow(agent: AgentProcess, machine: Machine, cloud: Cloud) -> None:
    """Wherever the kill falls: each sample arrives under one sequence only, and no sequence means two things."""
    chance = random.Random(5)
    times = recent(240)
    agent.start_listening()
    for part in range(6):
        machine.send_samples(times[part * 40 : part * 40 + 40])
        wait_until(partial(_has_arrived, cloud, chance.randrange(part * 40, part * 40 + 40)), "it flows", SECONDS)
        agent.kill()
        agent.start()
    wait_until(lambda: sorted(cloud.times_ms()) == times, "every sample is in the cloud, once", SECONDS)
    agent.wait_for_status(is_empty, "all is acknowledged")
    assert cloud.times_ms() == times, "in the order of time"
    assert cloud.conflicts == []
    assert len(cloud.lanes) == 2, "one epoch in two lanes"


@pytest.mark.e2e
def test_without_an_acknowledgement_everything_is_sent_again(
    agent: AgentProcess, machine: Machine, cloud: Cloud
) -> None:
    cloud.acknowledges = False
    agent.start_listening()
    machine.send_samples(recent(5))
    wait_until(lambda: cloud.arrivals.count(("telemetry", 5)) >= 2, "sent a second time", SECONDS)
    assert cloud.conflicts == []
    cloud.acknowledges = True
    agent.wait_for_status(is_empty, "all is acknowledged")


@pytest.mark.e2e
def test_a_reconnect_sends_again_at_once(
    agent: AgentProcess, mosquitto: Broker, machine: Machine, cloud: Cloud
) -> None:
    source = mqtt_source(mosquitto.port)
    agent.configure(uplink_port=mosquitto.port, source=source, assets=PUMP, resend_after_seconds=600.0)
    cloud.acknowledges = False
    agent.start_listening()
    machine.send_samples(recent(5))
    wait_until(lambda: ("telemetry", 5) in cloud.arrivals, "it is sent", SECONDS)
    disconnect(connected("forewarn-t-n", mosquitto.port))  # a stranger with its client id: the broker cuts it off
    wait_until(lambda: cloud.arrivals.count(("telemetry", 5)) == 2, "sent a second time", SECONDS)


@pytest.mark.e2e
def test_a_foreign_or_impossible_acknowledgement_deletes_nothing(
    agent: AgentProcess, machine: Machine, cloud: Cloud
) -> None:
    cloud.acknowledges = False
    agent.start_listening()
    machine.send_samples(recent(5))
    wait_until(lambda: len(cloud.times_ms()) == 5, "all is in the cloud", SECONDS)
    epoch = agent.status()["epoch"]
    for payload in (
        b"garbage",
        wire.encode_control(wire.Ack(lane="telemetry", epoch="other", seq=5)),
        wire.encode_control(wire.Ack(lane="telemetry", epoch=epoch, seq=6)),
        wire.encode_control(wire.Ack(lane="telemetry", epoch=epoch, seq=2)),
    ):
        cloud.send_raw("ack", payload)
    status = agent.wait_for_status(lambda s: s["lanes"]["telemetry"]["acknowledged_seq"] > 0, "the last one counts")
    assert status["lanes"]["telemetry"]["acknowledged_seq"] == 2
    assert status["lanes"]["telemetry"]["depth"] == 3


@pytest.mark.e2e
def test_bad_messages_are_counted_and_good_ones_go_on(agent: AgentProcess, machine: Machine, cloud: Cloud) -> None:
    times = recent(3)
    agent.start_listening()
    machine.send(b"")
    machine.send(b"not json\nevent=forged")
    machine.send_samples(times[:1])
    machine.send({"t": times[0], "signals": {"a": 1.0}}, asset="stranger")
    machine.send({"t": 5, "signals": {"a": 1.0}})
    machine.send_samples(times[1:])
    wait_until(lambda: cloud.times_ms() == times, "the good ones", SECONDS)
    counters = agent.status()["counters"]
    assert {name: n for name, n in counters.items() if name.startswith("refused")} == {
        "refused.malformed": 2,
        "refused.time": 1,
        "refused.unknown_asset": 1,
    }
    assert not [line for line in agent.log().splitlines() if line.startswith("event=forged")]


@pytest.mark.e2e
def test_a_retained_message_is_old_news(agent: AgentProcess, machine: Machine, cloud: Cloud) -> None:
    machine.send({"a": 1.0, "b": 1.0}, retain=True)
    agent.start()
    agent.wait_for_status(lambda status: status["counters"].get("refused.retained") == 1, "it is counted")
    assert cloud.times_ms() == []


@pytest.mark.e2e
def test_what_comes_while_the_agent_is_down_waits_at_the_broker(
    agent: AgentProcess, machine: Machine, cloud: Cloud
) -> None:
    times = recent(20)
    agent.start_listening()
    machine.send_samples(times[:10])
    wait_until(lambda: cloud.times_ms() == times[:10], "the first ones", SECONDS)
    assert agent.stop() == 0
    machine.send_samples(times[10:])
    agent.start()
    wait_until(lambda: cloud.times_ms() == times, "the others", SECONDS)


@pytest.mark.e2e
def test_a_command_is_done_once_and_answered_each_time(agent: AgentProcess, machine: Machine, cloud: Cloud) -> None:
    agent.start_listening()
    machine.send_samples(recent(3))
    wait_until(lambda: len(cloud.times_ms()) == 3, "the samples", SECONDS)
    command = wire.ResetBaseline(schema=1, id="c1", asset="pump-1", at=now_ms())
    cloud.command(command)
    wait_until(lambda: len(cloud.replies) == 1, "the answer", SECONDS)
    agent.kill()
    agent.start()
    wait_until(lambda: len(cloud.presences) >= 3, "it is back", SECONDS)
    cloud.command(command)
    wait_until(lambda: len(cloud.replies) == 2, "the answer again", SECONDS)
    assert cloud.replies == [wire.Reply(schema=1, id="c1", ok=True)] * 2
    assert agent.status()["counters"]["commands"] == 1


@pytest.mark.e2e
def test_a_command_that_comes_while_the_agent_is_down_waits_for_it(agent: AgentProcess, cloud: Cloud) -> None:
    agent.start()
    wait_until(lambda: len(cloud.presences) == 1, "the birth", SECONDS)
    assert agent.stop() == 0
    cloud.command(wire.ResetBaseline(schema=1, id="c1", asset="who", at=now_ms()))
    agent.start()
    wait_until(lambda: [reply.ok for reply in cloud.replies] == [False], "the answer", SECONDS)


@pytest.mark.e2e
def test_a_broker_that_is_killed_is_found_again(
    agent: AgentProcess, mosquitto: Broker, machine: Machine, far_broker: FarBroker
) -> None:
    """The machines' broker stays, the one to the cloud dies with everything it had."""
    times = recent(40)
    agent.configure(uplink_port=far_broker.port, source=mqtt_source(mosquitto.port), assets=PUMP)
    far_cloud = Cloud(far_broker.port, acknowledges=False)
    agent.start_listening()
    machine.send_samples(times[:20])
    wait_until(lambda: len(far_cloud.times_ms()) == 20, "it is sent", SECONDS)
    far_broker.kill()
    machine.send_samples(times[20:])
    agent.wait_for_status(lambda status: status["lanes"]["telemetry"]["depth"] == 40, "it is kept")
    far_cloud.acknowledges = True
    far_broker.start()
    wait_until(lambda: far_cloud.times_ms() == times, "everything arrives", SECONDS)
    agent.wait_for_status(is_empty, "all is acknowledged")
    assert far_cloud.conflicts == []
    far_cloud.close()


@pytest.mark.e2e
def test_what_a_full_spool_had_to_drop_is_told_and_the_rest_arrives(
    agent: AgentProcess, mosquitto: Broker, cloud: Cloud
) -> None:
    samples = 10_000
    start = now_ms() - 1000 * samples
    rows = [f"pump-1,{iso(start + 1000 * i)},{','.join(str(i % (7 + k)) for k in range(32))}" for i in range(samples)]
    header = "asset_id,observed_at," + ",".join(f"s{k}" for k in range(32))
    (agent.folder / "history.csv").write_text("\n".join([header, *rows]))
    source = '[[sources]]\nkind = "csv"\npath = "history.csv"\n'
    agent.configure(uplink_port=free_port(), source=source, assets=PUMP, extra="[spool]\nmax_mebibytes = 1")
    agent.start()
    status = agent.wait_for_status(lambda s: s["counters"].get("samples") == samples, "the replay is over")
    agent.stop()
    assert status["lanes"]["telemetry"]["dropped"] > 0
    agent.configure(uplink_port=mosquitto.port, source=source, assets=PUMP, extra="[spool]\nmax_mebibytes = 1")
    agent.start()
    agent.wait_for_status(is_empty, "all is acknowledged")
    gaps = [received.record for received in cloud.records() if isinstance(received.record, wire.Gap)]
    lost = {seq for gap in gaps for seq in range(gap.first_seq, gap.last_seq + 1)}
    arrived = {received.seq for received in cloud.records()}
    assert lost | arrived == set(range(1, status["lanes"]["telemetry"]["last_seq"] + 1))
    times = cloud.times_ms()
    assert times == sorted(times)
    assert times[-1] == start + 1000 * (samples - 1), "the newest is kept"


@pytest.mark.e2e
def test_a_gap_is_told_before_what_follows_it(agent: AgentProcess, cloud: Cloud) -> None:
    """What is left exceeds the window: were the gap told in its turn, the cloud could never acknowledge anything."""
    spool = Spool.open(agent.state_dir, max_bytes=2 * 1024 * 1024, now_ms=now_ms())
    for t in recent(250):
        reading = {"a": np.zeros(1, dtype=np.float32)}
        other = wire.Telemetry(asset="gone", asset_type="generic", t_ms=np.array([t]), signals=reading)
        spool.append(Batch(telemetry=[wire.encode_telemetry(other)] * 100), now_ms=now_ms())
    last_seq = spool.last_seq("telemetry")
    assert last_seq - spool.first_seq("telemetry") > WINDOW_RECORDS + 500
    assert spool.first_seq("telemetry") > 1
    spool.close()
    agent.start()
    agent.wait_for_status(is_empty, "all is acknowledged")
    assert len(cloud.records()) > WINDOW_RECORDS + 500


@pytest.mark.e2e
def test_two_agents_on_one_state_directory_are_refused(agent: AgentProcess, cloud: Cloud) -> None:
    agent.start()
    wait_until(lambda: len(cloud.presences) == 1, "the birth", SECONDS)
    second = agent.call("run")
    assert second.returncode == 1
    assert "another agent uses this state directory" in second.stderr
    assert agent.processes[0].poll() is None


@pytest.mark.e2e
def test_sigterm_ends_it_in_time_when_the_network_is_a_black_hole(
    agent: AgentProcess, mosquitto: Broker, machine: Machine, black_hole: int
) -> None:
    agent.configure(uplink_port=black_hole, source=mqtt_source(mosquitto.port), assets=PUMP)
    agent.start_listening()
    machine.send_samples(recent(5))
    agent.wait_for_status(lambda status: status["lanes"]["telemetry"]["last_seq"] == 5, "all is in the spool")
    assert agent.stop(within_seconds=10.0) == 0
    assert "Traceback" not in agent.log()


@pytest.mark.e2e
def test_no_secret_is_logged(agent: AgentProcess, mosquitto: Broker, cloud: Cloud) -> None:
    (agent.folder / "secret").write_text("hunter2-not-in-the-log\n")
    login = 'username = "u"\npassword_file = "secret"\n'
    agent.configure(
        uplink_port=mosquitto.port,
        source=mqtt_source(mosquitto.port) + login,
        assets=PUMP,
        extra=login + '[log]\nlevel = "debug"\n',
    )
    agent.start()
    wait_until(lambda: "source_up" in agent.log() and len(cloud.presences) > 0, "it is up", SECONDS)
    agent.stop()
    assert "hunter2" not in agent.log()


def test_status_into_a_pipe_that_is_closed(agent: AgentProcess) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(agent.command("status"), stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_status_before_the_first_run(agent: AgentProcess) -> None:
    assert agent.status()["epoch"] is None
    assert "has never run" in agent.call("status").stdout


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
