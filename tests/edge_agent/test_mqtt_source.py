"""The MQTT source on its own: acknowledgement after the commit, and an end under all circumstances."""

import asyncio
import json

import numpy as np

from forewarn_edge_agent.clock import Clock
from forewarn_edge_agent.config import MqttSource as MqttSourceConfig
from forewarn_edge_agent.machine_message import Declared
from forewarn_edge_agent.sources import Deliveries
from forewarn_edge_agent.sources.mqtt import MqttSource
from tests.conftest import Broker
from tests.edge_agent.conftest import SECONDS, Machine, now_ms

ASSETS = {"pump-1": Declared(asset_type="generic", rename={})}


def source(broker: Broker) -> MqttSource:
    return MqttSource(MqttSourceConfig(host="127.0.0.1", port=broker.port), "the-source", ASSETS, Clock())


async def published_until_delivered(machine: Machine, deliveries: Deliveries, value: float) -> None:
    """The subscription may not be there yet: publish until something comes."""
    while deliveries.empty():
        await asyncio.to_thread(machine.send, {"t": now_ms(), "signals": {"a": value}})
        await asyncio.sleep(0.02)


async def ended(running: "asyncio.Task[None]") -> None:
    """Ask, then insist: it waits for deliveries that nobody handles."""
    running.cancel()
    await asyncio.wait([running], timeout=0.2)
    assert not running.done(), "it waits for what it delivered"
    running.cancel()
    await asyncio.wait([running], timeout=SECONDS)
    assert running.done()


def test_what_was_not_confirmed_is_delivered_again(mosquitto: Broker, machine: Machine) -> None:
    async def first_of_a_session(*, confirm: bool) -> bytes:
        deliveries: Deliveries = asyncio.Queue()
        running = asyncio.create_task(source(mosquitto).run(deliveries))
        if not is_subscribed:
            await published_until_delivered(machine, deliveries, 1.0)
        delivery = await asyncio.wait_for(deliveries.get(), SECONDS)
        if confirm:
            delivery.confirm()
        await ended(running)
        return json.dumps([record.t_ms.tolist() for record in delivery.records]).encode()

    is_subscribed = False
    unconfirmed = asyncio.run(first_of_a_session(confirm=False))
    is_subscribed = True
    assert asyncio.run(first_of_a_session(confirm=True)) == unconfirmed
    machine.send({"t": now_ms(), "signals": {"a": np.pi}})
    assert asyncio.run(first_of_a_session(confirm=True)) != unconfirmed


def test_it_ends_although_nobody_takes_what_it_delivers(mosquitto: Broker, machine: Machine) -> None:
    async def run() -> None:
        deliveries: Deliveries = asyncio.Queue(1)
        running = asyncio.create_task(source(mosquitto).run(deliveries))
        await published_until_delivered(machine, deliveries, 1.0)
        for i in range(5):
            await asyncio.to_thread(machine.send, {"t": now_ms(), "signals": {"a": float(i)}})
        await ended(running)

    asyncio.run(run())
