"""The relay: at least once, under one id, never by a worker that has lost its lease."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine, select

from forewarn_cloud.adapters.smtp import SmtpSender, SmtpServer
from forewarn_cloud.adapters.sql.engine import reading
from forewarn_cloud.adapters.sql.outbox import SqlOutbox
from forewarn_cloud.adapters.sql.schema import outbox
from forewarn_cloud.adapters.webhook import WebhookSender
from forewarn_cloud.clock import SystemClock
from forewarn_cloud.mailbox import Mailbox, start_mailbox
from forewarn_cloud.notifications.delivery import Delivery, Sender
from forewarn_cloud.workers.relay import BACKOFF_SECONDS, LEASE_MS, Relay
from tests.cloud.clock import FixedClock
from tests.cloud.notifications.facts import SINCE_MS, add_order, mails, outbox_row, queue
from tests.cloud.notifications.servers import mail_server, web_server
from tests.cloud.notifications.test_webhook import SECRET, verified
from tests.conftest import together, wait_until

NOW_MS = SINCE_MS + 1_000_000


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(at_ms=NOW_MS)


@pytest.fixture
def mailbox(engine: Engine, clock: FixedClock) -> Iterator[Mailbox]:
    started = start_mailbox(engine, clock, tenant="local")
    yield started
    started.stop()


def is_sent(engine: Engine, identity: str) -> bool:
    return bool(outbox_row(engine, identity).state == "SENT")


def relay(engine: Engine, clock: FixedClock, port: int) -> Relay:
    sender = SmtpSender(server=SmtpServer(host="127.0.0.1", port=port), timeout_seconds=5.0)
    return Relay(outbox=SqlOutbox(engine), senders={"email": sender}, clock=clock)


def test_what_is_queued_is_delivered_once(engine: Engine, clock: FixedClock, mailbox: Mailbox) -> None:
    identities = queue(engine, count=20)
    at_work = relay(engine, clock, mailbox.port)
    while at_work.deliver_due():
        pass
    assert {row.message_id for row in mails(engine)} == {f"<{identity}@localhost>" for identity in identities}
    assert all(row.copies == 1 for row in mails(engine))
    for identity in identities:
        row = outbox_row(engine, identity)
        assert (row.state, row.attempts, row.sent_at, row.lease) == ("SENT", 1, NOW_MS, None)


def test_messages_to_one_recipient_keep_their_order(engine: Engine, clock: FixedClock) -> None:
    identities = queue(engine, count=5, recipient="plant@example.com")
    with mail_server() as server:
        at_work = relay(engine, clock, server.port)
        assert [at_work.deliver_due() for _ in range(6)] == [1, 1, 1, 1, 1, 0], "one at a time"
    assert server.message_ids == [f"<{identity}@localhost>" for identity in identities]


def test_a_failure_is_tried_again_later_as_the_same_message(engine: Engine, clock: FixedClock) -> None:
    (identity,) = queue(engine)
    with mail_server("451 busy", "cut") as server:
        at_work = relay(engine, clock, server.port)
        assert at_work.deliver_due() == 1
        assert at_work.deliver_due() == 0, "not before the pause is over"
        clock.advance(seconds=BACKOFF_SECONDS[0] * 1.1)
        assert at_work.deliver_due() == 1
        clock.advance(seconds=BACKOFF_SECONDS[1] * 1.1)
        assert at_work.deliver_due() == 1
    assert server.message_ids == [f"<{identity}@localhost>"] * 3
    row = outbox_row(engine, identity)
    assert (row.state, row.attempts, row.last_error) == ("SENT", 3, None)


def test_eight_tries_over_a_day_and_then_a_visible_dead_letter(engine: Engine, clock: FixedClock) -> None:
    (identity,) = queue(engine)
    with mail_server(*["451 busy"] * 20) as server:
        at_work = relay(engine, clock, server.port)
        while outbox_row(engine, identity).state == "PENDING":
            clock.at_ms = max(clock.at_ms, outbox_row(engine, identity).next_attempt_wall_ms)
            assert at_work.deliver_due() == 1
    assert server.message_ids == [f"<{identity}@localhost>"] * 8
    assert 20 * 3_600_000 < clock.at_ms - NOW_MS < 28 * 3_600_000
    row = outbox_row(engine, identity)
    assert (row.state, row.attempts) == ("DEAD", 8)
    assert "451" in row.last_error


def test_what_can_never_be_delivered_is_a_dead_letter_at_once_and_holds_up_nobody(
    engine: Engine, clock: FixedClock, mailbox: Mailbox
) -> None:
    (unknown,) = queue(engine, kind="order_exploded", news="a", recipient="a@example.com")
    (nowhere,) = queue(engine, channel="pigeon", news="b")
    (nobody,) = queue(engine, news="c", recipient="no address")
    (good,) = queue(engine, news="d", recipient="d@example.com")
    assert relay(engine, clock, mailbox.port).deliver_due() == 4
    assert [outbox_row(engine, identity).state for identity in (unknown, nowhere, nobody)] == ["DEAD"] * 3
    assert "order_exploded" in outbox_row(engine, unknown).last_error
    assert outbox_row(engine, good).state == "SENT"


@dataclass
class Suspended:
    """A sender whose worker is stopped after the delivery and before it can say so."""

    sender: Sender
    meanwhile: Any
    taken: list[Delivery] = field(default_factory=list)

    async def send(self, delivery: Delivery) -> None:
        await self.sender.send(delivery)
        self.taken.append(delivery)
        self.meanwhile()


def test_a_worker_that_lost_its_lease_cannot_mark(engine: Engine, clock: FixedClock, mailbox: Mailbox) -> None:
    (identity,) = queue(engine)
    other = relay(engine, clock, mailbox.port)

    def the_lease_ends_and_another_delivers() -> None:
        clock.advance(seconds=LEASE_MS / 1000 + 1)
        thread = threading.Thread(target=other.deliver_due)
        thread.start()
        thread.join()

    late = Suspended(other.senders["email"], the_lease_ends_and_another_delivers)
    Relay(outbox=SqlOutbox(engine), senders={"email": late}, clock=clock).deliver_due()
    row = outbox_row(engine, identity)
    assert (row.state, row.attempts, row.sent_at) == ("SENT", 2, NOW_MS + LEASE_MS + 1000)
    assert not SqlOutbox(engine).mark_sent(late.taken[0], at=1)
    assert not SqlOutbox(engine).mark_failed(late.taken[0], error="late", retry_wall_ms=None)
    assert outbox_row(engine, identity) == row
    assert [mail.copies for mail in mails(engine)] == [2]


def test_a_lease_keeps_others_away_until_it_ends(engine: Engine) -> None:
    (identity,) = queue(engine)
    store = SqlOutbox(engine)
    (first,) = store.lease(NOW_MS, until_wall_ms=NOW_MS + 1000, limit=10)
    assert not store.is_due(NOW_MS + 999)
    assert store.lease(NOW_MS + 999, until_wall_ms=NOW_MS + 5000, limit=10) == []
    assert store.is_due(NOW_MS + 1000)
    (again,) = store.lease(NOW_MS + 1000, until_wall_ms=NOW_MS + 5000, limit=10)
    assert again.attempt == 2
    assert not store.mark_sent(first, at=1), "the first has no say any more, although nobody has finished"
    assert not store.mark_failed(first, error="late", retry_wall_ms=None)
    assert (outbox_row(engine, identity).state, outbox_row(engine, identity).lease) == ("PENDING", again.lease)
    assert store.mark_sent(again, at=2)


def test_two_relays_deliver_everything_once(engine: Engine, clock: FixedClock, mailbox: Mailbox) -> None:
    queue(engine, count=60)

    def work() -> None:
        while relay(engine, clock, mailbox.port).deliver_due():
            pass

    assert together(work, work) == []
    assert [mail.copies for mail in mails(engine)] == [1] * 60
    with reading(engine) as connection:
        assert set(connection.execute(select(outbox.c.state, outbox.c.attempts))) == {("SENT", 1)}


KILLED_AFTER_SENDING = """
import os, signal, sys
from forewarn_cloud.adapters.smtp import SmtpSender, SmtpServer
from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.adapters.sql.outbox import SqlOutbox
from forewarn_cloud.clock import SystemClock
from forewarn_cloud.workers.relay import Relay

