"""Where lives begin and end."""

from pathlib import Path

from forewarn_cloud.history.dataset import Dataset, read_dataset
from forewarn_cloud.history.lives import Reset, find_resets, split_lives

from .folders import write_folder

T0 = 1_767_225_600_000
HOUR = 3_600_000
DESCRIPTION = 'name = "d"\nasset_type = "fan"\n[[signals]]\nname = "x"\nunit = "1"\n'


def _dataset(folder: Path, **events: str) -> Dataset:
    """One asset with a sample on every full hour from 00:00 to 09:00."""
    rows = "".join(f"f1,2026-01-01T{hour:02}:00:00Z,{hour}\n" for hour in range(10))
    telemetry = "asset_id,observed_at,x\n" + rows
    return read_dataset(write_folder(folder / "d", description=DESCRIPTION, telemetry=telemetry, **events))


def _failures(*times: str) -> str:
    return "asset_id,failed_at\n" + "".join(f"f1,2026-01-{time}Z\n" for time in times)


def _work(*rows: str) -> str:
    return "asset_id,at,kind\n" + "".join(f"f1,2026-01-01T{row}\n" for row in rows)


def _spans(dataset: Dataset) -> list[tuple[int, int, bool]]:
    """First and last hour of each life's samples, and whether it failed."""
    return [(int(life.rows[0]), int(life.rows[-1]), life.failure is not None) for life in split_lives(dataset)]


def test_without_events_the_recording_is_one_life_that_was_cut_off(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path)
    (life,) = split_lives(dataset)
    assert _spans(dataset) == [(0, 9, False)]
    assert (life.started_ms, life.ended_ms, life.hours) == (T0, T0 + 9 * HOUR, 9.0)
    assert life.would_fail_ms is None
    assert find_resets(dataset) == {}


def test_the_sample_at_the_failure_belongs_to_the_life_that_failed(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path, failures=_failures("01T04:00:00"))
    assert _spans(dataset) == [(0, 4, True), (5, 9, False)]
    assert find_resets(dataset) == {"f1": [Reset(step=5, at_ms=T0 + 4 * HOUR, after="failure")]}


def test_the_sample_at_a_repair_belongs_to_the_new_life(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path, maintenance=_work("04:00:00Z,replacement", "06:00:00Z,inspection"))
    assert _spans(dataset) == [(0, 3, False), (4, 9, False)]
    assert find_resets(dataset) == {"f1": [Reset(step=4, at_ms=T0 + 4 * HOUR, after="repair")]}


def test_downtime_between_failure_and_repair_is_no_life(tmp_path: Path) -> None:
    events = {"failures": _failures("01T03:30:00"), "maintenance": _work("06:00:00Z,repair")}
    dataset = _dataset(tmp_path, **events)
    assert _spans(dataset) == [(0, 3, True), (6, 9, False)]
    assert [reset.step for reset in find_resets(dataset)["f1"]] == [4, 6]


def test_failure_and_repair_between_two_samples_are_one_reset(tmp_path: Path) -> None:
    events = {"failures": _failures("01T03:10:00"), "maintenance": _work("03:40:00Z,repair", "03:40:00Z,repair")}
    dataset = _dataset(tmp_path, **events)
    assert _spans(dataset) == [(0, 3, True), (4, 9, False)]
    assert [(reset.step, reset.after) for reset in find_resets(dataset)["f1"]] == [(4, "repair")]


def test_a_failure_after_the_last_sample_ends_the_last_life(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path, failures=_failures("02T00:00:00"))
    (life,) = split_lives(dataset)
    assert life.hours == 24.0
    assert life.would_fail_ms == T0 + 24 * HOUR
    assert find_resets(dataset) == {}


def test_the_remaining_life_of_a_cut_off_history_counts_from_its_own_instant(tmp_path: Path) -> None:
    events = {
        "failures": _failures("01T02:00:00"),
        "remaining_life": "asset_id,as_of,rul_hours\nf1,2026-01-01T08:00:00Z,5\n",
    }
    failed, cut_off = split_lives(_dataset(tmp_path, **events))
    assert failed.rul_hours is None
    assert cut_off.rul_hours == 4.0
    assert cut_off.would_fail_ms == T0 + 13 * HOUR
