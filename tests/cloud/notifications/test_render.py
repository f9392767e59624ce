"""The words of each message."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from forewarn_cloud.notifications.delivery import Undeliverable
from forewarn_cloud.notifications.render import LANGUAGES, render
from forewarn_cloud.service.news import Kind
from tests.cloud.notifications.facts import HOUR_MS, SINCE_MS, facts

FOUND = {"outcome": "CONFIRMED", "failure_mode": "impeller_wear", "failure_mode_title": "Impeller wear"}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_of_news_is_written_in_every_language(kind: str, language: str) -> None:
    written = render(kind, language, facts(finding=FOUND, close_reason="evidence cleared"))
    for text in (written.subject, written.text, written.html):
        assert "Feed pump 7" in text
        assert "SO-000001" in text
    assert "\n" not in written.subject
    assert not re.search(r"{[{%]|None|Undefined", written.text)


def test_the_opening_says_what_is_wrong_since_when_what_we_do_by_when_and_with_which_parts() -> None:
    text = render("order_opened", "en", facts()).text
    assert "What is wrong: Impeller wear" in text
    assert "Since: Wed 25 Feb 2026, 14:13" in text  # in Shanghai, where the machine stands
    assert "What we will do: Replace the impeller." in text
    assert "By when: Sun 1 Mar 2026, 08:13" in text
    assert "- 1 × Impeller (PMP-IMP-200): reserved for you" in text
    assert "- 2 × Gasket (PMP-GSK-01): ordered, expected Thu 26 Feb 2026, 10:13" in text
    assert "Asia/Shanghai" in text
    assert "may not be there" not in text


def test_the_opening_is_honest_when_the_parts_come_too_late() -> None:
    late = facts(visit_by_ms=SINCE_MS + 120 * HOUR_MS, needed_by_ms=SINCE_MS + 90 * HOUR_MS)
    assert "may not be there" in render("order_opened", "en", late).text
    assert "备件可能无法" in render("order_opened", "zh", late).text


def test_chinese_customers_read_chinese() -> None:
    written = render("order_opened", "zh-CN", facts(failure_mode_title="叶轮磨损", action="更换叶轮。"))
    assert "问题：叶轮磨损" in written.text
    assert "开始时间：2026年2月25日 14:13" in written.text
    assert '<html lang="zh-Hans">' in written.html


def test_an_unknown_cause_is_said_to_be_unknown() -> None:
    text = render("order_opened", "en", facts(failure_mode_title=None, action=None, parts=[])).text
    assert "cause not yet known" in text
    assert "A technician inspects the machine." in text
    assert "Parts" not in text


@pytest.mark.parametrize(
    ("outcome", "said"),
    [("CONFIRMED", "Found and repaired: Impeller wear"), ("NO_FAULT_FOUND", "No fault was found")],
)
def test_the_completion_says_what_was_found(outcome: str, said: str) -> None:
    finding = {"outcome": outcome, "failure_mode": None, "failure_mode_title": None}
    assert said in render("order_completed", "en", facts(finding=finding)).text


def test_38_template_text_in_a_name_stays_literal() -> None:
    written = render("order_opened", "en", facts(asset_name="{{7*7}} {% raw %}"))
    assert "{{7*7}} {% raw %}" in written.subject
    assert "49" not in written.subject


def test_37_markup_in_a_name_is_escaped_in_html_and_plain_in_text() -> None:
    written = render("order_opened", "en", facts(site_name='<img src=x onerror="a()"> & Co'))
    assert '<img src=x onerror="a()"> & Co' in written.text
    assert "<img" not in written.html
    assert "&lt;img src=x onerror=&#34;a()&#34;&gt; &amp; Co" in written.html


@pytest.mark.parametrize("name", ["Pump\r\nBcc: all@example.com", "Pump\u2028x", "Pump\x00x", "Pump\x1b[2Jx"])
def test_a_name_cannot_break_its_line(name: str) -> None:
    written = render("order_opened", "en", facts(asset_name=name))
    assert written.subject.isprintable()
    assert len(written.text.splitlines()) == len(render("order_opened", "en", facts()).text.splitlines())


@pytest.mark.parametrize("kind", ["order_exploded", "../layout", "layout.html", "", "macros/../order_opened"])
def test_an_unknown_kind_cannot_be_delivered(kind: str) -> None:
    with pytest.raises(Undeliverable, match="cannot write"):
        render(kind, "en", facts())


def test_a_missing_fact_cannot_be_delivered() -> None:
    incomplete: dict[str, Any] = facts()
    del incomplete["visit_by_ms"]
    with pytest.raises(Undeliverable, match="visit_by_ms"):
        render("order_opened", "en", incomplete)


@pytest.mark.parametrize("value", [None, "tomorrow", 10**30, float("nan")])
def test_a_fact_of_the_wrong_kind_cannot_be_delivered(value: object) -> None:
    with pytest.raises(Undeliverable, match="cannot write"):
        render("order_opened", "en", facts(since_ms=value))


def test_both_languages_have_the_same_templates() -> None:
    folder = Path(__file__).parents[3] / "cloud/forewarn_cloud/notifications/templates"
    names = [{path.name for path in (folder / language).iterdir()} for language in LANGUAGES]
    assert names[0] == names[1]
    assert {f"{kind}.txt" for kind in get_args(Kind)} <= names[0]
