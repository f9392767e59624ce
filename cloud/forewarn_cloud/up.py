"""`forewarn-cloud up`: everything in one process, but for the broker and the upkeep of telemetry; started in order and
stopped in reverse."""

import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Final
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from sqlalchemy import Engine

from forewarn_cloud import bootstrap, opening, views
from forewarn_cloud.adapters.nats_broker import NatsBroker, end_leftover
from forewarn_cloud.adapters.sql.engine import reading
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.beside import SharedInstant, beside
from forewarn_cloud.endpoints import Endpoints, choose_port, listen, only_one, read_endpoints, write_endpoints
from forewarn_cloud.mailbox import start_mailbox
from forewarn_cloud.settings import USUAL_BROKER_PORT, USUAL_PORT, Settings

JOIN_SECONDS: Final = 2.0
CLOSE_STREAMS_SECONDS: Final = 2
_COLLECT_AFTER: Final = (100_000, 20, 20)

_log = logging.getLogger(__name__)


def run_up(settings: Settings, environment: Mapping[str, str], announce: Callable[[Endpoints], None]) -> int:
    """Run until SIGTERM or SIGINT; the exit status. `announce` is called once when everything listens.

    Raises:
        SettingsError, AlreadyRunning, PortTaken, BrokerFailed, SchemaTooNew, Unavailable: it cannot start; nothing is
            left running.
    """
    clock = opening.open_clock(environment)
    policy = bootstrap.read_policy(settings)
    samples = bootstrap.open_samples(settings)
    telemetry = bootstrap.telemetry_in(samples)
    crowded = SharedInstant()
    with _stop_signals() as signals, ExitStack() as running:
        upkeep = running.enter_context(beside("telemetry", partial(_keep_telemetry, settings, environment, crowded)))
        running.enter_context(only_one(opening.make_data_dir(settings)))
        engine = opening.open_database(settings)
        running.callback(engine.dispose)
        migrate(engine)
        _hint_at_nodes(engine, settings.tenant)
        broker_url = settings.broker_url or running.enter_context(embedded_broker(settings))
        smtp_url = settings.smtp_url
        if smtp_url is None:
            mailbox = start_mailbox(engine, clock, tenant=settings.tenant)
            running.callback(mailbox.stop)
            smtp_url = mailbox.url
        address = bootstrap.broker_address(broker_url)
        ingest = bootstrap.make_ingest(settings, engine, clock, address, telemetry, crowded)
        workers = running.enter_context(_Workers())
        workers.start("ingest", lambda _stopping: ingest.write())
        for name, work in bootstrap.make_workers(settings, engine, clock, policy, ingest, smtp_url).items():
            workers.start(name, work)
        workers.start("telemetry", upkeep.watch)
        upkeep.start()
        ingest.start()
        running.callback(ingest.stop)
        web = running.enter_context(_web(bootstrap.make_web(settings, engine, clock, ingest, telemetry), settings))
        workers.on_failure = signals.on_ask = web.stop
        endpoints = _endpoints(settings, web.port, broker_url, smtp_url)
        write_endpoints(settings.data_dir, endpoints)
        announce(endpoints)
        _collect_rarely()
        if not signals.asked.is_set() and not workers.failed:
            web.run()
    return 1 if workers.failed else 0


def _keep_telemetry(
    settings: Settings, environment: Mapping[str, str], crowded: SharedInstant, stopping: threading.Event
) -> None:
    """Compacting is the most work there is after ingest, which needs the interpreter for itself."""
    engine, samples = opening.open_database(settings), bootstrap.open_samples(settings)
    bootstrap.make_upkeep(settings, engine, opening.open_clock(environment), samples, crowded).run(stopping)


