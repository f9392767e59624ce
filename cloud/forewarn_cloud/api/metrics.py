"""Figures for Prometheus: requests as they happen, and the state of the service chain at each scrape."""

import time
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forewarn_cloud.views import Figures

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_UNMATCHED: Final = "(none)"


class RequestFigures:
    """ASGI middleware that counts and times requests by method, route and status."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        labels = ("method", "route", "status")
        self._requests = Counter("forewarn_http_requests", "HTTP requests.", labels, registry=registry)
        about = "Time to the last byte of the answer."
        self._seconds = Histogram("forewarn_http_request_seconds", about, labels[:2], registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), "500"

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = _route(scope)
            self._requests.labels(scope["method"], route, status).inc()
            self._seconds.labels(scope["method"], route).observe(time.perf_counter() - started)


def _route(scope: Scope) -> str:
    """The route as it is written, for a label: paths have identifiers, and each would be a new series."""
    written = getattr(scope.get("route"), "path", None)
    if not written:
        return _UNMATCHED
    prefix = scope["path"].split("/")[: -written.count("/")]
    return "/".join(prefix) + str(written)


def exposition(registry: CollectorRegistry, figures: Figures) -> bytes:
    """All figures in Prometheus' text format."""
    state = CollectorRegistry()
    state.register(_StateCollector(figures))
    return generate_latest(registry) + generate_latest(state)


class _StateCollector(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[GaugeMetricFamily]:
        found = self._figures
        yield _gauge("assets", "Assets watched.", found.assets)
        yield _by("assets_by_condition", "Assets by their latest condition.", "condition", found.assets_by_condition)
        yield _by("orders", "Service orders by state.", "state", found.orders_by_state)
        yield _by("notifications", "Messages in the outbox by state.", "state", found.notifications_by_state)
        yield _by("reservations", "Part reservations by state.", "state", found.reservations_by_state)
        yield _gauge("advisories_unhandled", "Advisories waiting to be acted on.", found.advisories_unhandled)
        yield _gauge("quarantined", "Messages and records in quarantine.", found.quarantined)
        yield _gauge("quarantined_security", "Of these, with a security concern.", found.quarantined_security)
        yield _gauge("nodes", "Enrolled nodes.", found.nodes)
        yield _gauge("nodes_online", "Nodes that are online.", found.nodes_online)
        yield _by("records_stored", "Records stored.", "lane", found.records_stored_by_lane)


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"forewarn_{name}", about, value=value)


def _by(name: str, about: str, label: str, values: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"forewarn_{name}", about, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family
