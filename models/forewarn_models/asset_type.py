"""Asset types: what is known about a class of machines, as a table. A new signal or failure mode is one row of TOML."""

import math
import re
import tomllib
from importlib import resources
from typing import Final, Literal

import msgspec

from forewarn_models.vibration_zones import MachineClass
from forewarn_models.vibration_zones import limits as zone_limits

Role = Literal["condition", "regime"]
LANGUAGES: Final = ("en", "zh")
SIGNAL_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
"""What a signal may be called: letters, digits and underscores, at most 64, starting with a letter."""
IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""What tenants, nodes, assets, asset types and failure modes may be called. No dots, slashes or MQTT wildcards."""
MAX_SIGNALS: Final = 64
_VELOCITIES_PER_MM_S: Final = {"mm/s": 1.0, "in/s": 1 / 25.4, "cm/s": 0.1, "m/s": 0.001}
_HOUSING_VELOCITIES: Final = ("mm/s", "in/s")
"""Units that hardly mean anything else than vibration of a machine."""
CELSIUS: Final = ("degC", "°C", "℃", "celsius", "Celsius")
FAHRENHEIT: Final = ("degF", "°F", "℉", "fahrenheit", "Fahrenheit")
NUMBERS: Final = ("valid_min", "valid_max", "limit_alert", "limit_alarm", "limit_alert_low", "limit_alarm_low")
"""Keys of a signal that must be finite numbers, where they are given."""
_NAMING: Final = "use letters, digits, _ and -, at most 64"


class AssetTypeError(ValueError):
    """The asset type cannot be used; the message names the field and the fix."""


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same words in every language we speak."""

    en: str
    zh: str

    def in_language(self, language: str) -> str:
        return self.zh if language.startswith("zh") else self.en


