"""What the uplink decides, without a network: what goes next, how fast, how large, and how long to wait."""

import aiomqtt
import pytest
from aiomqtt.exceptions import MqttConnectError
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from forewarn_edge_agent.clock import Clock
from forewarn_edge_agent.cloud_time import WINDOW_SECONDS, CloudTime
from forewarn_edge_agent.lanes import BEHIND_RECORDS, WINDOW_BYTES, WINDOW_RECORDS, LaneProgress, Read
from forewarn_edge_agent.link import SHORT_SECONDS, SUSPICIOUS_SESSIONS, Link, backoff_seconds
from forewarn_edge_agent.pacing import FIRST_BYTES, LEAST_BYTES, MOST_BYTES, MessageSize, Pace
from forewarn_edge_agent.refusals import PublicationRefusedError, SubscriptionRefusedError, Trouble, trouble
from forewarn_edge_agent.spool import Chunk
from forewarn_models import wire
from forewarn_models.timebase import Timebase

# --- waiting between tries --------------------------------------------------------------------------------------------


def test_the_range_doubles_up_to_the_longest() -> None:
    assert [backoff_seconds(n, 60.0, 1.0) for n in (1, 2, 3, 7, 1000)] == [1.0, 2.0, 4.0, 60.0, 60.0]


@given(st.integers(1, 10_000), st.floats(1, 3600), st.floats(0, 1))
def test_chance_spreads_over_the_whole_range(failures: int, longest: float, chance: float) -> None:
    assert backoff_seconds(failures, longest, chance) == chance * backoff_seconds(failures, longest, 1.0)
    assert 0 <= backoff_seconds(failures, longest, chance) <= longest


LOST = Trouble(kind="lost", reason="broke")


def session(link: Link, began_s: float, seconds: float, *, progressed: bool = True) -> bool:
    link.trying(began_s)
    link.up(began_s)
    if progressed:
        link.progressed()
    return link.down(LOST, began_s + seconds)


def test_a_session_with_progress_makes_the_next_wait_short() -> None:
    link = Link()
    for _ in range(5):
        link.down(LOST, 0.0)
    assert link.failures == 5
    session(link, 10.0, 5.0)
    assert link.failures == 1
    session(link, 20.0, 5.0, progressed=False)
    assert link.failures == 2


def test_sessions_that_end_soon_again_and_again_are_suspicious_and_the_waits_grow() -> None:
    link = Link()
    for n in range(SUSPICIOUS_SESSIONS + 3):
        session(link, 10.0 * n, 1.0)
    assert (link.is_suspicious, link.failures) == (True, 5), (
        "1 and 1, and from the third short session on it grows although each made progress"
    )
    session(link, 100.0, SHORT_SECONDS)
    assert (link.is_suspicious, link.failures) == (False, 1)


def test_a_suspicion_was_told_again_at_each_try_while_the_broker_was_away() -> None:
    link, told = Link(), list[bool]()
    for n in range(SUSPICIOUS_SESSIONS):
        told += [session(link, 10.0 * n, 1.0), *(link.down(LOST, 10.0 * n + 2.0) for _ in range(3))]
    assert told.count(True) == 1


# --- what the broker refuses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (MqttConnectError(ReasonCode(PacketTypes.CONNACK, "Bad user name or password")), "refused", "password_file"),
        (MqttConnectError(ReasonCode(PacketTypes.CONNACK, "Not authorized")), "refused", "permissions"),
        (MqttConnectError(ReasonCode(PacketTypes.CONNACK, "Quota exceeded")), "refused", "quota"),
        (PublicationRefusedError(ReasonCode(PacketTypes.PUBACK, "Quota exceeded")), "refused", "quota"),
        (PublicationRefusedError(ReasonCode(PacketTypes.PUBACK, "Not authorized")), "refused", "permissions"),
        (SubscriptionRefusedError("128"), "refused", "subscribe"),
        (
            aiomqtt.MqttCodeError(ReasonCode(PacketTypes.DISCONNECT, "Session taken over")),
            "refused",
            "another agent connected",
        ),
        (aiomqtt.MqttCodeError(ReasonCode(PacketTypes.DISCONNECT, "Unspecified error")), "lost", ""),
        (aiomqtt.MqttCodeError(ReasonCode(PacketTypes.DISCONNECT, "Keep alive timeout")), "lost", ""),
        (aiomqtt.MqttError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), "refused", "ca_file"),
        (aiomqtt.MqttError("[Errno 111] Connection refused"), "unreachable", ""),
        (aiomqtt.MqttError("Operation timed out"), "unreachable", "uplink.port"),
    ],
)
def test_what_went_wrong_is_told_with_what_to_do(error: BaseException, kind: str, words: str) -> None:
    found = trouble(error)
    assert found.kind == kind
    assert words in found.fix
    assert bool(found.fix) == bool(words)
    assert found.reason


