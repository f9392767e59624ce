"""Log lines: one event, one line, whatever the values say."""

import logging
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forewarn_edge_agent.log import KeyValueFormatter, Throttle, quoted


def line(**fields: object) -> str:
    record = logging.makeLogRecord({"msg": "refused", "levelname": "WARNING", "created": 1.7e9, "fields": fields})
    return KeyValueFormatter().format(record)


def test_an_event_is_a_line_of_keys_and_values() -> None:
    assert line(asset="p-1", n=3) == "at=2023-11-14T22:13:20.000Z level=warning event=refused asset=p-1 n=3"


@given(st.text())
def test_no_value_can_start_a_line_or_a_key_of_its_own(value: str) -> None:
    told = line(detail=value, after=1)
    assert len(told.splitlines()) == 1
    assert told.isprintable()
    assert [word.partition("=")[0] for word in shlex.split(told)] == ["at", "level", "event", "detail", "after"]


def test_a_long_value_is_cut() -> None:
    assert len(quoted("x" * 10_000)) < 600


def test_repeated_events_are_held_back_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    throttle = Throttle(every_seconds=60.0)
    assert [throttle.admit("a"), throttle.admit("a"), throttle.admit("b"), throttle.admit("a")] == [0, None, 0, None]
    now[0] += 61.0
    assert throttle.admit("a") == 2
