"""The API as it is met in the field: over a socket."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

import httpx
import uvicorn
from fastapi import APIRouter

from forewarn_cloud.adapters.sql.answers import SqlChanges
from forewarn_cloud.adapters.sql.engine import reading
from forewarn_cloud.adapters.sql.unit_of_work import SqlTransactions
from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from forewarn_cloud.api.access import ApiDeps
from forewarn_cloud.api.app import create_app
from forewarn_cloud.principal import Principal
from tests.cloud.world import DESK, World
from tests.conftest import wait_until

ADMIN = replace(DESK, name="ada", role="admin")
STRANGER = Principal(name="eve", tenant="other", role="admin")
PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class Api:
    """A client of one running server."""

    client: httpx.Client

    def get(self, path: str, **query: Any) -> Any:
        """The body of a 200."""
        answer = self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: object = None, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, json={} if body is None else body, headers=named)

    def done(self, path: str, body: object = None, **headers: str) -> Any:
        """The body of a 200 or 201."""
        answer = self.post(path, body, **headers)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()


def deps_of(world: World, principal: Principal = ADMIN, **changes: Any) -> ApiDeps:
    deps = ApiDeps(
        clock=world.clock,
        reading=lambda: reading(world.engine),
        telemetry=SqlTelemetry,
        transactions=SqlTransactions(world.engine),
        changes=SqlChanges(world.engine),
        principal=principal,
    )
    return replace(deps, **changes)


@contextmanager
def serving(deps: ApiDeps, *routers: APIRouter) -> Iterator[Api]:
    config = uvicorn.Config(create_app(deps, routers), host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), "the server listens")
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30.0, trust_env=False) as client:
            yield Api(client)
    finally:
        server.should_exit = True
        thread.join(15)


def assert_problem(answer: httpx.Response, status: int, *said: str) -> dict[str, Any]:
    """The answer is an RFC 9457 problem with this status, and says so."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:forewarn:problem:")
    assert body["title"]
    assert body["instance"].isascii()
    assert unquote(body["instance"]) == answer.request.url.path
    for text in said:
        assert text in answer.text
    return body
