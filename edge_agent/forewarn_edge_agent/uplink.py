"""The uplink: publishes what the spool holds, advisories first, until the cloud says that it has it.

A PUBACK is only a receipt from the broker. What counts is the cloud's own acknowledgement on the node's `ack` topic;
where it does not come, everything after the last one is sent again, and the cloud absorbs what it already has.

One message at a time is on its way to the broker, of a size that takes about a second: so an advisory never waits long.
"""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from forewarn_edge_agent import __version__
from forewarn_edge_agent.clock import Clock
from forewarn_edge_agent.config import Node, Uplink
from forewarn_edge_agent.lanes import LANES_BY_URGENCY, LaneProgress, Read
from forewarn_edge_agent.link import SUSPICION, Link, backoff_seconds
from forewarn_edge_agent.log import event
from forewarn_edge_agent.pacing import MessageSize, Pace
from forewarn_edge_agent.refusals import PublicationRefusedError, SubscriptionRefusedError, trouble
from forewarn_edge_agent.resends import Resends
from forewarn_edge_agent.spool import Chunk
from forewarn_models import wire

log = logging.getLogger(__name__)

HISTORICAL_MS: Final = wire.MINUTE_MS
"""A record that waited longer is sent as history."""
KEEP_ALIVE_SHARE: Final = 0.7
"""The client asks after one keep-alive of silence and gives up after a second one: together 1.4 of the configured."""
SESSION_EXPIRY_SECONDS: Final = 7 * 24 * 3600
UNANSWERED_SECONDS: Final = float("inf")
"""On a slow link a message may take long; a dead link ends the session by keep-alive."""


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Of a lane: the first record that can still be sent, the last acknowledged one, and the last one given."""

    first_seq: int
    acknowledged_seq: int
    last_seq: int


class Outbox(Protocol):
    """What the uplink needs of the spool; each call may wait for the spool's thread."""

    @property
    def epoch(self) -> str:
        """Changes when the spool is replaced, or its place taken by memory, while the agent runs."""
        ...

    @property
    def has_earlier(self) -> bool:
        """Whether there may be unacknowledged records of earlier epochs."""
        ...

    async def first_of(self, reads: Sequence[Read], *, max_bytes: int, old_before_ms: int) -> tuple[Read, Chunk] | None:
        """The first of these that brings anything."""
        ...

    async def ends(self) -> dict[wire.Lane, Ends]: ...

    async def acknowledge(self, ack: wire.Ack) -> int | None:
        """The last record the lane holds, None if that was no news."""
        ...


class Commands(Protocol):
    """What the uplink has the agent do."""

    async def carry_out(self, command: wire.Command) -> wire.Reply | None:
        """The answer; None where the records asked for have to be sent first."""
        ...

    async def resent(self, command: wire.Resend, records: int) -> wire.Reply:
        """So many were sent again: tell what else of the range is no longer held, and answer."""
        ...


