"""Logging as key=value lines on standard error; a value can never start a line of its own."""

import json
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/+@")
_MAX_VALUE: Final = 500


def event(logger: logging.Logger, level: int, name: str, **fields: Any) -> None:
    """Log one event with its fields, e.g. `event(log, logging.INFO, "connected", host="broker")`."""
    logger.log(level, name, extra={"fields": fields})


class KeyValueFormatter(logging.Formatter):
    """One line a record, the time in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head = {"at": at.replace("+00:00", "Z"), "level": record.levelname.lower(), "event": record.getMessage()}
        line = " ".join(f"{key}={quoted(value)}" for key, value in {**head, **fields}.items())
        return f"{line} trace={json.dumps(self.formatException(record.exc_info))}" if record.exc_info else line


def quoted(value: Any) -> str:
    """The value as one token: bare if it is harmless, else a JSON string, cut at 500 characters."""
    text = str(value)
    text = text if len(text) <= _MAX_VALUE else text[:_MAX_VALUE] + "..."
    return text if text and _BARE.issuperset(text) else json.dumps(text)


class Throttle:
    """Lets an event of a kind through once a minute and counts what it held back."""

    def __init__(self, every_seconds: float = 60.0) -> None:
        self._every_seconds = every_seconds
        self._last: dict[str, tuple[float, int]] = {}

    def admit(self, kind: str) -> int | None:
        """How many of this kind were held back since the last, or None if this one is held back too."""
        last_at, held_back = self._last.get(kind, (float("-inf"), 0))
        if time.monotonic() - last_at < self._every_seconds:
            self._last[kind] = (last_at, held_back + 1)
            return None
        self._last[kind] = (time.monotonic(), 0)
        return held_back


def configure(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(KeyValueFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
