"""What `fit` learns from small fleets whose truth is known, what it says when there is too little, and real engines."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from forewarn_cloud.history.assess import assess_table, model_for
from forewarn_cloud.history.dataset import Dataset, read_dataset
from forewarn_cloud.history.description import Calibration
from forewarn_cloud.history.evaluate import Rules, first_alarms
from forewarn_cloud.history.fit import fit_dataset, save_fit
from forewarn_cloud.history.fleet_fit import FEWEST_LIVES
from forewarn_cloud.history.lives import split_lives
from forewarn_cloud.history.model_folder import load_model_folder
from forewarn_cloud.history.selection import only_assets
from forewarn_models.asset_type import Signal, generic_asset_type
from forewarn_models.knowledge import FleetKnowledge, KnowledgeError
from forewarn_models.layout import Floats
from forewarn_models.model_folder import ModelFolderError

from .fleets import START
from .folders import write_folder

DESCRIPTION = """
name = "drilling-heads"
asset_type = "test_drill"

[calibration]
baseline_samples = 30

[[signals]]
name = "load_pct"
unit = "%"
role = "regime"

[[signals]]
name = "torque_nm"
unit = "Nm"

[[signals]]
name = "heat_c"
unit = "degC"

[[signals]]
name = "label"
unit = "1"
"""


def fleet(folder: Path, lives: list[int], *, failing: int | None = None, constant: bool = False) -> Dataset:
    """Drills sampled hourly, each worn the more the nearer its end; the first `failing` of them fail.

    `constant`: no signal ever changes.
    """
    failing = len(lives) if failing is None else failing
    lines, failures = ["asset_id,observed_at,load_pct,torque_nm,heat_c,label"], ["asset_id,failed_at,failure_mode"]
    for number, hours in enumerate(lives):
        random = np.random.default_rng([11, number])
        left = hours - 1 - np.arange(hours)
        wear = np.exp(-left / 25.0) if number < failing else np.zeros(hours)
        load = random.choice([30.0, 60.0, 90.0], hours)
        torque = 2.0 * load + 0.01 * load**2 + (8.0 + 0.1 * load) * wear + random.normal(0, 1.0, hours)
        heat = 40 + 0.3 * load + 12 * wear + random.normal(0, 0.7, hours)
        if constant:
            load, torque, heat = np.full(hours, 60.0), np.full(hours, 1.0), np.full(hours, 40.0)
        for i in range(hours):
            lines.append(f"d{number:02d},{_iso(i)},{load[i]:.3f},{torque[i]:.4f},{heat[i]:.4f},7")
        if number < failing:
            failures.append(f"d{number:02d},{_iso(hours - 1)},wear")
    write_folder(
        folder, description=DESCRIPTION, telemetry="\n".join(lines) + "\n", failures="\n".join(failures) + "\n"
    )
    return read_dataset(folder)


def with_baseline(dataset: Dataset, samples: int) -> Dataset:
    calibration = Calibration(baseline_samples=samples)
    return replace(dataset, description=msgspec.structs.replace(dataset.description, calibration=calibration))


def _iso(hours: int) -> str:
    return (START + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


LIVES = [100 + 9 * ((7 * i) % 16) for i in range(16)]


@pytest.fixture(scope="module")
def drills(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return fleet(tmp_path_factory.mktemp("drills"), LIVES)


@pytest.fixture(scope="module")
def learned(drills: Dataset) -> FleetKnowledge:
    return fit_dataset(drills)


def judged(dataset: Dataset, knowledge: FleetKnowledge) -> tuple[Floats, Floats, Floats]:
    """(n, 3) what is told, (n,) the truth and (n,) the age, of every sample of every life that failed."""
    told = assess_table(dataset, model_for(dataset, knowledge)).rul_hours
    lives = [life for life in split_lives(dataset) if life.failure is not None]
    rows = np.concatenate([life.rows for life in lives])
    t_ms = dataset.telemetry.t_ms
    truth = np.concatenate([(life.ended_ms - t_ms[life.rows]) / 3.6e6 for life in lives])
    age = np.concatenate([(t_ms[life.rows] - life.started_ms) / 3.6e6 for life in lives])
    return told[rows], truth, age


def test_machines_never_seen_are_told_their_remaining_life(learned: FleetKnowledge, tmp_path: Path) -> None:
    others = fleet(tmp_path, [*LIVES, 110, 150, 190, 230])
    told, truth, _ = judged(others, learned)
    new = np.arange(len(truth)) >= sum(LIVES)
    worn = new & (truth < 40)
    assert np.isfinite(told).all()
    assert np.sqrt(np.mean((told[worn, 1] - truth[worn]) ** 2)) < 8.0
    inside = (truth >= told[:, 0]) & (truth <= told[:, 2])
    assert inside[new].mean() > 0.6
    fresh = new & (truth > 90)
    assert (told[fresh, 1] > 40).mean() > 0.9


def test_the_regime_does_not_hide_the_wear(learned: FleetKnowledge, drills: Dataset) -> None:
    """The load moves the torque by a hundred times what the wear does; the p50 must not follow the load."""
    told, truth, _ = judged(drills, learned)
    load = drills.telemetry.values[:, 0]
    worn = truth < 30
    error = told[worn, 1] - truth[worn]
    by_load = [error[load[worn] == level].mean() for level in (30.0, 60.0, 90.0)]
    assert np.ptp(by_load) < 4.0


def test_the_prognosis_of_a_new_machine_is_the_survival_prior_and_no_cap(learned: FleetKnowledge) -> None:
    assert learned.fleet_model is not None
    knee = learned.fleet_model.header.knee_hours
    assert 0.4 * np.median(LIVES) < knee < 0.8 * np.median(LIVES)


def spread_of_first_alarms(dataset: Dataset, knowledge: FleetKnowledge | None) -> tuple[float, float, float]:
    """P10, P50, P90 of the hours left at the first ALARM."""
    rules = Rules(lead_min_hours=10, lead_max_hours=100, within_s=60, rul_cap_hours=125)
    table = assess_table(dataset, model_for(dataset, knowledge))
    found = first_alarms(dataset, table, split_lives(dataset), rules).hours_before_failure
    assert found is not None
    return found.p10, found.p50, found.p90


def test_the_time_usually_left_at_the_first_alarm_is_learned(learned: FleetKnowledge, drills: Dataset) -> None:
    assert spread_of_first_alarms(drills, None)[1] == learned.alarm_hours


def test_the_same_histories_give_the_same_bytes(drills: Dataset, learned: FleetKnowledge, tmp_path: Path) -> None:
    save_fit(tmp_path / "a", drills, learned)
    save_fit(tmp_path / "b", drills, fit_dataset(drills))
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) == 4
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_was_saved_tells_the_same(drills: Dataset, learned: FleetKnowledge, tmp_path: Path) -> None:
    save_fit(tmp_path, drills, learned)
    again = load_model_folder(tmp_path, drills.asset_type)
    assert model_for(drills, again).hash == model_for(drills, learned).hash
    assert (judged(drills, again)[0] == judged(drills, learned)[0]).all()


def test_a_machine_with_other_signals_is_refused(drills: Dataset, learned: FleetKnowledge, tmp_path: Path) -> None:
    save_fit(tmp_path, drills, learned)
    other = generic_asset_type(
        (Signal(name="load_pct", unit="%", role="regime"), Signal(name="noise", unit="1")), "test_drill"
    )
    with pytest.raises(ModelFolderError, match="heat_c, label, torque_nm, which this machine lacks"):
        load_model_folder(tmp_path, other)


@pytest.mark.parametrize(
    ("signals", "told"),
    [
        ("load_pct heat_c torque_nm label", "learned with torque_nm where this machine has heat_c as a condition"),
        ("load_pct torque_nm label heat_c", "learned with heat_c where this machine has label as a condition"),
        ("torque_nm heat_c load_pct label", "learned with label where this machine has nothing more as a condition"),
    ],
)
def test_it_was_not_told_which_signal_is_in_another_order_or_role(
    drills: Dataset, learned: FleetKnowledge, tmp_path: Path, signals: str, told: str
) -> None:
    save_fit(tmp_path, drills, learned)
    regimes = {"load_pct", "label"} if signals.startswith("torque") else {"load_pct"}
    other = tuple(
        Signal(name=name, unit="1", role="regime" if name in regimes else "condition") for name in signals.split()
    )
    with pytest.raises(ModelFolderError, match=told):
        load_model_folder(tmp_path, generic_asset_type(other, "test_drill"))


def test_with_few_failures_the_curve_is_learned_and_it_is_said_what_more_needs(tmp_path: Path) -> None:
    learned = fit_dataset(fleet(tmp_path, LIVES, failing=6))
    assert learned.failures == 6
    assert learned.fleet_model is None
    assert f"6 lives end in a failure; at least {FEWEST_LIVES} are needed" in learned.fleet_model_missing


def test_with_short_histories_it_is_said_how_many_samples_are_needed(tmp_path: Path) -> None:
    dataset = fleet(tmp_path, LIVES)
    every = np.arange(len(dataset.telemetry.t_ms)) % 6 == 0
    telemetry = dataset.telemetry
    thin = replace(
        dataset,
        telemetry=replace(
            telemetry,
            asset_index=telemetry.asset_index[every],
            t_ms=telemetry.t_ms[every],
            values=telemetry.values[every],
        ),
    )
    try:
        missing = fit_dataset(thin).fleet_model_missing
    except KnowledgeError as error:
        missing = str(error)
    assert "samples" in missing
    assert "needed" in missing


@pytest.mark.parametrize("recorded_until_failure", [0, 1])
def test_telemetry_that_ends_long_before_the_failures_made_networks_learn_from_nan(
    tmp_path: Path, recorded_until_failure: int
) -> None:
    dataset = fleet(tmp_path, LIVES)
    failures = list(dataset.failures or ())
    for i in range(recorded_until_failure, len(failures)):
        failures[i] = replace(failures[i], failed_ms=failures[i].failed_ms + 500 * 3_600_000)
    learned = fit_dataset(replace(dataset, failures=tuple(failures)))
    assert learned.fleet_model is None
    assert re.fullmatch(
        rf"the telemetry of {16 - recorded_until_failure} of 16 lives ends more than [34]\d\d h before their failures; "
        r"record until the failure, or check failed_at in failures\.csv",
        learned.fleet_model_missing,
    )


def test_no_failure_at_all_is_told(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeError, match=r"failures\.csv: 0 histories end in a failure; at least 3 are needed"):
        fit_dataset(fleet(tmp_path, LIVES, failing=0))


def test_signals_that_never_change_are_told(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeError, match="show evidence of a fault"):
        fit_dataset(fleet(tmp_path, LIVES, constant=True))


def test_a_baseline_longer_than_every_history_was_told_as_signals_that_react_to_nothing(tmp_path: Path) -> None:
    dataset = fleet(tmp_path, LIVES)
    told = (
        "no life that ended in a failure has the 900 samples .*, the longest has 235; give longer histories, or lower"
    )
    with pytest.raises(KnowledgeError, match=told):
        fit_dataset(with_baseline(dataset, 900))


def test_a_regime_without_readings_was_told_as_signals_that_react_to_nothing(tmp_path: Path) -> None:
    dataset = fleet(tmp_path, LIVES)
    dataset.telemetry.values[:, 0] = np.nan
    with pytest.raises(KnowledgeError, match=r"are there 30 samples from which .* normal; check the regime signals"):
        fit_dataset(dataset)


def test_one_row_is_told(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeError, match="1 history ends in a failure; at least 3 are needed"):
        fit_dataset(fleet(tmp_path, [1]))


def test_real_engines_never_seen_are_told_their_remaining_life_and_alarmed_equally_early(shared_data: Path) -> None:
    """Fitted on 60 engines, judged on the other 40 at every cycle from the 30th on; the bound leaves room for luck."""
    dataset = read_dataset(shared_data / "cmapss-fd001-train")
    held_out = [f"engine-{number:03d}" for number in range(1, 101) if number % 5 in (1, 3)]
    seen = replace(dataset, failures=tuple(f for f in dataset.failures or () if f.asset not in held_out))
    others, learned = only_assets(dataset, held_out), fit_dataset(seen)
    told, truth, age = judged(others, learned)
    mine = age >= 30
    error = np.minimum(told[mine, 1], 125) - np.minimum(truth[mine], 125)
    assert np.sqrt(np.mean(error**2)) < 11.0
    inside = (truth >= told[:, 0]) & (truth <= told[:, 2])
    assert 0.7 < inside[mine].mean() < 0.93
    low, usual, high = spread_of_first_alarms(others, learned)
    alone_low, _, alone_high = spread_of_first_alarms(others, None)
    assert np.log(high / low) < 0.75 * np.log(alone_high / alone_low)
    assert usual == pytest.approx(learned.alarm_hours, rel=0.2)
