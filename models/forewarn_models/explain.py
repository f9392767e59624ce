"""An advisory in one sentence, in English and Chinese, for people who must decide whether to act on it.

It says no more than is known: a direction only where the residual stands out from its scatter in health, two digits,
"possibly" where a failure mode is not likelier than all else together, and that a model is young while it is.
"""

import math
import re
from collections.abc import Sequence
from typing import Final

from forewarn_models.advisory import SILENT
from forewarn_models.asset_type import CELSIUS, FAHRENHEIT, AssetType, FailureMode, Signal
from forewarn_models.layout import HOUR_MS
from forewarn_models.wire import Advisory

SIGNIFICANT: Final = 2.0
"""Standard deviations from which a residual has a direction: by chance one in forty points to either side."""
_TELLING_SHARE: Final = 0.15
_MOST_SIGNALS: Final = 3
_LIKELY: Final = 0.5
_POSSIBLE: Final = 0.25
_MOST_PERCENT: Final = 1000.0
_NO_UNIT: Final = frozenset(("", "1", "-", "raw", "count", "counts", "a.u.", "au"))
"""A size in them tells a technician nothing: it is told as a share of what was expected."""
_SYMBOLS: Final = {
    "m3/h": "m³/h",
    "m3/min": "m³/min",
    "m3/s": "m³/s",
    "m/s2": "m/s²",
    "degR": "°R",
    "um": "µm",
    "uV": "µV",
    **dict.fromkeys(CELSIUS, "°C"),
    **dict.fromkeys(FAHRENHEIT, "°F"),
    **dict.fromkeys(_NO_UNIT, ""),
}
_OF_DIFFERENCES: Final = {
    **dict.fromkeys(CELSIUS, "K"),
    **{"barg": "bar", "bara": "bar", "bar(g)": "bar", "bar(a)": "bar", "psig": "psi", "psia": "psi"},
}
"""9 degrees Celsius more are 9 kelvin, and a difference of pressures is neither gauge nor absolute."""
_STANDARD: Final = re.compile(
    r"\b(?:ISO|IEC|API|VDI|DIN|EN|GB/T|GB|ANSI|ASME|NEMA|JIS)(?:[ /](?:[A-Z]+[ /])?)\d[\d.-]*\d"
)
_WORDS: Final = {
    "en": {
        "above": "{signal} {amount} above",
        "below": "{signal} {amount} below",
        "from": "{parts} {cause}",
        "unlike": "{signals} unlike {cause}, in no clear direction",
        "regime": "what this load explains",
        "usual": "what is normal for this machine",
        "over": "{signal} above its limit",
        "under": "{signal} below its lower limit",
        "outside": "{signal} outside its limits",
        "of": "{what} of {limit}",
        "source": "{what} ({standard})",
        "range": "{low} to {high}",
        "for": "{what}, for {time}",
        "probably": "probably {modes}",
        "possibly": "possibly {modes}",
        "mode": "{mode} ({percent} %)",
        "no_mode": "none of the known failure modes fits",
        "provisional": "provisional: this machine has not been watched for long",
        "doubtful": "the {signal} sensor is doubtful ({fault})",
        "learning": "learning what is normal for this machine",
        "still_learning": "still learning what is normal for this machine",
        "normal": "no deviation from what is normal for this machine",
        "unknown": "nothing to judge by: the machine stands still or its readings are missing",
        "silent": "no new readings: the machine, its sensors or the network between are silent",
        "some": "the signals together deviate from what is normal for this machine",
        "stuck": "its reading does not move",
        "leap": "it leapt while the other signals stayed",
        "sentinel": "it reports an error value",
        "out_of_range": "its reading is physically impossible",
        "join": "; ",
        "comma": ", ",
        "and": " and ",
        "or": " or ",
        "percent": "{n} %",
        "points": "{n} percentage points",
        "point": "{n} percentage point",
        "seconds": "{n} s",
        "minutes": "{n} min",
        "hours": "{n} h",
        "days": "{n} days",
        "weeks": "{n} weeks",
    },
    "zh": {
        "above": "{signal}{cause}高{amount}",
        "below": "{signal}{cause}低{amount}",
        "from": "{parts}",
        "unlike": "{signals}偏离{cause}，方向不明",
        "regime": "当前工况下的正常值",
        "usual": "本机正常值",
        "than": "比{cause}",
        "over": "{signal}超过上限",
        "under": "{signal}低于下限",
        "outside": "{signal}超出允许范围",
        "of": "{what}{limit}",
        "source": "{what}（{standard}）",
        "range": "{low}至{high}",
        "for": "{what}，已持续{time}",
        "probably": "很可能是{modes}",
        "possibly": "可能是{modes}",
        "mode": "{mode}（{percent}%）",
        "no_mode": "与已知故障模式均不符",
        "provisional": "初步判断：本机的监测时间尚短",
        "doubtful": "{signal}传感器可疑（{fault}）",
        "learning": "正在学习本机的正常状态",
        "still_learning": "仍在学习本机的正常状态",
        "normal": "未偏离本机正常状态",
        "unknown": "无法判断：设备停机或缺少读数",
        "silent": "没有新的读数：设备、传感器或其间的网络没有响应",
        "some": "各信号综合偏离本机正常状态",
        "stuck": "读数长时间不变",
        "leap": "读数突变而其他信号未变",
        "sentinel": "上报的是故障码",
        "out_of_range": "读数超出物理范围",
        "join": "；",
        "comma": "，",
        "and": "，",
        "or": "或",
        "percent": "{n}%",
        "points": "{n}个百分点",
        "point": "{n}个百分点",
        "seconds": "{n}秒",
        "minutes": "{n}分钟",
        "hours": "{n}小时",
        "days": "{n}天",
        "weeks": "{n}周",
    },
}


