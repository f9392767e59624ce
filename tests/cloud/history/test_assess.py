"""The offline assessment is that of the agent, sample by sample, whatever the order and length of the histories."""

import csv
from pathlib import Path

import numpy as np
import pytest

from forewarn_cloud.history.assess import (
    HEADER,
    AssessmentTable,
    assess_table,
    iso_utc,
    likeliest_mode,
    model_for,
    write_assessments,
)
from forewarn_cloud.history.cells import DatasetError
from forewarn_cloud.history.dataset import Dataset, read_dataset
from forewarn_models.assessment import Block, Condition, Maturity
from forewarn_models.kernel import Model, assess, new_state, reset_baseline

from .fleets import Fleet, wearing_fleet
from .folders import DESCRIPTION, write_folder


def _alone(dataset: Dataset, model: Model, asset: str, resets: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Score and condition of one asset as an agent finds them: a fleet of one, one sample at a time."""
    telemetry = dataset.telemetry
    rows = telemetry.rows_by_asset()[telemetry.assets.index(asset)]
    state, scores, conditions = new_state(model, 1), [], []
    for step, row in enumerate(rows):
        if step in resets:
            state = reset_baseline(model, state, 0, resets[step])
        block = Block(t_ms=telemetry.t_ms[row].reshape(1, 1), values=telemetry.values[row].reshape(1, 1, -1))
        said, state = assess(model, state, block)
        scores.append(said.anomaly_score[0, 0])
        conditions.append(said.condition[0, 0])
    return np.array(scores), np.array(conditions)


def test_the_fleet_is_assessed_as_each_agent_would(tmp_path: Path) -> None:
    dataset = read_dataset(wearing_fleet(tmp_path / "d"))
    model = model_for(dataset, None)
    table = assess_table(dataset, model)
    assert table.condition.max() == Condition.ALARM  # there is something to agree on
    for asset, rows in zip(dataset.telemetry.assets, dataset.telemetry.rows_by_asset(), strict=True):
        scores, conditions = _alone(dataset, model, asset, {})
        np.testing.assert_allclose(table.anomaly_score[rows], scores, atol=1e-9)
        np.testing.assert_array_equal(table.condition[rows], conditions)


def test_after_a_failure_normal_is_learned_anew(tmp_path: Path) -> None:
    fleet = Fleet().add("a", 500, fails=True).add("a", 400, fails=False, start_hour=500).add("b", 800, fails=False)
    dataset = read_dataset(fleet.write(tmp_path / "d"))
    model = model_for(dataset, None)
    table = assess_table(dataset, model)
    rows = dataset.telemetry.rows_by_asset()[dataset.telemetry.assets.index("a")]
    assert dataset.failures is not None
    scores, conditions = _alone(dataset, model, "a", {500: dataset.failures[0].failed_ms})
    np.testing.assert_allclose(table.anomaly_score[rows], scores, atol=1e-9)
    np.testing.assert_array_equal(table.condition[rows], conditions)
    assert table.condition[rows][490:500].tolist() == [Condition.ALARM] * 10
    assert table.maturity[rows][499] > Maturity.LEARNING
    assert table.maturity[rows][500] == Maturity.LEARNING
    assert (table.condition[rows][500:] != Condition.ALARM).all()


def test_the_file_has_a_row_for_every_sample_in_the_order_of_the_telemetry(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d")
    dataset = read_dataset(folder)
    out = tmp_path / "a.csv"
    write_assessments(out, dataset, assess_table(dataset, model_for(dataset, None)))
    with out.open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert tuple(rows[0]) == HEADER
    assert [row[:2] for row in rows[1:]] == [
        ["p1", "2026-01-01T00:00:00Z"],
        ["p2", "2026-01-01T00:00:00Z"],
        ["p1", "2026-01-01T00:10:00.250Z"],
        ["p2", "2026-01-01T00:10:00Z"],
    ]
    assert {(row[3], row[9]) for row in rows[1:]} == {("UNKNOWN", "LEARNING")}
    assert {tuple(row[5:9]) for row in rows[1:]} == {("", "", "", "")}
    assert list(tmp_path.glob("*.part")) == []


def test_numbers_and_names_are_written_plainly(tmp_path: Path) -> None:
    dataset = read_dataset(write_folder(tmp_path / "d"))
    table = AssessmentTable(
        anomaly_score=np.array([0.0, 1.23456789, 1e-9, 123456789.0]),
        condition=np.array([0, 1, 2, 3], np.int8),
        health_index=np.array([1.0, 0.5, np.nan, 0.0]),
        rul_hours=np.array([[np.nan] * 3, [1.0, 2.5, 4.0], [np.nan] * 3, [0.0, 0.0, 0.1]]),
        failure_mode=np.full(4, -1, np.int16),
        maturity=np.array([0, 1, 2, 2], np.int8),
    )
    write_assessments(tmp_path / "a.csv", dataset, table)
    lines = [line.split(",", 2)[2] for line in (tmp_path / "a.csv").read_text().splitlines()[1:]]
    assert lines == [
        "0,UNKNOWN,1,,,,,LEARNING",
        "1.23457,NORMAL,0.5,1,2.5,4,,PROVISIONAL",
        "1e-09,ALERT,,,,,,MATURE",
        "1.23457e+08,ALARM,0,0,0,0.1,,MATURE",
    ]


def test_the_likeliest_mode_must_beat_none_of_these() -> None:
    probability = np.array([[0.0, 0.0], [0.3, 0.2], [0.45, 0.2], [0.1, 0.9]])
    assert likeliest_mode(probability).tolist() == [-1, -1, 0, 1]
    assert likeliest_mode(np.zeros((2, 0))).tolist() == [-1, -1]


def test_times_have_milliseconds_only_where_there_are_some() -> None:
    assert iso_utc(np.array([0, 1, 1_767_225_600_000])) == [
        "1970-01-01T00:00:00Z",
        "1970-01-01T00:00:00.001Z",
        "2026-01-01T00:00:00Z",
    ]


def test_one_row_is_enough(tmp_path: Path) -> None:
    text = "asset_id,observed_at,speed_rpm,vibration_mm_s\np1,2026-01-01T00:00:00Z,1,2\n"
    dataset = read_dataset(write_folder(tmp_path / "d", telemetry=text))
    assert assess_table(dataset, model_for(dataset, None)).condition.tolist() == [Condition.UNKNOWN]


def test_the_calibration_reaches_the_model(tmp_path: Path) -> None:
    calibration = "[calibration]\nbaseline_samples = 77\nfalse_alarms_per_asset_month = 2\n"
    dataset = read_dataset(write_folder(tmp_path / "d", description=DESCRIPTION + calibration))
    settings = model_for(dataset, None).settings
    assert (settings.baseline_samples, settings.false_alarms_per_asset_month) == (77, 2.0)
    with pytest.raises(DatasetError, match=r"dataset\.toml, line 14, calibration\.baseline_samples: give 10 to"):
        read_dataset(write_folder(tmp_path / "e", description=DESCRIPTION + calibration.replace("77", "3")))


def test_progress_counts_every_sample_once(tmp_path: Path) -> None:
    dataset = read_dataset(wearing_fleet(tmp_path / "d"))
    done = list[int]()
    assess_table(dataset, model_for(dataset, None), done.append)
    assert sum(done) == len(dataset.telemetry.t_ms)
    assert len(done) > 8