class Signal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A measuring point.

    A `condition` signal is watched. A `regime` signal describes the operating condition (speed, load, ambient) and
    explains what the condition signals should read. Values outside [valid_min, valid_max] and the `sentinels` (what a
    broken sensor says: -127, 85, 65535) are missing, not measurements.
    """

    name: str
    unit: str
    role: Role = "condition"
    title: Text | None = None
    valid_min: float | None = None
    valid_max: float | None = None
    sentinels: tuple[float, ...] = ()
    limit_alert: float | None = None
    limit_alarm: float | None = None
    limit_alert_low: float | None = None
    limit_alarm_low: float | None = None
    """Absolute limits, in `unit`, that hold from the first sample on while the machine runs: exceeded upwards, and the
    lower ones (oil pressure) downwards."""
    limit_source: str = ""
    """Where the limits come from (a standard and its clause, or the maker's manual)."""
    machine_class: str | None = None
    """Of a broad-band RMS velocity on a bearing housing: a row of `vibration_zones`, whose boundaries B/C and C/D are
    the limits where none are given."""
    worse: Literal["up", "down", "both"] = "both"
    """Which direction of deviation is bad."""


class Running(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine runs while `signal` is above `above`; otherwise it is off, which is no anomaly."""

    signal: str
    above: float


class PartNeed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    part_no: str
    quantity: int = 1


class FailureMode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One way the machine fails (ISO 14224), how it shows, and what to do about it."""

    code: str
    title: Text
    symptoms: dict[str, float]
    """Condition signal -> expected deviation, signed, relative to the strongest symptom (-1..1)."""
    p_f_interval_hours: float = 336.0
    """Typical running hours from the first detectable symptom to the failure (RCM)."""
    parts: tuple[PartNeed, ...] = ()
    action: Text = Text(en="Inspect the machine.", zh="检查设备。")
    repair_hours: float = 4.0


class AssetType(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A class of machines: its signals in a fixed order, when it runs, how it fails."""

    asset_type: str
    title: Text
    signals: tuple[Signal, ...]
    version: int = 1
    running: Running | None = None
    machine_class: str | None = None
    """Of all condition signals in mm/s or in/s that have neither limits nor a class of their own."""
    failure_modes: tuple[FailureMode, ...] = ()

    @property
    def signal_names(self) -> tuple[str, ...]:
        return tuple(signal.name for signal in self.signals)

    def failure_mode(self, code: str) -> FailureMode | None:
        return next((mode for mode in self.failure_modes if mode.code == code), None)


def parse_asset_type(text: str) -> AssetType:
    """Read an asset type from TOML, completely checked.

    Raises:
        AssetTypeError: it is no TOML, a key is unknown, a type is wrong, or the rows contradict each other.
    """
    try:
        asset_type = msgspec.convert(tomllib.loads(text), AssetType)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise AssetTypeError(str(error)) from None
    return _checked(asset_type)


def generic_asset_type(
    signals: tuple[Signal, ...], name: str = "generic", *, machine_class: str | None = None
) -> AssetType:
    """The asset type of an unknown machine: its signals, with their limits if any, and nothing else.

    Raises:
        AssetTypeError: the rows contradict each other, or a machine class is not known.
    """
    title = Text(en="Machine", zh="设备")
    return _checked(AssetType(asset_type=name, title=title, signals=signals, machine_class=machine_class))


def builtin_names() -> tuple[str, ...]:
    """The asset types that ship with forewarn, sorted."""
    folder = resources.files(__package__).joinpath("asset_types")
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def builtin_asset_type(name: str) -> AssetType:
    """One of the asset types that ship with forewarn.

    Raises:
        AssetTypeError: there is none of that name; the message lists those there are.
    """
    if name not in builtin_names():
        raise AssetTypeError(f"asset_type: {name!r} is not built in; known: {', '.join(builtin_names())}")
    return parse_asset_type(resources.files(__package__).joinpath("asset_types", f"{name}.toml").read_text("utf-8"))


def _checked(asset_type: AssetType) -> AssetType:
    """Complete and right: with the limits that its machine classes stand for."""
    _check(asset_type)
    _known_class(asset_type.machine_class, "machine_class")
    filled = msgspec.structs.replace(
        asset_type, signals=tuple(_with_zone_limits(signal, asset_type.machine_class) for signal in asset_type.signals)
    )
    _check(filled)
    return filled


def _with_zone_limits(signal: Signal, class_of_type: str | None) -> Signal:
    where = f"signals.{signal.name}.machine_class"
    machine_class = _known_class(signal.machine_class, where)
    if machine_class is not None:
        _require(signal.unit in _VELOCITIES_PER_MM_S, where, f"is for velocities in {', '.join(_VELOCITIES_PER_MM_S)}")
    elif class_of_type is not None and signal.role == "condition" and signal.unit in _HOUSING_VELOCITIES:
        machine_class = MachineClass(class_of_type)
    if machine_class is None or signal.limit_alert is not None or signal.limit_alarm is not None:
        return signal
    alert, alarm = (round(limit * _VELOCITIES_PER_MM_S[signal.unit], 6) for limit in zone_limits(machine_class))
    source = signal.limit_source or f"{_class_title(machine_class)}: zones B/C and C/D"
    return msgspec.structs.replace(signal, limit_alert=alert, limit_alarm=alarm, limit_source=source)


def _class_title(machine_class: MachineClass) -> str:
    """ISO 20816-3, group 2, flexible support; or ISO 10816-1, class II."""
    _, standard, part, kind, number, *support = machine_class.split("_")
    words = [f"ISO {standard}-{part}", f"{kind} {number.upper()}", *(f"{word} support" for word in support)]
    return ", ".join(words)


def _known_class(name: str | None, where: str) -> MachineClass | None:
    _require(name is None or name in set(MachineClass), where, f"give one of {', '.join(MachineClass)}")
    return None if name is None else MachineClass(name)


def _check(asset_type: AssetType) -> None:
    _require(bool(IDENTIFIER.fullmatch(asset_type.asset_type)), "asset_type", _NAMING)
    _require(0 < len(asset_type.signals) <= MAX_SIGNALS, "signals", f"give 1 to {MAX_SIGNALS}")
    names = set[str]()
    for signal in asset_type.signals:
        _check_signal(signal, names)
    if asset_type.running is not None:
        _require(asset_type.running.signal in names, "running.signal", "name one of the signals")
    codes = set[str]()
    for mode in asset_type.failure_modes:
        _check_mode(mode, asset_type, codes)


def _check_signal(signal: Signal, names: set[str]) -> None:
    where = f"signals.{signal.name}"
    _require(bool(SIGNAL_NAME.fullmatch(signal.name)), where, "use letters, digits and _, at most 64, a letter first")
    _require(signal.name not in names, where, "give each signal once")
    for name in NUMBERS:
        value = getattr(signal, name)
        _require(value is None or math.isfinite(value), f"{where}.{name}", "give a finite number, or leave it out")
    _require(all(map(math.isfinite, signal.sentinels)), f"{where}.sentinels", "give finite numbers")
    low, high = signal.valid_min, signal.valid_max
    _require(low is None or high is None or low < high, where, "valid_min must be below valid_max")
    alert, alarm = signal.limit_alert, signal.limit_alarm
    _require(alert is None or alarm is None or alert <= alarm, where, "limit_alert must not be above limit_alarm")
    _check_lower_limits(signal, where)
    names.add(signal.name)


def _check_lower_limits(signal: Signal, where: str) -> None:
    alert, alarm = signal.limit_alert_low, signal.limit_alarm_low
    right = alert is None or alarm is None or alert >= alarm
    _require(right, where, "limit_alert_low must not be below limit_alarm_low")
    lows = [limit for limit in (alert, alarm) if limit is not None]
    highs = [limit for limit in (signal.limit_alert, signal.limit_alarm) if limit is not None]
    right = not lows or not highs or max(lows) < min(highs)
    _require(right, where, "the lower limits must be below limit_alert and limit_alarm")


def _check_mode(mode: FailureMode, asset_type: AssetType, codes: set[str]) -> None:
    where = f"failure_modes.{mode.code}"
    condition = {signal.name for signal in asset_type.signals if signal.role == "condition"}
    _require(bool(IDENTIFIER.fullmatch(mode.code)), where, _NAMING)
    _require(mode.code not in codes, where, "give each failure mode once")
    unknown = sorted(mode.symptoms.keys() - condition)
    _require(not unknown, f"{where}.symptoms", f"{', '.join(unknown)} is no condition signal of this type")
    _require(all(-1 <= weight <= 1 for weight in mode.symptoms.values()), f"{where}.symptoms", "keep each within -1..1")
    _require(mode.p_f_interval_hours > 0, f"{where}.p_f_interval_hours", "give a positive number of hours")
    _require(all(need.quantity > 0 for need in mode.parts), f"{where}.parts", "give a positive quantity")
    codes.add(mode.code)


def _require(right: bool, where: str, fix: str) -> None:
    if not right:
        raise AssetTypeError(f"{where}: {fix}")
