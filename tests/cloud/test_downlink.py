"""Commands go down until they are answered."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine, update

from forewarn_cloud.adapters.commands_sql import SqlCommands
from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import writing
from forewarn_cloud.workers.downlink import OFFLINE_REPEAT_MS, ONLINE_REPEAT_MS, Downlink
from forewarn_models import wire
from tests.cloud.clock import FixedClock
from tests.cloud.ingest.sending import NOW, TENANT, enrol


class Wire:
    """Where commands are published; can be down."""

    def __init__(self) -> None:
        self.up = True
        self.sent: list[tuple[str, wire.Command]] = []

    def publish(self, topic: str, payload: bytes) -> bool:
        if self.up:
            self.sent.append((topic, wire.decode_command(payload)))
        return self.up


@pytest.fixture
def line() -> Wire:
    return Wire()


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(at_ms=NOW)


@pytest.fixture
def downlink(engine: Engine, line: Wire, clock: FixedClock) -> Downlink:
    enrol(engine, "n1", "pump-1")
    return Downlink(commands=SqlCommands(engine), publish=line.publish, clock=clock)


def ask(engine: Engine, command_id: str = "c1") -> None:
    command = {"id": command_id, "tenant": TENANT, "node": "n1", "asset": "pump-1", "command": "reset_baseline"}
    with writing(engine) as connection:
        connection.execute(schema.commands.insert(), [command | {"at": NOW - 5, "created_at": NOW}])


def set_presence(engine: Engine, online: bool, at: int) -> None:
    with writing(engine) as connection:
        connection.execute(update(schema.nodes).values(online=online, presence_at=at))


def test_a_new_command_is_sent_once(engine: Engine, downlink: Downlink, line: Wire) -> None:
    ask(engine)
    assert (downlink.send_due(), downlink.send_due()) == (1, 0)
    body = wire.ResetBaseline(schema=1, id="c1", asset="pump-1", at=NOW - 5)
    assert line.sent == [("fw/v1/local/n1/command", body)]


def test_it_is_repeated_until_the_reply(engine: Engine, downlink: Downlink, line: Wire, clock: FixedClock) -> None:
    ask(engine)
    set_presence(engine, True, NOW)
    downlink.send_due()
    clock.at_ms += ONLINE_REPEAT_MS - 1
    assert downlink.send_due() == 0
    clock.at_ms += 1
    assert downlink.send_due() == 1
    with writing(engine) as connection:
        connection.execute(update(schema.commands).values(state="DONE"))
    clock.at_ms += ONLINE_REPEAT_MS
    assert downlink.send_due() == 0
    assert len(line.sent) == 2


def test_a_node_that_is_away_is_asked_rarely_and_again_at_its_birth(
    engine: Engine, downlink: Downlink, clock: FixedClock
) -> None:
    ask(engine)
    set_presence(engine, False, NOW)
    assert downlink.send_due() == 1
    clock.at_ms += ONLINE_REPEAT_MS
    assert downlink.send_due() == 0
    clock.at_ms += OFFLINE_REPEAT_MS
    assert downlink.send_due() == 1
    set_presence(engine, True, NOW + 1)
    assert (downlink.send_due(), downlink.send_due()) == (1, 0)


def test_what_could_not_be_sent_is_sent_later(engine: Engine, downlink: Downlink, line: Wire) -> None:
    ask(engine)
    line.up = False
    assert downlink.send_due() == 0
    line.up = True
    assert downlink.send_due() == 1


def test_a_program_that_starts_again_sends_what_is_pending(engine: Engine, downlink: Downlink, line: Wire) -> None:
    ask(engine, "c1")
    ask(engine, "c2")
    assert downlink.send_due() == 2
    assert replace(downlink, _sent={}).send_due() == 2
    assert [command.id for _, command in line.sent] == ["c1", "c2", "c1", "c2"]


def test_a_deleted_node_is_sent_nothing(engine: Engine, downlink: Downlink) -> None:
    ask(engine)
    with writing(engine) as connection:
        connection.execute(update(schema.nodes).values(deleted_at=NOW))
    assert downlink.send_due() == 0