class Killed(SqlOutbox):
    def mark_sent(self, delivery, *, at):
        os.kill(os.getpid(), signal.SIGKILL)

sender = SmtpSender(server=SmtpServer(host="127.0.0.1", port=int(sys.argv[2])))
outbox = Killed(make_engine(sys.argv[1]))
Relay(outbox=outbox, senders={"email": sender}, clock=SystemClock(), lease_ms=1000).deliver_due()
"""


def test_a_kill_between_delivery_and_note_repeats_the_same_message(engine: Engine, mailbox: Mailbox) -> None:
    (identity,) = queue(engine)
    url = engine.url.render_as_string(hide_password=False)
    killed = subprocess.run([sys.executable, "-c", KILLED_AFTER_SENDING, url, str(mailbox.port)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert outbox_row(engine, identity).state == "PENDING"
    sender = SmtpSender(server=SmtpServer(host="127.0.0.1", port=mailbox.port))
    later = Relay(outbox=SqlOutbox(engine), senders={"email": sender}, clock=SystemClock())
    wait_until(lambda: later.deliver_due() == 1, "the lease of the killed relay ends")
    assert [(mail.message_id, mail.copies) for mail in mails(engine)] == [(f"<{identity}@localhost>", 2)]
    assert outbox_row(engine, identity).state == "SENT"


def test_a_webhook_is_signed_with_the_secret_of_the_customer_of_the_order(engine: Engine, clock: FixedClock) -> None:
    with web_server(500) as server:
        add_order(engine, order_id="o-1", webhook_url=server.url, webhook_secret=SECRET)
        (identity,) = queue(engine, channel="webhook", recipient=server.url, order_id="o-1")
        sender = WebhookSender(wall_ms=SystemClock().wall_ms, allow_private=True)
        at_work = Relay(outbox=SqlOutbox(engine), senders={"webhook": sender}, clock=clock)
        at_work.deliver_due()
        clock.advance(seconds=10)
        at_work.deliver_due()
    assert [request.headers["webhook-id"] for request in server.seen] == [identity, identity]
    assert [verified(request) for request in server.seen] == [verified(server.seen[0])] * 2
    assert outbox_row(engine, identity).state == "SENT"


@dataclass
class Stuck:
    """A sender that never answers."""

    async def send(self, _delivery: Delivery) -> None:
        await asyncio.Event().wait()


def test_a_receiver_that_never_answers_delays_only_its_own_messages(
    engine: Engine, clock: FixedClock, mailbox: Mailbox
) -> None:
    (stuck,) = queue(engine, channel="webhook", news="a")
    (good,) = queue(engine, news="b")
    working = relay(engine, clock, mailbox.port)
    senders = {"webhook": Stuck(), "email": working.senders["email"]}
    Relay(outbox=SqlOutbox(engine), senders=senders, clock=clock, send_seconds=1.0).deliver_due()
    assert "no answer" in outbox_row(engine, stuck).last_error
    assert outbox_row(engine, good).state == "SENT"


@dataclass
class Defective:
    """A sender with a mistake in it."""

    async def send(self, delivery: Delivery) -> None:
        raise ZeroDivisionError(delivery.id)


def test_a_defect_in_one_channel_holds_up_nobody(engine: Engine, clock: FixedClock, mailbox: Mailbox) -> None:
    (stuck,) = queue(engine, channel="webhook", news="a")
    (good,) = queue(engine, news="b")
    working = relay(engine, clock, mailbox.port)
    senders: dict[str, Sender] = {"webhook": Defective(), "email": working.senders["email"]}
    Relay(outbox=SqlOutbox(engine), senders=senders, clock=clock).deliver_due()
    assert outbox_row(engine, stuck).state == "PENDING"
    assert "ZeroDivisionError" in outbox_row(engine, stuck).last_error
    assert outbox_row(engine, good).state == "SENT"


def test_stopping_does_not_wait_for_a_receiver_that_never_answers(engine: Engine) -> None:
    (stuck,) = queue(engine, channel="webhook")
    stop = threading.Event()
    senders = {"webhook": Stuck()}
    at_work = Relay(outbox=SqlOutbox(engine), senders=senders, clock=SystemClock(), send_seconds=600.0)
    thread = threading.Thread(target=at_work.run, args=(stop,))
    thread.start()
    wait_until(lambda: outbox_row(engine, stuck).lease is not None, "it is being delivered")
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    row = outbox_row(engine, stuck)
    assert (row.state, row.lease, row.attempts) == ("PENDING", None, 1)
    assert "stopped" in row.last_error


def test_what_the_other_side_wrote_is_kept_as_one_readable_line(engine: Engine, clock: FixedClock) -> None:
    (identity,) = queue(engine)
    with mail_server("451 no\x00room\x1b[2J 您好\u2028x") as server:
        relay(engine, clock, server.port).deliver_due()
    assert "no room [2J 您好 x" in outbox_row(engine, identity).last_error


def test_it_runs_until_told_to_stop(engine: Engine, mailbox: Mailbox) -> None:
    stop = threading.Event()
    sender = SmtpSender(server=SmtpServer(host="127.0.0.1", port=mailbox.port))
    working = Relay(outbox=SqlOutbox(engine), senders={"email": sender}, clock=SystemClock())
    thread = threading.Thread(target=working.run, args=(stop,))
    thread.start()
    try:
        for i in range(3):
            (identity,) = queue(engine, news=f"news {i}")
            wait_until(partial(is_sent, engine, identity), "it is delivered")
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
