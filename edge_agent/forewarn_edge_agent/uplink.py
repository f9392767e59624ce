"""The uplink: publishes what the spool holds, advisories first, until the cloud says that it has it.

A PUBACK is only a receipt from the broker. What counts is the cloud's own acknowledgement on the node's `ack` topic;
where it does not come, everything after the last one is sent again, and the cloud absorbs what it already has.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import aiomqtt

from forewarn_edge_agent import __version__
from forewarn_edge_agent.clock import Clock
from forewarn_edge_agent.config import Node, Uplink
from forewarn_edge_agent.log import event
from forewarn_edge_agent.spool import Chunk
from forewarn_models import wire

log = logging.getLogger(__name__)

WINDOW_RECORDS: Final = 2000
"""How many records of a lane may be on their way."""
MESSAGE_BYTES: Final = 128 * 1024
"""What a message may hold beyond its first record; small enough that an advisory need not wait long behind it."""
FIRST_BACKOFF_SECONDS: Final = 1.0
_LANES_BY_URGENCY: Final[tuple[wire.Lane, ...]] = ("advisory", "telemetry")


class Outbox(Protocol):
    """What the uplink needs of the spool; each call may wait for the spool's thread."""

    epoch: str

    async def read(self, lane: wire.Lane, after_seq: int) -> Chunk | None: ...
    async def read_gaps(self, lane: wire.Lane, after_seq: int) -> list[Chunk]: ...
    async def acknowledged_seq(self, lane: wire.Lane) -> int: ...
    async def first_seq(self, lane: wire.Lane) -> int: ...
    async def acknowledge(self, ack: wire.Ack) -> bool: ...


