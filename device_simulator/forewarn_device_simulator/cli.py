"""The commands of forewarn-sim."""

import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from forewarn_device_simulator.dataset import FORMS, DatasetError, Form, generate
from forewarn_device_simulator.demo.report import Report
from forewarn_device_simulator.demo.run import (
    DEFAULT_RATE,
    DEFAULT_SECONDS,
    Options,
    demo_folder,
    run_demo,
    write_report,
)
from forewarn_device_simulator.demo.screen import summary
from forewarn_device_simulator.demo.session import DemoFailed
from forewarn_device_simulator.live.begin import (
    DEFAULT_BROKER,
    AddressError,
    BeginError,
    begin_run,
    broker_address,
    instant_ms,
)
from forewarn_device_simulator.live.fleet import LiveFleet
from forewarn_device_simulator.live.player import BrokerAddress, Played, Player, window_samples
from forewarn_device_simulator.live.state import StateError, only_run
from forewarn_device_simulator.live.truth import TruthFile
from forewarn_device_simulator.scenario import Scenario, ScenarioError, load_scenario, shipped_names, units_total
from forewarn_models import __version__

EXIT_FAILED = 1
EXIT_CONFIGURATION = 78
SUMMARY_WIDTH = 150
LOG_FORMAT = "time=%(asctime)s level=%(levelname)s %(message)s"

app = typer.Typer(
    help="Machines with physics, wear, faults and ground truth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ScenarioArgument = Annotated[
    str, typer.Argument(help=f"A TOML file, or one that ships: {', '.join(shipped_names())}.", show_default=False)
]


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"forewarn-sim {__version__}")
        raise typer.Exit


@app.command("generate")
def generate_command(
    scenario: ScenarioArgument,
    out: Annotated[Path, typer.Option(help="The folder to write; must not exist or be empty.")],
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the scenario's own seed.")] = None,
    form: Annotated[str, typer.Option("--format", help=f"Of the telemetry: {', '.join(FORMS)}.")] = "csv.gz",
) -> None:
    """Write a dataset folder with ground truth; the same scenario and seed give the same bytes."""
    chosen = _scenario(scenario)
    if form not in FORMS:
        raise typer.BadParameter(f"{form!r} is not one of {', '.join(FORMS)}", param_hint="--format")
    used_form: Form = next(known for known in FORMS if known == form)
    with _progress() as progress:
        task = progress.add_task(f"Simulating {chosen.name}", total=units_total(chosen))
        try:
            folders = generate(
                chosen,
                out,
                seed=chosen.seed if seed is None else seed,
                form=used_form,
                advance=lambda done: progress.advance(task, done),
            )
        except (DatasetError, OSError) as error:
            _fail(str(error), EXIT_FAILED)
    for folder in folders:
        typer.echo(folder)


@app.command("run")
def run_command(
    scenario: ScenarioArgument,
    broker: Annotated[str, typer.Option(help="mqtt://host:port of the broker an agent listens to.")] = DEFAULT_BROKER,
    rate: Annotated[
        float | None,
        typer.Option(min=1e-3, max=1e6, help="Times real time.  [default: 1, or FOREWARN_CLOCK_RATE]"),
    ] = None,
    begin: Annotated[
        str | None,
        typer.Option(
            help="Instant of the first sample, as in 2026-01-05T00:00:00Z; the past is played at once.  [default: now]"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the scenario's own seed.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="Where the run remembers itself.  [default: SCENARIO.state.json]")
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="Append what is really the matter, as JSON lines.")] = None,
    username: Annotated[str | None, typer.Option(help="At the broker.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="Holds the password at the broker.")] = None,
    client_id: Annotated[str | None, typer.Option(help="At the broker.  [default: forewarn-sim-SCENARIO]")] = None,
    reconnect_max_seconds: Annotated[float, typer.Option(min=0.1, help="Longest wait before trying again.")] = 30.0,
) -> None:
    """Play the fleet live into an agent's MQTT source until the scenario ends; started again, it goes on.

    Machines publish to machines/ASSET and obey machines-control/ASSET:
    {"id": "1", "repair": {"at": EPOCH_MS, "hours": 6, "failure_mode": "bearing_wear"}}.
    """
    chosen = _scenario(scenario)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    state_path = state or Path(f"{chosen.name}.state.json")
    try:
        address = broker_address(broker, username, password_file)
        begin_ms = None if begin is None else instant_ms(begin)
        with only_run(state_path):
            begun = begin_run(chosen, state_path, seed=seed, rate=rate, begin_ms=begin_ms)
            player = Player(
                LiveFleet(chosen, begun.state.seed, begun.state.start_ms, begun.state.repairs),
                begun.state,
                state_path=state_path,
                truth=TruthFile(truth) if truth else None,
                clock=begun.clock,
                window=window_samples(chosen.interval_ms, begun.clock.timebase.rate),
            )
            name = client_id or f"forewarn-sim-{chosen.name}"
            played = asyncio.run(_play(player, address, name, reconnect_max_seconds))
    except (ScenarioError, StateError, AddressError, BeginError) as error:
        _fail(str(error), EXIT_CONFIGURATION)
    typer.echo(f"{played.samples} samples in {played.messages} messages; {'the end' if played.finished else 'stopped'}")


@app.command("demo")
def demo_command(
    seconds: Annotated[float, typer.Option(min=5, max=86_400, help="How long the machines run.")] = DEFAULT_SECONDS,
    headless: Annotated[bool, typer.Option("--headless", help="Plain lines instead of the live table.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write the summary as JSON.")] = None,
    folder: Annotated[Path | None, typer.Option("--dir", help="Keep all files of the run here.")] = None,
    rate: Annotated[float, typer.Option(min=60, max=100_000, help="Times real time.")] = DEFAULT_RATE,
    seed: Annotated[int | None, typer.Option(min=0, help="Another fleet.")] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Keep the console up after the summary.")] = False,
) -> None:
    """Broker, cloud, two agents and 24 machines on this computer; failures are caught before they happen.

    Ends with a summary; exit status 1 if nothing was caught or anything was lost.
    """

    def tell(found: Report) -> None:
        Console(width=None if sys.stdout.isatty() else SUMMARY_WIDTH).print(summary(found))
        if report is not None:
            write_report(report, found)

    try:
        with demo_folder(folder) as chosen:
            options = Options(folder=chosen, seconds=seconds, rate=rate, seed=seed, headless=headless, stay=stay)
            found = run_demo(options, tell)
    except (DemoFailed, OSError) as error:
        _fail(str(error), EXIT_FAILED)
    if found.lost or not found.caught:
        raise typer.Exit(EXIT_FAILED)


async def _play(player: Player, address: BrokerAddress, client_id: str, reconnect_max_seconds: float) -> Played:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, player.stop)
    return await player.play(address, client_id=client_id, reconnect_max_seconds=reconnect_max_seconds)


def _scenario(name_or_path: str) -> Scenario:
    try:
        return load_scenario(name_or_path)
    except ScenarioError as error:
        _fail(f"scenario {name_or_path}: {error}", EXIT_CONFIGURATION)


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("machines"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


def _fail(message: str, status: int) -> NoReturn:
    print(f"forewarn-sim: {message}", file=sys.stderr)
    raise typer.Exit(status)
