"""The commands of forewarn-sim."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from forewarn_device_simulator.dataset import FORMS, DatasetError, Form, generate
from forewarn_device_simulator.scenario import Scenario, ScenarioError, load_scenario, shipped_names, units_total
from forewarn_models import __version__

EXIT_FAILED = 1
EXIT_CONFIGURATION = 78

app = typer.Typer(
    help="Machines with physics, wear, faults and ground truth.", no_args_is_help=True, add_completion=False
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
