"""The one place that chooses adapters: from settings to the parts of a running cloud."""

from collections.abc import Callable
from threading import Event
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sqlalchemy import Engine, text

from forewarn_cloud.adapters.commands_sql import SqlCommands, SqlResends
from forewarn_cloud.adapters.ingest_sql import SqlLedger, SqlLedgerTransaction, Telemetry
from forewarn_cloud.adapters.smtp import SmtpSender, SmtpServer, parse_smtp_url
from forewarn_cloud.adapters.sql.answers import SqlChanges
from forewarn_cloud.adapters.sql.engine import reading
from forewarn_cloud.adapters.sql.outbox import SqlOutbox
from forewarn_cloud.adapters.sql.unit_of_work import SqlTransactions, SqlUnitOfWork, run_in_transaction
from forewarn_cloud.adapters.telemetry_compaction import SqlCompaction
from forewarn_cloud.adapters.telemetry_elsewhere import ElsewhereUpkeep, TelemetryElsewhere
from forewarn_cloud.adapters.telemetry_retention import SqlRetention
from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from forewarn_cloud.adapters.webhook import WebhookSender
from forewarn_cloud.beside import SharedInstant
from forewarn_cloud.clock import Clock
from forewarn_cloud.errors import Invalid, Unavailable
from forewarn_cloud.ingest.connection import BrokerUrl, BrokerUrlError
from forewarn_cloud.ingest.pipeline import Ingest
from forewarn_cloud.ingest.quota import Limits
from forewarn_cloud.ingest.replay import Replayed, replay
from forewarn_cloud.notifications.delivery import Sender
from forewarn_cloud.opening import local_principal
from forewarn_cloud.principal import Principal
from forewarn_cloud.service.chain import Chain
from forewarn_cloud.service.policy import Policy, default_policy, parse_policy
from forewarn_cloud.settings import Settings, SettingsError
from forewarn_cloud.telemetry import SampleStore
from forewarn_cloud.workers.advisories import Advisories
from forewarn_cloud.workers.downlink import Downlink
from forewarn_cloud.workers.relay import Relay
from forewarn_cloud.workers.resends import HoleWatch
from forewarn_cloud.workers.revisit import Revisits
from forewarn_cloud.workers.telemetry_upkeep import Step, TelemetryUpkeep

if TYPE_CHECKING:
    from fastapi import FastAPI


def read_policy(settings: Settings) -> Policy:
    """Raises: SettingsError"""
    if settings.policy_file is None:
        return default_policy()
    try:
        return parse_policy(settings.policy_file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, Invalid) as error:
        raise SettingsError(f"policy_file: {settings.policy_file}: {error}") from None


def mail_server(url: str) -> SmtpServer:
    """Raises: SettingsError"""
    try:
        return parse_smtp_url(url)
    except ValueError as error:
        raise SettingsError(str(error)) from None


def broker_address(url: str) -> BrokerUrl:
    """Raises: SettingsError"""
    try:
        return BrokerUrl.parse(url)
    except BrokerUrlError as error:
        raise SettingsError(str(error)) from None


def open_samples(settings: Settings) -> SampleStore | None:
    """Where samples are kept if not in the database; nothing is connected yet. Raises: SettingsError"""
    if settings.telemetry_url is None:
        return None
    try:
        from forewarn_cloud.adapters.influxdb import StoreUrl, StoreUrlError, open_influx_samples
    except ModuleNotFoundError as error:
        raise SettingsError(f"telemetry_url: {error}; install forewarn[influxdb]") from None
    try:
        return open_influx_samples(StoreUrl.parse(settings.telemetry_url), _telemetry_token(settings))
    except StoreUrlError as error:
        raise SettingsError(f"telemetry_url: {error}") from None


def _telemetry_token(settings: Settings) -> str | None:
    if settings.telemetry_token_file is None:
        return None
    try:
        return settings.telemetry_token_file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"telemetry_token_file: {settings.telemetry_token_file}: {error}") from None


def telemetry_in(samples: SampleStore | None) -> Telemetry:
    """The telemetry store of a transaction; its samples in `samples`, if there is one."""
    if samples is None:
        return SqlTelemetry
    return lambda connection: TelemetryElsewhere(SqlTelemetry(connection), samples)


