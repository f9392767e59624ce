"""The agent: sources, the pipeline on the spool's thread, and the uplink, from start to an orderly end."""

import asyncio
import logging
import signal
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from forewarn_edge_agent import live, metrics, status
from forewarn_edge_agent.clock import Clock
from forewarn_edge_agent.config import CsvSource, MqttSource, Setup
from forewarn_edge_agent.lanes import Read
from forewarn_edge_agent.log import event
from forewarn_edge_agent.machine_message import Declared
from forewarn_edge_agent.monitor import Monitor
from forewarn_edge_agent.pipeline import Pipeline
from forewarn_edge_agent.sources import Deliveries, Delivery, Source
from forewarn_edge_agent.sources import mqtt as mqtt_source
from forewarn_edge_agent.sources.replay import ReplaySource
from forewarn_edge_agent.spool import Batch, Chunk, Range, inspect
from forewarn_edge_agent.storage import Place, Storage
from forewarn_edge_agent.uplink import Ends, UplinkConnection
from forewarn_edge_agent.watchdog import Watchdog
from forewarn_models import wire

log = logging.getLogger(__name__)

QUEUED_DELIVERIES: Final = 1000
RECORDS_PER_COMMIT: Final = 200
"""More in one commit would keep the uplink waiting for the spool's thread."""
WATCH_SECONDS: Final = 1.0
# Together less than the 10 seconds in which a supervisor may expect us to end.
SOURCES_STOP_SECONDS: Final = 2.0
QUEUE_STOP_SECONDS: Final = 1.5
COMMIT_STOP_SECONDS: Final = 1.0
UPLINK_STOP_SECONDS: Final = 2.0

T = TypeVar("T")


