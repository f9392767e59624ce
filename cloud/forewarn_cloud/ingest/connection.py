"""The connection to the broker: a persistent session, acknowledged by hand, whatever the broker."""

import contextlib
import itertools
import logging
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from forewarn_cloud.ingest.buffered_client import BufferedClient, BufferedSocket, published_once, receipts
from forewarn_cloud.ingest.messages import Delivery

_log = logging.getLogger(__name__)

SUBSCRIPTIONS: Final = tuple(f"fw/v1/+/+/{channel}" for channel in ("telemetry", "advisory", "presence", "reply"))
KEEP_ALIVE_SECONDS: Final = 30
RECONNECT_SECONDS: Final = (1.0, 10.0)
SILENT_KEEP_ALIVES: Final = 1.4
"""A connection over which nothing comes for so many times the keep-alive, its own pings included, is half open."""
STUCK_SECONDS: Final = 60.0
"""A turn takes at most a second, an attempt to connect some more, a name server that does not answer half a minute."""
STOP_SECONDS: Final = 6.0
"""Longer than a connection attempt may take."""
_PACKETS_A_TURN: Final = 1000
_TURN_SECONDS: Final = 1.0
_PAUSED_SECONDS: Final = 0.05
_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_GENERATIONS: Final = itertools.count(1)
"""Of all connections there ever are: a receipt of one that was replaced is worth nothing to its successor."""


class BrokerUrlError(ValueError):
    """The broker's URL cannot be used; the message says why."""


