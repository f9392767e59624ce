"""How numbers, spans and instants read to people. Spans come in hours, instants in epoch milliseconds."""

import math
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from forewarn_cloud.console.i18n import Words

HOUR_MS = 3_600_000


def time_zone(name: str | None) -> tzinfo:
    """The zone of that name; UTC where there is none or this machine does not know it."""
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def iso(at_ms: int) -> str:
    """ISO 8601 in UTC, for machines."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def local(at_ms: int, zone: tzinfo) -> str:
    """The wall clock there, to the minute."""
    return datetime.fromtimestamp(at_ms / 1000, zone).strftime("%Y-%m-%d %H:%M")


def span(hours: float, words: Words) -> str:
    """A length of time in its two leading units; never more precise than anyone could act on."""
    minutes = round(abs(hours) * 60)
    if minutes < 60:
        return words("span.minutes", n=minutes)
    whole_hours = round(abs(hours))
    if whole_hours < 24:
        return words("span.hours", n=whole_hours)
    days, rest = divmod(whole_hours, 24)
    if days >= 10:
        return words("span.days", n=round(abs(hours) / 24))
    return words("span.days_hours", days=days, hours=rest) if rest else words("span.days", n=days)


def relative(at_ms: int, now_ms: int, words: Words) -> str:
    """How long ago, or until."""
    hours = (at_ms - now_ms) / HOUR_MS
    if abs(hours) < 1 / 60:
        return words("span.now")
    return words("span.ahead" if hours > 0 else "span.ago", span=span(hours, words))


def quantity(value: float | None, digits: int = 3) -> str:
    """So many significant digits, as an engineer would write them."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0 or abs(value) >= 1e5:
        return f"{value:.0f}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(places, 4)}f}"


def signed(value: float | None) -> str:
    """A deviation: always with its sign, and no finer than it is known."""
    if value is None or not math.isfinite(value):
        return "–"
    return ("+" if value >= 0 else "−") + quantity(abs(value), digits=2)


def money(value: float | None) -> str:
    """A cost in the tenant's currency, without cents."""
    return "–" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def percent(share: float | None) -> str:
    if share is None or not math.isfinite(share):
        return "–"
    rounded = round(share * 100)
    if rounded == 0 and share > 0:
        return "<1 %"
    return f"{rounded} %"
