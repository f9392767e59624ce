"""Plays a fleet into an MQTT broker, on the run's clock, without losing a sample.

Samples go out in windows, one message per machine and window. A window is done when the broker has acknowledged all
its messages; only then does the saved state move on. After a lost connection what was not acknowledged is sent again;
after a kill the whole window is. So every sample arrives at least once, and those of one machine in order.
"""

import asyncio
import logging
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiomqtt
import msgspec

from forewarn_device_simulator.clock import Clock
from forewarn_device_simulator.live.begin import BrokerAddress
from forewarn_device_simulator.live.control import CONTROL_TOPIC, ControlError, read_command
from forewarn_device_simulator.live.fleet import LiveFleet
from forewarn_device_simulator.live.state import LiveState, save_state
from forewarn_device_simulator.live.truth import TruthFile

log = logging.getLogger("forewarn_device_simulator")

QOS: Final = 1
MESSAGES_A_SECOND: Final = 8.0
"""Per machine, on an accelerated clock: more samples are put into one message instead."""
MAX_WINDOW: Final = 144
"""Most samples in one message, while catching up."""
FIRST_RETRY_SECONDS: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Played:
    """What a run did since its process started."""

    samples: int
    messages: int
    finished: bool
    """Whether the scenario was played to its end."""


def window_samples(interval_ms: int, rate: float) -> int:
    """How many samples of a machine to put into one message so that it sends at most MESSAGES_A_SECOND a second."""
    samples_a_second = rate * 1000 / interval_ms
    return min(MAX_WINDOW, max(1, round(samples_a_second / MESSAGES_A_SECOND)))


class Player:
    """One live run. `state_path` is written before anything is told that depends on it."""

    def __init__(
        self,
        fleet: LiveFleet,
        state: LiveState,
        *,
        state_path: Path,
        truth: TruthFile | None,
        clock: Clock,
        window: int,
    ) -> None:
        self._fleet = fleet
        self._state = state
        self._state_path = state_path
        self._truth = truth
        self._clock = clock
        self._window = window
        self._unsent = dict[str, bytes]()
        self._stop_index = state.published
        self._messages = 0
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Finish the window under way, then return from `play`."""
        self._stopping.set()

    async def play(self, broker: BrokerAddress, *, client_id: str, reconnect_max_seconds: float) -> Played:
        """Play until the scenario ends or `stop` is called; reconnect as often as it takes."""
        save_state(self._state_path, self._state)
        self._tell_truth()
        first = self._state.published
        waiting_seconds = FIRST_RETRY_SECONDS
        while not self._over():
            connected = False
            try:
                async with self._client(broker, client_id) as client:
                    connected = True
                    log.info("connected host=%s port=%d", broker.host, broker.port)
                    await self._serve(client)
            except aiomqtt.MqttError as error:
                waiting_seconds = FIRST_RETRY_SECONDS if connected else min(2 * waiting_seconds, reconnect_max_seconds)
                log.warning("not connected reason=%r retry_within_seconds=%.1f", str(error), waiting_seconds)
                await self._wait(random.uniform(0, waiting_seconds))
        samples = (self._state.published - first) * len(self._fleet.assets)
        return Played(samples=samples, messages=self._messages, finished=self._ended())

    def _client(self, broker: BrokerAddress, client_id: str) -> aiomqtt.Client:
        client = aiomqtt.Client(
            broker.host,
            broker.port,
            username=broker.username,
            password=broker.password,
            identifier=client_id,
            clean_session=False,
            keepalive=15,
            max_inflight_messages=100,
        )
        client.pending_calls_threshold = len(self._fleet.assets) + 10
        return client

    async def _serve(self, client: aiomqtt.Client) -> None:
        """Feed and listen until one of them ends; raises MqttError when the connection is lost."""
        await client.subscribe(f"{CONTROL_TOPIC}/+", qos=QOS)
        feeding = asyncio.create_task(self._feed(client))
        listening = asyncio.create_task(self._listen(client))
        done, pending = await asyncio.wait({feeding, listening}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()

    async def _feed(self, client: aiomqtt.Client) -> None:
        while not self._over():
            if not self._unsent:
                await self._wait_until_due()
                if self._over():
                    return
                self._open_window()
            sent = await asyncio.gather(
                *(self._publish(client, asset) for asset in list(self._unsent)), return_exceptions=True
            )
            for failure in filter(None, sent):
                raise failure
            self._close_window()

    async def _publish(self, client: aiomqtt.Client, asset: str) -> None:
        await client.publish(self._fleet.topic(asset), self._unsent[asset], qos=QOS)
        del self._unsent[asset]
        self._messages += 1

    async def _wait_until_due(self) -> None:
        """Until the last sample of the next window has been measured."""
        last = min(self._state.published + self._window, len(self._fleet.t_ms)) - 1
        await self._wait(self._clock.wall_seconds_until(int(self._fleet.t_ms[last])))

    def _open_window(self) -> None:
        """All samples that are due, up to MAX_WINDOW: one window in step with the clock, larger ones when behind."""
        first = self._state.published
        due = int(self._fleet.t_ms.searchsorted(self._clock.now_ms(), side="right"))
        self._stop_index = min(max(due, first + 1), first + MAX_WINDOW, len(self._fleet.t_ms))
        self._unsent = {asset: self._fleet.payload(asset, first, self._stop_index) for asset in self._fleet.assets}

    def _close_window(self) -> None:
        self._state = msgspec.structs.replace(self._state, published=self._stop_index)
        save_state(self._state_path, self._state)
        self._tell_truth()

    async def _listen(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            payload = message.payload
            asset = message.topic.value.rpartition("/")[2]
            try:
                self._command(asset, payload if isinstance(payload, bytes) else b"")
            except ControlError as error:
                log.warning("command refused asset=%r reason=%r", asset, str(error))

    def _command(self, asset: str, payload: bytes) -> None:
        """Carry out a command from the first sample on that is in no window yet."""
        first_free = min(self._stop_index, len(self._fleet.t_ms) - 1)
        ordered = read_command(asset, payload, self._fleet.known_modes, int(self._fleet.t_ms[first_free]))
        if any(known.id == ordered.id for known in self._state.repairs):
            return
        self._state = msgspec.structs.replace(self._state, repairs=(*self._state.repairs, ordered))
        save_state(self._state_path, self._state)
        self._fleet.repair(ordered)
        self._tell_truth()
        log.info("repair asset=%s failure_mode=%s hours=%.1f", asset, ordered.failure_mode, ordered.hours)

    def _tell_truth(self) -> None:
        if self._truth is not None:
            published = self._state.published
            measured_ms = int(self._fleet.t_ms[published - 1]) if published else 0
            self._truth.add(self._fleet.truths(measured_ms))

    async def _wait(self, seconds: float) -> None:
        """Wait, but no longer than until `stop` is called."""
        if seconds > 0:
            try:
                await asyncio.wait_for(self._stopping.wait(), seconds)
            except TimeoutError:
                return

    def _ended(self) -> bool:
        return self._state.published >= len(self._fleet.t_ms)

    def _over(self) -> bool:
        return self._stopping.is_set() or self._ended()