@dataclass(frozen=True, kw_only=True)
class BrokerUrl:
    """mqtt://[user[:password]@]host[:port], or mqtts:// for TLS."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> "BrokerUrl":
        """Raises: BrokerUrlError"""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise BrokerUrlError(f"broker_url: {error}") from None
        if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/") or parts.query:
            raise BrokerUrlError("broker_url: write mqtt://host:port or mqtts://host:port")
        return cls(
            host=parts.hostname,
            port=port or _PORTS[parts.scheme],
            tls=parts.scheme == "mqtts",
            username=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
        )


class BrokerConnection:
    """One MQTT session with a thread of its own. Reconnects by itself, and subscribes anew each time, because the
    broker may have forgotten the session. Reads nothing while there is no `room`, and then the broker waits.

    A message that `on_delivery` cannot take is given to `on_failure` with the error; without it, the connection is made
    anew and the message comes again."""

    def __init__(
        self,
        url: BrokerUrl,
        *,
        client_id: str,
        on_delivery: Callable[[Delivery], object],
        on_failure: Callable[[Delivery, Exception], object] | None = None,
        room: Callable[[], bool] = lambda: True,
        keep_alive_seconds: int = KEEP_ALIVE_SECONDS,
        ca_file: Path | None = None,
    ) -> None:
        self._url = url
        self._on_delivery = on_delivery
        self._on_failure = on_failure
        self._room = room
        self._keep_alive_seconds = keep_alive_seconds
        self._turned_at = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ingest-connection", daemon=True)
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        self._generation = 0
        self._subscribed = False
        client = BufferedClient(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=False,
            manual_ack=True,
            protocol=paho.MQTTv311,
        )
        client.username_pw_set(url.username, url.password)
        if url.tls:
            client.tls_set_context(ssl.create_default_context(cafile=ca_file))
        client.on_socket_register_write = self._wake
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._subscription_answered
        client.on_received = self._received
        self._client = client

    def start(self) -> None:
        self._client.connect_async(self._url.host, self._url.port, self._keep_alive_seconds)
        self._thread.start()

    def stop(self) -> None:
        """Disconnect in order; the broker keeps the session and what comes meanwhile."""
        self._stopping.set()
        self._subscribed = False
        self._wake()
        self._thread.join(STOP_SECONDS)

    def abandon(self) -> None:
        """Leave a thread that does not come back to itself; what it may still receive is dropped, and comes again."""
        self._stopping.set()
        self._subscribed = False
        if self._client.buffered is not None:
            self._client.buffered.abort()

    @property
    def ready(self) -> bool:
        """Connected and subscribed."""
        return self._subscribed and self.alive

    @property
    def alive(self) -> bool:
        """Whether the thread goes on: false once it has ended or is stuck."""
        is_stuck = time.monotonic() - self._turned_at > STUCK_SECONDS
        return self._thread.ident is None or (self._thread.is_alive() and not is_stuck)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """PUBACK those of this connection; those of an earlier one have lost their packet identifier."""
        line, generation = self._client.buffered, self._generation
        numbers = [number for of, number in (delivery.receipt for delivery in deliveries) if of == generation]
        if line is not None and generation:
            self._queue(line, receipts(filter(None, numbers)))

    def publish(self, topic: str, payload: bytes, *, qos: int) -> bool:
        line = self._client.buffered
        if not self._subscribed or line is None:
            return False
        if qos == 0:
            self._queue(line, published_once(topic, payload))
            return True
        return self._client.publish(topic, payload, qos).rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def _queue(self, line: BufferedSocket, packets: bytes) -> None:
        """For the thread to send, which is woken where nothing else waited."""
        if line.queue(packets):
            self._wake()

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._keep_connected()
        finally:
            self._subscribed = False
            for end in (self._waker, self._woken, self._client.buffered):
                if end is not None:
                    end.close()

    def _keep_connected(self) -> None:
        first, longest = RECONNECT_SECONDS
        pause = first
        while not self._stopping.is_set():
            self._generation = 0  # until the broker has answered: receipts of before are not for it
            self._turned_at = time.monotonic()
            try:
                self._client.reconnect()
                self._serve()
            except OSError as error:
                _log.debug("no connection to the broker at %s:%d: %s", self._url.host, self._url.port, error)
            except Exception:  # noqa: BLE001 - without this thread nothing is received any more
                _log.exception("the connection to the broker failed and is made anew")
            self._subscribed = False
            pause = first if self._generation else min(2 * pause, longest)
            self._stopping.wait(pause * random.uniform(0.5, 1.0))

    def _serve(self) -> None:
        """Until the connection ends."""
        while self._client.socket() is not None:
            if self._stopping.is_set():
                self._client.disconnect()
            self._take_turn()

    def _take_turn(self) -> None:
        """Wait for something to do, and do it. Where there is no room, the keep-alive goes on all the same."""
        self._turned_at = time.monotonic()
        room = self._room()
        self._wait(reads=room, seconds=min(_TURN_SECONDS, self._keep_alive_seconds / 20) if room else _PAUSED_SECONDS)
        if room:
            self._client.read(packets=_PACKETS_A_TURN, room=self._room)
            self._end_if_silent()
        self._client.write()
        self._client.loop_misc()

    def _end_if_silent(self) -> None:
        """The broker answers a ping after each keep-alive; where it does not, nobody is at the other end."""
        line = self._client.buffered
        if line is None or time.monotonic() - line.heard_at < SILENT_KEEP_ALIVES * self._keep_alive_seconds:
            return
        _log.warning("the broker at %s:%d is silent; connecting anew", self._url.host, self._url.port)
        line.abort()

    def _wait(self, *, reads: bool, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        events = (select.POLLIN if reads else 0) | (select.POLLOUT if self._client.wants_write else 0)
        if events and self._client.buffered is not None:
            poll.register(self._client.buffered, events)
        poll.poll(0 if reads and self._client.pending else 1000 * seconds)
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)

    def _wake(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def _connected(self, client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        if reason.is_failure:
            _log.warning("the broker at %s:%d refused us: %s", self._url.host, self._url.port, reason)
            return
        self._generation = next(_GENERATIONS)
        _log.info("connected to the broker at %s:%d", self._url.host, self._url.port)
        client.subscribe([(topic, 1) for topic in SUBSCRIPTIONS])

    def _subscription_answered(
        self, _client: paho.Client, _data: Any, _mid: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        self._subscribed = not any(reason.is_failure for reason in reasons)
        if not self._subscribed:
            _log.error("the broker refused a subscription: %s", ", ".join(map(str, reasons)))

    def _disconnected(
        self, _client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        self._subscribed = False
        if reason.is_failure:
            _log.warning("lost the broker at %s:%d: %s", self._url.host, self._url.port, reason)

    def _received(self, topic: bytes, payload: bytes, retained: bool, packet: int) -> None:
        try:
            name = topic.decode()
        except UnicodeDecodeError:
            name = "(topic is not UTF-8)"
        delivery = Delivery(topic=name, payload=payload, retained=retained, receipt=(self._generation, packet))
        if self._stopping.is_set():
            return
        try:
            self._on_delivery(delivery)
        except Exception as error:
            if self._on_failure is None:
                raise
            self._on_failure(delivery, error)
