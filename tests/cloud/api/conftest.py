"""A running API over a small world."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.service.policy import Policy
from tests.cloud.api.serving import Api, deps_of, serving
from tests.cloud.world import SEAL, World, advisory, make_world


@pytest.fixture
def world(engine: Engine) -> World:
    """One seal on the shelf in the north; on both databases."""
    return make_world(engine, {SEAL: {"north": 1}}, Policy())


@pytest.fixture
def api(world: World) -> Iterator[Api]:
    with serving(deps_of(world)) as running:
        yield running


@pytest.fixture(scope="module")
def still_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with an acknowledged order, shared by tests in which nothing may change."""
    engine = make_engine(f"sqlite:///{tmp_path_factory.mktemp('still') / 'forewarn.db'}")
    migrate(engine)
    world = make_world(engine, {SEAL: {"north": 1}}, Policy())
    world.hear(advisory())
    yield world
    engine.dispose()


@pytest.fixture(scope="module")
def still_api(still_world: World) -> Iterator[Api]:
    with serving(deps_of(still_world)) as running:
        running.done(f"/api/v1/orders/{still_world.order().id}/acknowledge")
        yield running


@pytest.fixture
def refusing(still_world: World, still_api: Api) -> Iterator[Api]:
    """An API that is only asked what it must refuse."""
    before = still_world.everything()
    yield still_api
    assert still_world.everything() == before, "what was refused has changed something"
