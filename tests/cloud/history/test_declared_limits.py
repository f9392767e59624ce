"""Limits that a dataset.toml declares for a machine nobody has described."""

from pathlib import Path

import pytest

from forewarn_cloud.history.cells import DatasetError
from forewarn_cloud.history.description import read_description

SIGNAL = 'name = "d"\n[[signals]]\nname = "v"\nunit = "mm/s"\n'


def written(folder: Path, keys: str) -> Path:
    path = folder / "dataset.toml"
    path.write_text(SIGNAL + keys + "\n", encoding="utf-8")
    return path


def test_a_machine_class_and_lower_limits_may_be_declared(tmp_path: Path) -> None:
    keys = 'machine_class = "iso_20816_3_group_2_flexible"\nlimit_alarm_low = 0.1'
    (signal,) = read_description(written(tmp_path, keys))[1].signals
    assert (signal.limit_alert, signal.limit_alarm, signal.limit_alarm_low) == (4.5, 7.1, 0.1)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("\nlimit_alarm_low = nan", "line 6, signals[0].limit_alarm_low: not a finite number"),
        ('machine_class = "iso"', "line 5, signals[0].machine_class: v: give one of iso_20816_3_group_1_rigid"),
        ("limit_alarm = 1.0\nlimit_alarm_low = 2.0", "line 3, signals[0].name: v: the lower limits must be below"),
    ],
)
def test_a_limit_that_cannot_be_is_told_with_its_line(tmp_path: Path, keys: str, says: str) -> None:
    with pytest.raises(DatasetError) as refused:
        read_description(written(tmp_path, keys))
    assert says in str(refused.value)