# --- pace and size ----------------------------------------------------------------------------------------------------


@given(st.floats(1, 1e5), st.lists(st.tuples(st.floats(0, 5), st.integers(0, 600)), max_size=50))
def test_no_more_goes_than_the_pace_allows(per_s: float, steps: list[tuple[float, int]]) -> None:
    pace, now_s, sent = Pace(per_s, 0.0), 0.0, 0
    for waited_s, wanted in steps:
        now_s += waited_s
        sending = min(wanted, pace.available(now_s))
        pace.take(sending)
        sent += sending
        assert sent <= per_s * now_s + max(1.0, per_s / 4) + 1e-6


def test_a_slower_pace_holds_at_once_and_waiting_helps() -> None:
    pace = Pace(20_000, 0.0)
    pace.change(10, 0.0)
    assert pace.available(0.0) == 2
    pace.take(2)
    assert pace.available(0.0) == 0
    assert pace.available(pace.wait_seconds(0.0)) == 1


def test_messages_grow_on_a_fast_link_and_shrink_on_a_slow_one() -> None:
    size = MessageSize()
    assert size.limit_bytes == FIRST_BYTES
    for _ in range(10):
        size.took(size.limit_bytes, 0.01)
    assert size.limit_bytes == MOST_BYTES
    for _ in range(4):
        size.took(size.limit_bytes, size.limit_bytes / 1000.0)  # 1 kB/s
    assert size.limit_bytes == LEAST_BYTES


def test_a_small_message_says_nothing_about_a_large_one() -> None:
    size = MessageSize()
    size.took(100, 0.05)
    assert size.limit_bytes == FIRST_BYTES


# --- what goes next ---------------------------------------------------------------------------------------------------


class Played:
    """A lane over an imagined spool whose records are one byte each, and the order in which they were sent."""

    def __init__(self, last_seq: int, acknowledged_seq: int = 0) -> None:
        self.last_seq = last_seq
        self.lane = LaneProgress("telemetry")
        self.lane.start_over(acknowledged_seq, 0.0, last_seq=last_seq)
        self.pace = Pace(1e9, 0.0)
        self.ways: list[str] = []
        self.sent = set[int]()

    def send(self, at_s: float = 0.0) -> Read | None:
        for read in self.lane.reads(self.pace, at_s):
            first, last = read.after_seq + 1, min(self.last_seq, read.up_to_seq, read.after_seq + read.max_records)
            if read.way in ("backlog", "live") and first <= last:
                self.lane.sent(
                    read,
                    Chunk(epoch="e", seq=first, bodies=(b"x",) * (last - first + 1), spooled_at_ms=0),
                    self.pace,
                    at_s,
                )
                self.sent |= set(range(first, last + 1))
                self.ways.append(read.way)
                return read
        return None

    def contiguous(self) -> int:
        seq = self.lane.acknowledged_seq
        while seq + 1 in self.sent:
            seq += 1
        return seq

    def acknowledge(self, at_s: float = 0.0) -> float | None:
        return self.lane.acknowledged(self.contiguous(), self.last_seq, at_s)


def test_no_more_than_a_window_is_on_its_way_without_an_answer() -> None:
    played = Played(last_seq=50_000)
    while played.send() is not None:
        played.last_seq += 10
    assert len(played.sent) == WINDOW_RECORDS


def test_large_records_fill_the_window_sooner() -> None:
    lane, pace = LaneProgress("telemetry"), Pace(1e9, 0.0)
    lane.start_over(0, 0.0, last_seq=10_000)
    sent = 0
    while (read := next((r for r in lane.reads(pace, 0.0) if r.way == "backlog"), None)) is not None:
        bodies = (bytes(64 * 1024),)
        lane.sent(read, Chunk(epoch="e", seq=read.after_seq + 1, bodies=bodies, spooled_at_ms=0), pace, 0.0)
        sent += 1
    assert sent == WINDOW_BYTES // (64 * 1024)
    lane.acknowledged(1, 10_000, 0.0)
    assert [read.way for read in lane.reads(pace, 0.0)][-1] == "backlog"