def make_upkeep(
    settings: Settings, engine: Engine, clock: Clock, samples: SampleStore | None, crowded: SharedInstant
) -> TelemetryUpkeep:
    days = None if settings.telemetry_days == "never" else settings.telemetry_days
    steps: dict[str, Step] = {"retention": SqlRetention(engine=engine, days=days).step}
    if samples is None:
        steps["compaction"] = SqlCompaction(engine=engine).step
    else:
        elsewhere = ElsewhereUpkeep(engine=engine, samples=samples)
        steps |= {"repeating": elsewhere.rewrite, "forgetting": elsewhere.forget}
    return TelemetryUpkeep(steps=steps, clock=clock, crowded=crowded)


def make_ingest(
    settings: Settings, engine: Engine, clock: Clock, broker: BrokerUrl, telemetry: Telemetry, crowded: SharedInstant
) -> Ingest:
    return Ingest(
        broker=broker,
        client_id=f"forewarn-ingest-{settings.tenant}-{settings.instance}",
        ledger=SqlLedger(engine, telemetry=telemetry),
        clock=clock,
        tenant=settings.tenant,
        ca_file=settings.broker_ca_file,
        limits=Limits(records_per_s=settings.node_records_per_s, bytes_per_s=settings.node_bytes_per_s),
        crowded=crowded,
    )


def replay_quarantined(
    settings: Settings, engine: Engine, clock: Clock, principal: Principal, refused_id: int
) -> Replayed:
    """Judge one anew, in a transaction. Raises: NotFound, Conflict, Unavailable, SettingsError"""
    telemetry = telemetry_in(open_samples(settings))

    def work(uow: SqlUnitOfWork) -> Replayed:
        return replay(uow, SqlLedgerTransaction(uow.connection, telemetry=telemetry), principal, clock, refused_id)

    return run_in_transaction(engine, work)


Work = Callable[[Event], None]
"""Runs in a thread of its own until the event is set."""


def make_workers(
    settings: Settings, engine: Engine, clock: Clock, policy: Policy, ingest: Ingest, smtp_url: str
) -> dict[str, Work]:
    """What runs beside ingest, by name."""
    transactions, chain = SqlTransactions(engine), Chain(clock=clock, policy=policy)
    return {
        "advisories": Advisories(transactions=transactions, chain=chain).run,
        "revisits": Revisits(transactions=transactions, chain=chain).run,
        "relay": make_relay(settings, engine, clock, mail_server(smtp_url)).run,
        "downlink": Downlink(commands=SqlCommands(engine), publish=ingest.publish, clock=clock).run,
        "connection watch": ingest.watch,
        "holes": HoleWatch(resends=SqlResends(engine), clock=clock).run,
    }


def make_relay(settings: Settings, engine: Engine, clock: Clock, smtp: SmtpServer) -> Relay:
    senders: dict[str, Sender] = {
        "email": SmtpSender(server=smtp, sender=settings.mail_from),
        "webhook": WebhookSender(wall_ms=clock.wall_ms, allow_private=settings.allow_private_webhooks),
    }
    return Relay(outbox=SqlOutbox(engine), senders=senders, clock=clock)


def make_web(
    settings: Settings, engine: Engine, clock: Clock, ingest: Ingest, telemetry: Telemetry = SqlTelemetry
) -> "FastAPI":
    """The API and the console."""
    # Imported here: they take half a second, which the commands on nodes and master data need not wait for.
    from forewarn_cloud.api.access import LOCAL_HOSTS, ApiDeps
    from forewarn_cloud.api.app import create_app
    from forewarn_cloud.console import pages as console

    deps = ApiDeps(
        clock=clock,
        reading=lambda: reading(engine),
        telemetry=telemetry,
        transactions=SqlTransactions(engine),
        changes=SqlChanges(engine),
        silent_after_ms=round(settings.silent_after_minutes * 60_000),
        ingest_figures=lambda: ingest.figures,
        ledger=lambda connection: SqlLedgerTransaction(connection, telemetry=telemetry),
        principal=local_principal(settings),
        ready=lambda: {"database": _answers(engine), "broker": ingest.connected, "ingest": ingest.serving},
        allowed_hosts=(*LOCAL_HOSTS, *_own_hosts(settings)),
    )
    return create_app(deps, [console.router])


def _answers(engine: Engine) -> bool:
    try:
        with reading(engine) as connection:
            connection.execute(text("SELECT 1"))
    except Unavailable:
        return False
    return True


def _own_hosts(settings: Settings) -> tuple[str, ...]:
    public = urlsplit(settings.public_url).hostname if settings.public_url else None
    return (settings.host, *settings.allowed_hosts, *([public] if public else []))
