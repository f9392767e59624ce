"""Pictures of a history: written, the same bytes again, honest about gaps, and clear about what is missing."""

import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from forewarn_cloud.history.assess import model_for
from forewarn_cloud.history.cells import DatasetError
from forewarn_cloud.history.commands import register
from forewarn_cloud.history.dataset import read_dataset
from forewarn_cloud.history.plot import _WORDS, _line, _thinned
from forewarn_cloud.history.story import Story, expected_range, only_asset, strongest_signals, tell_story, usual_range
from forewarn_models.assessment import Condition, Maturity

from .fleets import Fleet, wearing_fleet
from .folders import write_folder

HOUR_MS = 3_600_000


def _call(*arguments: object) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wearing_fleet(tmp_path_factory.mktemp("fleet") / "d")


def _story(folder: Path, asset: str) -> Story:
    dataset = read_dataset(folder)
    return tell_story(dataset, model_for(dataset, None), asset)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_history_is_the_same_picture(fleet: Path, tmp_path: Path, kind: str) -> None:
    one, other = tmp_path / f"one.{kind}", tmp_path / f"other.{kind}"
    for out in (one, other):
        result = _call("plot", fleet, "--asset", "w1", "--out", out)
        assert (result.exit_code, result.stderr) == (0, "")
        assert "550 samples of w1, 1 time an ALARM" in result.stdout
    assert one.read_bytes() == other.read_bytes()
    assert one.read_bytes().startswith(b"\x89PNG" if kind == "png" else b"<?xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == [one.name, other.name]


def test_the_picture_says_what_is_known(fleet: Path, tmp_path: Path) -> None:
    out = tmp_path / "w1.svg"
    assert _call("plot", fleet, "--asset", "w1", "--out", out).exit_code == 0
    text = out.read_text()
    for words in ("w1 · wearing-fans", "before the failure", "vibration_mm_s", "bearing_c", "[degC]", "ALARM begins"):
        assert words in text
    for words in ("truth", "failure", "still learning", "UTC", "remaining life [h]", "of the score"):
        assert words in text
    assert "labelled fault" not in text


def test_a_chinese_svg_needs_no_font_and_a_png_without_one_says_so(fleet: Path, tmp_path: Path) -> None:
    svg, png = tmp_path / "w1.svg", tmp_path / "w1.png"
    result = _call("plot", fleet, "--asset", "w1", "--out", svg, "--language", "zh")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "剩余寿命" in svg.read_text("utf-8")
    assert "首次报警" in svg.read_text("utf-8")
    result = _call("plot", fleet, "--asset", "w1", "--out", png, "--language", "zh")
    assert png.exists() if result.exit_code == 0 else "no font with Chinese letters" in result.stderr


def test_labelled_faults_and_the_delay_are_told(tmp_path: Path) -> None:
    faults = "asset_id,started_at,ended_at\nw0,2026-01-13T00:00:00Z,2026-01-22T00:00:00Z\n"
    folder = Fleet().add("w0", 500, fails=True).write(tmp_path / "d", faults=faults)
    assert _call("plot", folder, "--asset", "w0", "--out", tmp_path / "w0.svg").exit_code == 0
    text = (tmp_path / "w0.svg").read_text()
    assert "labelled fault" in text
    assert "after the labelled fault began" in text


def test_a_single_sample_is_drawn_too(tmp_path: Path) -> None:
    telemetry = "asset_id,observed_at,speed_rpm,vibration_mm_s\np1,2026-01-01T00:00:00Z,1,\n"
    folder = write_folder(tmp_path / "d", telemetry=telemetry)
    result = _call("plot", folder, "--asset", "p1", "--out", tmp_path / "p1.svg")
    assert result.exit_code == 0, result.stderr
    assert "no remaining life: nothing supports a number" in (tmp_path / "p1.svg").read_text()


def test_every_word_is_there_in_both_languages() -> None:
    assert _WORDS["en"].keys() == _WORDS["zh"].keys() >= {condition.name for condition in Condition}


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_an_unknown_asset_is_told_with_some_that_are_known(fleet: Path, tmp_path: Path) -> None:
    result = _call("plot", fleet, "--asset", "w9", "--out", tmp_path / "w9.png")
    assert result.exit_code == 1
    assert "--asset w9: no asset is called so; the dataset has w0, w1, w2, w3, w4 and 3 more" in result.stderr
    with pytest.raises(DatasetError, match="no asset is called so"):
        only_asset(read_dataset(fleet), "w*")


def test_another_kind_of_file_and_language_is_wrong_usage(fleet: Path, tmp_path: Path) -> None:
    for wrong in (["--out", tmp_path / "w1.jpg"], ["--out", tmp_path / "w1.svg", "--language", "de"]):
        assert _call("plot", fleet, "--asset", "w1", *wrong).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_it_says_what_to_install(
    fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # an import of it now fails
    result = _call("plot", fleet, "--asset", "w1", "--out", tmp_path / "w1.svg")
    assert (result.exit_code, "pip install 'forewarn[plot]'" in result.stderr) == (1, True)


# --- what is drawn --------------------------------------------------------------------------------------------------


def test_a_line_is_broken_where_nothing_was_seen() -> None:
    t_ms = np.array([0, 1, 2, 3, 30, 31, 32], np.int64) * HOUR_MS
    for _, line in (_line(t_ms, np.arange(7.0)), _thinned(t_ms, np.arange(7.0))):
        np.testing.assert_array_equal(line, [0, 1, 2, 3, np.nan, 4, 5, 6])


def test_a_long_line_keeps_its_spikes_and_its_gaps() -> None:
    t_ms = np.arange(100_000, dtype=np.int64) * 1000
    t_ms[60_000:] += HOUR_MS
    values = np.zeros(100_000)
    values[[12_345, 67_890]] = [9.0, -7.0]
    at, line = _line(t_ms, values)
    assert len(line) < 3000
    assert (np.nanmin(line), np.nanmax(line)) == (-7.0, 9.0)
    assert np.isnan(line).sum() == 1
    assert at[np.isnan(line)] == t_ms[59_999] / 86_400_000
    assert np.all(np.diff(at) >= 0)


def test_the_signals_that_say_most_are_shown_and_no_regime(tmp_path: Path) -> None:
    story = _story(wearing_fleet(tmp_path / "d"), "w2")
    shown = strongest_signals(story, 3)
    names = [story.dataset.asset_type.signals[number].name for number, _ in shown]
    assert sorted(names) == ["bearing_c", "vibration_mm_s"]
    assert sum(share for _, share in shown) == pytest.approx(1.0)
    assert shown[0][1] >= shown[1][1]


def test_the_expected_range_holds_the_healthy_and_not_the_worn(tmp_path: Path) -> None:
    story = _story(wearing_fleet(tmp_path / "d"), "w2")
    low, high = expected_range(story, 1)
    inside = (story.values[:, 1] >= low) & (story.values[:, 1] <= high)
    healthy = (story.condition == Condition.NORMAL) & (np.arange(len(low)) < story.alarms[0])
    assert np.mean(inside[healthy]) > 0.9
    assert not inside[-20:].any()
    assert np.isnan(low[story.said.maturity[:, 0] == Maturity.LEARNING]).all()


def test_where_few_healthy_samples_are_known_there_is_no_expected_range(tmp_path: Path) -> None:
    story = _story(Fleet().add("h0", 60, fails=False).write(tmp_path / "d"), "h0")
    assert np.isnan(usual_range(story, 1)).all()


def test_real_histories_are_drawn(shared_data: Path, tmp_path: Path) -> None:
    for name, asset, words in [
        ("cmapss-fd001-train", "engine-005", "before the failure"),
        ("skab-valve1", "valve1-3", "after the labelled fault began"),
    ]:
        out = tmp_path / f"{asset}.svg"
        result = _call("plot", shared_data / name, "--asset", asset, "--out", out)
        assert result.exit_code == 0, result.stderr
        assert words in out.read_text()
