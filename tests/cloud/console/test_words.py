"""Every page says everything in every language."""

import re
from pathlib import Path
from string import Formatter
from typing import get_args

import pytest

from forewarn_cloud.console import pages
from forewarn_cloud.console.i18n import LANGUAGES, choose_language, words
from forewarn_cloud.entities import OPEN_STATES, OrderState, Outcome, ReservationState
from forewarn_cloud.service.news import Kind
from forewarn_models.assessment import Condition, Maturity

CONSOLE = Path(pages.__file__).parent
SOURCES = sorted([*CONSOLE.glob("templates/*.html"), *CONSOLE.glob("*.py")])


def placeholders(sentence: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(sentence) if name is not None}


def test_all_languages_have_the_same_sentences_about_the_same_values() -> None:
    english = words("en").catalogue
    for language in LANGUAGES:
        other = words(language).catalogue
        assert other.keys() == english.keys(), language
        for key, sentence in english.items():
            assert placeholders(other[key]) == placeholders(sentence), f"{language}: {key}"
            assert other[key].strip(), f"{language}: {key}"


def test_every_key_a_page_names_is_in_the_catalogue() -> None:
    catalogue = words("en").catalogue
    named = {
        (source.name, key)
        for source in SOURCES
        for key in re.findall(r"""(?:\bt|words)\(\s*["']([a-z_0-9.]+)["']\s*[,)]""", source.read_text("utf-8"))
    }
    assert len(named) > 100
    assert {(file, key) for file, key in named if key not in catalogue} == set()


@pytest.mark.parametrize(
    ("prefix", "codes"),
    [
        ("state", get_args(OrderState)),
        ("reservation", get_args(ReservationState)),
        ("outcome", get_args(Outcome)),
        ("condition", [condition.name for condition in Condition]),
        ("maturity", [maturity.name for maturity in Maturity]),
        ("message", get_args(Kind)),
        ("done", {action for state in OPEN_STATES for action in pages.ACTIONS[state]}),
        ("window", get_args(pages.Window)),
    ],
)
def test_every_code_has_a_word(prefix: str, codes: list[str]) -> None:
    for code in codes:
        assert f"{prefix}.{code}" in words("en").catalogue


@pytest.mark.parametrize(
    ("asked", "remembered", "accepted", "expected"),
    [
        ("zh", "en", "en", "zh"),
        ("fr", "zh", "en", "zh"),
        (None, "xx", "de-DE, zh-CN;q=0.8, en;q=0.5", "zh"),
        (None, None, "en;q=0.1, zh;q=0.9", "zh"),
        (None, None, "de, fr;q=0.9", "en"),
        (None, None, "zh;q=much, en", "en"),
        (None, None, None, "en"),
    ],
)
def test_the_language_is_what_was_asked_for_then_remembered_then_accepted(
    asked: str | None, remembered: str | None, accepted: str | None, expected: str
) -> None:
    assert choose_language(asked, remembered, accepted) == expected


def test_a_missing_sentence_is_a_mistake_and_not_an_empty_page() -> None:
    with pytest.raises(KeyError):
        words("en")("orders.no_such_sentence")
