"""From the facts of a piece of news to a message in the reader's language.

A template is one text file per kind and language: the subject on its first line, then the body. The HTML is made from
the finished text, so that both say the same, and every value in it is escaped once. Values are substituted, never
rendered: `{{7*7}}` in a name stays what it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import cache
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from jinja2 import Environment, PackageLoader, StrictUndefined, TemplateError

from forewarn_cloud.notifications.delivery import Undeliverable

LANGUAGES: Final = ("en", "zh")
_FORMATS: Final = {"en": "%a %-d %b %Y, %H:%M", "zh": "%Y年%-m月%-d日 %H:%M"}
_KIND: Final = re.compile(r"[a-z_]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Rendered:
    subject: str
    text: str
    html: str


def render(kind: str, language: str, payload: Mapping[str, Any]) -> Rendered:
    """The message of that kind in the language closest to `language`.

    Raises:
        Undeliverable: there is no such kind, or a fact that its template needs is missing or no such value.
    """
    spoken = "zh" if language.lower().startswith("zh") else "en"
    try:
        template = _environment().get_template(f"{spoken}/{_known(kind)}.txt")
        written = template.render(_facts(payload, spoken))
    except (TemplateError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise Undeliverable(f"cannot write {kind!r} in {spoken}: {type(error).__name__}: {error}") from error
    subject, _, body = written.strip().partition("\n")
    text = re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"
    html = _environment().get_template("layout.html").render(language=spoken, blocks=_blocks(text))
    return Rendered(subject=_one_line(subject), text=text, html=html)


def _known(kind: str) -> str:
    if _KIND.fullmatch(kind) is None:
        raise KeyError(kind)
    return kind


def _facts(payload: Mapping[str, Any], language: str) -> dict[str, Any]:
    """The payload, each text in it one line, and how instants read where the machine stands."""
    zone = _zone(payload.get("time_zone"))

    def when(at_ms: int) -> str:
        return datetime.fromtimestamp(at_ms / 1000, zone).strftime(_FORMATS[language])

    return {
        **{name: _clean(value) for name, value in payload.items()},
        "when": when,
        "zone": str(zone),
    }


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _one_line(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    return value


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _zone(name: str | None) -> tzinfo:
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def _blocks(text: str) -> list[tuple[str, list[str]]]:
    """Paragraphs of finished text: ("list", items) where every line begins with "- ", else ("paragraph", lines)."""
    blocks = []
    for paragraph in text.strip().split("\n\n"):
        lines = paragraph.splitlines()
        is_list = all(line.startswith("- ") for line in lines)
        blocks.append(("list", [line[2:] for line in lines]) if is_list else ("paragraph", lines))
    return blocks


@cache
def _environment() -> Environment:
    # Only HTML is escaped: in plain text an ampersand is an ampersand.
    return Environment(
        loader=PackageLoader("forewarn_cloud.notifications"),
        autoescape=lambda name: bool(name and name.endswith(".html")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
