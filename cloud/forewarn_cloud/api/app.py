"""The web application: every route of the API under /api/v1, behind the same guards."""

from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry

from forewarn_cloud.api import assets, events, messages, nodes, orders, parts, places, problems, records, system
from forewarn_cloud.api.access import ApiDeps
from forewarn_cloud.api.changes import InFlight
from forewarn_cloud.api.guards import Guards
from forewarn_cloud.api.metrics import RequestFigures
from forewarn_models import __version__

MAX_BODY_BYTES: Final = 1024 * 1024


def create_app(deps: ApiDeps, routers: Sequence[APIRouter] = ()) -> FastAPI:
    """The API, and `routers` beside it (the console)."""
    # FastAPI's own documentation pages load scripts from another host; the contract itself is served.
    app = FastAPI(
        title="forewarn",
        summary="Predictive maintenance from the machine to the service order",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    app.state.deps = deps
    app.state.metrics = CollectorRegistry()
    app.state.in_flight = InFlight()
    problems.install(app)
    app.include_router(api_router())
    app.include_router(system.router)
    for router in routers:
        app.include_router(router)
    app.add_middleware(Guards, allowed_hosts=deps.allowed_hosts, max_body_bytes=MAX_BODY_BYTES)
    app.add_middleware(RequestFigures, registry=app.state.metrics)
    return app


def api_router() -> APIRouter:
    """Every route under /api/v1."""
    api = APIRouter(prefix="/api/v1")
    for noun in (assets, events, nodes, orders, parts, places, messages, records):
        api.include_router(noun.router)
    return api
