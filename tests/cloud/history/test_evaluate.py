"""What evaluate says of datasets whose truth is known, and of told tables worked by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from forewarn_cloud.history.assess import AssessmentTable
from forewarn_cloud.history.cells import DatasetError
from forewarn_cloud.history.commands import register
from forewarn_cloud.history.dataset import Dataset, read_dataset
from forewarn_cloud.history.evaluate import (
    Rules,
    after_baseline,
    false_alarms,
    fault_detection,
    first_alarms,
    rul_along_lives,
    rul_at_last_sample,
)
from forewarn_cloud.history.lives import split_lives
from forewarn_cloud.history.selection import only_assets
from forewarn_models.assessment import Condition

from .fleets import wearing_fleet
from .folders import write_folder

HOURS = 20


def _call(*arguments: object) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def _evaluated(*arguments: object) -> dict[str, Any]:
    result = _call("evaluate", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) == 1
    return dict(json.loads(result.stdout))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wearing_fleet(tmp_path_factory.mktemp("fleet") / "d")


def _at(hour: int) -> str:
    return f"2026-01-{1 + hour // 24:02d}T{hour % 24:02d}:00:00Z"


def _dataset(folder: Path, **events: str) -> Dataset:
    """Two pumps, twenty hourly samples each, p2's after p1's."""
    rows = [f"{asset},{_at(hour)},1500,2.5" for asset in ("p1", "p2") for hour in range(HOURS)]
    header = "asset_id,observed_at,speed_rpm,vibration_mm_s"
    return read_dataset(write_folder(folder, telemetry="\n".join([header, *rows]) + "\n", **events))


def _told(alarms: dict[str, list[int]] | None = None, rul_hours: NDArray[np.float64] | None = None) -> AssessmentTable:
    """A table with an ALARM at these hours of each pump; the score is 2 there and 1 elsewhere."""
    condition = np.full(2 * HOURS, Condition.NORMAL, np.int8)
    for i, asset in enumerate(("p1", "p2")):
        condition[[i * HOURS + hour for hour in (alarms or {}).get(asset, [])]] = Condition.ALARM
    return AssessmentTable(
        anomaly_score=np.where(condition == Condition.ALARM, 2.0, 1.0),
        condition=condition,
        health_index=np.ones(2 * HOURS),
        rul_hours=np.full((2 * HOURS, 3), np.nan) if rul_hours is None else rul_hours,
        failure_mode=np.full(2 * HOURS, -1, np.int16),
        maturity=np.zeros(2 * HOURS, np.int8),
    )


# --- failures -------------------------------------------------------------------------------------------------------


def test_the_first_alarm_of_a_life_counts_and_an_alarm_late_in_a_healthy_run_is_forgiven(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "d", failures=f"asset_id,failed_at\np1,{_at(19)}\n")
    told = _told({"p1": [7, 15], "p2": [16]})
    found = first_alarms(dataset, told, split_lives(dataset), Rules(lead_min_hours=5, lead_max_hours=12))
    assert (found.lives, found.in_time, found.earlier, found.later, found.missed) == (1, 1, 0, 0, 0)
    assert found.least_hours == 12.0
    assert (found.never_failing, found.never_failing_alarmed) == (1, 0)


@pytest.mark.parametrize(
    ("alarms", "outcome"), [([6], "earlier"), ([15], "later"), ([], "missed"), ([14, 15], "in_time")]
)
def test_every_life_has_one_outcome(tmp_path: Path, alarms: list[int], outcome: str) -> None:
    dataset = _dataset(tmp_path / "d", failures=f"asset_id,failed_at\np1,{_at(19)}\n")
    told = _told({"p1": alarms, "p2": [14]})
    found = first_alarms(dataset, told, split_lives(dataset), Rules(lead_min_hours=5, lead_max_hours=12))
    counts = {name: getattr(found, name) for name in ("in_time", "earlier", "later", "missed")}
    assert counts == {**dict.fromkeys(counts, 0), outcome: 1}
    assert found.never_failing_alarmed == 1


# --- remaining life -------------------------------------------------------------------------------------------------


def test_remaining_life_at_the_last_sample_is_clipped_and_told_with_its_units(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "d", remaining_life=f"asset_id,as_of,rul_hours\np1,{_at(19)},150\np2,{_at(19)},30\n")
    rul = np.full((2 * HOURS, 3), np.nan)
    rul[HOURS - 1] = [90, 135, 200]
    found = rul_at_last_sample(_told(rul_hours=rul), split_lives(dataset), Rules())
    assert found is not None
    assert found.raw is not None
    assert found.clipped is not None
    assert (found.units, found.without_rul) == (2, 1)
    assert (found.raw.units, found.raw.p10_p90_coverage) == (1, 1.0)
    assert found.raw.rmse_hours == pytest.approx(15.0)
    assert found.clipped.rmse_hours == 0.0
    assert found.clipped_all.units == 2
    assert found.clipped_all.rmse_hours == pytest.approx(np.sqrt((125 - 30) ** 2 / 2))
    assert found.clipped_all.p10_p90_coverage == 0.5


def test_where_none_is_told_only_the_cap_can_be_judged(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "d", remaining_life=f"asset_id,as_of,rul_hours\np1,{_at(19)},150\n")
    found = rul_at_last_sample(_told(), split_lives(dataset), Rules())
    assert found is not None
    assert (found.raw, found.clipped, found.clipped_all.units, found.clipped_all.rmse_hours) == (None, None, 1, 0.0)
    assert rul_along_lives(dataset, _told(), split_lives(dataset)) is None


def test_a_perfect_prognosis_from_the_middle_on_scores_perfectly_along_the_life(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "d", failures=f"asset_id,failed_at\np1,{_at(19)}\np2,{_at(19)}\n")
    rul = np.full((2 * HOURS, 3), np.nan)
    rul[10:HOURS] = np.arange(9.0, -1.0, -1.0)[:, None]
    found = rul_along_lives(dataset, _told(rul_hours=rul), split_lives(dataset))
    assert found is not None
    assert (found.lives, found.lives_with_rul, found.samples) == (2, 1, 10)
    assert (found.crps_hours, found.p10_p90_coverage, found.alpha_lambda) == (0.0, 1.0, 1.0)
    assert found.prognostic_horizon_hours == 9.0


# --- faults ---------------------------------------------------------------------------------------------------------

FAULTS = f"asset_id,started_at,ended_at\np1,{_at(10)},{_at(14)}\np2,{_at(12)},{_at(15)}\n"


def test_a_fault_is_raised_by_an_alarm_within_its_interval_only(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "d", faults=FAULTS)
    told = _told({"p1": [12, 13, 16], "p2": [2, 9, 16]})
    found = fault_detection(dataset, told, dataset.faults or (), after_baseline(dataset, 5), Rules(within_s=7200))
    assert (found.faults, found.raised, found.raised_within, found.median_delay_s) == (2, 1, 1, 7200.0)
    assert (found.assets, found.assets_with_early_alarm) == (2, 1)
    rates = found.all_rows.rates
    assert (rates.rows, rates.faulty_rows, rates.precision, rates.recall) == (40, 9, 2 / 6, 2 / 9)
    later = found.after_baseline.rates
    assert (later.rows, later.faulty_rows, later.precision) == (30, 9, 2 / 5)
    assert later.false_alarm_rate == pytest.approx(3 / 21)
    assert found.all_rows.auc == pytest.approx((2 / 9 * 27 / 31) + (2 / 9 * 4 / 31 + 7 / 9 * 27 / 31) / 2)


def test_an_alarm_while_the_baseline_is_learned_is_no_early_alarm(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "d", faults=FAULTS)
    told = _told({"p1": [3], "p2": [4]})
    found = fault_detection(dataset, told, dataset.faults or (), after_baseline(dataset, 5), Rules())
    assert (found.assets_with_early_alarm, found.raised, found.median_delay_s) == (0, 0, None)


def test_alarms_of_healthy_assets_are_counted_after_the_baseline(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "d", faults=f"asset_id,started_at,ended_at\np1,{_at(10)},{_at(14)}\n")
    told = _told({"p1": [7], "p2": [1, 6, 7, 9]})
    found = false_alarms(dataset, told, after_baseline(dataset, 5))
    assert found is not None
    assert (found.assets, found.rows, found.raised) == (1, 3, 2)
    assert found.asset_months == pytest.approx(14 / 720)
    assert found.per_asset_month == pytest.approx(2 / (14 / 720))
    assert false_alarms(_dataset(tmp_path / "d", faults=FAULTS), told, after_baseline(dataset, 5)) is None


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_wearing_fleet_is_warned_of_and_the_figures_add_up(fleet: Path) -> None:
    found = _evaluated(fleet, "--lead-min", 1, "--lead-max", 200)
    first = found["first_alarms"]
    assert first["lives"] == 6
    assert first["in_time"] + first["earlier"] + first["later"] + first["missed"] == 6
    assert first["in_time"] >= 4  # wear begins 200 hours before the failure
    assert first["never_failing"] == found["false_alarms"]["assets"] == 2
    assert found["rul_along_lives"]["lives"] == 6
    assert (found["faults"], found["rul_at_last_sample"], found["fitted"]) == (None, None, False)
    assert found["rules"]["lead_max_hours"] == 200


def test_minus_three_of_three_lives_were_warned_of_in_time(fleet: Path) -> None:
    told = _call("evaluate", fleet, "--lead-min", 200, "--lead-max", 10)
    assert told.exit_code == 2
    assert "Invalid value for --lead-min and --lead-max: 200 is more than 10" in " ".join(told.stderr.split())
    assert _call("evaluate", fleet, "--lead-min", 10, "--lead-max", 10, "--json").exit_code == 0


def test_one_fits_on_some_machines_and_judges_on_others(fleet: Path, tmp_path: Path) -> None:
    fitted = _call("fit", fleet, "--out", tmp_path / "m", "--assets", "w[0-2]", "--assets", "w3")
    assert fitted.exit_code == 0, fitted.stderr
    assert "4 lives" in fitted.stdout
    found = _evaluated(fleet, "--model", tmp_path / "m", "--assets", "w[45]")
    assert found["fitted"]
    assert (found["assets"], found["first_alarms"]["lives"]) == (2, 2)


def test_a_chosen_machine_is_judged_as_it_is_among_the_others(fleet: Path) -> None:
    read = read_dataset(fleet)
    some = only_assets(read, ["w3", "h?"])
    assert some.telemetry.assets == tuple(a for a in read.telemetry.assets if a in ("w3", "h0", "h1"))
    rows = dict(zip(read.telemetry.assets, read.telemetry.rows_by_asset(), strict=True))
    for asset, mine in zip(some.telemetry.assets, some.telemetry.rows_by_asset(), strict=True):
        np.testing.assert_array_equal(some.telemetry.t_ms[mine], read.telemetry.t_ms[rows[asset]])
        np.testing.assert_array_equal(some.telemetry.values[mine], read.telemetry.values[rows[asset]])
    assert [failure.asset for failure in some.failures or ()] == ["w3"]
    assert only_assets(read, []) is read


def test_a_pattern_that_no_asset_matches_is_named(fleet: Path) -> None:
    with pytest.raises(DatasetError, match=r"--assets x\*: no asset"):
        only_assets(read_dataset(fleet), ["w0", "x*"])
    for command in (("evaluate", fleet), ("fit", fleet, "--out", fleet / "m")):
        result = _call(*command, "--assets", "x*")
        assert result.exit_code == 1
        assert "--assets x*" in result.stderr


def test_without_json_it_is_a_table_for_people(fleet: Path) -> None:
    result = _call("evaluate", fleet)
    assert result.exit_code == 0
    text = " ".join(result.stdout.replace("│", " ").split())
    for words in ("wearing-fans", "Lives that ended in a failure", "CRPS", "ALARMs per asset-month"):
        assert words in text


def test_real_pumps_are_judged_by_their_faults(shared_data: Path) -> None:
    found = _evaluated(shared_data / "skab-valve1", "--assets", "valve1-[0-3]")
    faults = found["faults"]
    assert (found["assets"], faults["faults"], faults["assets"]) == (4, 4, 4)
    assert faults["raised_within"] <= faults["raised"] <= 4
    assert faults["after_baseline"]["rates"]["rows"] == found["samples"] - 4 * 400