def test_live_telemetry_overtakes_the_backlog_and_neither_starves() -> None:
    played = Played(last_seq=20_000)
    played.send()
    played.acknowledge()
    for _ in range(400):
        played.last_seq += 5
        played.send()
        played.acknowledge()
    assert set(played.ways[1:9]) == {"live", "backlog"}
    assert max(played.sent) >= played.last_seq - 5 * 4, "what is live does not wait"
    assert played.ways.count("backlog") / len(played.ways) >= 0.2, "nor does the backlog, for ever"
    for _ in range(400):
        played.send()
        played.acknowledge()
    assert played.sent == set(range(1, played.last_seq + 1))
    assert played.lane.acknowledged_seq == played.last_seq
    assert played.lane.live_from is None


def test_while_live_there_is_no_split_for_a_few_records_more() -> None:
    played = Played(last_seq=0)
    for _ in range(50):
        played.last_seq += BEHIND_RECORDS // 2
        played.send()
        played.acknowledge()
    assert set(played.ways) == {"backlog"}


def test_after_a_stall_everything_is_sent_again_in_order() -> None:
    played = Played(last_seq=20_000)
    played.send()
    played.acknowledge()
    for _ in range(3):
        played.last_seq += 1
        played.send()
    played.send()
    assert {"live", "backlog"} <= set(played.ways)
    assert not played.lane.is_stalled(9.9, 10.0)
    assert played.lane.is_stalled(10.0, 10.0)
    acknowledged = played.lane.acknowledged_seq
    played.lane.start_over(acknowledged, 10.0)
    read = played.send(10.0)
    assert read is not None
    assert (read.way, read.after_seq) == ("backlog", acknowledged)


def test_the_backlog_keeps_to_its_pace_and_live_does_not() -> None:
    played = Played(last_seq=20_000)
    played.send()
    played.acknowledge()
    played.pace.change(4.0, 0.0)
    played.pace.take(played.pace.available(0.0))
    for second in range(1, 11):
        played.last_seq += 100
        while played.send(float(second)) is not None:
            pass
    backlog = [seq for seq in played.sent if 500 < seq <= 20_000]
    assert len(backlog) == 10, "the burst of a pace this slow is one record"
    assert set(range(20_001, played.last_seq + 1)) <= played.sent


@given(st.data())
def test_whatever_is_lost_on_the_way_everything_arrives_in_the_end(data: st.DataObject) -> None:
    played = Played(last_seq=3000)
    arrived = set[int]()
    now_s = 0.0
    for _ in range(60):
        now_s += 1.0
        played.last_seq += data.draw(st.integers(0, 40))
        before = set(played.sent)
        played.sent = set()
        played.send(now_s)
        if data.draw(st.booleans()):
            arrived |= played.sent
        played.sent |= before
        contiguous = played.lane.acknowledged_seq
        while contiguous + 1 in arrived:
            contiguous += 1
        if contiguous > played.lane.acknowledged_seq and data.draw(st.booleans()):
            played.lane.acknowledged(contiguous, played.last_seq, now_s)
        if played.lane.is_stalled(now_s, 5.0):
            played.lane.start_over(played.lane.acknowledged_seq, now_s)
    for _ in range(400):
        now_s += 1.0
        played.sent = set()
        played.send(now_s)
        arrived |= played.sent
        contiguous = played.lane.acknowledged_seq
        while contiguous + 1 in arrived:
            contiguous += 1
        if contiguous > played.lane.acknowledged_seq:
            played.lane.acknowledged(contiguous, played.last_seq, now_s)
        elif played.lane.is_stalled(now_s, 5.0):
            played.lane.start_over(played.lane.acknowledged_seq, now_s)
    assert arrived == set(range(1, played.last_seq + 1))
    assert played.lane.acknowledged_seq == played.last_seq


def test_how_long_an_answer_took_is_known_only_of_what_was_sent_once() -> None:
    played = Played(last_seq=10)
    played.send(1.0)
    assert played.acknowledge(2.0) is None, "it was there before the session: it may have been sent in an earlier one"
    played.last_seq = 20
    played.send(3.0)
    assert played.acknowledge(4.0) == 3.0
    played.last_seq = 30
    played.send(5.0)
    played.lane.start_over(20, 15.0)
    played.send(16.0)
    assert played.acknowledge(17.0) is None, "which of the two was answered?"


