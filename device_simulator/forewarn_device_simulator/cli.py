"""The commands of forewarn-sim. What a command needs is imported when it runs: starting is quick."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, NoReturn

import typer

from forewarn_device_simulator.scenario import Scenario, ScenarioError, load_scenario, shipped_names, units_total
from forewarn_models import __version__

if TYPE_CHECKING:
    from forewarn_device_simulator.demo.report import Report

EXIT_FAILED: Final = 1
EXIT_CONFIGURATION: Final = 78
SUMMARY_WIDTH: Final = 150
LOG_FORMAT: Final = "time=%(asctime)s level=%(levelname)s %(message)s"
FORMS: Final[tuple[Literal["csv.gz", "csv", "parquet"], ...]] = ("csv.gz", "csv", "parquet")
DEMO_SECONDS: Final = 90.0
DEMO_RATE: Final = 28_800.0
"""Eight hours a second."""

app = typer.Typer(
    help="Machines with physics, wear, faults and ground truth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ScenarioArgument = Annotated[
    str, typer.Argument(help=f"A TOML file, or one that ships: {', '.join(shipped_names())}.", show_default=False)
]
Seed = Annotated[int | None, typer.Option(min=0, help="Instead of the scenario's own seed.")]


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"forewarn-sim {__version__}")
        raise typer.Exit


@app.command()
def generate(
    scenario: ScenarioArgument,
    out: Annotated[Path, typer.Option(help="The folder to write; must not exist or be empty.")],
    seed: Seed = None,
    form: Annotated[str, typer.Option("--format", help=f"Of the telemetry: {', '.join(FORMS)}.")] = "csv.gz",
) -> None:
    """Write a dataset folder with ground truth; the same scenario and seed give the same bytes."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from forewarn_device_simulator.dataset import DatasetError, Form
    from forewarn_device_simulator.dataset import generate as write_dataset

    chosen = _scenario(scenario)
    used: Form | None = next((known for known in FORMS if known == form), None)
    if used is None:
        raise typer.BadParameter(f"{form!r} is not one of {', '.join(FORMS)}", param_hint="--format")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("machines"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(f"Simulating {chosen.name}", total=units_total(chosen))
        try:
            folders = write_dataset(
                chosen,
                out,
                seed=chosen.seed if seed is None else seed,
                form=used,
                advance=lambda done: progress.advance(task, done),
            )
        except (DatasetError, OSError) as error:
            _fail(str(error), EXIT_FAILED)
    for folder in folders:
        typer.echo(folder)


@app.command()
def run(
    scenario: ScenarioArgument,
    broker: Annotated[str, typer.Option(help="Of the broker an agent listens to.")] = "mqtt://127.0.0.1:1883",
    rate: Annotated[
        float | None, typer.Option(min=1e-3, max=1e6, help="Times real time.  [default: 1, or FOREWARN_CLOCK_RATE]")
    ] = None,
    begin: Annotated[
        str | None,
        typer.Option(help="First sample, as in 2026-01-05T00:00:00Z; the past is played at once.  [default: now]"),
    ] = None,
    seed: Seed = None,
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
    from forewarn_device_simulator.live.begin import BeginError, broker_address, instant_ms
    from forewarn_device_simulator.live.run import Options, run_live
    from forewarn_device_simulator.live.state import StateError

    chosen = _scenario(scenario)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    try:
        options = Options(
            broker=broker_address(broker, username, password_file),
            client_id=client_id or f"forewarn-sim-{chosen.name}",
            reconnect_max_seconds=reconnect_max_seconds,
            state_path=state or Path(f"{chosen.name}.state.json"),
            truth_path=truth,
            seed=seed,
            rate=rate,
            begin_ms=None if begin is None else instant_ms(begin),
        )
        played = run_live(chosen, options)
    except (ScenarioError, StateError, BeginError) as error:
        _fail(str(error), EXIT_CONFIGURATION)
    typer.echo(f"{played.samples} samples in {played.messages} messages; {'the end' if played.finished else 'stopped'}")


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=5, max=86_400, help="How long the machines run.")] = DEMO_SECONDS,
    headless: Annotated[bool, typer.Option("--headless", help="Plain lines instead of the live table.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write the summary as JSON.")] = None,
    folder: Annotated[Path | None, typer.Option("--dir", help="Keep all files of the run here.")] = None,
    rate: Annotated[float, typer.Option(min=60, max=100_000, help="Times real time.")] = DEMO_RATE,
    seed: Annotated[int | None, typer.Option(min=0, help="Another fleet.")] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Keep the console up after the summary.")] = False,
) -> None:
    """Broker, cloud, two agents and 24 machines on this computer; failures are caught before they happen.

    Ends with a summary; exit status 1 if nothing was caught or anything was lost.
    """
    from forewarn_device_simulator.demo.run import Options, demo_folder, run_demo
    from forewarn_device_simulator.demo.session import DemoFailed

    try:
        with demo_folder(folder) as chosen:
            options = Options(folder=chosen, seconds=seconds, rate=rate, seed=seed, headless=headless, stay=stay)
            found = run_demo(options, lambda found: _tell(found, report))
    except (DemoFailed, OSError) as error:
        _fail(str(error), EXIT_FAILED)
    if found.lost or not found.caught:
        raise typer.Exit(EXIT_FAILED)


def _tell(found: "Report", path: Path | None) -> None:
    from rich.console import Console

    from forewarn_device_simulator.demo.run import write_report
    from forewarn_device_simulator.demo.screen import summary

    Console(width=None if sys.stdout.isatty() else SUMMARY_WIDTH).print(summary(found))
    if path is not None:
        write_report(path, found)


def _scenario(name_or_path: str) -> Scenario:
    try:
        return load_scenario(name_or_path)
    except ScenarioError as error:
        _fail(f"scenario {name_or_path}: {error}", EXIT_CONFIGURATION)


def _fail(message: str, status: int) -> NoReturn:
    print(f"forewarn-sim: {message}", file=sys.stderr)
    raise typer.Exit(status)
