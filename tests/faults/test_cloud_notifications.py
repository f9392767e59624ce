"""Faults 30 to 32: receivers that fail or stay away, and relays that are stopped while they send."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from forewarn_cloud.adapters.smtp import SmtpSender, SmtpServer
from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.adapters.sql.outbox import SqlOutbox
from forewarn_cloud.adapters.webhook import WebhookSender
from forewarn_cloud.clock import SystemClock
from forewarn_cloud.notifications.delivery import Sender
from forewarn_cloud.service.policy import Policy
from forewarn_cloud.workers.advisories import Advisories
from forewarn_cloud.workers.relay import BACKOFF_SECONDS, Relay
from tests.cloud.api.serving import deps_of, serving
from tests.cloud.clock import FixedClock
from tests.cloud.notifications.facts import SINCE_MS, add_order, outbox_row, queue
from tests.cloud.notifications.servers import mail_server, web_server
from tests.cloud.notifications.test_webhook import SECRET, verified
from tests.cloud.world import SEAL, World, advisory, make_world
from tests.conftest import free_port, wait_until

PROJECT = Path(__file__).parents[2]
HOUR_MS = 3_600_000


def through_mail(port: int) -> dict[str, Sender]:
    return {"email": SmtpSender(server=SmtpServer(host="127.0.0.1", port=port), timeout_seconds=5.0)}


def through_webhook() -> dict[str, Sender]:
    return {"webhook": WebhookSender(wall_ms=SystemClock().wall_ms, allow_private=True)}


# --- 30 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [500, "hang", "late", "reset-body"])
def test_fault_30_webhook_500_timeout_200_after_timeout_or_rst_mid_body_is_retried_under_the_same_id(
    engine: Engine, answer: str | int
) -> None:
    clock = FixedClock(at_ms=SINCE_MS)
    with web_server(answer) as server:
        add_order(engine, order_id="o-1", webhook_url=server.url, webhook_secret=SECRET)
        (identity,) = queue(engine, channel="webhook", recipient=server.url, order_id="o-1")
        relay = Relay(outbox=SqlOutbox(engine), senders=through_webhook(), clock=clock, send_seconds=1.0)
        assert relay.deliver_due() == 1
        row = outbox_row(engine, identity)
        assert (row.state, row.attempts) == ("PENDING", 1)
        assert row.last_error
        server.released.set()
        assert relay.deliver_due() == 0, "not at once"
        clock.advance(seconds=BACKOFF_SECONDS[0] * 1.1)
        assert relay.deliver_due() == 1
    assert [request.headers["webhook-id"] for request in server.seen] == [identity] * 2
    assert verified(server.seen[0]) == verified(server.seen[1])
    assert (outbox_row(engine, identity).state, outbox_row(engine, identity).attempts) == ("SENT", 2)


@pytest.mark.parametrize("answer", ["451 busy", "554 no", "cut"])
def test_fault_30_mail_server_that_refuses_or_cuts_is_retried_under_the_same_id(engine: Engine, answer: str) -> None:
    clock = FixedClock(at_ms=SINCE_MS)
    (identity,) = queue(engine)
    with mail_server(answer) as server:
        relay = Relay(outbox=SqlOutbox(engine), senders=through_mail(server.port), clock=clock)
        assert relay.deliver_due() == 1
        assert outbox_row(engine, identity).state == "PENDING"
        clock.advance(seconds=BACKOFF_SECONDS[0] * 1.1)
        assert relay.deliver_due() == 1
    assert server.message_ids == [f"<{identity}@localhost>"] * 2
    assert outbox_row(engine, identity).state == "SENT"


# --- 31 -------------------------------------------------------------------------------------------------------------


def test_fault_31_receiver_down_for_three_days_is_a_dead_letter_that_the_replay_button_delivers(world: World) -> None:
    world.hear(advisory())
    (order,) = world.orders()
    port, clock = free_port(), world.clock
    began = clock.at_ms
    relay = Relay(outbox=SqlOutbox(world.engine), senders=through_mail(port), clock=clock)
    while clock.at_ms < began + 72 * HOUR_MS:
        relay.deliver_due()
        clock.advance(seconds=600)
    with serving(deps_of(world)) as api:
        dead = api.get("/api/v1/notifications", state="DEAD", order_id=order.id)["items"]
        (mail,) = [found for found in dead if found["channel"] == "email"]
        assert mail["attempts"] == len(BACKOFF_SECONDS) + 1 == 8
        assert mail["last_error"]
        with mail_server() as server:
            api.done(f"/api/v1/notifications/{mail['id']}/replay")
            Relay(outbox=SqlOutbox(world.engine), senders=through_mail(server.port), clock=clock).deliver_due()
        assert server.message_ids == [f"<{mail['id']}@localhost>"], "the message it always was"
        assert api.get(f"/api/v1/notifications/{mail['id']}")["state"] == "SENT"


# --- 32 -------------------------------------------------------------------------------------------------------------

RELAY = """
import sys
from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.adapters.sql.outbox import SqlOutbox
from forewarn_cloud.adapters.webhook import WebhookSender
from forewarn_cloud.clock import SystemClock
from forewarn_cloud.log import configure_logging
from forewarn_cloud.workers.relay import Relay