def test_the_cloud_has_its_time_to_answer_from_when_the_broker_has_a_message() -> None:
    played = Played(last_seq=1000)
    played.send(0.0)
    played.lane.delivered(Chunk(epoch="e", seq=1, bodies=(b"x",) * 500, spooled_at_ms=0), 30.0)
    assert not played.lane.is_stalled(39.0, 10.0)
    played.send(38.0)
    played.lane.delivered(Chunk(epoch="e", seq=501, bodies=(b"x",) * 500, spooled_at_ms=0), 39.0)
    assert played.lane.is_stalled(40.0, 10.0), "what is sent after it does not put it off"


# --- the cloud's time -------------------------------------------------------------------------------------------------


def test_the_fastest_answer_tells_the_time() -> None:
    cloud = CloudTime()
    assert cloud.at(0.0) is None
    cloud.note(at_ms=1_000_900, sent_s=0.0, received_s=1.0)  # 0.1 s back, 0.9 s there: the middle is 0.4 s off
    cloud.note(at_ms=1_002_010, sent_s=2.0, received_s=2.02)
    assert cloud.at(2.02) == 1_002_020
    assert cloud.error_ms == 10
    cloud.note(at_ms=1_003_100, sent_s=3.0, received_s=3.9)
    assert cloud.at(10.0) == 1_010_000


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2)), min_size=1, max_size=50), st.integers(-(10**9), 10**9))
def test_the_time_is_within_the_error(ways: list[tuple[float, float]], ahead_ms: int) -> None:
    cloud = CloudTime()
    now_s = 1000.0
    for there_s, back_s in ways:
        at_ms = round((now_s + there_s) * 1000) + ahead_ms
        cloud.note(at_ms=at_ms, sent_s=now_s, received_s=now_s + there_s + back_s)
        now_s += there_s + back_s + 1.0
    told, error_ms = cloud.at(now_s), cloud.error_ms
    assert told is not None
    assert error_ms is not None
    assert abs(told - (now_s * 1000 + ahead_ms)) <= error_ms + 2


def test_old_answers_are_forgotten_and_a_clock_that_was_set_is_followed() -> None:
    cloud = CloudTime()
    cloud.note(at_ms=1_000_000, sent_s=0.0, received_s=0.0)
    later_s = WINDOW_SECONDS + 1
    cloud.note(at_ms=1_000_000 + round(later_s * 1000), sent_s=later_s - 0.1, received_s=later_s)
    assert cloud.error_ms == 50, "the first, faster one is too old"
    cloud.note(at_ms=9_000_000, sent_s=later_s + 1, received_s=later_s + 2)
    assert cloud.at(later_s + 2) == 9_000_500


def test_a_clock_that_is_wrong_is_put_right_and_a_jump_changes_nothing() -> None:
    wall_ms = [10_000]
    seconds = [5.0]
    clock = Clock(wall=lambda: wall_ms[0], monotonic=lambda: seconds[0])
    assert (clock.now_ms(), clock.confirmed) == (10_000, False)
    clock.cloud.note(at_ms=5_000_000, sent_s=5.0, received_s=5.0)
    assert (clock.now_ms(), clock.offset_ms(), clock.confirmed) == (5_000_000, 4_990_000, True)
    wall_ms[0] = 2**45  # far beyond 2038
    seconds[0] = 6.0
    assert clock.now_ms() == 5_001_000
    wall_ms[0] = 5_001_500
    assert clock.now_ms() == 5_001_500, "less than a minute is left alone"
    assert clock.offset_ms() == -500


def test_an_accelerated_clock_shortens_real_waits_and_is_never_put_right() -> None:
    clock = Clock(timebase=Timebase(origin_ms=1000, start_ms=50_000, rate=60.0), wall=lambda: 2000)
    assert clock.now_ms() == 110_000
    assert clock.wall_seconds_until(170_000) == 1.0
    assert clock.wall_seconds_until(0) == 0.0
    clock.cloud.note(at_ms=wire.MAX_AGE_MS, sent_s=0.0, received_s=0.0)
    assert (clock.now_ms(), clock.confirmed) == (110_000, False)
