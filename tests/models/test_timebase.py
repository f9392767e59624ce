"""The accelerated clock: every process of a run must read the same time from the same wall clock."""

import pytest

from forewarn_models.timebase import Timebase, timebase_from_environment

ENVIRONMENT = {
    "FOREWARN_CLOCK_START": "2026-01-01T00:00:00Z",
    "FOREWARN_CLOCK_ORIGIN": "2026-06-01T12:00:00+02:00",
    "FOREWARN_CLOCK_RATE": "3600",
}
START_MS, ORIGIN_MS = 1_767_225_600_000, 1_780_308_000_000


def test_real_time_is_the_default() -> None:
    assert timebase_from_environment({}).at(1_234_567_890_123) == 1_234_567_890_123


def test_an_hour_passes_in_a_second() -> None:
    timebase = timebase_from_environment(ENVIRONMENT)
    assert timebase == Timebase(origin_ms=ORIGIN_MS, start_ms=START_MS, rate=3600.0)
    assert timebase.at(ORIGIN_MS) == START_MS
    assert timebase.at(ORIGIN_MS + 1000) == START_MS + 3_600_000
    assert timebase.wall_seconds(7200) == 2.0


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"FOREWARN_CLOCK_RATE": ""}, "FOREWARN_CLOCK_RATE must be set together"),
        ({"FOREWARN_CLOCK_RATE": "fast"}, "FOREWARN_CLOCK_RATE: 'fast' is not a number"),
        ({"FOREWARN_CLOCK_RATE": "0"}, "FOREWARN_CLOCK_RATE: 0 is outside"),
        ({"FOREWARN_CLOCK_RATE": "nan"}, "FOREWARN_CLOCK_RATE: nan is outside"),
        ({"FOREWARN_CLOCK_START": "2026-01-01T00:00:00"}, "FOREWARN_CLOCK_START: .* has no time zone"),
        ({"FOREWARN_CLOCK_ORIGIN": "yesterday"}, "FOREWARN_CLOCK_ORIGIN: 'yesterday' is not"),
    ],
)
def test_a_wrong_environment_is_named(change: dict[str, str], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        timebase_from_environment(ENVIRONMENT | change)
