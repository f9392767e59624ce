"""The status as Prometheus metrics (text format 0.0.4), on demand and on this machine only."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

HOST: Final = "127.0.0.1"
REQUEST_BYTES: Final = 8192
SECONDS: Final = 5.0
_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[Mapping[str, str], float]


async def serve(port: int, tell: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    """Answer GET /metrics until cancelled; `tell` gives the status as `status.as_json` makes it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
            writer.write(await _response(request, tell))
            await asyncio.wait_for(writer.drain(), SECONDS)
        writer.close()

    server = await asyncio.start_server(answer, HOST, port, limit=REQUEST_BYTES)
    async with server:
        await server.serve_forever()


async def _response(request: bytes, tell: Callable[[], Awaitable[dict[str, Any]]]) -> bytes:
    method, _, rest = request.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if path != b"/metrics":
        return _http("404 Not Found", "text/plain", "only /metrics is served here\n")
    if method != b"GET":
        return _http("405 Method Not Allowed", "text/plain", "only GET is served here\n")
    return _http("200 OK", _CONTENT_TYPE, exposition(await tell()))


def _http(status: str, content_type: str, text: str) -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def exposition(status: Mapping[str, Any]) -> str:
    """The metrics of a status."""
    return "".join(_families(status))


def _families(status: Mapping[str, Any]) -> Iterator[str]:
    lanes = status["lanes"].items()
    yield _family("spool_records", "gauge", "Records the cloud has not acknowledged.", _of(lanes, "lane", "depth"))
    oldest = _of(lanes, "lane", "oldest_age_s")
    yield _family("spool_oldest_seconds", "gauge", "Age of the oldest of them.", oldest)
    yield _family("spool_last_seq", "gauge", "Last sequence given.", _of(lanes, "lane", "last_seq"))
    yield _family("acknowledged_seq", "gauge", "Last sequence acknowledged.", _of(lanes, "lane", "acknowledged_seq"))
    yield _family("spool_dropped_total", "counter", "Records dropped, told as gaps.", _of(lanes, "lane", "dropped"))
    counters = [({"event": name}, float(value)) for name, value in status["counters"].items()]
    yield _family("events_total", "counter", "What was counted: records, refusals and the like.", counters)
    assets = status["assets"].items()
    yield _family("asset_health_index", "gauge", "1 new, 0 failed.", _of(assets, "asset", "health_index"))
    live = status.get("live")
    if live is not None:
        yield from _live_families(live)


def _live_families(live: Mapping[str, Any]) -> Iterator[str]:
    connection, clock = live["connection"], live["clock"]
    yield _gauge("uplink_connected", "1 while the broker is connected.", connection["state"] == "connected")
    yield _gauge(
        "uplink_takeover_suspected", "1 where another agent may use this name.", connection["takeover_suspected"]
    )
    yield _family(
        "uplink_sessions_total", "counter", "Connections that came up.", [({}, float(connection["sessions"]))]
    )
    yield _gauge("acknowledged_age_seconds", "Since the last acknowledgement of the cloud.", live["acknowledged_s_ago"])
    offset_ms = clock["offset_ms"]
    seconds = None if offset_ms is None else offset_ms / 1000
    yield _gauge("clock_offset_seconds", "How much the cloud's clock is ahead of this one.", seconds)
    yield _gauge("storage_in_memory", "1 while the disk cannot be written.", live["storage"]["in_memory"])
    silent = [({"asset": asset}, float(found["silent"])) for asset, found in live["watchdog"].items()]
    yield _family("asset_silent", "gauge", "1 while nothing new is heard of the asset.", silent)


def _of(rows: Iterable[tuple[str, Mapping[str, Any]]], label: str, field: str) -> list[Sample]:
    return [({label: name}, float(row[field])) for name, row in rows if row[field] is not None]


def _gauge(name: str, about: str, value: float | None) -> str:
    return _family(name, "gauge", about, [] if value is None else [({}, float(value))])


def _family(name: str, kind: str, about: str, samples: Iterable[Sample]) -> str:
    full = f"forewarn_edge_{name}"
    lines = [f"{full}{_labels(labels)} {value:.17g}\n" for labels, value in samples]
    return "".join([f"# HELP {full} {about}\n# TYPE {full} {kind}\n", *lines]) if lines else ""


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
