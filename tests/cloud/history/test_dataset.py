"""Reading dataset folders: what is accepted, and that every mistake is told with file, line, column and the fix."""

import math
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from forewarn_cloud.history import telemetry as telemetry_module
from forewarn_cloud.history.cells import DatasetError
from forewarn_cloud.history.dataset import Failure, Fault, Maintenance, RemainingLife, read_dataset
from forewarn_cloud.history.telemetry import Telemetry, read_csv_by_row, read_telemetry
from forewarn_models.asset_type import builtin_asset_type

from .folders import DESCRIPTION, TELEMETRY, compress, write_folder

T0 = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""
SIGNALS = ("speed_rpm", "vibration_mm_s")


def _same(one: Telemetry, other: Telemetry) -> bool:
    return (
        one.assets == other.assets
        and np.array_equal(one.asset_index, other.asset_index)
        and np.array_equal(one.t_ms, other.t_ms)
        and np.array_equal(one.values, other.values, equal_nan=True)
    )


def test_a_folder_is_read_with_rows_in_file_order(tmp_path: Path) -> None:
    dataset = read_dataset(write_folder(tmp_path / "d"))
    telemetry = dataset.telemetry
    assert telemetry.assets == ("p1", "p2")
    assert telemetry.asset_index.tolist() == [0, 1, 0, 1]
    assert telemetry.t_ms.tolist() == [T0, T0, T0 + 600_250, T0 + 600_000]
    np.testing.assert_array_equal(telemetry.values, [[1500, 2.5], [1480, math.nan], [1501, 2.75], [math.nan, 3]])
    assert [rows.tolist() for rows in telemetry.rows_by_asset()] == [[0, 2], [1, 3]]
    assert dataset.failures is None
    assert dataset.faults is None
    assert dataset.remaining_lives == ()
    assert dataset.maintenance == ()


@pytest.mark.parametrize("packed", [False, True])
def test_the_fast_and_the_reference_reading_agree(tmp_path: Path, packed: bool) -> None:
    folder = write_folder(tmp_path / "d")
    path = compress(folder / "telemetry.csv") if packed else folder / "telemetry.csv"
    fast = telemetry_module._read_csv_fast(path, SIGNALS, lambda _: None)
    assert fast is not None
    assert _same(fast, read_csv_by_row(path, SIGNALS))


def test_the_order_of_columns_is_free(tmp_path: Path) -> None:
    swapped = "\n".join(",".join(line.split(",")[::-1]) for line in TELEMETRY.splitlines())
    one = read_dataset(write_folder(tmp_path / "one"))
    other = read_dataset(write_folder(tmp_path / "other", telemetry=swapped))
    assert _same(one.telemetry, other.telemetry)


