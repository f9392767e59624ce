"""The figures on real machine histories, each by the commands of forewarn-cloud, beside what is to be reached.

Needs the dataset folders cmapss-fd001-train, cmapss-fd001-test, skab-valve1, skab-anomaly-free and ims-bearing-test1 in
DIR. Fits see training data only: FD001's train set, and for the first ALARM its engines 1 to 50, judged on 51 to 100.
On SKAB, rates by row rest on the rows after the first 400 of each file (an alarm that is always on has F1 0.70 there);
`all_rows` are beside them. The last line is one JSON object: figures, targets and commands of every row.
Usage: python tests/benchmarks/bench_figures.py --data DIR [--only ROW ...]
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

FIRST_ENGINES: Final = ("engine-0[0-4]?", "engine-050")
LAST_ENGINES: Final = ("engine-05[1-9]", "engine-0[6-9]?", "engine-100")

Figure = float | int | None
Figures = dict[str, Figure]


@dataclass(frozen=True, kw_only=True)
class Target:
    figure: str
    side: Literal["<=", ">="]
    bound: float

    def reached(self, figures: Figures) -> bool:
        value = figures[self.figure]
        return value is not None and (value <= self.bound if self.side == "<=" else value >= self.bound)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table: what is fitted on and judged, the figures taken from it, and what is to be reached."""

    judged: str
    take: Callable[[dict[str, Any]], Figures]
    targets: tuple[Target, ...]
    fitted_on: str = ""
    fit_assets: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()


# --- what is taken from an evaluation -------------------------------------------------------------------------------


def _rul(found: dict[str, Any]) -> Figures:
    """Clipped to 0..125 h over all engines; an engine without a remaining life counts as 125."""
    rul = found["rul_at_last_sample"]
    raw, clipped = rul["raw"] or {}, rul["clipped_all"]
    return {
        "engines": rul["units"],
        "without_rul": rul["without_rul"],
        "rmse": clipped["rmse_hours"],
        "phm08_score": clipped["phm08_score"],
        "coverage": raw.get("p10_p90_coverage"),
        "coverage_clipped": clipped["p10_p90_coverage"],
        "crps_hours": raw.get("crps_hours"),
        "crps_hours_clipped": clipped["crps_hours"],
    }


def _first_alarm(found: dict[str, Any]) -> Figures:
    first = found["first_alarms"]
    names = ("lives", "in_time", "earlier", "later", "missed", "in_time_share", "earlier_share", "least_hours")
    return {name: first[name] for name in names} | {"never_failing_alarmed": first["never_failing_alarmed"]}


def _faults(found: dict[str, Any]) -> Figures:
    faults = found["faults"]
    names = ("faults", "raised", "raised_within", "assets_with_early_alarm", "median_delay_s")
    rates = {**_rates(faults["after_baseline"], ""), **_rates(faults["all_rows"], "all_rows_")}
    return {name: faults[name] for name in names} | rates


def _rates(agreement: dict[str, Any], prefix: str) -> Figures:
    told = {name: agreement["rates"][name] for name in ("rows", "precision", "recall", "f1", "false_alarm_rate")}
    return {f"{prefix}{name}": value for name, value in {"auc": agreement["auc"], **told}.items()}


def _false_alarms(found: dict[str, Any]) -> Figures:
    alarms = found["false_alarms"]
    return {name: alarms[name] for name in ("assets", "raised", "rows", "asset_months", "per_asset_month")}


_IN_TIME: Final = (
    Target(figure="in_time_share", side=">=", bound=0.98),
    Target(figure="earlier_share", side="<=", bound=0.01),
)

ROWS: Final = {
    "fd001_rul": Row(
        judged="cmapss-fd001-test",
        fitted_on="cmapss-fd001-train",
        take=_rul,
        targets=(
            Target(figure="rmse", side="<=", bound=10.5),
            Target(figure="phm08_score", side="<=", bound=165),
            Target(figure="coverage", side=">=", bound=0.74),
            Target(figure="coverage", side="<=", bound=0.86),
            Target(figure="without_rul", side="<=", bound=0),
        ),
    ),
    "fd001_first_alarm": Row(judged="cmapss-fd001-train", assets=LAST_ENGINES, take=_first_alarm, targets=_IN_TIME),
    "fd001_first_alarm_fitted": Row(
        judged="cmapss-fd001-train",
        fitted_on="cmapss-fd001-train",
        fit_assets=FIRST_ENGINES,
        assets=LAST_ENGINES,
        take=_first_alarm,
        targets=_IN_TIME,
    ),
    "skab_valve1": Row(
        judged="skab-valve1",
        take=_faults,
        targets=(
            Target(figure="raised", side=">=", bound=16),
            Target(figure="raised_within", side=">=", bound=14),
            Target(figure="assets_with_early_alarm", side="<=", bound=1),
            Target(figure="auc", side=">=", bound=0.90),
            Target(figure="f1", side=">=", bound=0.80),
            Target(figure="false_alarm_rate", side="<=", bound=0.12),
        ),
    ),
    "skab_anomaly_free": Row(
        judged="skab-anomaly-free", take=_false_alarms, targets=(Target(figure="rows", side="<=", bound=0),)
    ),
    "ims_bearing_test1": Row(
        judged="ims-bearing-test1",
        take=_first_alarm,
        targets=(
            Target(figure="least_hours", side=">=", bound=48),
            Target(figure="missed", side="<=", bound=0),
            Target(figure="never_failing_alarmed", side="<=", bound=0),
        ),
    ),
}


# --- by the commands ------------------------------------------------------------------------------------------------


def measured(row: Row, data: Path, scratch: Path) -> dict[str, object]:
    """Run the commands of a row; in what is told of them, folders stand without their place on this machine."""
    commands = [evaluate_command(row)]
    if row.fitted_on:
        commands.insert(0, ["fit", f"DIR/{row.fitted_on}", "--out", "MODEL_DIR", *_options(row.fit_assets)])
    model = tempfile.mkdtemp(dir=scratch)
    outputs = [run([part.replace("DIR/", f"{data}/").replace("MODEL_DIR", model) for part in c]) for c in commands]
    figures = {name: _rounded(value) for name, value in row.take(json.loads(outputs[-1])).items()}
    return {
        **figures,
        "targets": {f"{t.figure} {t.side} {t.bound:g}": t.reached(figures) for t in row.targets},
        "commands": [shlex.join(["forewarn-cloud", *command]) for command in commands],
    }


def evaluate_command(row: Row) -> list[str]:
    model = ["--model", "MODEL_DIR"] if row.fitted_on else []
    return ["evaluate", f"DIR/{row.judged}", *model, *_options(row.assets), "--json"]


def run(arguments: list[str]) -> str:
    done = subprocess.run([sys.executable, "-m", "forewarn_cloud", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _options(patterns: tuple[str, ...]) -> list[str]:
    return [part for pattern in patterns for part in ("--assets", pattern)]


def _rounded(value: Figure) -> Figure:
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    arguments = parser.parse_args()
    result = dict[str, object]()
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.only:
            began = time.perf_counter()
            result[name] = measured(ROWS[name], arguments.data, Path(scratch))
            print(f"{name} ({time.perf_counter() - began:.0f} s): {json.dumps(result[name])}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
