"""Numbers and spans as people read them."""

from datetime import UTC
from zoneinfo import ZoneInfo

import pytest

from forewarn_cloud.console.formatting import local, money, percent, quantity, relative, signed, span, time_zone
from forewarn_cloud.console.i18n import words

NOON_MS = 1_772_712_000_000  # 2026-03-05T12:00:00Z
HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("hours", "english", "chinese"),
    [
        (0.0, "0 min", "0 分钟"),
        (0.99, "59 min", "59 分钟"),
        (0.999, "1 h", "1 小时"),
        (23.4, "23 h", "23 小时"),
        (23.6, "1 d", "1 天"),
        (36.2, "1 d 12 h", "1 天 12 小时"),
        (239.4, "9 d 23 h", "9 天 23 小时"),
        (239.6, "10 d", "10 天"),
        (1000.0, "42 d", "42 天"),
    ],
)
def test_a_span_has_its_two_leading_units(hours: float, english: str, chinese: str) -> None:
    assert span(hours, words("en")) == english
    assert span(hours, words("zh")) == chinese


@pytest.mark.parametrize(
    ("at_ms", "expected"),
    [
        (NOON_MS + 30 * HOUR_MS, "in 1 d 6 h"),
        (NOON_MS - 2 * HOUR_MS, "2 h ago"),
        (NOON_MS + 20_000, "now"),
    ],
)
def test_an_instant_is_told_from_now(at_ms: int, expected: str) -> None:
    assert relative(at_ms, NOON_MS, words("en")) == expected


def test_an_instant_is_shown_on_the_clock_of_its_place() -> None:
    assert local(NOON_MS, UTC) == "2026-03-05 12:00"
    assert local(NOON_MS, ZoneInfo("Asia/Shanghai")) == "2026-03-05 20:00"


@pytest.mark.parametrize("name", [None, "", "Mars/Olympus", "../../etc/passwd"])
def test_a_place_without_a_known_zone_is_shown_in_utc(name: str | None) -> None:
    assert time_zone(name) is UTC


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (4.5234, "4.52"),
        (66.14, "66.1"),
        (2150.4, "2150"),
        (0.01234, "0.0123"),
        (0.0, "0"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_a_quantity_has_three_digits(value: float | None, expected: str) -> None:
    assert quantity(value) == expected


def test_a_deviation_has_its_sign() -> None:
    assert (signed(9.23), signed(-0.314), signed(None)) == ("+9.2", "−0.31", "–")


def test_small_chances_are_not_called_none() -> None:
    assert (percent(0.004), percent(0.0), percent(0.046), percent(None)) == ("<1 %", "0 %", "5 %", "–")


def test_money_is_whole() -> None:
    assert (money(80609.4), money(None)) == ("80,609", "–")
