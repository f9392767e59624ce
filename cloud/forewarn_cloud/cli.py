"""The commands of forewarn-cloud. What a command needs is imported when it runs: `--help` and `--version` are quick."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from forewarn_cloud.history.commands import register
from forewarn_models import __version__

if TYPE_CHECKING:
    from rich.progress import TaskID
    from sqlalchemy import Connection, Engine

    from forewarn_cloud.backup.archive import Progress
    from forewarn_cloud.settings import Settings
    from forewarn_cloud.views import Refused

FAILED: Final = 1
CONFIGURATION: Final = 78

app = typer.Typer(
    help="Predictive maintenance: from the machines' signals to service orders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
node_app = typer.Typer(help="Edge nodes: which may send.", no_args_is_help=True)
quarantine_app = typer.Typer(help="What was refused, and why.", no_args_is_help=True)
gap_app = typer.Typer(help="Records that never came.", no_args_is_help=True)
audit_app = typer.Typer(help="The audit: who did what, and when.", no_args_is_help=True)
app.add_typer(node_app, name="node")
app.add_typer(audit_app, name="audit")
app.add_typer(quarantine_app, name="quarantine")
app.add_typer(gap_app, name="gap")
register(app)

Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings as TOML.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", metavar="DIR", help="Where the cloud keeps its files.")]
DatabaseUrl = Annotated[
    str | None, typer.Option("--database-url", metavar="URL", help="sqlite:/// or postgresql+psycopg://; SQLite else.")
]


class LaneName(StrEnum):
    telemetry = "telemetry"
    advisory = "advisory"


Json = Annotated[bool, typer.Option("--json", help="For programs.")]


def run() -> int:
    """The program; its exit status."""
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED
    return 0


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"forewarn-cloud {__version__}")
        raise typer.Exit


@app.command()
def up(
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    broker_url: Annotated[
        str | None, typer.Option(metavar="URL", help="An MQTT broker; without it, one is started.")
    ] = None,
    broker_port: Annotated[int | None, typer.Option(metavar="PORT", help="Of the broker that is started.")] = None,
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Where the API and the console listen.")] = None,
    port: Annotated[int | None, typer.Option(metavar="PORT", help="8420, or a free one if that is taken.")] = None,
    smtp_url: Annotated[
        str | None, typer.Option(metavar="URL", help="A mail server; without it, mails stay in the console's mailbox.")
    ] = None,
    policy_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Costs, lead times and autonomy.")] = None,
    log_level: Annotated[str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")] = None,
) -> None:
    """Start everything: broker, ingest, workers, API and console. Ctrl-C or SIGTERM stops it in order."""
    with _told():
        settings = _settings(
            config,
            data_dir=data_dir,
            database_url=database_url,
            broker_url=broker_url,
            broker_port=broker_port,
            host=host,
            port=port,
            smtp_url=smtp_url,
            policy_file=policy_file,
            log_level=log_level,
        )
        from forewarn_cloud.endpoints import Endpoints
        from forewarn_cloud.up import run_up

        def announce(endpoints: Endpoints) -> None:
            typer.echo(f"forewarn {__version__} is up")
            typer.echo(f"  console  {endpoints.console}")
            typer.echo(f"  API      {endpoints.api}")
            typer.echo(f"  broker   {endpoints.broker}")
            typer.echo(f"  mail     {endpoints.smtp}")
            typer.echo(f"  data     {settings.data_dir}")
            sys.stdout.flush()

        status = run_up(settings, os.environ, announce)
    raise typer.Exit(status)


@app.command()
def broker(
    config: Config = None,
    data_dir: DataDir = None,
    port: Annotated[int | None, typer.Option(metavar="PORT", help="1883, or a free one if that is taken.")] = None,
) -> None:
    """Start only the embedded broker."""
    with _told():
        settings = _settings(config, data_dir=data_dir, broker_port=port)
        from forewarn_cloud.up import run_broker

        def announce(url: str) -> None:
            typer.echo(f"broker {url}")
            sys.stdout.flush()

        status = run_broker(settings, announce)
    raise typer.Exit(status)


@app.command()
def migrate(config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Bring the database to the schema of this version; `up` does the same."""
    from forewarn_cloud.adapters.sql.migrating import current_revision

    with _told(), _database(_settings(config, data_dir=data_dir, database_url=database_url)) as engine:
        typer.echo(f"the database is at revision {current_revision(engine)}")