class SpoolThread:
    """The one thread on which the spool and the models work, so that neither needs a lock."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool")

    async def call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        self._executor.shutdown()


class SpoolOutbox:
    """The spool as the uplink sees it."""

    def __init__(self, spool: Storage, thread: SpoolThread) -> None:
        self._spool = spool
        self._thread = thread

    @property
    def epoch(self) -> str:
        return self._spool.epoch

    @property
    def has_earlier(self) -> bool:
        return self._spool.has_earlier

    async def first_of(self, reads: Sequence[Read], *, max_bytes: int, old_before_ms: int) -> tuple[Read, Chunk] | None:
        def look() -> tuple[Read, Chunk] | None:
            for read in reads:
                chunk = self._read(read, max_bytes, old_before_ms)
                if chunk is not None:
                    return read, chunk
            return None

        return await self._thread.call(look)

    def _read(self, read: Read, max_bytes: int, old_before_ms: int) -> Chunk | None:
        if read.way == "earlier":
            limits = {"max_records": read.max_records, "max_bytes": max_bytes}
            return self._spool.read_earlier(read.lane, read.after_seq, **limits) if self.has_earlier else None
        if read.way == "gap":
            return next(iter(self._spool.read_gaps(read.lane, read.after_seq)), None)
        after_seq = read.after_seq
        if read.way != "again":
            after_seq = max(after_seq, self._spool.acknowledged_seq(read.lane))
        return self._spool.read_range(
            read.lane,
            after_seq + 1,
            read.up_to_seq,
            max_records=read.max_records,
            max_bytes=max_bytes,
            old_before_ms=old_before_ms,
        )

    async def ends(self) -> dict[wire.Lane, Ends]:
        return await self._thread.call(lambda: {lane: self._ends(lane) for lane in wire.LANES})

    def _ends(self, lane: wire.Lane) -> Ends:
        return Ends(
            first_seq=self._spool.first_seq(lane),
            acknowledged_seq=self._spool.acknowledged_seq(lane),
            last_seq=self._spool.last_seq(lane),
        )

    async def acknowledge(self, ack: wire.Ack) -> int | None:
        return await self._thread.call(lambda: self._acknowledge(ack))

    def _acknowledge(self, ack: wire.Ack) -> int | None:
        is_news = self._spool.acknowledge(ack.lane, ack.epoch, ack.seq)
        return self._spool.last_seq(ack.lane) if is_news else None


class Agent:
    """Built by `run`, on the event loop."""

    def __init__(self, setup: Setup, clock: Clock, spool: Storage) -> None:
        config = setup.config
        self._config = config
        self._clock = clock
        self._spool = spool
        self._thread = SpoolThread()
        self._writing = asyncio.Lock()
        """Held from the first change of a model state until it is committed."""
        self._deliveries: Deliveries = asyncio.Queue(QUEUED_DELIVERIES)
        self._monitor = Monitor(setup.asset_types, config.models, spool.assets(), setup.knowledge)
        spool.states, spool.restore = self._monitor.states, self._monitor.restore
        patience = {asset.asset: asset.silent_after_seconds for asset in config.assets}
        self._watchdog = Watchdog(patience, self._monitor.silent(), clock.monotonic())
        self._pipeline = Pipeline(
            spool,
            self._monitor,
            checkpoint_seconds=config.spool.checkpoint_seconds,
            watchdog=self._watchdog,
            clock=clock,
        )
        self._sources = _sources(setup, clock, spool)
        self._uplink = UplinkConnection(
            node=config.node,
            uplink=config.uplink,
            clock=clock,
            outbox=SpoolOutbox(spool, self._thread),
            assets={asset: declared.asset_type for asset, declared in declared_assets(setup).items()},
            commands=self,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then drain: commit what was received, say goodbye to the cloud.

        Raises:
            ExceptionGroup: a part failed in a way it cannot recover from; a supervisor should start the agent again.
        """
        async with self._writing:
            await self._commit(await self._thread.call(self._pipeline.catch_up))
        async with asyncio.TaskGroup() as group:
            uplink = group.create_task(self._uplink.run(), name="uplink")
            processing = group.create_task(self._process(), name="processing")
            beside = [
                group.create_task(self._watch(), name="watching"),
                group.create_task(live.serve(self._config.node.state_dir, self._live), name="status"),
            ]
            if (port := self._config.metrics.port) is not None:
                beside.append(group.create_task(metrics.serve(port, self._status), name="metrics"))
            sources = [group.create_task(source.run(self._deliveries), name="source") for source in self._sources]
            await stop.wait()
            event(log, logging.INFO, "stopping")
            for task in beside:
                task.cancel()
            await _end(sources, SOURCES_STOP_SECONDS)
            await _within(QUEUE_STOP_SECONDS, self._deliveries.join())
            if await _within(COMMIT_STOP_SECONDS, self._writing.acquire()):
                # Nothing is half done, and while we hold the lock nothing new begins.
                processing.cancel()
                await _within(COMMIT_STOP_SECONDS, self._commit(await self._thread.call(self._pipeline.checkpoint)))
            else:
                # The disk refuses a batch: it was not confirmed to its source and will be delivered again.
                processing.cancel()
            self._uplink.stop()
            await asyncio.wait([uplink], timeout=UPLINK_STOP_SECONDS)
            uplink.cancel()
        self._thread.close()

    def _live(self) -> dict[str, Any]:
        return status.live_status(self._uplink, self._spool, self._clock, self._watchdog)

    async def _status(self) -> dict[str, Any]:
        try:
            found = await asyncio.to_thread(inspect, self._config.node.state_dir)
        except (sqlite3.Error, OSError):
            found = None  # the disk: what is live is told all the same
        return status.as_json(self._config, found, self._live(), now_ms=self._clock.now_ms())

    async def _process(self) -> None:
        while True:
            deliveries = [await self._deliveries.get()]
            records = len(deliveries[0].records)
            while records < RECORDS_PER_COMMIT and not self._deliveries.empty():
                deliveries.append(self._deliveries.get_nowait())
                records += max(1, len(deliveries[-1].records))
            await self._take(deliveries)
            for delivery in deliveries:
                delivery.confirm()
                self._deliveries.task_done()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            async with self._writing:
                batch = await self._thread.call(self._pipeline.watch)
                if batch is not None:
                    await self._commit(batch)

    async def _take(self, deliveries: list[Delivery]) -> None:
        async with self._writing:
            await self._commit(await self._thread.call(lambda: self._pipeline.take(deliveries)))

    async def carry_out(self, command: wire.Command) -> wire.Reply | None:
        """Done once: a command that comes again gets the answer it got before. See `Commands` of the uplink."""
        async with self._writing:
            known = await self._thread.call(lambda: self._spool.reply(command.id))
            if known is not None:
                return known
            if isinstance(command, wire.Resend):
                return await self._thread.call(lambda: self._refused(command))
            batch = await self._thread.call(lambda: self._pipeline.reset_baseline(command))
            await self._commit(batch)
        event(log, logging.INFO, "command", command="reset_baseline", asset=command.asset, id=command.id)
        assert batch.reply is not None
        return batch.reply

    def _refused(self, command: wire.Resend) -> wire.Reply | None:
        if command.epoch == self._spool.epoch:
            return None
        is_on_its_way = self._spool.holds(command.epoch)
        detail = "is being sent" if is_on_its_way else f"records of epoch {command.epoch[:64]} are no longer held"
        return wire.Reply(schema=wire.SCHEMA, id=command.id, ok=is_on_its_way, detail=detail)

    async def resent(self, command: wire.Resend, records: int) -> wire.Reply:
        """What is no longer held is told in gap records, durable like the answer. See `Commands` of the uplink."""
        async with self._writing:
            now_ms = self._clock.now_ms()
            missing = await self._thread.call(
                lambda: self._spool.tell_missing(command.lane, command.first_seq, command.last_seq, now_ms=now_ms)
            )
            reply = wire.Reply(schema=wire.SCHEMA, id=command.id, ok=not missing, detail=told(records, missing))
            await self._commit(Batch(reply=reply, counters={"commands": 1, "records_sent_again": records}))
        event(log, logging.INFO, "command", command="resend", lane=command.lane, id=command.id, detail=reply.detail)
        return reply

    async def _commit(self, batch: Batch) -> None:
        """Commit, to the disk or, while it fails, to memory."""
        await self._thread.call(lambda: self._spool.append(batch, now_ms=self._clock.now_ms()))
        self._uplink.wake()


