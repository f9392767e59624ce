"""Figures for Prometheus: requests as they happen, and the state of the service chain at each scrape."""

import time
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forewarn_cloud.ingest.figures import IngestFigures
from forewarn_cloud.views import Figures

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
NODES_NAMED: Final = 20
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


def exposition(registry: CollectorRegistry, figures: Figures, ingest: IngestFigures, now_ms: int) -> bytes:
    """All figures in Prometheus' text format."""
    state = CollectorRegistry()
    state.register(_StateCollector(figures, now_ms))
    state.register(_IngestCollector(ingest))
    return generate_latest(registry) + generate_latest(state)


class _StateCollector(Collector):
    def __init__(self, figures: Figures, now_ms: int) -> None:
        self._figures = figures
        self._now_ms = now_ms

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
        yield _gauge("nodes_silent", "Nodes that are offline or were not heard of for long.", found.nodes_silent)
        yield _by("records_stored", "Records stored.", "lane", found.records_stored_by_lane)
        yield _by("quarantined_by_kind", "Quarantine by what the reason is about.", "kind", found.quarantined_by_kind)
        yield _by("gaps", "Gaps: lost, asked for again, filled.", "state", found.gaps_by_state)
        yield _by("resends", "Requests to send records again.", "state", found.resends_by_state)
        oldest = found.oldest_unhandled_at
        waited_s = 0.0 if oldest is None else max(0.0, (self._now_ms - oldest) / 1000)
        yield _gauge("advisory_lag_seconds", "How long the oldest advisory has waited to be acted on.", waited_s)


class _IngestCollector(Collector):
    def __init__(self, figures: IngestFigures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[GaugeMetricFamily]:
        found = self._figures
        yield _gauge("ingest_handover_messages", "Messages between network and writer.", found.waiting_messages)
        yield _gauge("ingest_handover_fill", "How full the hand-over is, 0 to 1.", found.fill)
        yield _gauge("ingest_lag_seconds", "How long the batch being committed has waited.", found.lag_seconds)
        yield _gauge("ingest_suspects", "Messages set apart because some could not be stored.", found.suspects)
        yield _gauge("ingest_set_aside", "What could not be stored, since the start.", found.set_aside)
        yield _gauge("ingest_connection_replacements", "Dead or stuck threads replaced.", found.replacements)
        yield _by("ingest_throttled", "Acknowledgements withheld, by node.", "node", _most(found.throttled))
        yield _by("ingest_let_go", "Messages of flooding nodes let go, by node.", "node", _most(found.let_go))


def _most(counts: Mapping[str, int]) -> dict[str, int]:
    """The nodes with the most, and the others together: each label is a series for ever."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    others = sum(count for _, count in ranked[NODES_NAMED:])
    return dict(ranked[:NODES_NAMED]) | ({"(others)": others} if others else {})


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"forewarn_{name}", about, value=value)


def _by(name: str, about: str, label: str, values: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"forewarn_{name}", about, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family
