import csv
import gzip
import hashlib
import io
import tomllib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest

from forewarn_device_simulator.dataset import DatasetError, Form, generate
from forewarn_device_simulator.scenario import parse_scenario


def rows(path: Path) -> list[dict[str, str]]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(csv.DictReader(io.StringIO(text.decode())))


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_folder_holds_everything_and_the_truth_fits_the_telemetry(tmp_path: Path, pumps: Callable[..., str]) -> None:
    done = list[int]()
    (folder,) = generate(parse_scenario(pumps(9)), tmp_path / "out", seed=5, advance=done.append)
    assert sum(done) == 9
    about = tomllib.loads((folder / "dataset.toml").read_text())
    telemetry = rows(folder / "telemetry.csv.gz")
    assert list(telemetry[0]) == ["asset_id", "observed_at", *(signal["name"] for signal in about["signals"])]
    assert len(telemetry) == 9 * 40 * 72
    failures = rows(folder / "failures.csv")
    assert len(failures) >= 9
    for failure in failures:
        after = [
            r for r in telemetry if r["asset_id"] == failure["asset_id"] and r["observed_at"] > failure["failed_at"]
        ]
        assert all(float(row["speed_rpm"]) == 0.0 for row in after[:30])
    ended = {(r["asset_id"], r["ended_at"]): r for r in rows(folder / "faults.csv")}
    for failure in failures:
        fault = ended[failure["asset_id"], failure["failed_at"]]
        assert fault["failure_mode"] == failure["failure_mode"]
        assert 24 <= (instant(fault["ended_at"]) - instant(fault["started_at"])).total_seconds() / 3600 <= 800
    parts = rows(folder / "maintenance.csv")
    assert {row["part_no"] for row in parts} <= {"PMP-IMP-200", "PMP-GSK-01", "PMP-BRG-6309", "PMP-SEAL-45"}


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path, pumps: Callable[..., str]) -> None:
    scenario = parse_scenario(pumps(10))
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        generate(scenario, tmp_path / name, seed=seed)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a")["telemetry.csv.gz"] != digests(tmp_path / "c")["telemetry.csv.gz"]


def test_run_to_failure_ends_with_the_failure_and_tells_what_the_others_have_left(
    tmp_path: Path, pumps: Callable[..., str]
) -> None:
    scenario = parse_scenario(pumps(8, "end").replace("days = 40", "days = 14"))
    (folder,) = generate(scenario, tmp_path / "out", seed=5)
    failed = {row["asset_id"]: row["failed_at"] for row in rows(folder / "failures.csv")}
    left = {row["asset_id"]: row for row in rows(folder / "remaining_life.csv")}
    assert failed
    assert left
    assert failed.keys().isdisjoint(left)
    last = {row["asset_id"]: row["observed_at"] for row in rows(folder / "telemetry.csv.gz")}
    assert all(last[asset] <= failed[asset] for asset in failed)
    assert all(last[asset] == row["as_of"] for asset, row in left.items())
    (longer,) = generate(parse_scenario(pumps(8, "end")), tmp_path / "longer", seed=5)
    truth = {row["asset_id"]: instant(row["failed_at"]) for row in rows(longer / "failures.csv")}
    for asset in left.keys() & truth.keys():
        rul_hours = (truth[asset] - instant(left[asset]["as_of"])).total_seconds() / 3600
        assert float(left[asset]["rul_hours"]) == pytest.approx(rul_hours, abs=0.01)


def test_each_type_of_a_mixed_fleet_gets_a_folder(tmp_path: Path, mixed: str) -> None:
    folders = generate(parse_scenario(mixed), tmp_path / "out", seed=1)
    assert [folder.name for folder in folders] == ["centrifugal_pump", "air_compressor", "motor_fan"]
    assert [tomllib.loads((f / "dataset.toml").read_text())["asset_type"] for f in folders] == [f.name for f in folders]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_every_format_holds_the_same(tmp_path: Path, pumps: Callable[..., str], form: Form) -> None:
    scenario = parse_scenario(pumps(2) + "[[sensor_fault]]\nasset='pump-001'\nsignal='flow_m3_h'\nkind='missing'\n"
                              "from_day=1\nto_day=2\n")  # fmt: skip
    generate(scenario, tmp_path / "packed", seed=1)
    generate(scenario, tmp_path / "other", seed=1, form=form)
    packed = pyarrow.csv.read_csv(tmp_path / "packed" / "telemetry.csv.gz")
    path = tmp_path / "other" / f"telemetry.{form}"
    other = pyarrow.csv.read_csv(path) if form == "csv" else pyarrow.parquet.read_table(path)
    for name in packed.column_names[2:]:
        assert packed[name].to_pylist() == other[name].to_pylist()
    assert packed["flow_m3_h"].null_count == 72


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, pumps: Callable[..., str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("keep")
    with pytest.raises(DatasetError, match="not empty"):
        generate(parse_scenario(pumps()), tmp_path / "out", seed=1)
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "precious.txt"]