def run(setup: Setup, clock: Clock) -> None:
    """Run the agent until SIGTERM or SIGINT.

    Raises:
        SpoolInUseError, SpoolVersionError: the state directory cannot be used.
    """
    node, limits = setup.config.node, setup.config.spool
    place = Place(
        state_dir=node.state_dir,
        max_bytes=limits.max_mebibytes * 1024 * 1024,
        max_days=limits.max_days,
        keep_acknowledged_hours=limits.keep_acknowledged_hours,
    )
    spool = Storage(place, clock.now_ms)
    try:
        event(log, logging.INFO, "started", tenant=node.tenant, node=node.node, epoch=spool.epoch)
        asyncio.run(_run_until_signal(setup, clock, spool))
        event(log, logging.INFO, "stopped")
    finally:
        spool.close()


async def _run_until_signal(setup: Setup, clock: Clock, spool: Storage) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Agent(setup, clock, spool).run(stop)


def told(records: int, missing: Sequence[Range]) -> str:
    """What came of a request to send records again, for people."""
    lost = ", ".join(f"{first}-{last}" for first, last in missing[:10]) + (", ..." if len(missing) > 10 else "")
    return f"{records} records sent again" + (f"; no longer held: {lost}" if missing else "")


def declared_assets(setup: Setup) -> dict[str, Declared]:
    declared: dict[str, Declared] = {}
    for asset in setup.config.assets:
        asset_type = setup.asset_types[asset.asset]
        name = "generic" if asset_type is None else asset_type.asset_type
        declared[asset.asset] = Declared(asset_type=name, rename=asset.rename, waveforms=asset.waveforms)
    return declared


def _sources(setup: Setup, clock: Clock, spool: Storage) -> list[Source]:
    assets = declared_assets(setup)
    node = setup.config.node
    sources: list[Source] = []
    for number, source in enumerate(setup.config.sources):
        if isinstance(source, MqttSource):
            client_id = f"forewarn-{node.tenant}-{node.node}-source-{number}"
            sources.append(mqtt_source.MqttSource(source, client_id, assets, clock))
        else:
            asset = source.asset if isinstance(source, CsvSource) else None
            start = spool.position(str(source.path))
            sources.append(ReplaySource(source.path, asset, source.align, assets, clock, start))
    return sources


async def _within(seconds: float, work: Awaitable[object]) -> bool:
    """Whether it was done in time."""
    try:
        await asyncio.wait_for(work, seconds)
    except TimeoutError:
        return False
    return True


async def _end(tasks: list[asyncio.Task[None]], seconds: float) -> None:
    """Cancel, wait for the orderly end, and insist after `seconds`."""
    for task in tasks:
        task.cancel()
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
