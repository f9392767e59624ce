"""An advisory in one sentence, in English and Chinese, for people who must decide whether to act on it."""

import math
from typing import Final

from forewarn_models.asset_type import AssetType, Signal
from forewarn_models.layout import HOUR_MS
from forewarn_models.wire import Advisory

_TELLING_SHARE: Final = 0.2
_MOST_SIGNALS: Final = 2
_UNITS: Final = {"degC": "K", "degF": "°F", "degR": "°R", "m3/h": "m³/h", "m3/min": "m³/min", "m/s2": "m/s²", "1": ""}
"""Of differences: 9 degrees Celsius more are 9 kelvin."""
_WORDS: Final = {
    "en": {
        "above": "{signal} {amount} above what {cause}",
        "below": "{signal} {amount} below what {cause}",
        "regime": "this load explains",
        "usual": "is normal for this machine",
        "limit": "{signal} above its limit of {limit}",
        "over": "{signal} above its limit",
        "for": "{what}, for {time}",
        "doubtful": "the {signal} sensor is doubtful ({fault})",
        "learning": "learning what is normal for this machine",
        "normal": "no deviation from what is normal for this machine",
        "unknown": "nothing to judge by: the machine stands still or its readings are missing",
        "some": "the signals together deviate from what is normal for this machine",
        "stuck": "its reading does not move",
        "leap": "it leapt while the other signals stayed",
        "sentinel": "it reports an error value",
        "out_of_range": "its reading is physically impossible",
        "join": "; ",
        "and": " and ",
        "minutes": "{n} min",
        "hours": "{n} h",
        "days": "{n} days",
    },
    "zh": {
        "above": "{signal}比{cause}高{amount}",
        "below": "{signal}比{cause}低{amount}",
        "regime": "当前工况应有的水平",
        "usual": "本机正常水平",
        "limit": "{signal}超过限值{limit}",
        "over": "{signal}超过限值",
        "for": "{what}，已持续{time}",
        "doubtful": "{signal}传感器可疑（{fault}）",
        "learning": "正在学习本机的正常状态",
        "normal": "与本机正常状态无偏差",
        "unknown": "无法判断：设备停机或缺少读数",
        "some": "各信号综合偏离本机正常状态",
        "stuck": "读数长时间不变",
        "leap": "读数突变而其他信号未变",
        "sentinel": "上报的是故障码",
        "out_of_range": "读数超出物理范围",
        "join": "；",
        "and": "，",
        "minutes": "{n}分钟",
        "hours": "{n}小时",
        "days": "{n}天",
    },
}


def explanation(advisory: Advisory, asset_type: AssetType, language: str) -> str:
    """Why the advisory was given: which signals deviate, by how much, against what, and for how long."""
    words = _WORDS["zh" if language.startswith("zh") else "en"]
    signals = {signal.name: signal for signal in asset_type.signals}
    clauses = [_limit(signals[name], words, language) for name in advisory.limits_exceeded if name in signals]
    if advisory.condition in ("ALERT", "ALARM"):
        clauses += _deviations(advisory, asset_type, words, language)
    clauses += [
        words["doubtful"].format(signal=_title(signals[name], language), fault=words.get(fault, fault))
        for name, fault in advisory.sensor_faults.items()
        if name in signals
    ]
    return words["join"].join(clauses) if clauses else _nothing(advisory, words)


def _deviations(advisory: Advisory, asset_type: AssetType, words: dict[str, str], language: str) -> list[str]:
    telling = [signal for signal in asset_type.signals if _share(advisory, signal.name) >= _TELLING_SHARE]
    telling.sort(key=lambda signal: -_share(advisory, signal.name))
    has_regime = any(signal.role == "regime" for signal in asset_type.signals)
    cause = words["regime" if has_regime else "usual"]
    parts = [
        _deviation(signal, advisory.residuals[signal.name], cause, words, language)
        for signal in telling[:_MOST_SIGNALS]
        if signal.name in advisory.residuals
    ]
    if not parts and advisory.anomaly_score <= 0:
        return []
    what = words["and"].join(parts) if parts else words["some"]
    if advisory.since is None or advisory.since >= advisory.observed_at:
        return [what]
    return [words["for"].format(what=what, time=_duration(advisory.observed_at - advisory.since, words))]


def _share(advisory: Advisory, signal: str) -> float:
    score = advisory.anomaly_score
    return advisory.contributions.get(signal, 0.0) / score if score > 0 else 0.0


def _deviation(signal: Signal, residual: float, cause: str, words: dict[str, str], language: str) -> str:
    side = words["above" if residual >= 0 else "below"]
    return side.format(signal=_title(signal, language), amount=_amount(abs(residual), signal.unit), cause=cause)


def _limit(signal: Signal, words: dict[str, str], language: str) -> str:
    limit = signal.limit_alert if signal.limit_alert is not None else signal.limit_alarm
    if limit is None:
        return words["over"].format(signal=_title(signal, language))
    unit = "°C" if signal.unit == "degC" else _UNITS.get(signal.unit, signal.unit)
    return words["limit"].format(signal=_title(signal, language), limit=f"{limit:g} {unit}".strip())


def _title(signal: Signal, language: str) -> str:
    if signal.title is None:
        return signal.name
    title = signal.title.in_language(language)
    return title if language.startswith("zh") or title[1:2].isupper() else title[:1].lower() + title[1:]


def _amount(size: float, unit: str) -> str:
    """With two significant digits, which is what such an estimate is worth."""
    decimals = max(0, 1 - math.floor(math.log10(size))) if size > 0 else 0
    return f"{round(size, 1 - math.floor(math.log10(size))) if size > 0 else 0.0:.{decimals}f} {_unit(unit)}".strip()


def _unit(unit: str) -> str:
    return _UNITS.get(unit, unit)


def _duration(milliseconds: int, words: dict[str, str]) -> str:
    hours = milliseconds / HOUR_MS
    if hours < 1:
        return words["minutes"].format(n=max(1, round(60 * hours)))
    if hours < 72:
        return words["hours"].format(n=round(hours))
    return words["days"].format(n=round(hours / 24))


def _nothing(advisory: Advisory, words: dict[str, str]) -> str:
    if advisory.maturity == "LEARNING":
        return words["learning"]
    return words["unknown" if advisory.condition == "UNKNOWN" else "normal"]
