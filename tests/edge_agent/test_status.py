"""What a running agent tells of itself, to `status` and to Prometheus."""

import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from forewarn_edge_agent.metrics import exposition
from forewarn_models import wire
from tests.conftest import free_port, wait_until
from tests.edge_agent.conftest import PUMP, SECONDS, AgentProcess, Cloud, Machine, mqtt_source, now_ms
from tests.edge_agent.test_agent import is_empty, recent
from tests.edge_agent.test_resend import agent_port


def connection_state(agent: AgentProcess) -> str | None:
    live = agent.status()["live"]
    return None if live is None else live["connection"]["state"]


@pytest.mark.e2e
def test_a_running_agent_tells_connection_clock_and_watchdog(
    agent: AgentProcess, machine: Machine, cloud: Cloud
) -> None:
    cloud.acknowledges = False
    broker = agent_port(agent)
    source = mqtt_source(broker)
    agent.configure(uplink_port=broker, source=source, assets=PUMP, resend_after_seconds=600.0)
    agent.start_listening()
    machine.send_samples(recent(3))
    status = agent.wait_for_status(lambda s: s["lanes"]["telemetry"]["depth"] == 3, "it is in the spool")
    assert status["lanes"]["telemetry"]["oldest_age_s"] >= 0
    live = status["live"]
    assert live["connection"]["state"] == "connected"
    assert live["connection"]["sessions"] == 1
    assert live["clock"] == {"offset_ms": None, "error_ms": None, "wrong": False}
    assert live["acknowledged_s_ago"] is None
    assert not live["watchdog"]["pump-1"]["silent"]
    wait_until(lambda: len(cloud.times_ms()) == 3, "it is sent", SECONDS)
    ack = wire.Ack(lane="telemetry", epoch=status["epoch"], seq=3, at=now_ms() + 90_000, replay_records_per_s=7)
    cloud.send_raw("ack", wire.encode_control(ack))
    wait_until(lambda: agent.status()["live"]["replay_records_per_s"] == 7, "the cloud's wish", SECONDS)
    told = agent.status()["live"]
    assert told["acknowledged_s_ago"] < SECONDS
    assert told["clock"]["wrong"]
    assert 80_000 < told["clock"]["offset_ms"] < 90_000 + 1000 * SECONDS
    assert "clock_wrong" in agent.log()
    assert "wrong: the cloud's time is used" in agent.call("status").stdout
    agent.stop()
    assert agent.status()["live"] is None


@pytest.mark.e2e
def test_a_status_that_is_asked_for_again_and_again_disturbs_nothing(
    agent: AgentProcess, machine: Machine, cloud: Cloud
) -> None:
    agent.start_listening()
    times = recent(100)
    asking = [subprocess.Popen([*agent.command("status"), "--json"], stdout=subprocess.DEVNULL) for _ in range(4)]
    hanging = socket.socket(socket.AF_UNIX)  # one that asks and never reads
    folder = os.open(agent.state_dir, os.O_RDONLY)
    hanging.connect(f"/proc/self/fd/{folder}/status.sock")
    os.close(folder)
    machine.send_samples(times)
    wait_until(lambda: cloud.times_ms() == times, "all arrives", SECONDS)
    assert [process.wait(SECONDS) for process in asking] == [0] * 4
    assert connection_state(agent) == "connected"
    hanging.close()


@pytest.mark.e2e
@pytest.mark.usefixtures("cloud")
def test_metrics_are_served_on_demand_and_locally(agent: AgentProcess, machine: Machine) -> None:
    port, broker = free_port(), agent_port(agent)
    extra = f"[metrics]\nport = {port}\n"
    agent.configure(uplink_port=broker, source=mqtt_source(broker), assets=PUMP, extra=extra)
    agent.start_listening()
    machine.send_samples(recent(5))
    agent.wait_for_status(lambda s: is_empty(s) and s["lanes"]["telemetry"]["last_seq"] == 5, "all is acknowledged")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = answer.read().decode()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["forewarn_edge_acknowledged_seq", "telemetry"] == 5
    assert found["forewarn_edge_uplink_connected",] == 1
    assert found["forewarn_edge_events_total", "samples"] == 5
    assert found["forewarn_edge_asset_silent", "pump-1"] == 0
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10)
    refused.value.close()
    assert refused.value.code == 404


def test_labels_are_escaped_and_what_is_not_known_is_left_out() -> None:
    lane = {"depth": 0, "oldest_age_s": None, "last_seq": 1, "acknowledged_seq": 1, "dropped": 0}
    status: dict[str, Any] = {"lanes": {"telemetry": lane}, "counters": {'a"b\\c\nd': 2}, "assets": {}, "live": None}
    text = exposition(status)
    (family,) = [f for f in text_string_to_metric_families(text) if f.name == "forewarn_edge_events"]
    assert family.samples[0].labels == {"event": 'a"b\\c\nd'}
    assert "oldest" not in text
    assert json.dumps(status)
