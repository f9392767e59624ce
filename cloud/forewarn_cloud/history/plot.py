"""One history as a picture: the signals that say most, the anomaly score, condition, health and remaining life.

What is drawn is what `assess` writes, with the truth of the dataset beside it. Gaps stay gaps. Colours are those of
Okabe and Ito (2008), which people with any colour vision tell apart; shapes say the same once more. The same input
gives the same bytes.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from forewarn_cloud.history.cells import DatasetError
from forewarn_cloud.history.files import written_whole
from forewarn_cloud.history.lives import MS_PER_HOUR, UNCHANGED
from forewarn_cloud.history.story import Story, expected_range, strongest_signals, true_lives
from forewarn_models.assessment import Condition, Maturity
from forewarn_models.asset_type import Signal
from forewarn_models.condition import ALERT_LEVEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS: Final = ("png", "svg")
SIGNALS_SHOWN: Final = 3
_SHARE_SHOWN: Final = 0.05
"""Of the score; a signal beside the strongest that says less is not worth a panel."""
_POINTS: Final = 2400
"""A line of more points looks the same; of each stretch its lowest and highest are kept."""
_GAP: Final = 5.0
"""A step of so many usual ones is a gap."""
_SHORT_MS: Final = 3 * MS_PER_HOUR
"""A shorter history is told in minutes and seconds."""
_DAY_MS: Final = 24 * MS_PER_HOUR

_OBSERVED, _EXPECTED, _ALERT, _ALARM = "#0072B2", "#56B4E9", "#E69F00", "#D55E00"
_FAULT, _UNKNOWN, _NORMAL, _TRUTH = "#CC79A7", "#999999", "#009E73", "#000000"
_COLOURS: Final = {
    Condition.UNKNOWN: _UNKNOWN,
    Condition.NORMAL: _NORMAL,
    Condition.ALERT: _ALERT,
    Condition.ALARM: _ALARM,
}
_CHINESE_FONTS: Final = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "SimHei",
    "Droid Sans Fallback",
)
_WORDS: Final = {
    "en": {
        "observed": "observed",
        "band": "expected: 95 % of the\nhealthy samples",
        "score": "anomaly score",
        "condition": "condition",
        "UNKNOWN": "UNKNOWN",
        "NORMAL": "NORMAL",
        "ALERT": "ALERT",
        "ALARM": "ALARM",
        "health": "health index",
        "rul": "remaining life [h]",
        "fan": "P10 to P90",
        "p50": "P50",
        "truth": "truth",
        "no_rul": "no remaining life: nothing supports a number",
        "fault": "labelled fault",
        "failure": "failure",
        "repair": "maintenance",
        "alarm": "ALARM begins",
        "learning": "still learning",
        "hours": "hours since the first sample",
        "since_minutes": "minutes since the first sample",
        "share": "{share:.0%} of the score",
        "utc": "UTC",
        "none": "no ALARM",
        "first": "first ALARM {at} UTC",
        "comma": ", ",
        "after_fault": "{duration} after the labelled fault began",
        "before_failure": "{duration} before the failure",
        "days": "{n:.0f} days",
        "hours_n": "{n:.0f} h",
        "minutes": "{n:.0f} min",
        "seconds": "{n:.0f} s",
    },
    "zh": {
        "observed": "测量值",
        "band": "预期值：95% 的健康样本",
        "score": "异常得分",
        "condition": "状态",
        "UNKNOWN": "未知",
        "NORMAL": "正常",
        "ALERT": "预警",
        "ALARM": "报警",
        "health": "健康度",
        "rul": "剩余寿命 [h]",
        "fan": "P10 至 P90",
        "p50": "P50",
        "truth": "真实值",
        "no_rul": "无剩余寿命：没有依据给出数值",
        "fault": "标注的故障",
        "failure": "失效",
        "repair": "维护",
        "alarm": "报警开始",
        "learning": "学习中",
        "hours": "自首个样本起的小时数",
        "since_minutes": "自首个样本起的分钟数",
        "share": "占得分的 {share:.0%}",
        "utc": "UTC",
        "none": "无报警",
        "first": "首次报警：{at} UTC",
        "comma": "，",
        "after_fault": "标注故障开始后 {duration}",
        "before_failure": "失效前 {duration}",
        "days": "{n:.0f} 天",
        "hours_n": "{n:.0f} 小时",
        "minutes": "{n:.0f} 分钟",
        "seconds": "{n:.0f} 秒",
    },
}
_STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "forewarn",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 0.9,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "timezone": "UTC",
}


def save_picture(out: Path, story: Story, language: str = "en") -> None:
    """Draw the story into a file whose name ends in .png or .svg; an old file is replaced only by a complete one.

    Raises:
        DatasetError: letters of the language cannot be drawn; it says what to install.
        OSError: the file cannot be written.
    """
    kind = out.suffix.removeprefix(".").lower()
    with _drawing(kind, language), written_whole(out) as unfinished:
        figure = _draw(story, _WORDS[language], language)
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(unfinished, format=kind, dpi=150, metadata=metadata)


@contextmanager
def _drawing(kind: str, language: str) -> Iterator[None]:
    """The settings of a picture. An SVG keeps its letters as letters, so its viewer needs the font, not we."""
    import matplotlib

    families = ["DejaVu Sans"]
    if language == "zh":
        families.extend(_CHINESE_FONTS if kind == "svg" else [_chinese_font()])
    if kind == "svg":
        families.append("sans-serif")
    with warnings.catch_warnings(), matplotlib.rc_context({**_STYLE, "font.family": families}):
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
        if kind == "svg":
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _chinese_font() -> str:
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    for name in _CHINESE_FONTS:
        if name in installed:
            return name
    raise DatasetError(
        "no font with Chinese letters is installed; install one (fonts-noto-cjk), or write an .svg, which needs none"
    )


# --- the picture ----------------------------------------------------------------------------------------------------


def _draw(story: Story, words: dict[str, str], language: str) -> "Figure":
    from matplotlib.figure import Figure

    strongest, *others = strongest_signals(story, SIGNALS_SHOWN)
    shown = [strongest, *(other for other in others if not other[1] < _SHARE_SHOWN)]
    prognosed = np.isfinite(story.said.rul_hours).any() or any(true_lives(story))
    heights = [*([1.15] * len(shown)), 1.3, 0.55, 0.9, 1.4 if prognosed else 0.4]
    figure = Figure(figsize=(10.5, 1.25 * sum(heights) + 1.0), layout="constrained")
    panels: list[Axes] = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    figure.suptitle(f"{story.asset} · {story.dataset.description.name}", x=0.01, ha="left", fontsize=13, weight="bold")
    for panel, (number, share) in zip(panels, shown, strict=False):
        _draw_signal(panel, story, number, words, language)
        if np.isfinite(share):
            told = words["share"].format(share=share)
            panel.text(1.012, 0.02, told, transform=panel.transAxes, va="bottom", fontsize=8)
    score, condition, health, rul = panels[len(shown) :]
    _draw_score(score, story, words)
    _draw_condition(condition, story, words)
    _draw_health(health, story, words)
    _draw_rul(rul, story, words)
    for panel in panels:
        _draw_events(panel, story, words, labelled=panel is score)
        if panel not in panels[1 : len(shown)]:
            _put_legend(panel)
    _draw_time(panels, story, words)
    panels[0].set_title(_headline(story, words), loc="left", fontsize=10)
    figure.align_ylabels(panels)
    return figure


def _draw_signal(panel: "Axes", story: Story, number: int, words: dict[str, str], language: str) -> None:
    at, lower, upper = _thinned(story.t_ms, *expected_range(story, number))
    if np.isfinite(lower).any():
        panel.fill_between(at, lower, upper, color=_EXPECTED, alpha=0.35, linewidth=0, label=words["band"])
    at, readings = _line(story.t_ms, story.values[:, number])
    _plot_line(panel, at, readings, color=_OBSERVED, label=words["observed"])
    low, high = np.nanquantile(readings, [0.001, 0.999]) if np.isfinite(readings).any() else (0.0, 1.0)
    margin = 0.15 * (high - low) or 1.0
    panel.set_ylim(low - margin, high + margin)
    panel.set_ylabel(_name_of(story.dataset.asset_type.signals[number], language))


def _plot_line(panel: "Axes", at: NDArray[Any], line: NDArray[Any], **style: Any) -> None:
    """A line, and a dot where a point has no neighbour."""
    panel.plot(at, line, **style)
    seen = np.concatenate(([False], np.isfinite(line), [False]))
    alone = np.flatnonzero(seen[1:-1] & ~seen[:-2] & ~seen[2:])
    panel.plot(at[alone], line[alone], ".", markersize=3, color=style["color"])


def _draw_score(panel: "Axes", story: Story, words: dict[str, str]) -> None:
    score = story.said.anomaly_score[:, 0]
    at, line = _line(story.t_ms, score)
    _plot_line(panel, at, line, color=_OBSERVED)
    for level, name, colour in ((ALERT_LEVEL, "ALERT", _ALERT), (1.0, "ALARM", _ALARM)):
        panel.axhline(level, color=colour, linestyle="--" if name == "ALERT" else "-", linewidth=0.9, label=words[name])
    top = max(1.6, float(np.nanmax(score)) * 1.1)
    if top > 6.0:
        panel.set_yscale("symlog", linthresh=1.5, linscale=1.5)
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.set_ylim(0, top)
    begins = _days(story.t_ms[story.alarms])
    if len(begins):
        across = panel.get_xaxis_transform()
        panel.plot(
            begins, np.full(len(begins), 0.94), "v", transform=across, color=_ALARM, markersize=6, label=words["alarm"]
        )
    panel.set_ylabel(words["score"])


def _draw_condition(panel: "Axes", story: Story, words: dict[str, str]) -> None:
    """Bars as high as the condition is bad; nothing where the machine was not seen."""
    for condition, colour in _COLOURS.items():
        for start, stop in _runs(story, story.condition == condition):
            panel.fill_between([start, stop], 0, 0.25 + condition, color=colour, linewidth=0)
    panel.set_yticks([0.25 + c for c in Condition], [words[c.name] for c in Condition], fontsize=7)
    panel.set_ylim(0, 3.4)
    panel.set_ylabel(words["condition"])


def _draw_health(panel: "Axes", story: Story, words: dict[str, str]) -> None:
    at, line = _line(story.t_ms, story.said.health_index[:, 0])
    _plot_line(panel, at, line, color=_NORMAL, linewidth=1.2)
    panel.set_ylim(0, 1.05)
    for number, (start, stop) in enumerate(_runs(story, story.said.maturity[:, 0] == Maturity.LEARNING)):
        label = words["learning"] if number == 0 else None
        panel.axvspan(start, stop, color=_UNKNOWN, alpha=0.25, linewidth=0, label=label)
    panel.set_ylabel(words["health"])


def _draw_rul(panel: "Axes", story: Story, words: dict[str, str]) -> None:
    hours = story.said.rul_hours[:, 0]
    given = np.isfinite(hours).all(axis=1)
    view = list[float]()
    for life, failed_ms in true_lives(story):
        ends = np.array([life.started_ms, min(life.ended_ms, failed_ms)])
        left = (failed_ms - ends) / MS_PER_HOUR
        label = None if view else words["truth"]
        panel.plot(_days(ends), left, color=_TRUTH, linestyle="--", linewidth=1.1, label=label)
        view.append(float(left.max()))
    if given.any():
        at, low, middle, high = _thinned(story.t_ms, *hours.T)
        panel.fill_between(at, low, high, color=_EXPECTED, alpha=0.4, linewidth=0, label=words["fan"])
        _plot_line(panel, at, middle, color=_OBSERVED, label=words["p50"])
        view.append(float(np.quantile(hours[given, 1], 0.98)) if view else float(np.quantile(hours[given, 2], 0.9)))
    else:
        x, y, side = (0.99, 0.85, "right") if view else (0.5, 0.5, "center")
        panel.text(x, y, words["no_rul"], transform=panel.transAxes, ha=side, va="center", color="#555555")
    if view:
        panel.set_ylim(0, 1.15 * max(view) or 1.0)
        panel.set_ylabel(words["rul"])
    else:
        panel.set_yticks([])


def _draw_events(panel: "Axes", story: Story, words: dict[str, str], *, labelled: bool) -> None:
    """Labelled faults, failures and maintenance across a panel."""

    def label(name: str, number: int) -> str | None:
        return words[name] if labelled and number == 0 else None

    first, last = story.t_ms[0], story.t_ms[-1]
    for number, fault in enumerate(story.dataset.faults or ()):
        start, stop = _days(np.array([fault.started_ms, fault.ended_ms]))
        panel.axvspan(start, stop, color=_FAULT, alpha=0.18, linewidth=0, zorder=0, label=label("fault", number))
    failures = [f.failed_ms for f in story.dataset.failures or () if first <= f.failed_ms <= last + _DAY_MS * 30]
    for number, failed_ms in enumerate(failures):
        panel.axvline(_day(failed_ms), color=_TRUTH, linewidth=1.4, label=label("failure", number))
    works = [work.at_ms for work in story.dataset.maintenance if work.kind not in UNCHANGED]
    for number, at_ms in enumerate(works):
        panel.axvline(_day(at_ms), color=_TRUTH, linewidth=0.9, linestyle=":", label=label("repair", number))


def _draw_time(panels: list["Axes"], story: Story, words: dict[str, str]) -> None:
    dates: Any = import_module("matplotlib.dates")
    locator = dates.AutoDateLocator(minticks=4, maxticks=9)
    panels[-1].xaxis.set_major_locator(locator)
    panels[-1].xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    panels[-1].set_xlabel(words["utc"])
    start, stop = _days(story.t_ms[[0, -1]])
    margin = (stop - start or 1 / 24) * 0.01
    panels[-1].set_xlim(start - margin, stop + margin)
    short = _is_short(story)
    units_a_day = 24 * 60 if short else 24

    def since_first(days: Any) -> Any:
        return (days - start) * units_a_day

    def as_days(since: Any) -> Any:
        return since / units_a_day + start

    above = panels[0].secondary_xaxis("top", functions=(since_first, as_days))
    above.set_xlabel(words["since_minutes" if short else "hours"], fontsize=8)
    above.tick_params(labelsize=8)


def _is_short(story: Story) -> bool:
    return bool(story.t_ms[-1] - story.t_ms[0] < _SHORT_MS)


def _put_legend(panel: "Axes") -> None:
    """Beside the panel, where it hides nothing."""
    handles, labels = panel.get_legend_handles_labels()
    if handles:
        panel.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.005, 1.05), borderaxespad=0.0)


def _headline(story: Story, words: dict[str, str]) -> str:
    """When the first ALARM came, measured by what the dataset knows of the truth."""
    alarms = story.t_ms[story.alarms]
    if len(alarms) == 0:
        return words["none"]
    first = int(alarms[0])
    at = str(np.datetime64(first, "ms").astype(f"datetime64[{'s' if _is_short(story) else 'm'}]")).replace("T", " ")
    told = [words["first"].format(at=at)]
    begun = [f.started_ms for f in story.dataset.faults or () if f.started_ms <= first <= f.ended_ms]
    failed = [failed_ms for _, failed_ms in true_lives(story) if failed_ms >= first]
    if begun:
        told.append(words["after_fault"].format(duration=_duration(first - begun[0], words)))
    if failed:
        told.append(words["before_failure"].format(duration=_duration(failed[0] - first, words)))
    return words["comma"].join(told)


def _duration(ms: int, words: dict[str, str]) -> str:
    steps = (("days", _DAY_MS), ("hours_n", MS_PER_HOUR), ("minutes", 60_000), ("seconds", 1000))
    unit, size = next(((unit, size) for unit, size in steps if ms >= (10 if unit == "days" else 3) * size), steps[-1])
    return words[unit].format(n=ms / size)


def _name_of(signal: Signal, language: str) -> str:
    name = signal.title.in_language(language) if signal.title else signal.name
    lines = name if len(name) <= 18 else _broken(name)
    return lines if signal.unit in ("", "1") else f"{lines}\n[{signal.unit}]"


def _broken(name: str) -> str:
    """A long name in two lines, broken near its middle."""
    places = [i for i, letter in enumerate(name) if letter in "_ "] or [len(name) // 2]
    at = min(places, key=lambda i: abs(i - len(name) / 2))
    return f"{name[: at + 1]}\n{name[at + 1 :]}"


# --- lines with gaps ------------------------------------------------------------------------------------------------


def _days(t_ms: NDArray[np.int64]) -> NDArray[np.float64]:
    """Days since 1970, as matplotlib counts them."""
    return np.asarray(t_ms / _DAY_MS)


def _day(t_ms: int) -> float:
    return t_ms / _DAY_MS


def _gaps(t_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of the samples before which nothing was seen for long."""
    steps = np.diff(t_ms)
    return np.flatnonzero(steps > _GAP * np.median(steps)) + 1 if len(steps) else np.empty(0, np.int64)