class UplinkConnection:
    """Keeps the connection to the cloud's broker up and the lanes moving until `stop`."""

    def __init__(
        self,
        *,
        node: Node,
        uplink: Uplink,
        clock: Clock,
        outbox: Outbox,
        assets: Mapping[str, str],
        commands: Commands,
    ) -> None:
        self._node = node
        self._uplink = uplink
        self._clock = clock
        self._outbox = outbox
        self._assets = dict(assets)
        self._commands = commands
        self._resends = Resends()
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()
        self._lanes = {lane: LaneProgress(lane) for lane in LANES_BY_URGENCY}
        self._told_epoch = outbox.epoch
        self._pace = Pace(uplink.replay_records_per_s, clock.monotonic())
        self._size = MessageSize()
        self.link = Link(since_s=clock.monotonic())
        self.acknowledged_at_s: float | None = None
        """When the cloud last acknowledged something new, of the monotonic clock."""

    @property
    def replay_records_per_s(self) -> float:
        """As configured, or less if the cloud asks for less."""
        return self._pace.per_s

    def wake(self) -> None:
        """There is something new in the spool."""
        self._news.set()

    def stop(self) -> None:
        """Say goodbye and end `run`."""
        self._stopping.set()
        self._news.set()

    async def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.link.trying(self._clock.monotonic())
                await self._session()
            except* (aiomqtt.MqttError, OSError) as errors:
                await self._pause(self._note_down(_innermost(errors)))

    def _note_down(self, error: BaseException) -> float:
        """How long to wait before the next try."""
        found = trouble(error)
        is_suspicious = self.link.down(found, self._clock.monotonic())
        delay = backoff_seconds(self.link.failures, self._uplink.reconnect_max_seconds, random.random())
        fields = {"reason": found.reason, "retry_in_s": round(delay, 1)} | ({"fix": found.fix} if found.fix else {})
        event(log, logging.WARNING, f"uplink_{found.kind}", **fields)
        if is_suspicious:
            event(log, logging.ERROR, "takeover_suspected", sessions=self.link.short_sessions, reason=SUSPICION)
        return delay

    async def _session(self) -> None:
        # The will has the instant of the birth: nobody can take it for older news than the birth.
        at_ms = self._clock.now_ms()
        async with self._client(will=self._offline(at_ms)) as client:
            await self._subscribe(client)
            await self._be_born(client, at_ms)
            self.link.up(self._clock.monotonic())
            event(log, logging.INFO, "uplink_up", host=self._uplink.host, port=self._uplink.port)
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(self._listen(client))
                await self._send_until_stopped(client)
                listening.cancel()
            await client.publish(self._topic("presence"), self._offline(self._clock.now_ms()), qos=1, retain=True)

    async def _be_born(self, client: aiomqtt.Client, at_ms: int) -> None:
        """Say who we are, and begin each lane behind what is acknowledged."""
        self._told_epoch = self._outbox.epoch
        ends = await self._outbox.ends()
        for lane, progress in self._lanes.items():
            progress.start_over(ends[lane].acknowledged_seq, self._clock.monotonic(), last_seq=ends[lane].last_seq)
        await client.publish(self._topic("presence"), self._birth(at_ms, ends), qos=1, retain=True)

    def _client(self, will: bytes) -> "_Client":
        is_version_5 = self._uplink.mqtt_version == "5"
        return _Client(
            self._uplink.host,
            self._uplink.port,
            protocol=aiomqtt.ProtocolVersion.V5 if is_version_5 else aiomqtt.ProtocolVersion.V311,
            username=self._uplink.username,
            password=self._uplink.password(),
            identifier=f"forewarn-{self._node.tenant}-{self._node.node}",
            # A command that comes while the link is down waits at the broker.
            clean_session=None if is_version_5 else False,
            clean_start=False if is_version_5 else paho.MQTT_CLEAN_START_FIRST_ONLY,
            properties=_session_expiry() if is_version_5 else None,
            keepalive=int(self._uplink.keep_alive_seconds * KEEP_ALIVE_SHARE),
            tls_context=self._uplink.tls_context(),
            will=aiomqtt.Will(self._topic("presence"), will, qos=1, retain=True),
        )

    async def _subscribe(self, client: aiomqtt.Client) -> None:
        answers = await client.subscribe([(self._topic("ack"), 1), (self._topic("command"), 1)])
        refused = [code for code in answers if (code.value if isinstance(code, ReasonCode) else code) >= 0x80]
        if refused:
            raise SubscriptionRefusedError(f"subscription refused: {refused[0]}")

    # --- up ---------------------------------------------------------------------------------------------------------

    async def _send_until_stopped(self, client: "_Client") -> None:
        while not self._stopping.is_set():
            self._news.clear()
            if self._outbox.epoch != self._told_epoch:
                await self._be_born(client, self._clock.now_ms())
            await self._resend_what_stalled()
            if not await self._send_most_urgent(client):
                await self._wait_for_news()

    async def _send_most_urgent(self, client: "_Client") -> bool:
        """Publish one message, the most urgent that there is; False if there is none or none may be sent now."""
        now_s = self._clock.monotonic()
        reads = [read for progress in self._lanes.values() for read in progress.reads(self._pace, now_s)]
        again = self._resends.read(self._pace, now_s)
        old_before_ms = self._clock.now_ms() - HISTORICAL_MS
        found = await self._outbox.first_of(
            [*reads, again] if again is not None else reads,
            max_bytes=self._size.limit_bytes,
            old_before_ms=old_before_ms,
        )
        if found is None:
            return again is not None and await self._answer_resend(client)
        read, chunk = found
        now_s = self._clock.monotonic()
        if read.way == "again":
            self._resends.sent(chunk, self._pace)
        else:
            self._lanes[read.lane].sent(read, chunk, self._pace, now_s)
        historical = chunk.spooled_at_ms < old_before_ms
        payload = wire.encode_message(chunk.epoch, chunk.seq, chunk.bodies, historical=historical)
        await client.publish(self._topic(read.lane), payload, qos=1, timeout=UNANSWERED_SECONDS)
        done_s = self._clock.monotonic()
        self._size.took(len(payload), done_s - now_s)
        self._lanes[read.lane].delivered(chunk, done_s)
        if client.refusal is not None:
            raise PublicationRefusedError(client.refusal)
        return True

    async def _answer_resend(self, client: "_Client") -> bool:
        asked = self._resends.finished()
        reply = await self._commands.resent(asked.command, asked.records)
        await client.publish(self._topic("reply"), wire.encode_control(reply), qos=1)
        return True

    async def _resend_what_stalled(self) -> None:
        now_s = self._clock.monotonic()
        for lane, progress in self._lanes.items():
            if progress.is_stalled(now_s, self._uplink.resend_after_seconds, self._outbox.has_earlier):
                event(log, logging.WARNING, "resend", lane=lane, after_seq=progress.acknowledged_seq)
                progress.send_again((await self._outbox.ends())[lane].acknowledged_seq, now_s)

    async def _wait_for_news(self) -> None:
        longest = min(1.0, self._uplink.resend_after_seconds)
        if self._pace.available(now_s := self._clock.monotonic()) < 1:
            longest = min(longest, self._pace.wait_seconds(now_s))
        try:
            await asyncio.wait_for(self._news.wait(), longest)
        except TimeoutError:
            return

    # --- down -------------------------------------------------------------------------------------------------------

    async def _listen(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            payload = message.payload if isinstance(message.payload, bytes) else b""
            try:
                if message.topic.value == self._topic("ack"):
                    await self._on_ack(wire.decode_control(payload, wire.Ack))
                else:
                    await self._on_command(client, wire.decode_command(payload))
            except wire.WireError as error:
                event(log, logging.WARNING, "bad_control_message", topic=message.topic.value, reason=error)

    async def _on_command(self, client: aiomqtt.Client, command: wire.Command) -> None:
        reply = await self._commands.carry_out(command)
        if reply is not None:
            await client.publish(self._topic("reply"), wire.encode_control(reply), qos=1)
        elif isinstance(command, wire.Resend):
            self._resends.add(command)
            self._news.set()

    async def _on_ack(self, ack: wire.Ack) -> None:
        received_s = self._clock.monotonic()
        last_seq = await self._outbox.acknowledge(ack)
        if last_seq is None:
            return
        progress, sent_s = self._lanes[ack.lane], None
        if ack.epoch == self._outbox.epoch:
            sent_s = progress.acknowledged(ack.seq, last_seq, received_s)
        else:
            progress.acknowledged_earlier(received_s)
        if ack.at is not None and sent_s is not None:
            self._note_time(ack.at, sent_s, received_s)
        configured = self._uplink.replay_records_per_s
        advised = configured if ack.replay_records_per_s is None else max(1, ack.replay_records_per_s)
        self._pace.change(min(configured, advised), received_s)
        self.acknowledged_at_s = received_s
        self.link.progressed()
        self._news.set()

    def _note_time(self, at_ms: int, sent_s: float, received_s: float) -> None:
        was_wrong = self._clock.is_wrong
        self._clock.cloud.note(at_ms=at_ms, sent_s=sent_s, received_s=received_s)
        if self._clock.is_wrong and not was_wrong:
            consequence = "the cloud's time is used; what was timed on receipt before may be in the cloud's quarantine"
            event(log, logging.ERROR, "clock_wrong", offset_ms=self._clock.offset_ms(), consequence=consequence)

    # --- who we are -------------------------------------------------------------------------------------------------

    def _topic(self, channel: wire.Channel) -> str:
        return wire.topic(self._node.tenant, self._node.node, channel)

    def _birth(self, at_ms: int, ends: Mapping[wire.Lane, Ends]) -> bytes:
        return wire.encode_control(
            wire.Presence(
                schema=wire.SCHEMA,
                state="online",
                at=at_ms,
                epochs=dict.fromkeys(ends, self._outbox.epoch),
                first_seqs={lane: of_lane.first_seq for lane, of_lane in ends.items()},
                acknowledged={lane: of_lane.acknowledged_seq for lane, of_lane in ends.items()},
                version=__version__,
                assets=self._assets,
            )
        )

    def _offline(self, at_ms: int) -> bytes:
        return wire.encode_control(wire.Presence(schema=wire.SCHEMA, state="offline", at=at_ms))

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return


class _Client(aiomqtt.Client):
    """Remembers, too, what the broker's receipt says; MQTT 5 knows receipts that refuse.

    A connection that ends before the broker has answered has failed at once: a load balancer without a broker does so.
    """

    refusal: ReasonCode | None = None

    def _on_publish(
        self, client: paho.Client, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        if reason_code.is_failure:
            self.refusal = reason_code
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError("the connection ended before the broker answered"))
        super()._on_disconnect(client, userdata, flags, reason_code, properties)


def _session_expiry() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = SESSION_EXPIRY_SECONDS
    return properties


def _innermost(error: BaseException) -> BaseException:
    """Of several, the first; and what caused it, where aiomqtt says only that the connection is no more."""
    if isinstance(error, BaseExceptionGroup):
        return _innermost(error.exceptions[0])
    return error.__cause__ if isinstance(error.__cause__, aiomqtt.MqttError | OSError) else error