def test_parquet_reads_the_same(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d")
    expected = read_telemetry(folder, SIGNALS)
    (folder / "telemetry.csv").unlink()
    names = [expected.assets[i] for i in expected.asset_index]
    _write_parquet(folder, names, pa.array(expected.t_ms, pa.timestamp("ms", "UTC")), expected.values)
    assert _same(read_telemetry(folder, SIGNALS), expected)


def _write_parquet(folder: Path, names: list[str], times: pa.Array, values: np.ndarray) -> None:
    columns = {"asset_id": names, "observed_at": times, **dict(zip(SIGNALS, values.T, strict=True))}
    parquet.write_table(pa.table(columns), folder / "telemetry.parquet")


@pytest.mark.parametrize(
    ("names", "times", "wrong"),
    [
        (["p1", "p1"], pa.array([T0, T0], pa.timestamp("ms", "UTC")), "row 2, column observed_at"),
        (["p1", "p1"], pa.array([T0, T0 + 1], pa.timestamp("ms")), "column observed_at: timestamp[ms] is no timestamp"),
        (["p1", None], pa.array([T0, T0 + 1], pa.timestamp("ms", "UTC")), "row 2, column asset_id: empty; fill it"),
        (["p1", "a b"], pa.array([T0, T0 + 1], pa.timestamp("ms", "UTC")), "row 2, column asset_id"),
    ],
)
def test_mistakes_in_parquet_are_told(tmp_path: Path, names: list[str], times: pa.Array, wrong: str) -> None:
    folder = write_folder(tmp_path / "d")
    (folder / "telemetry.csv").unlink()
    _write_parquet(folder, names, times, np.ones((2, 2)))
    with pytest.raises(DatasetError, match=re.escape(f"telemetry.parquet, {wrong}")):
        read_telemetry(folder, SIGNALS)


def test_events_are_read_in_time_order(tmp_path: Path) -> None:
    dataset = read_dataset(
        write_folder(
            tmp_path / "d",
            failures="asset_id,failed_at,failure_mode\np2,2026-01-03T00:00:00Z,\np1,2026-01-02T00:00:00Z,seal\n",
            faults="asset_id,started_at,ended_at\np1,2026-01-01T00:00:00Z,2026-01-02T00:00:00Z\n",
            remaining_life="asset_id,as_of,rul_hours\np1,2026-01-01T00:00:00Z,12.5\n",
            maintenance="asset_id,at,kind,part_no\np1,2026-01-02T12:00:00Z,repair,SEAL-1\n",
        )
    )
    day = 86_400_000
    assert dataset.failures == (
        Failure(asset="p1", failed_ms=T0 + day, failure_mode="seal"),
        Failure(asset="p2", failed_ms=T0 + 2 * day, failure_mode=""),
    )
    assert dataset.faults == (Fault(asset="p1", started_ms=T0, ended_ms=T0 + day, failure_mode=""),)
    assert dataset.remaining_lives == (RemainingLife(asset="p1", as_of_ms=T0, rul_hours=12.5),)
    work = Maintenance(asset="p1", at_ms=T0 + day + day // 2, kind="repair", part_no="SEAL-1")
    assert dataset.maintenance == (work,)


HEAD = "asset_id,observed_at,speed_rpm,vibration_mm_s\n"
GOOD = "p1,2026-01-01T00:00:00Z,1,2\n"


@pytest.mark.parametrize(
    ("telemetry", "wrong"),
    [
        ("", "telemetry.csv: empty"),
        (HEAD, "telemetry.csv: no samples"),
        (HEAD.replace("speed_rpm", "spd") + GOOD, "line 1: column 'spd' is unknown"),
        ("asset_id,observed_at,speed_rpm\np1,2026-01-01T00:00:00Z,1\n", "line 1: column vibration_mm_s is missing"),
        (HEAD.replace("vibration_mm_s", "speed_rpm") + GOOD, "line 1: column 'speed_rpm' appears twice"),
        (HEAD + GOOD + "p1,yesterday,1,2\n", "line 3, column observed_at: 'yesterday' is no ISO 8601 time"),
        (HEAD + "p1,2026-01-01T00:00:00,1,2\n", "line 2, column observed_at: '2026-01-01T00:00:00' has no time zone"),
        (HEAD + "p1,,1,2\n", "line 2, column observed_at: '' is no ISO 8601 time"),
        (HEAD + "p1,1969-01-01T00:00:00Z,1,2\n", "line 2, column observed_at: '1969-01-01T00:00:00Z' is before 1970"),
        (HEAD + "p1,2026-01-01T00:00:00Z,1,high\n", "line 2, column vibration_mm_s: 'high' is not a number"),
        (HEAD + 'p1,2026-01-01T00:00:00Z,1,"1,5"\n', "line 2, column vibration_mm_s: '1,5' is not a number"),
        (HEAD + "p1,2026-01-01T00:00:00Z,inf,2\n", "line 2, column speed_rpm: 'inf' is not a finite number"),
        (HEAD + "p1,2026-01-01T00:00:00Z,1_0,2\n", "line 2, column speed_rpm: '1_0' is not a number as written here"),
        (HEAD + GOOD + "\n" + GOOD, "line 4, column observed_at: p1 has a row for this time already, line 2"),
        (HEAD + "p1,2026-01-01T01:00:00Z,1,2\n" + GOOD, "line 3, column observed_at: p1 is earlier than in line 2"),
        (HEAD + GOOD + "p1,2026-01-01T01:00:00Z,1\n", "line 3: 3 cells, but the header has 4 columns"),
        (HEAD + "pump 1,2026-01-01T00:00:00Z,1,2\n", "line 2, column asset_id: 'pump 1' cannot be a name"),
        (HEAD + ",2026-01-01T00:00:00Z,1,2\n", "line 2, column asset_id: '' cannot be a name"),
        (HEAD + 'p1,2026-01-01T00:00:00Z,1,"2\n', "line 2: unexpected end of data; check the quotes"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_mistakes_in_telemetry_are_told(tmp_path: Path, telemetry: str, wrong: str, packed: bool) -> None:
    folder = write_folder(tmp_path / "d", telemetry=telemetry)
    if packed:
        compress(folder / "telemetry.csv")
    with pytest.raises(DatasetError) as caught:
        read_dataset(folder)
    assert wrong.removeprefix("telemetry.csv") in str(caught.value)
    assert str(caught.value).startswith("telemetry.csv")


def test_long_and_foreign_cells_are_shown_safely(tmp_path: Path) -> None:
    text = HEAD + f"p1,2026-01-01T00:00:00Z,1,\x1b[31m{'9' * 500}x\n"
    with pytest.raises(DatasetError) as caught:
        read_dataset(write_folder(tmp_path / "d", telemetry=text))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("stem", "text", "wrong"),
    [
        ("failures", "asset_id,at\np1,2026-01-01T00:00:00Z\n", "failures.csv, line 1: column 'at' is unknown"),
        ("failures", "asset_id,failed_at\np9,2026-01-01T00:00:00Z\n", "line 2, column asset_id: p9 has no telemetry"),
        (
            "failures",
            "asset_id,failed_at\np1,2026-01-01T00:00:00Z\np1,2026-01-01T00:00:00Z\n",
            "line 3, column failed_at: p1 failed at this time in line 2 already",
        ),
        (
            "faults",
            "asset_id,started_at,ended_at\np1,2026-01-02T00:00:00Z,2026-01-01T00:00:00Z\n",
            "faults.csv, line 2, column ended_at: before started_at",
        ),
        (
            "remaining_life",
            "asset_id,as_of,rul_hours\np1,2026-01-02T00:00:00Z,-1\n",
            "remaining_life.csv, line 2, column rul_hours: '-1' is no number of hours",
        ),
        (
            "remaining_life",
            "asset_id,as_of,rul_hours\np1,2026-01-02T00:00:00Z,1\np1,2026-01-03T00:00:00Z,1\n",
            "line 3: a second row for p1",
        ),
        ("maintenance", "asset_id,at,kind\np1,soon,repair\n", "maintenance.csv, line 2, column at: 'soon'"),
    ],
)
def test_mistakes_in_events_are_told(tmp_path: Path, stem: str, text: str, wrong: str) -> None:
    with pytest.raises(DatasetError, match=re.escape(wrong)):
        read_dataset(write_folder(tmp_path / "d", **{stem: text}))


@pytest.mark.parametrize(
    ("description", "wrong"),
    [
        (
            "name = 1\n" + DESCRIPTION.replace('name = "two-pumps"', ""),
            "line 1, name: Expected `str`, got `int`; write text in quotes",
        ),
        (DESCRIPTION + 'colour = "red"\n', "line 13, signals[1].colour: unknown key; remove it"),
        (
            DESCRIPTION + "[calibration]\nbaseline_samples = 0\n",
            "line 14, calibration.baseline_samples: give 10 to 1000000",
        ),
        (DESCRIPTION.replace("vibration_mm_s", "vibration.mm"), "line 11, signals[1].name: vibration.mm: use letters"),
        (
            DESCRIPTION.replace("vibration_mm_s", "speed_rpm"),
            "line 11, signals[1].name: speed_rpm: give each signal once",
        ),
        ('name = "x"\nasset_type = "y"\nsignals = []\n', "line 3, signals: give 1 to 64"),
        ("name = \n", "line 1, column 8: no TOML"),
    ],
)
def test_mistakes_in_the_description_are_told(tmp_path: Path, description: str, wrong: str) -> None:
    with pytest.raises(DatasetError, match=re.escape(wrong)) as caught:
        read_dataset(write_folder(tmp_path / "d", description=description))
    assert str(caught.value).startswith("dataset.toml, ")


def test_missing_and_doubled_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        read_dataset(tmp_path / "nowhere")
    folder = write_folder(tmp_path / "d")
    (folder / "telemetry.csv.gz").write_bytes(b"")
    with pytest.raises(DatasetError, match=re.escape("telemetry.csv and telemetry.csv.gz: both are in")):
        read_dataset(folder)
    (folder / "telemetry.csv").unlink()
    (folder / "telemetry.csv.gz").unlink()
    with pytest.raises(DatasetError, match=re.escape("telemetry.csv: missing in")):
        read_dataset(folder)
    (folder / "dataset.toml").unlink()
    with pytest.raises(DatasetError, match=re.escape("dataset.toml: missing")):
        read_dataset(folder)


def test_a_cut_off_archive_is_told(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d", telemetry=HEAD + "".join(_many_rows(2000)))
    packed = compress(folder / "telemetry.csv")
    packed.write_bytes(packed.read_bytes()[:-400])
    with pytest.raises(
        DatasetError, match=r"telemetry\.csv\.gz, after line \d+: damaged or cut off; copy or compress it again"
    ):
        read_dataset(folder)


@pytest.mark.parametrize("packed", [False, True])
def test_reading_in_blocks_changes_nothing_and_tells_how_far_it_is(
    tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "d", telemetry=HEAD + "".join(_many_rows(2000)))
    path = compress(folder / "telemetry.csv") if packed else folder / "telemetry.csv"
    whole = read_telemetry(folder, SIGNALS)
    monkeypatch.setattr(telemetry_module, "_BLOCK_BYTES", 1000)
    told = list[int]()
    assert _same(read_telemetry(folder, SIGNALS, told.append), whole)
    assert sum(told) == path.stat().st_size == telemetry_module.size_bytes(folder)


def _many_rows(count: int) -> list[str]:
    times = np.datetime64("2026-01-01T00:00:00") + np.arange(count) * np.timedelta64(1, "m")
    return [f"p1,{t}Z,{1500 + i % 7},{i * 0.37 % 5:.3f}\n" for i, t in enumerate(times)]


def test_a_text_that_is_no_utf8_is_told(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d")
    (folder / "telemetry.csv").write_bytes(HEAD.encode() + b"p\xff,2026-01-01T00:00:00Z,1,2\n")
    with pytest.raises(DatasetError, match="save the file as UTF-8"):
        read_dataset(folder)


def test_a_known_machine_gets_its_own_asset_type_and_an_unknown_one_a_generic(tmp_path: Path) -> None:
    pump = builtin_asset_type("centrifugal_pump")
    signals = "".join(
        f'[[signals]]\nname = "{s.name}"\nunit = "{s.unit}"\nrole = "{s.role}"\n' for s in reversed(pump.signals)
    )
    header = ",".join(("asset_id", "observed_at", *pump.signal_names))
    telemetry = f"{header}\np1,2026-01-01T00:00:00Z{',1' * len(pump.signals)}\n"
    description = f'name = "x"\nasset_type = "centrifugal_pump"\n{signals}'
    assert read_dataset(write_folder(tmp_path / "d", description=description, telemetry=telemetry)).asset_type == pump
    generic = read_dataset(write_folder(tmp_path / "e", description=DESCRIPTION)).asset_type
    assert generic.asset_type == "small_pump"
    assert generic.failure_modes == ()
    renamed = DESCRIPTION.replace("small_pump", "centrifugal_pump")
    other = read_dataset(write_folder(tmp_path / "f", description=renamed)).asset_type
    assert other.signal_names == SIGNALS
    assert other.failure_modes == ()


@pytest.mark.parametrize(
    ("name", "assets", "rows", "failures"),
    [("cmapss-fd001-train", 100, 20_631, 100), ("skab-valve1", 16, 18_160, None), ("ims-bearing-test1", 4, 8_624, 2)],
)
def test_real_histories_are_read(shared_data: Path, name: str, assets: int, rows: int, failures: int | None) -> None:
    dataset = read_dataset(shared_data / name)
    assert len(dataset.telemetry.assets) == assets
    assert dataset.telemetry.values.shape == (rows, len(dataset.asset_type.signals))
    assert (None if dataset.failures is None else len(dataset.failures)) == failures
    path = shared_data / name / "telemetry.csv.gz"
    assert _same(dataset.telemetry, read_csv_by_row(path, dataset.asset_type.signal_names))