class _Progress:
    """How far a lane has come in this session."""

    def __init__(self) -> None:
        self.acknowledged_seq = 0
        self.sent_seq = 0
        self.gap_seq = 0
        self.moved_at = time.monotonic()

    def start_over(self, acknowledged_seq: int) -> None:
        self.acknowledged_seq = self.sent_seq = self.gap_seq = acknowledged_seq
        self.moved_at = time.monotonic()


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
        carry_out: Callable[[wire.Command], Awaitable[wire.Reply]],
    ) -> None:
        self._node = node
        self._uplink = uplink
        self._clock = clock
        self._outbox = outbox
        self._assets = dict(assets)
        self._carry_out = carry_out
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()
        self._lanes = {lane: _Progress() for lane in _LANES_BY_URGENCY}
        self._failures = 0

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
                await self._session()
            except* (aiomqtt.MqttError, OSError) as errors:
                self._failures += 1
                delay = backoff_seconds(self._failures, self._uplink.reconnect_max_seconds, random.random())
                reason = errors.exceptions[0]
                event(log, logging.WARNING, "uplink_down", reason=_innermost(reason), retry_in_s=round(delay, 1))
                await self._pause(delay)

    async def _session(self) -> None:
        # The will has the instant of the birth: nobody can take it for older news than the birth.
        at_ms = self._clock.now_ms()
        async with self._client(will=self._offline(at_ms)) as client:
            await client.subscribe([(self._topic("ack"), 1), (self._topic("command"), 1)])
            for lane, progress in self._lanes.items():
                progress.start_over(await self._outbox.acknowledged_seq(lane))
            await client.publish(self._topic("presence"), await self._birth(at_ms), qos=1, retain=True)
            event(log, logging.INFO, "uplink_up", host=self._uplink.host, port=self._uplink.port)
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(self._listen(client))
                await self._send_until_stopped(client)
                listening.cancel()
            await client.publish(self._topic("presence"), self._offline(self._clock.now_ms()), qos=1, retain=True)

    def _client(self, will: bytes) -> aiomqtt.Client:
        return aiomqtt.Client(
            self._uplink.host,
            self._uplink.port,
            username=self._uplink.username,
            password=self._uplink.password(),
            identifier=f"forewarn-{self._node.tenant}-{self._node.node}",
            # A command that comes while the link is down waits at the broker.
            clean_session=False,
            keepalive=self._uplink.keep_alive_seconds,
            tls_context=self._uplink.tls_context(),
            will=aiomqtt.Will(self._topic("presence"), will, qos=1, retain=True),
        )

    # --- up ---------------------------------------------------------------------------------------------------------

    async def _send_until_stopped(self, client: aiomqtt.Client) -> None:
        while not self._stopping.is_set():
            self._news.clear()
            await self._resend_what_stalled()
            if not await self._send_most_urgent(client):
                await self._wait_for_news()

    async def _send_most_urgent(self, client: aiomqtt.Client) -> bool:
        """Publish one message of the most urgent lane that has one to send and room for it; False if none has."""
        for lane in _LANES_BY_URGENCY:
            chunk = await self._next_chunk(lane)
            if chunk is not None:
                payload = wire.encode_message(self._outbox.epoch, chunk.seq, chunk.bodies)
                # No timeout: on a slow link a message may take long; a dead link ends the session by keep-alive.
                await client.publish(self._topic(lane), payload, qos=1, timeout=float("inf"))
                return True
        return False

    async def _next_chunk(self, lane: wire.Lane) -> Chunk | None:
        progress = self._lanes[lane]
        for gap in await self._outbox.read_gaps(lane, progress.gap_seq):
            progress.gap_seq = gap.last_seq
            return gap
        if progress.sent_seq - progress.acknowledged_seq >= WINDOW_RECORDS:
            return None
        chunk = await self._outbox.read(lane, progress.sent_seq)
        if chunk is not None:
            if progress.sent_seq <= progress.acknowledged_seq:
                progress.moved_at = time.monotonic()
            progress.sent_seq = chunk.last_seq
        return chunk

    async def _resend_what_stalled(self) -> None:
        for lane, progress in self._lanes.items():
            waiting = progress.sent_seq > progress.acknowledged_seq
            if waiting and time.monotonic() - progress.moved_at >= self._uplink.resend_after_seconds:
                event(log, logging.WARNING, "resend", lane=lane, after_seq=progress.acknowledged_seq)
                progress.start_over(await self._outbox.acknowledged_seq(lane))

    async def _wait_for_news(self) -> None:
        try:
            await asyncio.wait_for(self._news.wait(), min(1.0, self._uplink.resend_after_seconds))
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
                    reply = await self._carry_out(wire.decode_command(payload))
                    await client.publish(self._topic("reply"), wire.encode_control(reply), qos=1)
            except wire.WireError as error:
                event(log, logging.WARNING, "bad_control_message", topic=message.topic.value, reason=error)

    async def _on_ack(self, ack: wire.Ack) -> None:
        if not await self._outbox.acknowledge(ack):
            return
        progress = self._lanes[ack.lane]
        progress.acknowledged_seq = ack.seq
        progress.sent_seq = max(progress.sent_seq, ack.seq)
        progress.moved_at = time.monotonic()
        self._failures = 0
        self._news.set()

    # --- who we are -------------------------------------------------------------------------------------------------

    def _topic(self, channel: wire.Channel) -> str:
        return wire.topic(self._node.tenant, self._node.node, channel)

    async def _birth(self, at_ms: int) -> bytes:
        lanes = list(self._lanes)
        return wire.encode_control(
            wire.Presence(
                schema=wire.SCHEMA,
                state="online",
                at=at_ms,
                epochs=dict.fromkeys(lanes, self._outbox.epoch),
                first_seqs={lane: await self._outbox.first_seq(lane) for lane in lanes},
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


def backoff_seconds(failures: int, longest: float, chance: float) -> float:
    """How long to wait after so many failures in a row: full jitter, `chance` within 0..1 picks from the range.

    A link that comes back after an outage is met by all its nodes at once; the jitter spreads them.
    """
    ceiling = min(longest, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 32))
    return chance * ceiling


def _innermost(error: BaseException) -> BaseException:
    return _innermost(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
