"""The broker between agents and cloud is killed, forgets everything, or throws away what it has no room for.

Real agents, a real cloud and a real broker, each a process of its own; judged like a chaos run.
"""

import os
import pwd
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import find_program, require, wait_until
from tests.faults.chaos.comparison import Verdict
from tests.faults.chaos.evidence import confirmed_samples, records_stored
from tests.faults.chaos.fleet import Fleet, running_fleet
from tests.faults.chaos.plan import Plan
from tests.faults.chaos.run import drain, judged
from tests.faults.chaos.schedule import BROKER, INGEST, NATS, agent_name
from tests.faults.proxy import UP
from tests.own_broker import mosquitto_as_deployed

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SECONDS = 120.0
QUEUED_BYTES = 200_000
"""So much is under way when the fault comes: thousands of records."""


@contextmanager
def fleet(folder: Path, broker: Callable[[int], list[str]] | None = None) -> Iterator[Fleet]:
    """Four agents that send a hundred records a second each for ten seconds."""
    plan = Plan(folder=folder, seed=1, seconds=10.0, processes=1, nodes_each=4, samples_per_second=100.0)
    with running_fleet(plan, broker) as fleet:
        wait_until(lambda: records_stored(fleet.database) > 0, "the first records are stored", SECONDS)
        yield fleet


def queue_up(fleet: Fleet) -> None:
    """Kill the ingest, and let the broker hold for it what the agents go on sending."""
    fleet.programs[INGEST].hold()
    link = fleet.links[agent_name(0)]
    before = link.passed_bytes(UP)
    wait_until(lambda: link.passed_bytes(UP) > before + QUEUED_BYTES, "much is under way", SECONDS)


def measured(fleet: Fleet) -> int:
    return sum(confirmed_samples(fleet.plan, machine) for machine in fleet.plan.machines)


def whole(fleet: Fleet) -> Verdict:
    """Wait until everything has come through, and see that it has, once."""
    assert drain(fleet)
    verdict = judged(fleet)
    assert (verdict.lost, verdict.duplicates_in_effect, verdict.gaps_unreported) == (0, 0, 0), verdict.remarks
    assert verdict.records > 2500
    return verdict


@pytest.mark.long
def test_fault_14_sigkill_of_the_broker_with_full_queues_loses_nothing(tmp_path: Path) -> None:
    with fleet(tmp_path) as running:
        queue_up(running)
        assert running.kill(NATS)
        wait_until(lambda: running.is_up(NATS), "the broker is started again", SECONDS)
        running.programs[INGEST].release()
        whole(running)


@pytest.mark.long
def test_fault_14_sigkill_of_mosquitto_with_full_queues_loses_nothing(tmp_path: Path) -> None:
    """It keeps nothing on disk: what it held is gone, and so are everyone's sessions."""
    (tmp_path / "run").mkdir()
    with fleet(tmp_path / "run", lambda port: mosquitto_as_deployed(tmp_path, port)) as running:
        queue_up(running)
        running.programs[BROKER].hold()
        running.programs[BROKER].release()
        running.programs[INGEST].release()
        whole(running)


@pytest.mark.long
def test_fault_15_broker_restart_with_an_empty_session_store_is_subscribed_and_sent_anew(tmp_path: Path) -> None:
    """What it held for the ingest is gone, and so are everyone's subscriptions."""
    with fleet(tmp_path) as running:
        queue_up(running)
        running.programs[BROKER].hold()
        wait_until(lambda: not running.is_up(NATS), "the broker has ended with its supervisor", SECONDS)
        shutil.rmtree(tmp_path / "broker" / "broker" / "jetstream")
        running.programs[BROKER].release()
        running.programs[INGEST].release()
        whole(running)


@pytest.mark.long
def test_fault_15_broker_forgets_its_sessions_while_agents_and_cloud_stay_up(tmp_path: Path) -> None:
    """Nobody but the broker is restarted: both ends have to see for themselves that their subscriptions are gone."""
    with fleet(tmp_path) as running:
        agents, ingest = (running.programs[name].pid for name in (agent_name(0), INGEST))
        running.programs[BROKER].hold()
        wait_until(lambda: not running.is_up(NATS), "the broker has ended with its supervisor", SECONDS)
        shutil.rmtree(tmp_path / "broker" / "broker" / "jetstream")
        before = measured(running)
        wait_until(lambda: measured(running) > before + 100, "the machines go on meanwhile", SECONDS)
        running.programs[BROKER].release()
        assert drain(running)
        assert (running.programs[agent_name(0)].pid, running.programs[INGEST].pid) == (agents, ingest)
        whole(running)


@pytest.mark.long
def test_fault_17_broker_that_drops_what_overflows_its_queue_is_sent_it_again(tmp_path: Path) -> None:
    """A mosquitto that keeps twenty messages for a client that is away, and confirms those it drops all the same."""
    program = find_program("mosquitto", "/usr/sbin")
    require(program is not None, "mosquitto is not installed (apt install mosquitto)")
    settings = tmp_path / "mosquitto.conf"
    log = tmp_path / "mosquitto.log"

    def mosquitto(port: int) -> list[str]:
        settings.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nuser {pwd.getpwuid(os.getuid()).pw_name}\n"
            f"max_queued_messages 20\nmax_inflight_messages 10\nlog_dest file {log}\nlog_type all\n"
        )
        return [str(program), "-c", str(settings)]

    (tmp_path / "run").mkdir()
    with fleet(tmp_path / "run", mosquitto) as running:
        queue_up(running)
        wait_until(lambda: "dropped" in log.read_text(errors="replace"), "the broker drops messages", SECONDS)
        running.programs[INGEST].release()
        whole(running)