configure_logging("warning")
clock = SystemClock()
senders = {"webhook": WebhookSender(wall_ms=clock.wall_ms, allow_private=True, timeout_seconds=60.0)}
outbox = SqlOutbox(make_engine(sys.argv[1]))
print(Relay(outbox=outbox, senders=senders, clock=clock, lease_ms=2000, send_seconds=60.0).deliver_due(), flush=True)
"""


def test_fault_32_sigstop_of_a_relay_beyond_its_lease_while_it_sends_cannot_mark(engine: Engine) -> None:
    """The late answer is a success, and it may not even say that: another has delivered meanwhile."""
    with web_server("late") as server:
        add_order(engine, order_id="o-1", webhook_url=server.url, webhook_secret=SECRET)
        (identity,) = queue(engine, channel="webhook", recipient=server.url, order_id="o-1")
        url = engine.url.render_as_string(hide_password=False)
        engine.dispose()
        stopped = subprocess.Popen(
            [sys.executable, "-c", RELAY, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT
        )
        try:
            wait_until(lambda: len(server.seen) == 1, "it is sending", 60)
            os.kill(stopped.pid, signal.SIGSTOP)
            other = Relay(outbox=SqlOutbox(engine), senders=through_webhook(), clock=SystemClock())
            wait_until(lambda: other.deliver_due() == 1, "its lease ends and another relay takes over", 60)
            taken_over = outbox_row(engine, identity)
            assert (taken_over.state, taken_over.attempts) == ("SENT", 2)
            server.released.set()
            os.kill(stopped.pid, signal.SIGCONT)
            said, logged = stopped.communicate(timeout=90)
        finally:
            stopped.kill()
        assert (stopped.returncode, said) == (0, "1\n"), logged
        assert "the lease was lost" in logged
        assert outbox_row(engine, identity) == taken_over
        assert [request.headers["webhook-id"] for request in server.seen] == [identity] * 2


STOPPED_WORKER = """
import os, signal, sys
from sqlalchemy import event
from forewarn_cloud.adapters.sql import engine as engines
from tests.cloud.clock import FixedClock
from tests.cloud.world import START_MS, World
from forewarn_cloud.service.policy import Policy
from forewarn_cloud.workers.advisories import Advisories

engines.IDLE_TIMEOUT_MS = 1000
engine = engines.make_engine(sys.argv[1])
def stop(_connection):
    print("stopping", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)

event.listen(engine, "commit", stop, once=True)
world = World(engine=engine, clock=FixedClock(at_ms=START_MS), policy=Policy())
print(Advisories(transactions=world.transactions, chain=world.chain).handle_next(), flush=True)
"""


def test_fault_32_sigstop_of_a_worker_before_its_commit_lets_another_open_the_one_order(postgres_url: str) -> None:
    """PostgreSQL ends the transaction of the stopped worker. On SQLite the others wait for it: one file, one writer."""
    engine = make_engine(postgres_url)
    migrate(engine)
    world = make_world(engine, {SEAL: {"north": 1}}, Policy())
    world.receive(advisory())
    command = [sys.executable, "-c", STOPPED_WORKER, postgres_url]
    stopped = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT)
    try:
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == "stopping\n"
        worker = Advisories(transactions=world.transactions, chain=world.chain)
        wait_until(lambda: worker.handle_next() == 1, "another worker takes the alert over", 60)
        os.kill(stopped.pid, signal.SIGCONT)
        stopped.communicate(timeout=90)
    finally:
        stopped.kill()
    assert stopped.returncode != 0, "its commit was refused, and it knows"
    assert len(world.orders()) == 1
    assert [kind for kind, _ in world.news()] == ["order_opened"]
    engine.dispose()
