"""Machines that publish to an MQTT broker near the agent.

The session is persistent and each message is acknowledged to the broker only after it is in the spool, so what the
machine published with QoS 1 is neither lost by a crash of the agent nor by a pause of it.
"""

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from forewarn_edge_agent import machine_message
from forewarn_edge_agent.clock import Clock
from forewarn_edge_agent.config import MqttSource as MqttSourceConfig
from forewarn_edge_agent.log import event
from forewarn_edge_agent.machine_message import Declared, MessageError
from forewarn_edge_agent.sources import Deliveries, Delivery, Refusal

log = logging.getLogger(__name__)

_RECONNECT_MAX_SECONDS = 30
_JOIN_SECONDS = 5.0


class MqttSource:
    """paho runs its own network thread; the asyncio client for MQTT cannot hold an acknowledgement back."""

    def __init__(self, config: MqttSourceConfig, client_id: str, assets: Mapping[str, Declared], clock: Clock) -> None:
        self._config = config
        self._client_id = client_id
        self._assets = assets
        self._clock = clock
        self._connection = 0
        """Counts up with each connection: a message may only be acknowledged on the one it came by."""
        self._handing_over: Future[None] | None = None

    async def run(self, deliveries: Deliveries) -> None:
        loop = asyncio.get_running_loop()
        client = self._client()

        def on_message(_client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
            # Waits while the queue is full: then the network, too, is read no further.
            self._handing_over = asyncio.run_coroutine_threadsafe(deliveries.put(self._delivery(client, message)), loop)
            with suppress(CancelledError):
                self._handing_over.result()

        client.on_message = on_message
        client.connect_async(self._config.host, self._config.port, self._config.keep_alive_seconds)
        client.loop_start()
        try:
            await asyncio.Event().wait()
        finally:
            client.on_message = None
            try:
                # What was taken is acknowledged before the connection is closed. Where it is not, because the part that
                # takes it has failed, the agent must still come to its end.
                with suppress(TimeoutError):
                    await asyncio.wait_for(deliveries.join(), _JOIN_SECONDS)
            finally:
                if self._handing_over is not None:
                    self._handing_over.cancel()  # or the network thread would wait for ever
                client.disconnect()
                await asyncio.to_thread(client.loop_stop)

    def _client(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=self._client_id, clean_session=False, manual_ack=True
        )
        client.reconnect_delay_set(1, _RECONNECT_MAX_SECONDS)
        if self._config.username is not None:
            client.username_pw_set(self._config.username, self._config.password())
        context = self._config.tls_context()
        if context is not None:
            client.tls_set_context(context)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        return client

    def _on_connect(self, client: paho.Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            event(log, logging.WARNING, "source_refused", host=self._config.host, reason=reason)
            return
        self._connection += 1
        client.subscribe(self._config.topic, qos=1)

    def _on_subscribe(self, _client: paho.Client, _userdata: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        where = {"host": self._config.host, "port": self._config.port, "topic": self._config.topic}
        if any(reason.is_failure for reason in reasons):
            event(log, logging.WARNING, "source_refused", **where, reason=reasons[0])
        else:
            event(log, logging.INFO, "source_up", **where)

    def _on_disconnect(self, _client: paho.Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._connection += 1
        if reason.is_failure:
            event(log, logging.WARNING, "source_down", host=self._config.host, reason=reason)

    def _delivery(self, client: paho.Client, message: paho.MQTTMessage) -> Delivery:
        connection = self._connection

        def confirm() -> None:
            # After a reconnect the broker delivers it again under a number that may by then belong to another message.
            if message.qos > 0 and connection == self._connection:
                client.ack(message.mid, message.qos)

        if message.retain:
            return Delivery(
                refusals=(Refusal(kind="retained", detail="a retained message is old news"),), confirm=confirm
            )
        try:
            found = self._read(message)
        except MessageError as error:
            return Delivery(refusals=(error.refusal,), confirm=confirm)
        notes = ("timed_on_receipt",) if found.timed_on_receipt else ()
        return Delivery(records=found.records, refusals=found.refusals, notes=notes, confirm=confirm)

    def _read(self, message: paho.MQTTMessage) -> machine_message.MachineMessage:
        try:
            asset = message.topic.rpartition("/")[2]
        except UnicodeDecodeError:
            raise MessageError("malformed", "topic: not valid UTF-8") from None
        try:
            now_ms, confirmed = self._clock.now_ms(), self._clock.confirmed
            payload = bytes(message.payload)
            return machine_message.read(asset, payload, self._assets, now_ms=now_ms, confirmed=confirmed)
        except MessageError:
            raise
        except Exception as error:
            # An error of ours must cost one message, not the machines beside it; nor must it be delivered for ever.
            log.exception("message_not_understood")
            raise MessageError("internal", repr(error)) from error