def explanation(advisory: Advisory, asset_type: AssetType, language: str) -> str:
    """Why the advisory was given: what deviates, by how much, against what and for how long; what it looks like.

    Signals the type does not know are called by their own names.
    """
    told = _Telling(advisory, asset_type, language)
    clauses = [told.limit(name) for name in advisory.limits_exceeded]
    if advisory.condition in ("ALERT", "ALARM"):
        clauses += [*told.deviations(), *told.failure_modes()]
    clauses += [told.sensor(name, fault) for name, fault in advisory.sensor_faults.items()]
    return told.words["join"].join([*clauses, *told.doubt()]) if clauses else told.nothing()


def recommendation(advisory: Advisory, asset_type: AssetType, language: str) -> str | None:
    """What to check or do: the action of the likeliest failure mode; None where none is likely enough to be named."""
    named = _Telling(advisory, asset_type, language).named_modes()
    return named[0][0].action.in_language(language) if named else None


class _Telling:
    """One advisory, to be told in one language."""

    def __init__(self, advisory: Advisory, asset_type: AssetType, language: str) -> None:
        self.advisory, self.asset_type, self.language = advisory, asset_type, language
        self.words = _WORDS["zh" if language.startswith("zh") else "en"]
        self.known = {signal.name: signal for signal in asset_type.signals}
        has_regime = any(signal.role == "regime" for signal in asset_type.signals)
        self.cause = self.words["regime" if has_regime else "usual"]

    # --- limits ---

    def limit(self, name: str) -> str:
        """Which limit is exceeded, and the standard it comes from."""
        words, signal = self.words, self.signal(name)
        low = _first(signal.limit_alert_low, signal.limit_alarm_low)
        high = _first(signal.limit_alert, signal.limit_alarm)
        side = self._side(name, low, high)
        limits = {"over": [high], "under": [low], "outside": [low, high]}[side]
        what = words[side].format(signal=self.title(name))
        amounts = [f"{limit:g} {_symbol(signal.unit)}".strip() for limit in limits if limit is not None]
        if amounts:
            limit = amounts[0] if len(amounts) == 1 else words["range"].format(low=amounts[0], high=amounts[1])
            what = words["of"].format(what=what, limit=limit)
        standard = _STANDARD.search(signal.limit_source)
        return what if standard is None else words["source"].format(what=what, standard=standard.group())

    def _side(self, name: str, low: float | None, high: float | None) -> str:
        if low is None or high is None:
            return "over" if low is None else "under"
        direction = self.direction(name)
        return "outside" if direction == 0 else "over" if direction > 0 else "under"

    # --- deviations ---

    def deviations(self) -> list[str]:
        """What deviates, the strongest first, and for how long."""
        telling = [name for name in self.advisory.contributions if self.share(name) >= _TELLING_SHARE]
        telling = sorted(telling, key=lambda name: -self.share(name))[:_MOST_SIGNALS]
        directed = [name for name in telling if self.direction(name) != 0]
        parts = [self._from_cause(directed)] if directed else []
        if len(directed) < len(telling):
            vague = self.listed([self.title(name) for name in telling if name not in directed], "and")
            parts.append(self.words["unlike"].format(signals=vague, cause=self.cause))
        if not parts and self.advisory.anomaly_score <= 0:
            return []
        return [self._lasting(self.words["comma"].join(parts) or self.words["some"])]

    def _from_cause(self, names: Sequence[str]) -> str:
        """English names the cause last and once, Chinese first and once."""
        than = self.words.get("than", "").format(cause=self.cause)
        parts = [self._deviation(name, than if i == 0 else "") for i, name in enumerate(names)]
        return self.words["from"].format(parts=self.listed(parts, "and"), cause=self.cause)

    def _deviation(self, name: str, cause: str) -> str:
        side = self.words["above" if self.direction(name) > 0 else "below"]
        return side.format(signal=self.title(name), amount=self.amount(name), cause=cause)

    def _lasting(self, what: str) -> str:
        since, until = self.advisory.since, self.advisory.observed_at
        if since is None or since >= until:
            return what
        return self.words["for"].format(what=what, time=_duration(until - since, self.words))

    def share(self, name: str) -> float:
        score = self.advisory.anomaly_score
        return self.advisory.contributions[name] / score if score > 0 else 0.0

    def direction(self, name: str) -> int:
        """1 up, -1 down; 0 where the residual does not stand out, or says nothing."""
        residual = self.advisory.residuals.get(name, 0.0)
        insignificant = abs(self.advisory.significance.get(name, math.inf)) < SIGNIFICANT
        return 0 if residual == 0 or insignificant else 1 if residual > 0 else -1

    def amount(self, name: str) -> str:
        """How far it deviates: in its unit, or as a percentage where there is none that says something."""
        residual, unit = abs(self.advisory.residuals[name]), self.signal(name).unit
        expected = abs(self.advisory.expected.get(name, 0.0))
        if unit == "%":
            return self.words["point" if _number(residual) == "1" else "points"].format(n=_number(residual))
        if unit in _NO_UNIT and 100.0 * residual < _MOST_PERCENT * expected:
            return self.words["percent"].format(n=_number(100.0 * residual / expected))
        return f"{_number(residual)} {_OF_DIFFERENCES.get(unit, _symbol(unit))}".strip()

    # --- diagnosis, sensors, doubt ---

    def failure_modes(self) -> list[str]:
        modes = self.advisory.failure_modes
        named = self.named_modes()
        if not named:
            return [self.words["no_mode"]] if modes and 1.0 - sum(modes.values()) >= _LIKELY else []
        certain = named[0][1] >= _LIKELY and self.advisory.maturity == "MATURE"
        titles = [
            self.words["mode"].format(mode=_lower(mode.title.in_language(self.language)), percent=_percent(p))
            for mode, p in named
        ]
        return [self.words["probably" if certain else "possibly"].format(modes=self.listed(titles, "or"))]

    def named_modes(self) -> list[tuple[FailureMode, float]]:
        """The failure mode that is likelier than all else, else those that are possible; the likeliest first."""
        ranked = sorted(self.advisory.failure_modes.items(), key=lambda item: -item[1])
        known = [(mode, p) for code, p in ranked if (mode := self.asset_type.failure_mode(code)) is not None]
        likely = [(mode, p) for mode, p in known if p >= _LIKELY]
        return likely[:1] or [(mode, p) for mode, p in known if p >= _POSSIBLE]

    def sensor(self, name: str, fault: str) -> str:
        return self.words["doubtful"].format(signal=self.title(name), fault=self.words.get(fault, fault))

    def doubt(self) -> list[str]:
        doubts = {"LEARNING": "still_learning", "PROVISIONAL": "provisional"}
        worried = self.advisory.condition in ("ALERT", "ALARM")
        return [self.words[doubts[self.advisory.maturity]]] if worried and self.advisory.maturity in doubts else []

    def nothing(self) -> str:
        if self.advisory.reason == SILENT:
            return self.words["silent"]
        if self.advisory.maturity == "LEARNING":
            return self.words["learning"]
        return self.words["unknown" if self.advisory.condition == "UNKNOWN" else "normal"]

    # --- names ---

    def signal(self, name: str) -> Signal:
        return self.known.get(name) or Signal(name=name, unit="")

    def title(self, name: str) -> str:
        title = self.signal(name).title
        return name if title is None else _lower(title.in_language(self.language))

    def listed(self, items: Sequence[str], last: str) -> str:
        """a, b and c"""
        head, tail = self.words["comma"].join(items[:-1]), items[-1]
        return f"{head}{self.words[last]}{tail}" if head else tail