def _collect_rarely() -> None:
    """What has been built lives as long as we do, and a batch of ingest makes thousands of objects without cycles: the
    collector of cycles need look at neither over and over."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


@contextmanager
def embedded_broker(settings: Settings) -> Iterator[str]:
    """A running broker of our own, restarted when it ends; its URL."""
    last = read_endpoints(settings.data_dir)
    last_port = urlsplit(last.broker).port if last is not None else None
    folder = settings.data_dir / "broker"
    end_leftover(folder)  # it would hold the port
    port = choose_port("127.0.0.1", asked=settings.broker_port, last=last_port, usual=USUAL_BROKER_PORT)
    broker = NatsBroker(folder=folder, port=port)
    stopping = threading.Event()
    supervisor = threading.Thread(target=broker.supervise, args=(stopping,), name="broker")
    broker.start()
    try:
        supervisor.start()
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        stopping.set()
        supervisor.join()
        broker.stop()


def run_broker(settings: Settings, announce: Callable[[str], None]) -> int:
    """Only the embedded broker, until SIGTERM or SIGINT.

    Raises:
        SettingsError, AlreadyRunning, PortTaken, BrokerFailed: it cannot start.
    """
    with (
        _stop_signals() as signals,
        only_one(opening.make_data_dir(settings), "broker.lock"),
        embedded_broker(settings) as url,
    ):
        announce(url)
        signals.asked.wait()
    return 0


def _hint_at_nodes(engine: Engine, tenant: str) -> None:
    with reading(engine) as connection:
        if not views.list_nodes(connection, tenant, limit=1).items:
            _log.warning("no node is enrolled yet: `forewarn-cloud node add NAME` lets an edge agent in")


def _endpoints(settings: Settings, port: int, broker_url: str, smtp_url: str) -> Endpoints:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    local = f"http://{host}:{port}"
    return Endpoints(
        console=(settings.public_url or local).rstrip("/") + "/",
        api=f"{local}/api/v1",
        broker=_without_password(broker_url),
        smtp=_without_password(smtp_url),
        pid=os.getpid(),
    )


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@dataclass
class _Signals:
    asked: threading.Event = field(default_factory=threading.Event)
    on_ask: Callable[[], None] | None = None


@contextmanager
def _stop_signals() -> Iterator[_Signals]:
    """SIGTERM and SIGINT are noted instead of ending the process where it stands."""
    signals = _Signals()

    def ask(_number: int, _frame: FrameType | None) -> None:
        signals.asked.set()
        if signals.on_ask is not None:
            signals.on_ask()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Workers:
    """Threads that all run until the end. One that fails ends the program, for its supervisor to start it again."""

    def __init__(self) -> None:
        self.failed = False
        self.on_failure: Callable[[], None] | None = None
        self._stopping = threading.Event()
        self._threads = list[threading.Thread]()

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopping.set()
        deadline = time.monotonic() + JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                _log.warning("%s does not stop in time and is left behind; nothing it does is half done", thread.name)

    def start(self, name: str, work: Callable[[threading.Event], None]) -> None:
        thread = threading.Thread(target=self._run, args=(name, work), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, name: str, work: Callable[[threading.Event], None]) -> None:
        try:
            work(self._stopping)
        except BaseException:  # noqa: BLE001 - whatever it is, the program must not go on without this thread
            _log.critical("%s failed; the program ends", name, exc_info=True)
            self.failed = True
            if self.on_failure is not None:
                self.on_failure()


@dataclass(frozen=True, kw_only=True)
class _Web:
    """The web server, in the thread that calls `run`; `stop` may be called from any."""

    server: uvicorn.Server
    socket: socket.socket

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def run(self) -> None:
        self.server.run(sockets=[self.socket])

    def stop(self) -> None:
        self.server.should_exit = True


@contextmanager
def _web(app: FastAPI, settings: Settings) -> Iterator[_Web]:
    last = read_endpoints(settings.data_dir)
    last_port = urlsplit(last.api).port if last is not None else None
    port = choose_port(settings.host, asked=settings.port, last=last_port, usual=USUAL_PORT)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSE_STREAMS_SECONDS,
        h11_max_incomplete_event_size=64 * 1024,
    )
    with listen(settings.host, port) as bound:
        yield _Web(server=uvicorn.Server(config), socket=bound)
