"""The console over HTTP, without a browser."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.browser.world import World, serving, wear_a_pump, world


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[World]:
    """A desk with one open order: the bearing of pump-1."""
    with world(tmp_path) as found:
        wear_a_pump(found)
        yield found


@pytest.fixture
def client(desk: World) -> Iterator[httpx.Client]:
    with serving(desk) as home, httpx.Client(base_url=home, timeout=20.0) as found:
        yield found
