"""The offline commands: fit, assess, evaluate, backtest, plot."""

import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

if TYPE_CHECKING:
    from forewarn_cloud.history.assess import Advance
    from forewarn_cloud.history.dataset import Dataset
    from forewarn_cloud.history.world import World
    from forewarn_cloud.service.policy import Policy
    from forewarn_models.kernel import Model

FAILED: Final = 1
CONFIGURATION: Final = 78

DatasetFolder = Annotated[
    Path, typer.Argument(metavar="DATASET", help="Dataset folder: dataset.toml, telemetry.csv ...")
]
ModelFolder = Annotated[
    Path | None, typer.Option("--model", metavar="MODEL_DIR", help="What `fit` learned; without it, nothing.")
]
Assets = Annotated[
    list[str] | None,
    typer.Option("--assets", metavar="PATTERN", help="Only the assets called so (* ? [0-4]); may be repeated."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(fit)
    app.command()(assess)
    app.command()(evaluate)
    app.command()(backtest)
    app.command()(plot)


def fit(
    dataset: DatasetFolder,
    out: Annotated[Path, typer.Option("--out", metavar="MODEL_DIR", help="Where the model is written.")],
    assets: Assets = None,
) -> None:
    """Learn from the histories of machines that failed."""
    from forewarn_cloud.history.fit import fit_dataset, save_fit
    from forewarn_models.knowledge import KnowledgeError

    with _told():
        _check_model_folder(out, dataset)
        read = _read(dataset, assets)
        try:
            with _progress("fitting", len(read.telemetry.t_ms)) as advance:
                fitted = fit_dataset(read, advance)
        except KnowledgeError as error:
            raise _stop(f"{dataset}: {error}", FAILED) from None
        manifest = save_fit(out, read, fitted)
    typer.echo(f"{out}: learned {manifest.asset_type} from {manifest.lives} lives that ended in a failure")
    if fitted.fleet_model_missing:
        typer.echo(f"{out}: no fleet model: {fitted.fleet_model_missing}")


def assess(
    dataset: DatasetFolder,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The CSV to write, one row per sample.")],
    model: ModelFolder = None,
) -> None:
    """Stream a dataset through the pipeline of the agent and write what it says of every sample."""
    from forewarn_cloud.history.assess import assess_table, write_assessments
    from forewarn_cloud.history.cells import counted
    from forewarn_models.assessment import Condition

    with _told():
        _check_file(out, dataset, model)
        read = _read(dataset)
        kernel = _model(read, model)
        with _progress("assessing", len(read.telemetry.t_ms)) as advance:
            table = assess_table(read, kernel, advance)
        with _progress("writing", len(read.telemetry.t_ms)) as advance:
            write_assessments(out, read, table, advance)
    alarmed = len(set(read.telemetry.asset_index[table.condition == Condition.ALARM].tolist()))
    typer.echo(
        f"{out}: {counted(len(table.condition), 'sample')} of {counted(len(read.telemetry.assets), 'asset')} "
        f"({read.asset_type.asset_type}); {alarmed} of them with an ALARM"
    )


def evaluate(
    dataset: DatasetFolder,
    model: ModelFolder = None,
    assets: Assets = None,
    lead_min: Annotated[
        float, typer.Option("--lead-min", min=0, metavar="HOURS", help="A first ALARM later than this is too late.")
    ] = 10.0,
    lead_max: Annotated[
        float, typer.Option("--lead-max", min=0, metavar="HOURS", help="A first ALARM earlier than this is too early.")
    ] = 100.0,
    within: Annotated[
        float, typer.Option("--within", min=0, metavar="SECONDS", help="A fault raised so soon counts as quick.")
    ] = 60.0,
    rul_cap: Annotated[
        float, typer.Option("--rul-cap", min=0, metavar="HOURS", help="Remaining lives are clipped to this.")
    ] = 125.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Judge the models by the labels of a dataset: warnings, remaining life, false alarms."""
    import msgspec

    from forewarn_cloud.history.evaluate import Rules
    from forewarn_cloud.history.evaluate import evaluate as judge

    if lead_min > lead_max:
        raise typer.BadParameter(
            f"{lead_min:g} is more than {lead_max:g}; give the least time first", param_hint="--lead-min and --lead-max"
        )
    rules = Rules(lead_min_hours=lead_min, lead_max_hours=lead_max, within_s=within, rul_cap_hours=rul_cap)
    with _told():
        read = _read(dataset, assets)
        kernel = _model(read, model)
        with _progress("assessing", len(read.telemetry.t_ms)) as advance:
            found = judge(read, kernel, rules, advance)
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        from forewarn_cloud.history.printout import print_evaluation

        print_evaluation(found)


def backtest(
    dataset: DatasetFolder,
    model: ModelFolder = None,
    assets: Assets = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="Policy to try (TOML); without it, the default.")
    ] = None,
    world: Annotated[
        Path | None,
        typer.Option("--world", metavar="FILE", help="Stock, lead times, seed (TOML); without it, the default."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Ask what a policy would have done with these machines; prints the scorecard."""
    import msgspec

    from forewarn_cloud.history import backtest as backtests

    with _told():
        chosen, settings = _policy(policy), _world(world)
        read = _read(dataset, assets)
        backtests.check_truth(read)
        kernel = _model(read, model)
        with _progress("assessing", len(read.telemetry.t_ms)) as advance:
            cases = backtests.build_cases(read, kernel, settings, advance)
        with _progress("replaying", None):
            card = backtests.score(read, kernel, cases, chosen, settings)
    if as_json:
        typer.echo(msgspec.json.encode(card).decode())
    else:
        from forewarn_cloud.history.printout import print_scorecard

        print_scorecard(card)


def plot(
    dataset: DatasetFolder,
    asset: Annotated[str, typer.Option("--asset", metavar="ASSET", help="Whose history is drawn.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The picture to write: .png or .svg.")],
    model: ModelFolder = None,
    language: Annotated[Literal["en", "zh"], typer.Option("--language", help="Of the words in the picture.")] = "en",
) -> None:
    """Draw one history: signals, anomaly score, condition, health and remaining life beside the truth."""
    from forewarn_cloud.history.cells import counted
    from forewarn_cloud.history.plot import FORMATS, save_picture
    from forewarn_cloud.history.story import only_asset, tell_story

    if out.suffix.removeprefix(".").lower() not in FORMATS:
        raise typer.BadParameter(f"{out}: end the name in .png or .svg", param_hint="--out")
    if find_spec("matplotlib") is None:
        raise _stop("plot needs matplotlib, which is not installed: pip install 'forewarn[plot]'", FAILED)
    with _told():
        _check_file(out, dataset, model)
        read = only_asset(_read(dataset), asset)
        kernel = _model(read, model)
        with _progress("assessing", len(read.telemetry.t_ms)) as advance:
            story = tell_story(read, kernel, asset, advance)
        with _progress("drawing", None):
            save_picture(out, story, language)
    typer.echo(f"{out}: {counted(len(story.t_ms), 'sample')} of {asset}, {counted(len(story.alarms), 'time')} an ALARM")


# --- what the commands share ----------------------------------------------------------------------------------------


@contextmanager
def _told() -> Iterator[None]:
    """Mistakes in files are told in one line, and end the program: 78 for the policy and the world, 1 for the rest."""
    from forewarn_cloud.errors import Invalid
    from forewarn_cloud.history.cells import DatasetError
    from forewarn_cloud.history.world import WorldError
    from forewarn_models.model_folder import ModelFolderError

    try:
        yield
    except (Invalid, WorldError) as error:
        raise _stop(str(error), CONFIGURATION) from None
    except (DatasetError, ModelFolderError) as error:
        raise _stop(str(error), FAILED) from None
    except OSError as error:
        fix = _OTHERWISE.get(error.errno or 0, "check the path and what is there")
        where = f"{error.filename}: " if error.filename else ""
        raise _stop(f"{where}{(error.strerror or str(error)).lower()}; {fix}", FAILED) from None


_OTHERWISE: Final = {
    errno.EACCES: "change the permissions, or name another place",
    errno.EPERM: "change the permissions, or name another place",
    errno.EROFS: "name another place",
    errno.ENOSPC: "make room, or name another place",
}


def _stop(message: str, status: int) -> typer.Exit:
    typer.echo(f"forewarn-cloud: {message}", err=True)
    return typer.Exit(status)


@contextmanager
def _progress(what: str, total: int | None) -> "Iterator[Advance]":
    """A bar on standard error, if that is a terminal; it only moves to and fro where `total` is not known."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


def _read(folder: Path, assets: list[str] | None = None) -> "Dataset":
    from forewarn_cloud.history.dataset import read_dataset
    from forewarn_cloud.history.selection import only_assets
    from forewarn_cloud.history.telemetry import size_bytes

    with _progress("reading", size_bytes(folder)) as advance:
        dataset = read_dataset(folder, advance)
    for remark in dataset.remarks:
        typer.echo(f"forewarn-cloud: warning: {remark}", err=True)
    return only_assets(dataset, assets or ())


def _model(dataset: "Dataset", folder: Path | None) -> "Model":
    from forewarn_cloud.history.assess import model_for
    from forewarn_cloud.history.model_folder import load_model_folder

    return model_for(dataset, None if folder is None else load_model_folder(folder, dataset.asset_type))


def _policy(path: Path | None) -> "Policy":
    from forewarn_cloud.service.policy import default_policy, parse_policy

    return default_policy() if path is None else parse_policy(_settings(path))


def _world(path: Path | None) -> "World":
    from forewarn_cloud.history.world import default_world, parse_world

    return default_world() if path is None else parse_world(_settings(path))


def _settings(path: Path) -> str:
    from forewarn_cloud.history.world import WorldError

    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise WorldError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()}); give a file") from None
    except UnicodeDecodeError:
        raise WorldError(f"{path}: not UTF-8; save the file as UTF-8") from None


def _check_file(out: Path, dataset: Path, model: Path | None) -> None:
    """Whether a file may be written there; before the work, not after it."""
    from forewarn_cloud.history.remarks import KNOWN

    if out.is_dir():
        raise _stop(f"{out}: is a folder; name a file", FAILED)
    if out.exists() and not out.is_file():
        raise _stop(f"{out}: is a device or a pipe, which would be replaced; name a file", FAILED)
    if not out.parent.is_dir():
        problem = "no folder; name a file in one" if out.parent.exists() else "no such folder; create it first"
        raise _stop(f"{out.parent}: {problem}", FAILED)
    if out.resolve() in {(dataset / name).resolve() for name in KNOWN}:
        raise _stop(f"{out}: is a file of the dataset, which would be replaced; name another file", FAILED)
    if model is not None and out.exists() and out.resolve().parent == model.resolve():
        raise _stop(f"{out}: is a file of the model, which would be replaced; name another file", FAILED)
    _try_writing(out.parent)


def _check_model_folder(out: Path, dataset: Path) -> None:
    """Whether a model may be written there; before the work, not after it."""
    from forewarn_cloud.history.remarks import KNOWN

    if out.resolve() in {(dataset / name).resolve() for name in ("", *KNOWN)}:
        raise _stop(f"{out}: is the dataset; a model does not belong among the history, name another folder", FAILED)
    nearest = next(path for path in (out, *out.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise _stop(f"{nearest}: is no folder; name another place for the model", FAILED)
    _try_writing(nearest)


def _try_writing(folder: Path) -> None:
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:  # it names the file that was tried
        raise OSError(error.errno, error.strerror, str(folder)) from None
