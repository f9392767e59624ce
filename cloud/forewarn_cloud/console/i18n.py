"""The console's words in every language we speak: one TOML table per language, the same keys in each."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

LANGUAGES: Final = {"en": "English", "zh": "简体中文"}
DEFAULT_LANGUAGE: Final = "en"
HTML_LANGUAGE: Final = {"en": "en", "zh": "zh-Hans"}


@dataclass(frozen=True, kw_only=True)
class Words:
    """The words of one language; call it with a key and the values the sentence names."""

    language: str
    catalogue: Mapping[str, str]

    def __call__(self, key: str, **values: object) -> str:
        """The sentence under `key`.

        Raises:
            KeyError: no such key; the catalogues are complete, so this is a mistake in a page.
        """
        return self.catalogue[key].format(**values)

    def known(self, prefix: str, code: str) -> str:
        """The word for a code of ours, or the code itself where none is written down."""
        return self.catalogue.get(f"{prefix}.{code}", code)


@cache
def words(language: str) -> Words:
    text = resources.files(__package__).joinpath("locales", f"{language}.toml").read_text("utf-8")
    return Words(language=language, catalogue=_flatten(tomllib.loads(text)))


def choose_language(asked: str | None, remembered: str | None, accepted: str | None) -> str:
    """A page's language: asked for in the address, else remembered in the cookie, else what the browser takes."""
    for language in (asked, remembered):
        if language in LANGUAGES:
            return language
    return _accepted(accepted or "") or DEFAULT_LANGUAGE


def _accepted(header: str) -> str | None:
    """The best language of ours in an Accept-Language header."""
    ranked = sorted((entry for entry in header.split(",") if entry.strip()), key=_quality, reverse=True)
    spoken = (entry.split(";")[0].strip().lower().split("-")[0] for entry in ranked)
    return next((language for language in spoken if language in LANGUAGES), None)


def _quality(entry: str) -> float:
    _, _, weight = entry.partition(";q=")
    try:
        return float(weight) if weight else 1.0
    except ValueError:
        return 0.0


def _flatten(table: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