def _lower(title: str) -> str:
    """As in the middle of a sentence; an abbreviation stays as it is."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def _first(alert: float | None, alarm: float | None) -> float | None:
    return alarm if alert is None else alert


def _symbol(unit: str) -> str:
    return _SYMBOLS.get(unit, unit)


def _number(size: float) -> str:
    """With two significant digits, which is what such an estimate is worth."""
    if size <= 0:
        return "0"
    decimals = 1 - math.floor(math.log10(size))
    rounded = round(size, decimals)
    if rounded < 1e-4:
        return f"{rounded:.1e}"
    text = f"{rounded:,.{max(0, decimals)}f}" if rounded >= 10_000 else f"{rounded:.{max(0, decimals)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _percent(probability: float) -> str:
    """Never 0 or 100: nothing here is certain."""
    return str(min(99, max(1, round(100.0 * probability))))


def _duration(milliseconds: int, words: dict[str, str]) -> str:
    seconds, hours = milliseconds / 1000, milliseconds / HOUR_MS
    if seconds < 90:
        return words["seconds"].format(n=max(1, round(seconds)))
    if seconds < 90 * 60:
        return words["minutes"].format(n=round(seconds / 60))
    if hours < 72:
        return words["hours"].format(n=round(hours))
    if hours < 28 * 24:
        return words["days"].format(n=round(hours / 24))
    return words["weeks"].format(n=round(hours / 24 / 7))
