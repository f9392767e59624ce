"""fit, assess and backtest as they are called."""

import json
import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from forewarn_cloud.history.commands import register

from .fleets import Fleet, wearing_fleet
from .folders import TELEMETRY, write_folder


def _call(*arguments: object) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def _complaints(result: Result) -> list[str]:
    """The lines on standard error that are no warnings."""
    return [line for line in result.stderr.splitlines() if not line.startswith("forewarn-cloud: warning: ")]


def _scorecard(*arguments: object) -> dict[str, Any]:
    result = _call("backtest", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    assert _complaints(result) == []
    return dict(json.loads(result.stdout))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wearing_fleet(tmp_path_factory.mktemp("fleet") / "d")


# --- backtest -------------------------------------------------------------------------------------------------------


def test_the_scorecard_of_a_wearing_fleet_adds_up(fleet: Path) -> None:
    card = _scorecard(fleet)
    assert (card["dataset"], card["asset_type"]) == ("wearing-fans", "test_fan")
    assert (card["assets"], card["lives"]) == (8, 8)
    breakdowns, orders, costs = card["breakdowns"], card["orders"], card["costs"]
    assert breakdowns["caught"] + breakdowns["late"] + breakdowns["missed"] == breakdowns["total"] == 6
    assert breakdowns["caught"] >= 3
    ends = ("repaired", "late", "false", "withdrawn", "unresolved")
    assert orders["opened"] == sum(orders[end] for end in ends)
    lead = card["lead_time_hours"]
    assert 0 < lead["p10"] <= lead["p50"] <= lead["p90"] < 200  # wear begins 200 hours before the failure
    rates = {name: (bill.get("bill") or bill)["cost_per_asset_month"] for name, bill in costs.items() if name[0] != "s"}
    assert rates["perfect_foresight"] < rates["policy"] < rates["run_to_failure"]
    assert rates["perfect_foresight"] <= rates["fixed_interval"] <= rates["run_to_failure"]
    saved = (rates["run_to_failure"] - rates["policy"]) / (rates["run_to_failure"] - rates["perfect_foresight"])
    assert costs["share_of_possible_saving"] == pytest.approx(saved)
    assert costs["run_to_failure"]["breakdowns"] == 6
    assert costs["perfect_foresight"]["breakdowns"] == 0
    assert costs["policy"]["breakdowns"] == breakdowns["late"] + breakdowns["missed"]


def test_the_same_input_gives_the_same_output_and_the_seed_matters(fleet: Path, tmp_path: Path) -> None:
    first = _call("backtest", fleet, "--json").stdout
    assert _call("backtest", fleet, "--json").stdout == first
    world = tmp_path / "world.toml"
    world.write_text("seed = 2\n")
    other = _scorecard(fleet, "--world", world)
    assert other["seed"] == 2
    assert other["costs"]["run_to_failure"] != json.loads(first)["costs"]["run_to_failure"]


def test_a_backtest_of_some_assets_knows_nothing_of_the_others(fleet: Path) -> None:
    some = _scorecard(fleet, "--assets", "h*", "--assets", "w0")
    assert (some["assets"], some["breakdowns"]["total"]) == (3, 1)
    nobody = _call("backtest", fleet, "--assets", "nobody")
    assert (nobody.exit_code, "--assets nobody: no asset is called so" in nobody.stderr) == (1, True)


def test_a_policy_that_fears_nothing_waits_until_it_is_too_late(fleet: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        'name = "careless"\nvisit_cost = 1e9\ninspection_cost = 1e9\nsecondary_damage_cost = 0.0\n'
        "[downtime_cost_per_hour]\ntier_1 = 0.0\ntier_2 = 0.0\ntier_3 = 0.0\n"
    )
    card = _scorecard(fleet, "--policy", policy)
    assert card["policy"]["name"] == "careless"
    assert (card["orders"]["opened"], card["breakdowns"]["missed"]) == (0, 6)
    assert card["lead_time_hours"] is None


def test_a_healthy_fleet_has_no_breakdowns(tmp_path: Path) -> None:
    healthy = Fleet().add("h0", 600, fails=False).add("h1", 600, fails=False).write(tmp_path / "d")
    card = _scorecard(healthy)
    assert card["breakdowns"] == {"total": 0, "caught": 0, "late": 0, "missed": 0}
    assert card["costs"]["fixed_interval"]["interval_hours"] is None
    assert card["costs"]["run_to_failure"]["cost"] == 0.0
    assert card["costs"]["share_of_possible_saving"] is None


def test_a_single_row_has_nothing_to_tell(tmp_path: Path) -> None:
    telemetry = "asset_id,observed_at,speed_rpm,vibration_mm_s\np1,2026-01-01T00:00:00Z,1,2\n"
    card = _scorecard(write_folder(tmp_path / "d", telemetry=telemetry, failures="asset_id,failed_at\n"))
    assert card["orders"]["false_per_100_asset_months"] is None
    assert card["costs"]["policy"]["cost_per_asset_month"] is None


def test_without_json_the_scorecard_is_a_table_for_people(fleet: Path) -> None:
    result = _call("backtest", fleet)
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for words in ("wearing-fans", "Breakdowns coming", "perfect foresight", "Share of the possible saving"):
        assert words in text
    assert re.search(r"run to failure\W+[\d,]+", text)


# --- assess ---------------------------------------------------------------------------------------------------------


def test_assess_writes_a_row_per_sample_and_the_same_bytes_again(fleet: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    result = _call("assess", fleet, "--out", one)
    assert result.exit_code == 0, result.stderr
    assert "8 assets" in result.stdout
    assert _call("assess", fleet, "--out", other).exit_code == 0
    assert one.read_bytes() == other.read_bytes()
    assert len(one.read_text().splitlines()) == len((fleet / "telemetry.csv").read_text().splitlines())


def test_assess_does_not_begin_if_it_cannot_write(fleet: Path, tmp_path: Path) -> None:
    missing = _call("assess", fleet, "--out", tmp_path / "nowhere" / "a.csv")
    assert (missing.exit_code, "nowhere: no such folder; create it first" in missing.stderr) == (1, True)
    folder = _call("assess", fleet, "--out", tmp_path)
    assert (folder.exit_code, "is a folder; name a file" in folder.stderr) == (1, True)


def test_half_a_file_was_left_behind_by_a_full_disk(fleet: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    out.write_text("of an earlier run\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        told = _call("assess", fleet, "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (told.exit_code, told.stderr.count("\n")) == (1, 1)
    assert "file too large" in told.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert out.read_text() == "of an earlier run\n"


@pytest.mark.parametrize("name", ["telemetry.csv", "dataset.toml", "failures.csv", "../d/telemetry.csv", "link.csv"])
def test_out_replaced_the_history_it_was_made_of(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "d", failures="asset_id,failed_at\n")
    (folder / "link.csv").symlink_to("telemetry.csv")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    told = _call("assess", folder, "--out", folder / name)
    assert (told.exit_code, "is a file of the dataset, which would be replaced; name another" in told.stderr) == (
        1,
        True,
    )
    assert told.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_out_replaced_a_file_of_the_model(tmp_path: Path) -> None:
    folder, manifest = write_folder(tmp_path / "d"), tmp_path / "m" / "manifest.json"
    manifest.parent.mkdir()
    manifest.write_text("{}")
    told = _call("assess", folder, "--model", manifest.parent, "--out", manifest)
    assert (told.exit_code, "is a file of the model, which would be replaced" in told.stderr) == (1, True)
    assert manifest.read_text() == "{}"


def test_the_history_was_replaced_where_its_file_lies_elsewhere(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d")
    picture = (folder / "telemetry.csv").rename(tmp_path / "recorded.png")
    (folder / "telemetry.csv").symlink_to(picture)
    before = picture.read_bytes()
    told = _call("plot", folder, "--asset", "p1", "--out", picture)
    assert (told.exit_code, "is a file of the dataset" in told.stderr) == (1, True)
    assert picture.read_bytes() == before


def test_out_replaced_a_pipe_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    folder = write_folder(tmp_path / "d")
    for arguments in [("assess", folder), ("plot", folder, "--asset", "p1")]:
        told = _call(*arguments, "--out", tmp_path / "pipe.png")
        assert (told.exit_code, "pipe.png: is a device or a pipe" in told.stderr) == (1, True)
        assert told.stderr.count("\n") == 1
        assert (tmp_path / "pipe.png").is_fifo()


# --- fit ------------------------------------------------------------------------------------------------------------


def test_what_was_fitted_is_used(fleet: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    fitted = _call("fit", fleet, "--out", model)
    assert fitted.exit_code == 0, fitted.stderr
    assert "test_fan from 6 lives that ended in a failure" in fitted.stdout
    assert "no fleet model: failures.csv: 6 lives end in a failure; at least 10 are needed" in fitted.stdout
    plain, taught = tmp_path / "plain.csv", tmp_path / "taught.csv"
    assert _call("assess", fleet, "--out", plain).exit_code == 0
    assert _call("assess", fleet, "--model", model, "--out", taught).exit_code == 0
    assert plain.read_bytes() != taught.read_bytes()
    assert _scorecard(fleet, "--model", model)["model"] != _scorecard(fleet)["model"]


def test_fit_says_what_it_needs(tmp_path: Path) -> None:
    few = Fleet().add("w0", 500, fails=True).add("h0", 500, fails=False).write(tmp_path / "d")
    result = _call("fit", few, "--out", tmp_path / "m")
    assert result.exit_code == 1
    assert "failures.csv: 1 history ends in a failure; at least 3 are needed: add machines" in result.stderr
    assert not (tmp_path / "m").exists()


def test_fit_did_not_say_of_which_history_it_could_learn_nothing(tmp_path: Path) -> None:
    fleet = Fleet()
    for i in range(3):
        fleet.add(f"w{i}", 90, fails=True)
    result = _call("fit", fleet.write(tmp_path / "d"), "--out", tmp_path / "m")
    assert result.exit_code == 1
    (told,) = _complaints(result)
    assert told.startswith(f"forewarn-cloud: {tmp_path}/d: no life that ended in a failure has the 100 samples")


def test_a_single_sample_was_told_as_several(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "d", telemetry="".join(TELEMETRY.splitlines(keepends=True)[:2]), failures="asset_id,failed_at\n"
    )
    assert "a.csv: 1 sample of 1 asset (small" in _call("assess", folder, "--out", tmp_path / "a.csv").stdout
    assert "1 asset (small_pump), 1 life, 1 sample;" in " ".join(_call("backtest", folder).stdout.split())
    assert "1 asset (small_pump), 1 sample;" in " ".join(_call("evaluate", folder).stdout.split())


def test_a_model_that_was_tampered_with_or_is_of_another_machine_is_refused(fleet: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    assert _call("fit", fleet, "--out", model).exit_code == 0
    foreign = _call("assess", write_folder(tmp_path / "d"), "--model", model, "--out", tmp_path / "a.csv")
    assert (foreign.exit_code, "learned from test_fan, but this is small_pump" in foreign.stderr) == (1, True)
    (knowledge,) = model.glob("knowledge-*.json")
    knowledge.write_bytes(knowledge.read_bytes().replace(b'"failures": 6', b'"failures": 9'))
    changed = _call("assess", fleet, "--model", model, "--out", tmp_path / "a.csv")
    assert (changed.exit_code, "changed since it was written" in changed.stderr) == (1, True)
    assert not (tmp_path / "a.csv").exists()


def test_fit_learned_first_and_then_could_not_write(tmp_path: Path) -> None:
    broken = write_folder(tmp_path / "d", telemetry="read this and fail\n")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "same").symlink_to("d")
    for out, words in [
        ("file", "file: is no folder; name another place"),
        ("file/model", "file: is no folder; name another place"),
        ("file/a/model", "file: is no folder; name another place"),
        ("link", "link: is no folder; name another place"),
        ("d", "d: is the dataset; a model does not belong among the history"),
        ("same", "same: is the dataset; a model does not belong among the history"),
        ("d/faults.csv", "d/faults.csv: is the dataset; a model does not belong among the history"),
    ]:
        told = _call("fit", broken, "--out", tmp_path / out)
        assert (told.exit_code, told.stderr.count("\n")) == (1, 1)
        assert f"forewarn-cloud: {tmp_path}/{words}" in told.stderr
    beside = _call("fit", broken, "--out", tmp_path / "d" / "models" / "a")
    assert "telemetry.csv, line 1" in beside.stderr
    assert not (broken / "models").exists()


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_mistakes_are_told_in_one_line_with_the_right_exit_status(fleet: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("sead = 1\n")
    broken = write_folder(tmp_path / "d", telemetry="asset_id,observed_at\n")
    truthless = write_folder(tmp_path / "e")
    out = tmp_path / "a.csv"
    for status, words, arguments in [
        (1, "no such folder", ("assess", tmp_path / "nowhere", "--out", out)),
        (1, "telemetry.csv, line 1: column speed_rpm is missing", ("assess", broken, "--out", out)),
        (1, "not there; give a folder that `forewarn-cloud fit` wrote", ("backtest", fleet, "--model", tmp_path)),
        (1, "nothing tells what really happened; add failures.csv", ("backtest", truthless)),
        (78, "unknown field `sead`", ("backtest", fleet, "--world", bad)),
        (78, "unknown field `sead`", ("backtest", fleet, "--policy", bad)),
        (78, "missing.toml: cannot be read", ("backtest", fleet, "--policy", tmp_path / "missing.toml")),
        (2, "Missing", ("assess", fleet)),
    ]:
        result = _call(*arguments)
        assert (result.exit_code, words in result.stderr) == (status, True), result.stderr
        assert result.stdout == ""
        assert status == 2 or len(_complaints(result)) == 1


def test_what_the_disk_refuses_was_told_without_the_path_or_what_to_do(fleet: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model = tmp_path / "model"
    model.mkdir()
    (model / "manifest.json").mkdir()
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    for words, arguments in [
        (f"{tmp_path}: cannot be read (is a directory); give a file", ("backtest", fleet, "--policy", tmp_path)),
        (f"{tmp_path}/latin.toml: not UTF-8; save", ("backtest", fleet, "--world", tmp_path / "latin.toml")),
        (f"{tmp_path}/file: no folder; name a file in one", ("assess", fleet, "--out", tmp_path / "file" / "a.csv")),
        (f"{model}/manifest.json: is a directory; check the path", ("evaluate", fleet, "--model", model)),
    ]:
        told = _call(*arguments)
        assert told.stderr.startswith(f"forewarn-cloud: {words}"), told.stderr
        assert (told.exit_code in (1, 78), told.stderr.count("\n")) == (True, 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_the_work_was_done_before_it_was_seen_that_a_folder_is_read_only(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    (tmp_path / "d").mkdir()
    for arguments in [
        ("assess", tmp_path / "d", "--out", closed / "a.csv"),
        ("fit", tmp_path / "d", "--out", closed / "model"),
    ]:
        told = _call(*arguments)
        assert (told.exit_code, told.stderr) == (
            1,
            f"forewarn-cloud: {closed}: permission denied; change the permissions, or name another place\n",
        )
    (tmp_path / "d" / "dataset.toml").touch(mode=0)
    told = _call("assess", tmp_path / "d", "--out", tmp_path / "a.csv")
    assert told.stderr.startswith(f"forewarn-cloud: {tmp_path}/d/dataset.toml: permission denied; change the perm")


# --- real machines --------------------------------------------------------------------------------------------------


def test_real_pumps_are_assessed(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    assert _call("assess", shared_data / "skab-valve1", "--out", out).exit_code == 0
    lines = out.read_text().splitlines()
    assert len(lines) == 18_160 + 1
    assert lines[0] == (
        "asset_id,observed_at,anomaly_score,condition,health_index,rul_hours_p10,rul_hours_p50,rul_hours_p90,"
        "failure_mode,maturity"
    )
    assert lines[1].startswith("valve1-0,2020-03-09T10:14:33Z,")
    assert {line.split(",")[3] for line in lines[1:]} == {"UNKNOWN", "NORMAL", "ALERT", "ALARM"}


def test_real_engines_are_backtested(shared_data: Path) -> None:
    card = _scorecard(shared_data / "cmapss-fd001-train")
    breakdowns = card["breakdowns"]
    assert breakdowns["caught"] + breakdowns["late"] + breakdowns["missed"] == breakdowns["total"] == 100
    assert (card["assets"], card["samples"]) == (100, 20_631)
    assert card["costs"]["run_to_failure"]["breakdowns"] == 100
    assert card["costs"]["run_to_failure"]["asset_months"] == pytest.approx(20_631 / 720, rel=0.01)
