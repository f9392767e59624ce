"""Malformed dataset folders through the commands: what is refused names file, line and column and what to do; what is
allowed but probably not meant is told; and no reading, however odd, makes a score that is no number."""

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv, parquet
from typer.testing import CliRunner, Result

from forewarn_cloud.history.assess import assess_table, model_for
from forewarn_cloud.history.commands import register
from forewarn_cloud.history.dataset import read_dataset
from forewarn_models.asset_type import builtin_asset_type

from .fleets import Fleet, wearing_fleet
from .folders import DESCRIPTION, TELEMETRY, write_folder

EXAMPLE = "2026-01-31T08:00:00Z"


def _call(*arguments: object) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def _edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Replace the first `old` in a file."""

    def edit(folder: Path) -> None:
        text = (folder / name).read_text("utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), "utf-8")

    return edit


def _write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def _append(name: str, text: str) -> Callable[[Path], None]:
    def append(folder: Path) -> None:
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(text)

    return append


def _reading(text: str) -> Callable[[Path], None]:
    """Another reading of vibration in line 4."""
    return _edit("telemetry.csv", "1501,2.75", f"1501,{text}")


def _time(text: str) -> Callable[[Path], None]:
    """Another time in line 4."""
    return _edit("telemetry.csv", "2026-01-01T00:10:00.250Z", text)


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _rename(name: str, other: str) -> Callable[[Path], None]:
    def rename(folder: Path) -> None:
        (folder / name).rename(folder / other)

    return rename


def _make_folder(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return make


def _pack(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """A gzipped telemetry file, changed after that."""

    def pack(folder: Path) -> None:
        (folder / "telemetry.csv").unlink()
        (folder / "telemetry.csv.gz").write_bytes(change(gzip.compress(TELEMETRY.encode(), mtime=0)))

    return pack


def _parquet(change: Callable[[pa.Table], pa.Table], keep: int | None = None) -> Callable[[Path], None]:
    """The telemetry as Parquet, changed before; `keep` cuts the file."""

    def write(folder: Path) -> None:
        table = change(csv.read_csv(folder / "telemetry.csv"))
        (folder / "telemetry.csv").unlink()
        path = folder / "telemetry.parquet"
        parquet.write_table(table, path)
        path.write_bytes(path.read_bytes()[:keep])

    return write


def _zip(name: str) -> Callable[[Path], None]:
    """A file in the archive that takes its name."""

    def pack(folder: Path) -> None:
        content = (folder / name).read_text()
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr(name, content)

    return pack


def _link(name: str) -> Callable[[Path], None]:
    def link(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("gone/away.csv")

    return link


def _column(name: str, change: Callable[[pa.ChunkedArray], pa.Array]) -> Callable[[Path], None]:
    return _parquet(lambda table: table.set_column(table.column_names.index(name), name, change(table.column(name))))


SECOND = "p1,2026-01-01T00:00:00Z,1500,2.5\n"
MISTAKES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    # what is wrong: how, the file and the place that are named, what to do
    "no description": (_remove("dataset.toml"), "dataset.toml: missing in ", "write one with name"),
    "a folder for the description": (_make_folder("dataset.toml"), "dataset.toml: is a folder", "put a file"),
    "no telemetry": (_remove("telemetry.csv"), "telemetry.csv: missing in ", "add it, or telemetry.csv.gz"),
    "telemetry misnamed": (
        _rename("telemetry.csv", "Telemetry.txt"),
        "telemetry.csv: missing",
        "Telemetry.txt meant? rename it",
    ),
    "a folder for the telemetry": (_make_folder("telemetry.csv"), "telemetry.csv: is a folder", "put a file"),
    "two telemetry files": (_write("telemetry.csv.gz", b""), "telemetry.csv and telemetry.csv.gz", "keep one"),
    "empty telemetry": (_write("telemetry.csv", ""), "telemetry.csv, line 1: empty", "name the columns asset_id"),
    "header only": (
        _write("telemetry.csv", TELEMETRY.splitlines()[0] + "\n"),
        "telemetry.csv: no samples",
        "needs at least one row",
    ),
    "no header": (
        _write("telemetry.csv", SECOND),
        "telemetry.csv, line 1: column 'p1' is unknown",
        "remove it, or declare it as a signal in dataset.toml",
    ),
    "missing column": (
        _write("telemetry.csv", "asset_id,observed_at,speed_rpm\np1,2026-01-01T00:00:00Z,1\n"),
        "telemetry.csv, line 1: column vibration_mm_s is missing",
        "add it, or take the signal out of dataset.toml",
    ),
    "unknown column": (
        _write("telemetry.csv", TELEMETRY.replace("\n", ",1\n").replace("mm_s,1", "mm_s,colour", 1)),
        "telemetry.csv, line 1: column 'colour' is unknown",
        "remove it, or declare it",
    ),
    "column written otherwise": (
        _edit("telemetry.csv", ",vibration_mm_s", ", Vibration_mm_s"),
        "telemetry.csv, line 1: column ' Vibration_mm_s' is unknown",
        "call it vibration_mm_s",
    ),
    "column without a name": (
        _write("telemetry.csv", TELEMETRY.replace("\n", ",\n")),
        "telemetry.csv, line 1: a column has no name",
        "remove the comma",
    ),
    "duplicate column": (
        _edit("telemetry.csv", "vibration_mm_s", "speed_rpm"),
        "telemetry.csv, line 1: column 'speed_rpm' appears twice",
        "keep one",
    ),
    "semicolons between columns": (
        _write("telemetry.csv", TELEMETRY.replace(".", ",").replace(",", ";")),
        "telemetry.csv, line 1: the columns are separated by ';'",
        "put commas between them",
    ),
    "naive local time": (
        _time("2026-01-01T00:10:00"),
        "telemetry.csv, line 4, column observed_at: '2026-01-01T00:10:00' has no time zone",
        f"write it like {EXAMPLE}",
    ),
    "seconds for a time": (
        _time("1767226200"),
        "telemetry.csv, line 4, column observed_at: '1767226200' is no ISO 8601 time",
        "never guessed); write it like",
    ),
    "milliseconds for a time": (
        _time("1767226200000"),
        "telemetry.csv, line 4, column observed_at: '1767226200000' is no ISO 8601 time",
        "never guessed); write it like",
    ),
    "a day that does not exist": (
        _time("2026-02-30T00:00:00Z"),
        "telemetry.csv, line 4, column observed_at: '2026-02-30T00:00:00Z' is no ISO 8601 time",
        f"write it like {EXAMPLE}",
    ),
    "a slip in the year": (
        _time("2926-01-01T00:00:00Z"),
        "telemetry.csv, line 4, column observed_at: '2926-01-01T00:00:00Z' is after 2199",
        "correct the year",
    ),
    "no time": (_time(""), "telemetry.csv, line 4, column observed_at: '' is no ISO 8601 time", "write it like"),
    "unsorted rows": (
        _append("telemetry.csv", "p1,2025-12-31T00:00:00Z,1,2\np1,2025-12-31T01:00:00Z,1,2\n"),
        "telemetry.csv, line 6, column observed_at: p1 is earlier than in line 4",
        "sort the rows of each asset by time",
    ),
    "the same row twice": (
        _append("telemetry.csv", SECOND * 2),
        "telemetry.csv, line 6, column observed_at: p1 has a row for this time already, line 2, with the same values",
        "remove one of the two (2 rows are there twice)",
    ),
    "two rows that contradict": (
        _append("telemetry.csv", SECOND.replace("2.5", "9.9")),
        "telemetry.csv, line 6, column observed_at: p1 has a row for this time already, line 2, with other values",
        "keep the right one",
    ),
    "text for a number": (
        _reading("high"),
        "telemetry.csv, line 4, column vibration_mm_s: 'high' is not a number",
        "leave the cell empty if it is missing",
    ),
    "null for a number": (_reading("null"), "line 4, column vibration_mm_s: 'null' is not a number", "leave the cell"),
    "true for a number": (_reading("true"), "line 4, column vibration_mm_s: 'true' is not a number", "leave the cell"),
    "unit in a cell": (
        _reading("2.7 mm/s"),
        "line 4, column vibration_mm_s: '2.7 mm/s' is not",
        "leave the cell empty",
    ),
    "infinity": (_reading("-inf"), "line 4, column vibration_mm_s: '-inf' is not a finite number", "leave the cell"),
    "1e400": (_reading("1e400"), "line 4, column vibration_mm_s: '1e400' is not a finite number", "leave the cell"),
    "1e300": (_reading("1e300"), "line 4, column vibration_mm_s: '1e300' is more than a sensor", "leave the cell"),
    "an integer of 400 digits": (_reading("9" * 400), "line 4, column vibration_mm_s: '9999", "leave the cell empty"),
    "digits of another script": (
        _reading("１２"),
        "column vibration_mm_s: '１２' is not a number as",
        "leave the cell",
    ),
    "decimal comma": (
        _reading('"2,75"'),
        "telemetry.csv, line 4, column vibration_mm_s: '2,75' is not a number",
        "write the decimals with a point",
    ),
    "decimal comma without quotes": (
        _reading("2,75"),
        "telemetry.csv, line 4: 5 cells, but the header has 4 columns",
        "write decimals with a point",
    ),
    "short row": (_append("telemetry.csv", "p1,2026-02-01T00:00:00Z,1\n"), "telemetry.csv, line 6: 3 cells", "leave"),
    "row of commas": (
        _append("telemetry.csv", ",,,\n"),
        "telemetry.csv, line 6: all cells are empty",
        "remove the line",
    ),
    "newline in a cell": (
        _reading('"2\n7"'),
        "telemetry.csv, line 4, column vibration_mm_s: '2\\n7'",
        "leave the cell",
    ),
    "quote left open": (_reading('"2'), "telemetry.csv, line 4: ", "check the quotes"),
    "asset name with a space": (
        _edit("telemetry.csv", "p1", "pump 1"),
        "telemetry.csv, line 2, column asset_id: 'pump 1' cannot be a name",
        "use letters, digits",
    ),
    "not UTF-8": (
        _write("telemetry.csv", TELEMETRY.encode().replace(b"p1", b"p\xfc", 2)),
        "telemetry.csv, line 2, byte 2: not UTF-8",
        "save the file as UTF-8",
    ),
    "UTF-16": (
        _write("telemetry.csv", TELEMETRY.encode("utf-16")),
        "telemetry.csv (it looks like UTF-16): not UTF-8",
        "save the file as UTF-8",
    ),
    "gzip cut off": (_pack(lambda packed: packed[:-30]), "telemetry.csv.gz", "cut off; copy or compress it again"),
    "gzip that is none": (_pack(lambda _: b"asset_id"), "telemetry.csv.gz: not compressed", "compress the file"),
    "gzip with a wrong checksum is called uncompressed": (
        _pack(lambda packed: packed[:-8] + b"\0" * 8),
        "telemetry.csv.gz, after line ",
        "damaged or cut off; copy or compress it again",
    ),
    "gzip with more behind it is called uncompressed": (
        _pack(lambda packed: packed + b"more"),
        "telemetry.csv.gz, after line ",
        "damaged or cut off; copy or compress it again",
    ),
    "gzip that is not called so": (
        _write("telemetry.csv", gzip.compress(TELEMETRY.encode(), mtime=0)),
        "telemetry.csv: compressed with gzip",
        "name it telemetry.csv.gz",
    ),
    "another file in gzip": (
        _write("failures.csv", gzip.compress(b"asset_id,failed_at\n", mtime=0)),
        "failures.csv: compressed with gzip",
        "unpack it",
    ),
    "a zip archive": (
        _zip("telemetry.csv"),
        "telemetry.csv: a zip archive or a spreadsheet",
        "unpack it, or save it as CSV",
    ),
    "UTF-16 without a mark": (
        _write("telemetry.csv", TELEMETRY.encode("utf-16-be")),
        "telemetry.csv: not UTF-8 text (it holds NUL bytes)",
        "save the file as UTF-8",
    ),
    "a link to telemetry that is gone": (
        _link("telemetry.csv"),
        "telemetry.csv: a link to gone/away.csv, which is not there",
        "correct or remove it",
    ),
    "a link to failures that are gone, as if nothing had failed": (
        _link("failures.csv"),
        "failures.csv: a link to gone/away.csv, which is not there",
        "correct or remove it",
    ),
    "two rows within a millisecond, called twice the same": (
        _append("telemetry.csv", "p1,2026-01-01T00:10:00.250400Z,1,2\n"),
        "line 6, column observed_at: p1 has a row for this time already, line 4, with times kept to the millisecond",
        "give features of such fast data, or fewer samples",
    ),
    "parquet with two rows within a millisecond": (
        _column(
            "observed_at",
            lambda _: pa.array([1_700_000_000_000_000_000 + 200_000 * i for i in range(4)], pa.timestamp("ns", "UTC")),
        ),
        "row 3, column observed_at: p1 has a row for this time already, row 1, with times kept to the millisecond",
        "give features of such fast data, or fewer samples (2 rows follow so fast)",
    ),
    "an underscore in a number, called infinite": (
        _reading("1_000"),
        "line 4, column vibration_mm_s: '1_000' is not a number as written here",
        "use the digits 0 to 9",
    ),
    "one cell": (_append("telemetry.csv", "p1\n"), "telemetry.csv, line 6: 1 cell, but", "leave missing"),
    "parquet with text for a number": (
        _column("speed_rpm", lambda column: column.cast(pa.string())),
        "telemetry.parquet, column speed_rpm: string is not a number",
        "write float64",
    ),
    "parquet with a null time": (
        _column(
            "observed_at", lambda column: pa.array([*column.to_pylist()[:2], None, None], pa.timestamp("s", "UTC"))
        ),
        "telemetry.parquet, row 3, column observed_at: empty",
        "fill it or remove the row",
    ),
    "parquet with naive times": (
        _column("observed_at", lambda column: column.cast(pa.timestamp("ms"))),
        "telemetry.parquet, column observed_at: timestamp[ms] is no timestamp with a time zone",
        "write timestamp[ms, UTC]",
    ),
    "parquet with infinity": (
        _column("speed_rpm", lambda _: pa.array([1.0, 2.0, float("inf"), 3.0])),
        "telemetry.parquet, row 3, column speed_rpm: inf is not a finite number",
        "leave it empty",
    ),
    "parquet cut off": (
        _parquet(lambda table: table, keep=-100),
        "telemetry.parquet: cannot be read",
        "write the file again",
    ),
    "unknown key": (
        _edit("dataset.toml", "asset_type", "colour = 1\nasset_type"),
        "dataset.toml, line 3, colour: unknown key",
        "remove it, or use one of name, signals, asset_type",
    ),
    "unknown key of a signal": (
        _append("dataset.toml", 'scale = "x"\n'),
        "dataset.toml, line 13, signals[1].scale: unknown key",
        "remove it, or use one of name, unit, role",
    ),
    "number for a text": (
        _edit("dataset.toml", '"rpm"', "5"),
        "dataset.toml, line 7, signals[0].unit: Expected `str`, got `int`",
        "write text in quotes",
    ),
    "text for a number of the calibration": (
        _append("dataset.toml", '[calibration]\nbaseline_samples = "many"\n'),
        "dataset.toml, line 14, calibration.baseline_samples: Expected `int | null`, got `str`",
        "write a whole number without quotes",
    ),
    "budget that is no number": (
        _append("dataset.toml", "[calibration]\nfalse_alarms_per_asset_month = inf\n"),
        "dataset.toml, line 14, calibration.false_alarms_per_asset_month: not a finite number",
        "give one, or remove the key",
    ),
    "baseline out of range": (
        _append("dataset.toml", "[calibration]\nbaseline_samples = 99999999999\n"),
        "dataset.toml, line 14, calibration.baseline_samples: ",
        "give 10 to 1000000",
    ),
    "baseline of nothing": (
        _append("dataset.toml", "[calibration]\nbaseline_samples = 0\n"),
        "dataset.toml, line 14, calibration.baseline_samples: ",
        "give 10 to 1000000",
    ),
    "baseline of less than nothing": (
        _append("dataset.toml", "[calibration]\nbaseline_samples = -1\n"),
        "dataset.toml, line 14, calibration.baseline_samples: ",
        "give 10 to 1000000",
    ),
    "unknown role": (
        _edit("dataset.toml", '"regime"', '"regim"'),
        "dataset.toml, line 8, signals[0].role: Invalid enum value 'regim'",
        'use "condition" or "regime"',
    ),
    "signal without a unit": (
        _edit("dataset.toml", 'unit = "rpm"\n', ""),
        "dataset.toml, line 5, signals[0]: unit is missing",
        'add unit = "..."',
    ),
    "signal twice": (
        _append("dataset.toml", '[[signals]]\nname = "speed_rpm"\nunit = "Hz"\n'),
        "dataset.toml, line 14, signals[2].name: speed_rpm",
        "give each signal once",
    ),
    "signal called like a column": (
        _edit("dataset.toml", '"vibration_mm_s"', '"observed_at"'),
        "dataset.toml, line 11, signals[1].name: observed_at is a column of its own",
        "call the signal something else",
    ),
    "limit that is no number": (
        _append("dataset.toml", "limit_alarm = nan\n"),
        "dataset.toml, line 13, signals[1].limit_alarm: not a finite number",
        "remove the key",
    ),
    "no signals": (_write("dataset.toml", 'name = "x"\n'), "dataset.toml: signals is missing", "add a [[signals]]"),
    "more than 64 signals": (
        _write("dataset.toml", 'name = "x"\n' + "".join(f'[[signals]]\nname="s{i}"\nunit="1"\n' for i in range(65))),
        "dataset.toml, line 2, signals",
        "give 1 to 64",
    ),
    "regime signals only": (
        _append("dataset.toml", 'role = "regime"\n'),
        'dataset.toml, line 5, signals: every signal has role = "regime"',
        'give at least one role = "condition"',
    ),
    "no TOML": (_edit("dataset.toml", '"rpm"', "rpm"), "dataset.toml, line 7, column 8: no TOML", 'key = "text"'),
    "description not UTF-8": (
        _write("dataset.toml", DESCRIPTION.encode().replace(b"rpm", b"\xb0", 2)),
        "dataset.toml, line 6: not UTF-8",
        "save the file as UTF-8",
    ),
    "failures without a header": (_write("failures.csv", ""), "failures.csv, line 1: empty", "asset_id, failed_at"),
    "failure of an unknown asset": (
        _write("failures.csv", "asset_id,failed_at\np7,2026-01-01T00:00:00Z\n"),
        "failures.csv, line 2, column asset_id: p7 has no telemetry",
        "with telemetry: p1, p2",
    ),
    "failure twice": (
        _write("failures.csv", "asset_id,failed_at\n" + "p1,2026-01-01T01:00:00Z\n" * 2),
        "failures.csv, line 3, column failed_at: p1 failed at this time in line 2 already",
        "keep one row",
    ),
    "fault interval reversed": (
        _write("faults.csv", "asset_id,started_at,ended_at\np1,2026-01-02T00:00:00Z,2026-01-01T00:00:00Z\n"),
        "faults.csv, line 2, column ended_at: before started_at",
        "swap them",
    ),
    "remaining life that is no number": (
        _write("remaining_life.csv", "asset_id,as_of,rul_hours\np1,2026-01-01T00:00:00Z,nan\n"),
        "remaining_life.csv, line 2, column rul_hours: 'nan' is no number of hours",
        "give 0 or more",
    ),
    "remaining life that ends before the samples": (
        _write("remaining_life.csv", "asset_id,as_of,rul_hours\np1,2025-01-01T00:00:00Z,10\n"),
        "remaining_life.csv, line 2, column rul_hours: p1 has samples after its life is said to end",
        "correct as_of or rul_hours",
    ),
    "maintenance of no kind": (
        _write("maintenance.csv", "asset_id,at,kind\np1,2026-01-01T00:00:00Z,\n"),
        "maintenance.csv, line 2, column kind: empty",
        "say it in a word",
    ),
}


@pytest.mark.parametrize("wrong", MISTAKES)
def test_it_is_told_where_and_what_to_do(tmp_path: Path, wrong: str) -> None:
    damage, place, fix = MISTAKES[wrong]
    folder = write_folder(tmp_path / "d")
    damage(folder)
    result = _call("assess", folder, "--out", tmp_path / "a.csv")
    assert (result.exit_code, result.stderr.count("\n"), result.stdout) == (1, 1, ""), result.stderr
    assert place in result.stderr
    assert fix in result.stderr.partition(place)[2]
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize("command", ["fit", "assess", "backtest"])
def test_every_command_tells_it(tmp_path: Path, command: str) -> None:
    folder = write_folder(tmp_path / "d")
    _reading("high")(folder)
    out = [] if command == "backtest" else ["--out", tmp_path / "out"]
    result = _call(command, folder, *out)
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "forewarn-cloud: telemetry.csv, line 4, column vibration_mm_s: 'high' is not a number"
    )
    assert not (tmp_path / "out").exists()


# --- allowed, and told ----------------------------------------------------------------------------------------------

HOURLY = "".join(f"p1,2026-01-{1 + i // 24:02}T{i % 24:02}:00:00Z,{1500 + i % 7},{i * 37 % 50}\n" for i in range(600))
HEALTHY = TELEMETRY.splitlines()[0] + "\n" + HOURLY
ODDITIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "misnamed file": (_write("failure.csv", "x\n"), "failure.csv: not read; rename it to failures.csv"),
    "constant signal": (
        _write(
            "telemetry.csv",
            "".join(f"{line.rpartition(',')[0]},7\n" for line in HEALTHY.splitlines()).replace(
                "speed_rpm,7", "speed_rpm,vibration_mm_s", 1
            ),
        ),
        "telemetry.csv, column vibration_mm_s: the same value in every row, which can show no fault; check the sensor",
    ),
    "signal without a reading": (
        _write(
            "telemetry.csv",
            "".join(f"{line.rpartition(',')[0]},\n" for line in HEALTHY.splitlines()).replace(
                "speed_rpm,", "speed_rpm,vibration_mm_s", 1
            ),
        ),
        "telemetry.csv, column vibration_mm_s: no reading; fill it",
    ),
    "one row": (
        _write("telemetry.csv", TELEMETRY.splitlines()[0] + "\n" + SECOND),
        "telemetry.csv: p1 has only 1 of the ",
    ),
    "failure before the first sample": (
        _write("failures.csv", "asset_id,failed_at\np1,2025-01-01T00:00:00Z\np1,2025-02-01T00:00:00Z\n"),
        "failures.csv, line 2, column failed_at: p1 failed before its first sample, so nothing is learned from it; "
        "check the time (1 more row like this)",
    ),
    "failure at the first sample": (
        _write("failures.csv", "asset_id,failed_at\np1,2026-01-01T00:00:00Z\n"),
        "failures.csv, line 2, column failed_at: p1 failed at its first sample, so nothing is learned from it; check",
    ),
    "failure years after the last sample": (
        _write("failures.csv", "asset_id,failed_at\np1,2036-01-01T00:00:00Z\n"),
        "failures.csv, line 2, column failed_at: p1 failed long after its last sample; check the time",
    ),
    "fault outside the recording": (
        _write("faults.csv", "asset_id,started_at,ended_at\np1,2025-01-01T00:00:00Z,2025-01-02T00:00:00Z\n"),
        "faults.csv, line 2, columns started_at and ended_at: p1 has no sample in this interval",
    ),
}


@pytest.mark.parametrize("odd", ODDITIES)
def test_what_is_odd_is_told_and_used(tmp_path: Path, odd: str) -> None:
    change, told = ODDITIES[odd]
    folder = write_folder(tmp_path / "d", telemetry=HEALTHY)
    change(folder)
    result = _call("assess", folder, "--out", tmp_path / "a.csv")
    assert result.exit_code == 0, result.stderr
    assert [f"forewarn-cloud: warning: {told}" in line for line in result.stderr.splitlines()] == [True], result.stderr


def _regimes(*readings: str) -> str:
    """600 rows of p1 whose regime signal has these readings, over and over."""
    rows = [line.split(",") for line in HEALTHY.splitlines()]
    rows[1:] = [[asset, at, readings[i % len(readings)], v] for i, (asset, at, _, v) in enumerate(rows[1:])]
    return "".join(",".join(row) + "\n" for row in rows)


def _warnings(command: str, telemetry: str, folder: Path) -> list[str]:
    result = _call(command, write_folder(folder, telemetry=telemetry), "--out", folder.with_suffix(".out"))
    lines = [line.removeprefix("forewarn-cloud: ") for line in result.stderr.splitlines()]
    return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]


@pytest.mark.parametrize("command", ["assess", "fit"])
def test_nothing_was_told_of_a_regime_without_readings_in_which_nothing_is_judged(tmp_path: Path, command: str) -> None:
    missing, never = _warnings(command, _regimes(""), tmp_path / "d")
    assert missing == "telemetry.csv, column speed_rpm: no reading; fill it, or take the signal out of dataset.toml"
    assert never == (
        "telemetry.csv: p1 has a reading of every regime signal in only 0 of its 600 rows, of the 500 from which the "
        "models learn what is normal; fill speed_rpm, missing most often (with the last value, while it holds), or "
        "take it out of dataset.toml"
    )


def test_nothing_was_told_of_a_regime_read_too_seldom_to_learn_what_is_normal(tmp_path: Path) -> None:
    telemetry = _regimes("1500", "", "1501", "")
    second = telemetry.partition("\n")[2].replace("p1,", "p2,")
    (told,) = _warnings("assess", telemetry + second, tmp_path / "d")
    assert "p1 has a reading of every regime signal in only 300 of its 600 rows, of the 500" in told
    assert "and 1 more asset has too few; fill speed_rpm" in told
    assert _warnings("assess", _regimes("1500", "1501", "1502", "1503", "1504", ""), tmp_path / "e") == []


@pytest.mark.parametrize(("bound", "reading"), [("sentinels = [9999.0]", "9999"), ("valid_max = 100.0", "1500")])
def test_nothing_was_told_of_a_regime_whose_readings_are_no_measurements(
    tmp_path: Path, bound: str, reading: str
) -> None:
    description = DESCRIPTION.replace('name = "speed_rpm"', f'name = "speed_rpm"\n{bound}')
    folder = write_folder(tmp_path / "d", description=description, telemetry=_regimes(reading))
    impossible, never = read_dataset(folder).remarks
    assert impossible == (
        "telemetry.csv, column speed_rpm: every reading is a sentinel or outside valid_min to valid_max; correct them "
        "in dataset.toml, or the unit of the readings"
    )
    assert "in only 0 of its 600 rows" in never


def test_another_column_was_blamed_where_a_shipped_type_has_its_signals_in_another_order(tmp_path: Path) -> None:
    signals = builtin_asset_type("motor_fan").signals[::-1]
    silent = next(signal for signal in signals if signal.role == "condition").name
    tables = (f'[[signals]]\nname="{s.name}"\nunit="{s.unit}"\nrole="{s.role}"\n' for s in signals)
    rows = [
        ",".join(["f1", f"2026-01-01T00:00:{i:02}Z", *("" if s.name == silent else f"{i}" for s in signals)])
        for i in (1, 2)
    ]
    header = ",".join(["asset_id", "observed_at", *(s.name for s in signals)])
    folder = write_folder(
        tmp_path / "d",
        description='name = "fans"\nasset_type = "motor_fan"\n' + "".join(tables),
        telemetry="\n".join([header, *rows]) + "\n",
    )
    told = [remark for remark in read_dataset(folder).remarks if "no reading" in remark]
    assert told == [f"telemetry.csv, column {silent}: no reading; fill it, or take the signal out of dataset.toml"]


def test_nothing_was_told_of_a_regime_that_never_changes(tmp_path: Path) -> None:
    assert _warnings("assess", _regimes("1500"), tmp_path / "d") == [
        "telemetry.csv, column speed_rpm: the same value in every row, which can explain nothing; take the signal out "
        "of dataset.toml"
    ]


def test_a_history_too_short_anyway_is_not_blamed_on_its_regime(tmp_path: Path) -> None:
    (told,) = _warnings("assess", TELEMETRY, tmp_path / "d")
    assert "p1 has only 2 of the 500 samples" in told


HARMLESS: dict[str, Callable[[Path], None]] = {
    "nothing": lambda _: None,
    "byte order mark": _write("telemetry.csv", b"\xef\xbb\xbf" + HEALTHY.encode()),
    "byte order mark of the description": _write("dataset.toml", b"\xef\xbb\xbf" + DESCRIPTION.encode()),
    "Windows line ends": _write("telemetry.csv", HEALTHY.replace("\n", "\r\n")),
    "empty lines": _write("telemetry.csv", "\n" + HEALTHY.replace("\n", "\n\n")),
    "quotes around everything": _write(
        "telemetry.csv", "".join('"' + line.replace(",", '","') + '"\n' for line in HEALTHY.splitlines())
    ),
    "a space instead of the T": _write("telemetry.csv", HEALTHY.replace("T", " ")),
    "UTC as an offset": _write("telemetry.csv", HEALTHY.replace("Z", "+00:00")),
    "another zone": _write("telemetry.csv", HEALTHY.replace("2026-01-01T00:00:00Z", "2026-01-01T08:00:00+08:00")),
    "parquet": _parquet(lambda table: table),
    "parquet with another zone": _column(
        "observed_at", lambda column: column.cast(pa.timestamp("ms", "Asia/Shanghai"))
    ),
    "parquet with integers": _column("vibration_mm_s", lambda column: column.cast(pa.int32())),
    "no asset type": _edit("dataset.toml", 'asset_type = "small_pump"\n', ""),
    "units of another world": _edit("dataset.toml", '"rpm"', '"°/fortnight, 加仑"'),
    "known to be healthy": _write("faults.csv", "asset_id,started_at,ended_at\n"),
}


@pytest.mark.parametrize("form", HARMLESS)
def test_the_same_history_in_another_form_is_assessed_the_same(tmp_path: Path, form: str) -> None:
    plain, other = write_folder(tmp_path / "d", telemetry=HEALTHY), write_folder(tmp_path / "e", telemetry=HEALTHY)
    HARMLESS[form](other)
    assert _call("assess", plain, "--out", tmp_path / "d.csv").exit_code == 0
    result = _call("assess", other, "--out", tmp_path / "e.csv")
    assert (result.exit_code, result.stderr) == (0, "")
    assert (tmp_path / "e.csv").read_bytes() == (tmp_path / "d.csv").read_bytes()


# --- fit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [None, "asset_id,failed_at\n", "asset_id,failed_at\nw0,2020-01-01T00:00:00Z\n"])
def test_fit_on_too_little_says_what_is_needed(tmp_path: Path, failures: str | None) -> None:
    folder = Fleet().add("w0", 300, fails=True).write(tmp_path / "d", failures=failures or "")
    if failures is None:
        (folder / "failures.csv").unlink()
    result = _call("fit", folder, "--out", tmp_path / "m")
    told = [line for line in result.stderr.splitlines() if "warning" not in line]
    assert result.exit_code == 1
    assert len(told) == 1
    assert "fail" in told[0]
    assert "at least" in told[0]
    assert not (tmp_path / "m").exists()


def test_what_was_learned_without_an_asset_type_serves_another_history_without_one(tmp_path: Path) -> None:
    folder = wearing_fleet(tmp_path / "d")
    _edit("dataset.toml", 'asset_type = "test_fan"\n', "")(folder)
    fitted = _call("fit", folder, "--out", tmp_path / "m")
    assert (fitted.exit_code, fitted.stderr) == (0, "")
    other = Fleet(seed=8).add("x0", 400, fails=True).write(tmp_path / "e")
    _edit("dataset.toml", 'asset_type = "test_fan"\n', "")(other)
    assert _call("assess", other, "--out", tmp_path / "plain.csv").exit_code == 0
    taught = _call("assess", other, "--model", tmp_path / "m", "--out", tmp_path / "taught.csv")
    assert taught.exit_code == 0, taught.stderr
    assert (tmp_path / "plain.csv").read_bytes() != (tmp_path / "taught.csv").read_bytes()


# --- no score is ever no number -------------------------------------------------------------------------------------

_ODD_READINGS = st.one_of(
    st.sampled_from(["", "nan", "0", "-0.0", "1e-320", "3.3e38", "-3.3e38", "1e30", "7", "7", "7"]),
    st.floats(-3.4e38, 3.4e38).map(repr),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_ODD_READINGS, _ODD_READINGS), min_size=1, max_size=20), st.integers(0, 2**32 - 1))
def test_odd_readings_make_no_score_that_is_no_number(
    tmp_path: Path, readings: list[tuple[str, str]], seed: int
) -> None:
    order = np.random.default_rng(seed).integers(0, len(readings), 200)
    rows = [f"p1,2026-01-01T{i // 60:02}:{i % 60:02}:00Z,{','.join(readings[k])}\n" for i, k in enumerate(order)]
    description = DESCRIPTION + "[calibration]\nbaseline_samples = 20\n"
    telemetry = TELEMETRY.splitlines()[0] + "\n" + "".join(rows)
    dataset = read_dataset(write_folder(tmp_path / "d", description=description, telemetry=telemetry))
    table = assess_table(dataset, model_for(dataset, None))
    assert np.isfinite(table.anomaly_score).all()
    assert np.isfinite(table.health_index).all()
    assert not np.isinf(table.rul_hours).any()