def _line(t_ms: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """A line broken at its gaps; of long ones the lowest and the highest point of each stretch."""
    keep = np.arange(len(values))
    if len(values) > _POINTS:
        edges = np.linspace(0, len(values), _POINTS // 2 + 1).astype(int)[:-1]
        keep = np.unique(np.concatenate((_extremes(values, edges, np.argmin), _extremes(values, edges, np.argmax))))
    gaps = _gaps(t_ms)
    return _with_gaps(t_ms, values, keep, gaps)


def _extremes(values: NDArray[np.float64], edges: NDArray[np.int64], which: Any) -> NDArray[np.int64]:
    worst = np.inf if which is np.argmin else -np.inf
    filled = np.where(np.isnan(values), worst, values)
    return np.array([first + which(part) for first, part in zip(edges, np.split(filled, edges[1:]), strict=True)])


def _with_gaps(
    t_ms: NDArray[np.int64], values: NDArray[np.float64], keep: NDArray[np.int64], gaps: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[Any]]:
    places = np.searchsorted(keep, gaps)
    return np.insert(_days(t_ms[keep]), places, _days(t_ms[gaps - 1])), np.insert(values[keep], places, np.nan)


def _thinned(t_ms: NDArray[np.int64], *lines: NDArray[np.float64]) -> tuple[NDArray[Any], ...]:
    """Smooth lines over the same times, broken at gaps; of long ones every k-th point."""
    keep = np.arange(0, len(t_ms), max(1, len(t_ms) // _POINTS))
    gaps = _gaps(t_ms)
    broken = [_with_gaps(t_ms, line, keep, gaps) for line in lines]
    return broken[0][0], *(line for _, line in broken)


def _runs(story: Story, which: NDArray[np.bool_]) -> Iterator[tuple[float, float]]:
    """Start and end in days of each stretch of samples for which it is so; it lasts until the next sample or gap."""
    t_ms = story.t_ms
    usual = float(np.median(np.diff(t_ms))) if len(t_ms) > 1 else 0.0
    until = np.minimum(np.append(t_ms[1:], t_ms[-1] + usual), t_ms + _GAP * usual)
    breaks = np.zeros(len(t_ms), bool)
    breaks[_gaps(t_ms)] = True
    begins = which & (breaks | ~np.concatenate(([False], which[:-1])))
    ends = which & np.append(breaks[1:] | ~which[1:], True)
    for start, stop in zip(t_ms[begins], until[ends], strict=True):
        yield start / _DAY_MS, stop / _DAY_MS
