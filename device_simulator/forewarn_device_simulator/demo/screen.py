"""What a person sees of the demo: a live table in a terminal, or plain lines without one."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from forewarn_device_simulator.demo.desk import Asset, Health, Order
from forewarn_device_simulator.demo.report import Report
from forewarn_device_simulator.demo.session import Overview
from forewarn_device_simulator.duty import HOUR_MS
from forewarn_device_simulator.live.truth import Failed, WouldFail

CONDITION_STYLES: Final = {"NORMAL": "green", "ALERT": "yellow", "ALARM": "bold red", "UNKNOWN": "dim"}
BAR_CELLS: Final = 10
EVENTS_SHOWN: Final = 9
LINES_BESIDE_ROWS: Final = 17
"""Of the frames, the headings, the events and the footer."""
LEAST_ROWS: Final = 6


class Screen(Protocol):
    """Where the demo tells what happens."""

    def say(self, line: str) -> None: ...

    def show(self, overview: Overview) -> None: ...


class PlainScreen:
    """One line per event, with the day of the run; for logs and machines without a terminal."""

    def __init__(self, begin_ms: int) -> None:
        self._begin_ms = begin_ms
        self._now_ms = begin_ms
        self._console = Console(highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        self._console.print(f"{day(self._now_ms, self._begin_ms)}  {line}", markup=False)

    def show(self, overview: Overview) -> None:
        self._now_ms = overview.now_ms


class LiveScreen:
    """The whole fleet, redrawn in place."""

    def __init__(self, live: Live, begin_ms: int, console_url: str) -> None:
        self._live = live
        self._begin_ms = begin_ms
        self._console_url = console_url
        self._events = deque[str](maxlen=EVENTS_SHOWN)
        self._overview = Overview(now_ms=begin_ms)

    def say(self, line: str) -> None:
        self._events.append(f"{day(self._overview.now_ms, self._begin_ms)}  {line}")
        self._draw()

    def show(self, overview: Overview) -> None:
        self._overview = overview
        self._draw()

    def _draw(self) -> None:
        rows = max(LEAST_ROWS, self._live.console.height - LINES_BESIDE_ROWS)
        self._live.update(picture(self._overview, list(self._events), self._begin_ms, self._console_url, rows))


@contextmanager
def open_screen(*, headless: bool, begin_ms: int, console_url: str) -> Iterator[Screen]:
    if headless:
        yield PlainScreen(begin_ms)
        return
    with Live(console=Console(), refresh_per_second=4, screen=False, vertical_overflow="crop") as live:
        yield LiveScreen(live, begin_ms, console_url)


def picture(overview: Overview, events: list[str], begin_ms: int, console_url: str, rows: int = 1000) -> RenderableType:
    """Everything at one moment; where not all machines fit into `rows`, those that something is known of come first."""
    now = datetime.fromtimestamp(overview.now_ms / 1000, UTC)
    title = f"{day(overview.now_ms, begin_ms)} · {now:%Y-%m-%d %H:%M} UTC · console: {console_url}"
    return Group(
        Panel(_machines(overview, rows), title=title, border_style="blue"),
        Panel("\n".join(events) or "starting ...", title="what happens", border_style="dim"),
        _footer(overview),
    )


def day(now_ms: int, begin_ms: int) -> str:
    hours = max(0.0, (now_ms - begin_ms) / HOUR_MS)
    return f"day {int(hours // 24):2d} {int(hours % 24):02d}h"


def summary(report: Report) -> RenderableType:
    """The end of the story, in one table and a few lines."""
    table = Table(title="Failures that were coming", title_justify="left", show_edge=False)
    for name in ("machine", "failure mode", "untended it fails", "order", "opened", "lead", "parts", "customer told"):
        table.add_column(name, justify="right" if name == "lead" else "left")
    for failure in report.failures:
        table.add_row(
            failure.asset,
            failure.failure_mode,
            _short(failure.would_fail_at),
            failure.order or Text("none", style="bold red"),
            _short(failure.opened_at),
            "" if failure.lead_hours is None else f"{failure.lead_hours:.0f} h",
            ", ".join(f"{part.part_no} ({part.sourcing})" for part in failure.parts),
            _short(failure.notified_at),
        )
    restarts = {name: count for name, count in report.restarts.items() if count}
    lines = [
        f"{report.caught} of {len(report.failures)} failures caught, {report.missed} missed, "
        f"{report.false_orders} false orders of {report.orders}; {report.breakdowns} breakdowns happened",
        f"{report.completed} orders completed, {report.repairs} machines repaired, {report.mails} e-mails arrived",
        f"{report.records_sent} records sent, {report.records_stored} stored: "
        + ("something was LOST" if report.lost else "nothing lost"),
    ]
    if restarts:
        lines.append("restarted: " + ", ".join(f"{name} {count} times" for name, count in restarts.items()))
    return Group(table, Text("\n".join(lines)))


def _machines(overview: Overview, rows: int) -> Table:
    table = Table(expand=True, show_edge=False, pad_edge=False)
    for name in ("machine", "health", "condition", "remaining life", "order", "parts", "untended twin"):
        table.add_column(name, no_wrap=True)
    twins = {t.asset: t for t in overview.truths if isinstance(t, WouldFail) and t.twin}
    broken = {t.asset for t in overview.truths if isinstance(t, Failed)}
    latest = {order.asset: order for order in sorted(overview.orders, key=lambda order: order.opened_at)}
    for asset in _most_telling(overview.assets, set(latest), rows):
        order = latest.get(asset.asset)
        style = CONDITION_STYLES[asset.health.condition] if asset.health else "dim"
        table.add_row(
            Text(asset.asset, style="bold red" if asset.asset in broken else ""),
            _bar(asset.health),
            Text(_condition(asset), style=style),
            _life(asset.health),
            Text(f"{order.number} {order.state.lower()}" if order else "", style=_order_style(order)),
            _parts(order),
            _twin(twins.get(asset.asset), overview.now_ms),
        )
    return table


def _most_telling(assets: Sequence[Asset], ordered: set[str], rows: int) -> list[Asset]:
    """At most `rows` machines in their usual order; the well ones without an order are left out first."""

    def telling(asset: Asset) -> bool:
        return asset.asset in ordered or (asset.health is not None and asset.health.condition in ("ALERT", "ALARM"))

    kept = {asset.asset for asset in sorted(assets, key=telling, reverse=True)[:rows]}
    return [asset for asset in assets if asset.asset in kept]


def _condition(asset: Asset) -> str:
    if asset.health is None:
        return "no word yet"
    learning = asset.health.maturity == "LEARNING" and asset.health.condition in ("NORMAL", "UNKNOWN")
    mode = asset.health.failure_mode if asset.health.condition in ("ALERT", "ALARM") else None
    return ("learning" if learning else asset.health.condition.lower()) + (f" · {mode}" if mode else "")


def _bar(health: Health | None) -> Text:
    if health is None:
        return Text("")
    cells = round(health.health_index * BAR_CELLS)
    style = "green" if health.health_index > 0.7 else "yellow" if health.health_index > 0.4 else "red"
    return Text("█" * cells + "·" * (BAR_CELLS - cells), style=style)


def _life(health: Health | None) -> str:
    if health is None or health.rul_hours_p50 is None:
        return ""
    low, middle, high = (
        (hours or 0.0) / 24 for hours in (health.rul_hours_p10, health.rul_hours_p50, health.rul_hours_p90)
    )
    return f"{middle:.0f} d ({low:.0f} to {high:.0f})"


def _order_style(order: Order | None) -> str:
    if order is None:
        return ""
    return "green" if order.state == "COMPLETED" else "dim" if order.state in ("WITHDRAWN", "CANCELLED") else "cyan"


def _parts(order: Order | None) -> str:
    if order is None:
        return ""
    return ", ".join(f"{part.part_no} {part.state.lower().replace('_', ' ')}" for part in order.reservations)


def _twin(twin: WouldFail | None, now_ms: int) -> Text:
    if twin is None:
        return Text("")
    days = (twin.would_fail_at - now_ms) / HOUR_MS / 24
    return Text(f"broke {-days:.0f} d ago", style="red") if days < 0 else Text(f"breaks in {days:.0f} d", style="dim")


def _footer(overview: Overview) -> Text:
    programs = [
        f"{name} {status.pid or 'restarting'}" + (f" (restarted {status.restarts}x)" if status.restarts else "")
        for name, status in overview.programs.items()
    ]
    stored = sum(lane.records_stored for node in overview.nodes for lane in node.lanes)
    return Text(f"{stored} records stored · {len(overview.mails)} e-mails · " + " · ".join(programs), style="dim")


def _short(instant: str | None) -> str:
    return "" if instant is None else instant[5:16].replace("T", " ")