@app.command()
def backup(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write, or a folder to write a new one into.")],
    as_json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Write the whole database to one file, while the cloud goes on."""
    from forewarn_cloud.backup.saving import save_backup

    with _told():
        settings = _settings(config, data_dir=data_dir, database_url=database_url)
        with _progress(shown=not as_json) as progress:
            saved = save_backup(settings, out, os.environ, progress)
    if as_json:
        typer.echo(saved.as_json())
        return
    size, manifest = f"{saved.file_bytes / 2**20:.1f} MiB", saved.manifest
    rows = sum(manifest.rows.values())
    typer.echo(f"{saved.file}: {size}, {rows} rows as of {manifest.taken_at}, revision {manifest.revision}")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `backup` has written.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also in place of a database that is not empty, which is kept aside.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only see whether it could be restored.")] = False,
    as_json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Put a backup in place of the database of a cloud that is stopped; an older one is brought up to date."""
    from forewarn_cloud.backup.restoring import check_backup, restore_backup

    with _told():
        settings = _settings(config, data_dir=data_dir, database_url=database_url)
        with _progress(shown=not as_json) as progress:
            restored = (
                check_backup(settings, file, progress)
                if check
                else restore_backup(settings, file, os.environ, force=force, progress=progress)
            )
    if as_json:
        typer.echo(restored.as_json())
        return
    typer.echo(f"{file}: whole, as of {restored.manifest.taken_at}, revision {restored.manifest.revision}")
    if not check:
        typer.echo(f"the database is as it was then, at revision {restored.revision}")
    if restored.aside is not None:
        typer.echo(f"the one that was there is kept as {restored.aside}")


@app.command()
def seed(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Customers, sites, depots, parts, stock, nodes, assets.")
    ],
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Write master data from a TOML file; doing it again changes what changed. Stock that exists is left alone."""
    from forewarn_cloud import seed as seeding
    from forewarn_cloud.opening import open_clock

    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} cannot be read: {error}", param_hint="FILE") from None
    with _told():
        settings = _settings(config, data_dir=data_dir, database_url=database_url)
        clock, found = open_clock(os.environ), seeding.parse_master_data(text)
        with _database(settings) as engine:
            written = seeding.seed(engine, settings.tenant, found, clock.now_ms())
    typer.echo(", ".join(f"{count} {table}" for table, count in written.items()))


@node_app.command("add")
def add_node(
    node: Annotated[str, typer.Argument(help="Its name: letters, digits, _ and -.")],
    declares_assets: Annotated[
        bool, typer.Option("--declares-assets/--no-declares-assets", help="May its birth register machines?")
    ] = True,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Enrol a node: from now on what it sends is accepted."""
    from forewarn_cloud.adapters.sql.unit_of_work import run_in_transaction
    from forewarn_cloud.opening import local_principal, open_clock
    from forewarn_cloud.service.registry import enrol_node
    from forewarn_models.asset_type import IDENTIFIER

    if not IDENTIFIER.fullmatch(node):
        raise typer.BadParameter("use letters, digits, _ and -, at most 64", param_hint="NODE")
    with _told():
        settings = _settings(config, data_dir=data_dir, database_url=database_url)
        clock, who = open_clock(os.environ), local_principal(settings)
        with _database(settings) as engine:
            run_in_transaction(engine, lambda uow: enrol_node(uow, who, clock, node, declares_assets=declares_assets))
    typer.echo(f"node {node} is enrolled for tenant {settings.tenant}")


@node_app.command("remove")
def remove_node(
    node: Annotated[str, typer.Argument(help="Its name.")],
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Accept nothing more from a node; its machines and their history stay."""
    from forewarn_cloud.adapters.sql.unit_of_work import run_in_transaction
    from forewarn_cloud.opening import local_principal, open_clock
    from forewarn_cloud.service.registry import delete_node

    with _told():
        settings = _settings(config, data_dir=data_dir, database_url=database_url)
        clock, who = open_clock(os.environ), local_principal(settings)
        with _database(settings) as engine:
            run_in_transaction(engine, lambda uow: delete_node(uow, who, clock, node))
    typer.echo(f"node {node} is removed")


@node_app.command("list")
def list_nodes(
    as_json: Json = False, config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None
) -> None:
    """The enrolled nodes and how far their records are stored."""
    from dataclasses import asdict

    from forewarn_cloud import views

    with _reading(config, data_dir=data_dir, database_url=database_url) as (connection, tenant):
        nodes = views.list_nodes(connection, tenant, limit=10_000).items
    if as_json:
        _echo_json([asdict(node) for node in nodes])
        return
    for found in nodes:
        stored = sum(lane.records_stored for lane in found.lanes)
        typer.echo(f"{found.node}  {'online' if found.online else 'offline'}  {stored} records stored")
    if not nodes:
        typer.echo("no node is enrolled; `forewarn-cloud node add NAME` enrols one")


@node_app.command("resend")
def resend(
    node: Annotated[str, typer.Argument(help="Its name.")],
    lane: Annotated[LaneName, typer.Option(help="Which records.")] = LaneName.telemetry,
    from_seq: Annotated[int | None, typer.Option(metavar="SEQ", help="The first record.")] = None,
    to_seq: Annotated[int | None, typer.Option(metavar="SEQ", help="The last one; to the end without it.")] = None,
    epoch: Annotated[str | None, typer.Option(help="Which spool file; the latest without it.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Or what was lost of a time: 2026-01-31T08:00:00Z.")
    ] = None,
    to: Annotated[str | None, typer.Option(metavar="TIME", help="Until then.")] = None,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Ask a node for records that never came: what its spool or archive still has, it sends again."""
    from forewarn_cloud.adapters.sql.unit_of_work import SqlUnitOfWork, run_in_transaction
    from forewarn_cloud.entities import NodeCommand
    from forewarn_cloud.opening import local_principal, open_clock
    from forewarn_cloud.service.resend import resend_records, resend_time
    from forewarn_models.wire import MAX_SEQ

    from_ms, to_ms = _instant(from_, "--from"), _instant(to, "--to")
    by_time = from_ms is not None and to_ms is not None
    if by_time == (from_seq is not None) or (by_time and (to_seq or epoch)):
        raise typer.BadParameter("give --from-seq (and --to-seq), or --from and --to")
    with _told():
        settings = _settings(config, data_dir=data_dir, database_url=database_url)
        clock, who = open_clock(os.environ), local_principal(settings)

        def ask(uow: SqlUnitOfWork) -> Sequence[NodeCommand]:
            if from_ms is not None and to_ms is not None:
                return resend_time(uow, who, clock, node, lane.value, from_ms=from_ms, to_ms=to_ms)
            first, last = from_seq or 0, MAX_SEQ if to_seq is None else to_seq
            return resend_records(uow, who, clock, node, lane.value, first_seq=first, last_seq=last, epoch=epoch)

        with _database(settings) as engine:
            asked = run_in_transaction(engine, ask)
    for one in asked:
        typer.echo(f"asked {node} for {one.lane} {one.first_seq} to {one.last_seq} of {one.epoch}")


@quarantine_app.command("list")
def list_quarantine(
    node: Annotated[str | None, typer.Option(help="Of this node only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 100,
    as_json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Messages and records that were refused, with the reason, the latest first."""
    from forewarn_cloud import views

    with _reading(config, data_dir=data_dir, database_url=database_url) as (connection, tenant):
        found = views.list_quarantine(connection, tenant, node=node, limit=limit).items
    if as_json:
        _echo_json([_described(row) for row in found])
        return
    for row in found:
        typer.echo(
            f"{row.id}  {row.topic}  {'SECURITY  ' if row.security else ''}{row.reason}  (seen {row.times_seen})"
        )
    if not found:
        typer.echo("nothing was refused")


@quarantine_app.command("show")
def show_refused(
    refused_id: Annotated[int, typer.Argument(metavar="ID", min=1, max=2**53)],
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """One of them, with what came, as JSON."""
    from forewarn_cloud import views
    from forewarn_cloud.errors import NotFound

    with _reading(config, data_dir=data_dir, database_url=database_url) as (connection, tenant):
        found = views.get_refused(connection, tenant, refused_id)
        if found is None:
            raise NotFound("quarantined message", str(refused_id))
    _echo_json(_described(found))


@quarantine_app.command("replay")
def replay_refused(
    refused_ids: Annotated[list[int], typer.Argument(metavar="ID...", min=1, max=2**53)],
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Judge them anew, as if they were delivered now. Ends with 1 if any is refused again."""
    from forewarn_cloud.bootstrap import replay_quarantined
    from forewarn_cloud.opening import local_principal, open_clock

    refused = 0
    with _told():
        settings = _settings(config, data_dir=data_dir, database_url=database_url)
        clock, who = open_clock(os.environ), local_principal(settings)
        with _database(settings) as engine:
            for refused_id in refused_ids:
                outcome = replay_quarantined(settings, engine, clock, who, refused_id)
                refused += not outcome.taken
                typer.echo(f"{refused_id}: {'taken' if outcome.taken else f'refused again: {outcome.reason}'}")
    raise typer.Exit(FAILED if refused else 0)


@gap_app.command("list")
def list_gaps(
    node: Annotated[str | None, typer.Option(help="Of this node only.")] = None,
    as_json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Records that were told or found to be lost, and whether they have come after all."""
    from dataclasses import asdict

    from forewarn_cloud import views

    with _reading(config, data_dir=data_dir, database_url=database_url) as (connection, tenant):
        found = views.list_gaps(connection, tenant, node=node, limit=10_000).items
    if as_json:
        _echo_json([asdict(gap) for gap in found])
        return
    for gap in found:
        where = f"{gap.node}  {gap.lane} {gap.first_seq} to {gap.last_seq or '?'} of {gap.epoch}"
        typer.echo(f"{where}  {gap.state.lower().replace('_', ' ')}  {gap.reason}")
    if not found:
        typer.echo("no record is missing")


def _described(refused: "Refused") -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(refused), "body": refused.body_text}


def _echo_json(found: Any) -> None:
    import json

    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))


@audit_app.command("verify")
def verify_audit(config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Check that no entry of the audit was changed, removed or added since it was written."""
    from forewarn_cloud.adapters.sql import repositories

    with _reading(config, data_dir=data_dir, database_url=database_url) as (connection, tenant):
        report = repositories.verify_audit(connection, tenant)
    if report.broken_at is not None:
        typer.echo(f"the audit is broken at entry {report.broken_at}: {report.reason}", err=True)
        raise typer.Exit(FAILED)
    typer.echo(f"{report.entries} entries, whole; the last has the hash {report.head}")


def _instant(text: str | None, option: str) -> int | None:
    """Epoch milliseconds of an ISO 8601 instant with its offset."""
    if text is None:
        return None
    from datetime import datetime

    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("write 2026-01-31T08:00:00Z", param_hint=option) from None
    if at.utcoffset() is None:
        raise typer.BadParameter("give the time zone: 2026-01-31T08:00:00Z", param_hint=option)
    return round(at.timestamp() * 1000)


@contextmanager
def _reading(config: Path | None, **flags: Any) -> "Iterator[tuple[Connection, str]]":
    """A look into the database, and the tenant whose rows these are; what goes wrong is told."""
    from forewarn_cloud.adapters.sql.engine import reading

    with _told():
        settings = _settings(config, **flags)
        with _database(settings) as engine, reading(engine) as connection:
            yield connection, settings.tenant


def _settings(config: Path | None, **flags: Any) -> "Settings":
    from forewarn_cloud.log import configure_logging
    from forewarn_cloud.settings import load_settings

    settings = load_settings(config, os.environ, flags)
    configure_logging(settings.log_level)
    return settings


@contextmanager
def _database(settings: "Settings") -> "Iterator[Engine]":
    """The database, at the schema of this version."""
    from forewarn_cloud.adapters.sql.migrating import migrate as bring_up_to_date
    from forewarn_cloud.opening import open_database

    engine = open_database(settings)
    try:
        bring_up_to_date(engine)
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _progress(*, shown: bool) -> "Iterator[Progress]":
    """A bar on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    console, tasks = Console(file=sys.stderr), dict[str, "TaskID"]()
    with Bars(console=console, disable=not (shown and console.is_terminal), transient=True) as bars:

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield tell


@contextmanager
def _told() -> Iterator[None]:
    """What went wrong, in one line, and the exit status that goes with it."""
    from forewarn_cloud.adapters.nats_broker import BrokerFailed
    from forewarn_cloud.endpoints import AlreadyRunning, PortTaken
    from forewarn_cloud.errors import SchemaTooNew, ServiceError
    from forewarn_cloud.settings import SettingsError

    try:
        yield
    except (SettingsError, SchemaTooNew, PortTaken) as error:
        typer.echo(f"forewarn-cloud: {error}", err=True)
        raise typer.Exit(CONFIGURATION) from None
    except (ServiceError, BrokerFailed, AlreadyRunning) as error:
        typer.echo(f"forewarn-cloud: {error}", err=True)
        raise typer.Exit(FAILED) from None
