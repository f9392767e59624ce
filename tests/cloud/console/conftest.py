"""The console over HTTP, without a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.browser.world import World, serving, wear_a_pump, world


@pytest.fixture(scope="session")
def worn_pump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a desk with one open order: the bearing of pump-1."""
    database = tmp_path_factory.mktemp("worn-pump") / "forewarn.db"
    with world(database) as desk:
        wear_a_pump(desk)
    return database


@pytest.fixture
def desk(worn_pump: Path, tmp_path: Path) -> Iterator[World]:
    """A copy of that desk, the test's own."""
    with world(Path(shutil.copy(worn_pump, tmp_path))) as found:
        yield found


@pytest.fixture
def client(desk: World) -> Iterator[httpx.Client]:
    with serving(desk) as home, httpx.Client(base_url=home, timeout=20.0) as found:
        yield found
