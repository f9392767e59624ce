"""A running API over a small world, on both databases."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from forewarn_cloud.service.policy import default_policy
from tests.cloud.api.serving import Api, deps_of, serving
from tests.cloud.world import SEAL, World, make_world


@pytest.fixture
def world(engine: Engine) -> World:
    """One seal on the shelf in the north."""
    return make_world(engine, {SEAL: {"north": 1}}, default_policy())


@pytest.fixture
def api(world: World) -> Iterator[Api]:
    with serving(deps_of(world)) as running:
        yield running
