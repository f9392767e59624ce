"""Records that the cloud asks for once more: from the agent's archive, or told as gone."""

import pytest

from forewarn_edge_agent.pacing import Pace
from forewarn_edge_agent.resends import MAX_REQUESTS, Resends
from forewarn_edge_agent.spool import Chunk
from forewarn_models import wire
from tests.conftest import wait_until
from tests.edge_agent.conftest import PUMP, SECONDS, AgentProcess, Cloud, Machine, mqtt_source, now_ms
from tests.edge_agent.test_agent import is_empty, recent


def resend(first: int, last: int, command_id: str = "r1", epoch: str = "e") -> wire.Resend:
    return wire.Resend(schema=1, id=command_id, lane="telemetry", epoch=epoch, first_seq=first, last_seq=last)


def test_requests_go_one_after_the_other_and_a_repeat_is_not_another() -> None:
    resends, pace = Resends(), Pace(1e6, 0.0)
    assert resends.read(pace, 0.0) is None
    resends.add(resend(5, 2000))
    resends.add(resend(5, 2000))
    resends.add(resend(1, 1, "r2"))
    first = resends.read(pace, 0.0)
    assert first is not None
    assert (first.after_seq, first.up_to_seq, first.max_records) == (4, 2000, wire.MAX_RECORDS)
    resends.sent(Chunk(epoch="e", seq=5, bodies=(b"x",) * 10, spooled_at_ms=0), pace)
    second = resends.read(pace, 0.0)
    assert second is not None
    assert second.after_seq == 14
    assert (resends.finished().records, resends.finished().command.id) == (10, "r2")
    assert resends.read(pace, 0.0) is None


def test_it_keeps_to_the_pace_and_to_a_bounded_list() -> None:
    resends, pace = Resends(), Pace(4.0, 0.0)
    for number in range(MAX_REQUESTS + 5):
        resends.add(resend(1, 100, f"r{number}"))
    for _ in range(MAX_REQUESTS):
        resends.finished()
    assert resends.read(pace, 0.0) is None
    resends.add(resend(1, 100))
    pace.take(1)
    assert resends.read(pace, 0.0) is None
    assert resends.read(pace, 0.25) is not None


@pytest.mark.e2e
def test_acknowledged_records_are_sent_again_when_the_cloud_asks(
    agent: AgentProcess, machine: Machine, cloud: Cloud
) -> None:
    agent.start_listening()
    machine.send_samples(recent(20))
    epoch = agent.wait_for_status(lambda s: is_empty(s) and s["lanes"]["telemetry"]["last_seq"] == 20, "all")["epoch"]
    seen = len(cloud.arrivals)
    cloud.command(resend(5, 8, epoch=epoch))
    wait_until(lambda: len(cloud.replies) == 1, "the answer", SECONDS)
    assert cloud.arrivals[seen:] == [("telemetry", seq) for seq in (5, 6, 7, 8)], "before the answer, and no others"
    cloud.command(resend(5, 8, epoch=epoch))
    wait_until(lambda: len(cloud.replies) == 2, "the same answer", SECONDS)
    detail = "4 records sent again"
    assert cloud.replies == [wire.Reply(schema=1, id="r1", ok=True, detail=detail)] * 2
    assert len(cloud.arrivals) == seen + 4, "done once"
    assert cloud.conflicts == []


@pytest.mark.e2e
def test_what_is_no_longer_held_is_told_as_a_gap_and_in_the_answer(
    agent: AgentProcess, machine: Machine, cloud: Cloud
) -> None:
    source = mqtt_source(agent_port(agent))
    no_archive = "[spool]\nkeep_acknowledged_hours = 0.0\ncheckpoint_seconds = 0.0"
    agent.configure(uplink_port=agent_port(agent), source=source, assets=PUMP, extra=no_archive)
    agent.start_listening()
    machine.send_samples(recent(10))
    agent.wait_for_status(lambda s: is_empty(s) and s["lanes"]["telemetry"]["last_seq"] == 10, "all")
    machine.send_samples([now_ms()])
    epoch = agent.wait_for_status(
        lambda s: is_empty(s) and s["lanes"]["telemetry"]["archived"] < 2, "the archive is gone"
    )["epoch"]
    cloud.command(resend(3, 4, epoch=epoch))
    wait_until(lambda: len(cloud.replies) == 1, "the answer", SECONDS)
    assert cloud.replies[0].detail == "0 records sent again; no longer held: 3-4"
    assert not cloud.replies[0].ok
    wait_until(
        lambda: any(isinstance(received.record, wire.Gap) for received in cloud.records()), "the gap record", SECONDS
    )
    (gap,) = [received.record for received in cloud.records() if isinstance(received.record, wire.Gap)]
    assert (gap.first_seq, gap.last_seq, gap.reason) == (3, 4, "no longer held")


@pytest.mark.e2e
def test_records_of_a_spool_that_is_no_more_are_refused(agent: AgentProcess, cloud: Cloud) -> None:
    agent.start()
    wait_until(lambda: len(cloud.presences) == 1, "the birth", SECONDS)
    cloud.command(resend(1, 5, epoch="another"))
    wait_until(lambda: len(cloud.replies) == 1, "the answer", SECONDS)
    assert not cloud.replies[0].ok
    assert "no longer held" in cloud.replies[0].detail


def agent_port(agent: AgentProcess) -> int:
    """Of the broker that the fixture configured."""
    line = next(line for line in agent.config.read_text().splitlines() if line.startswith("port"))
    return int(line.partition("=")[2])
