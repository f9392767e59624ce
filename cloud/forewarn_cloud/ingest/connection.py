"""The connection to the broker: a persistent session, acknowledged by hand, whatever the broker."""

import contextlib
import itertools
import logging
import random
import select
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from forewarn_cloud.ingest.buffered_client import BufferedClient
from forewarn_cloud.ingest.messages import Delivery

_log = logging.getLogger(__name__)

SUBSCRIPTIONS: Final = tuple(f"fw/v1/+/+/{channel}" for channel in ("telemetry", "advisory", "presence", "reply"))
KEEP_ALIVE_SECONDS: Final = 30
RECONNECT_SECONDS: Final = (1.0, 10.0)
STOP_SECONDS: Final = 6.0
"""Longer than a connection attempt may take."""
_PACKETS_A_TURN: Final = 1000
_TURN_SECONDS: Final = 1.0
_PAUSED_SECONDS: Final = 0.05
_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


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
    broker may have forgotten the session. Reads nothing while there is no `room`, and then the broker waits."""

    def __init__(
        self,
        url: BrokerUrl,
        *,
        client_id: str,
        on_delivery: Callable[[Delivery], object],
        room: Callable[[], bool] = lambda: True,
        ca_file: Path | None = None,
    ) -> None:
        self._url = url
        self._on_delivery = on_delivery
        self._room = room
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ingest-connection", daemon=True)
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        self._generations = itertools.count(1)
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
        client.on_message = self._received
        self._client = client

    def start(self) -> None:
        self._client.connect_async(self._url.host, self._url.port, KEEP_ALIVE_SECONDS)
        self._thread.start()

    def stop(self) -> None:
        """Disconnect in order; the broker keeps the session and what comes meanwhile."""
        self._stopping.set()
        self._subscribed = False
        self._wake()
        self._thread.join(STOP_SECONDS)
        self._waker.close()
        self._woken.close()

    @property
    def ready(self) -> bool:
        """Connected and subscribed."""
        return self._subscribed

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """PUBACK those of this connection; those of an earlier one have lost their packet identifier."""
        for delivery in deliveries:
            generation, packet = delivery.receipt
            if generation == self._generation and packet:
                self._client.ack(packet, 1)

    def publish(self, topic: str, payload: bytes, *, qos: int) -> bool:
        if not self._subscribed:
            return False
        return self._client.publish(topic, payload, qos).rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        first, longest = RECONNECT_SECONDS
        pause = first
        while not self._stopping.is_set():
            generation = self._generation
            try:
                self._client.reconnect()
                self._serve()
            except OSError as error:
                _log.debug("no connection to the broker at %s:%d: %s", self._url.host, self._url.port, error)
            except Exception:  # noqa: BLE001 - without this thread nothing is received any more
                _log.exception("the connection to the broker failed and is made anew")
            self._subscribed = False
            pause = first if self._generation != generation else min(2 * pause, longest)
            self._stopping.wait(pause * random.uniform(0.5, 1.0))

    def _serve(self) -> None:
        """Until the connection ends."""
        while self._client.socket() is not None:
            if self._stopping.is_set():
                self._client.disconnect()
            self._take_turn()

    def _take_turn(self) -> None:
        """Wait for something to do, and do it. Where there is no room, the keep-alive goes on all the same."""
        room = self._room()
        self._wait(reads=room, seconds=_TURN_SECONDS if room else _PAUSED_SECONDS)
        if room:
            self._client.read(packets=_PACKETS_A_TURN, room=self._room)
        self._client.write()
        self._client.loop_misc()

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
        self._generation = next(self._generations)
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

    def _received(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        receipt = (self._generation, message.mid if message.qos else 0)
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = "(topic is not UTF-8)"
        payload = bytes(message.payload)
        self._on_delivery(Delivery(topic=topic, payload=payload, retained=message.retain, receipt=receipt))
