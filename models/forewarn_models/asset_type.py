"""Asset types: what is known about a class of machines, as a table. A new signal or failure mode is one row of TOML."""

import re
import tomllib
from importlib import resources
from typing import Final, Literal

import msgspec

Role = Literal["condition", "regime"]
LANGUAGES: Final = ("en", "zh")
SIGNAL_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
"""What a signal may be called: letters, digits and underscores, at most 64, starting with a letter."""
IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""What tenants, nodes, assets, asset types and failure modes may be called. No dots, slashes or MQTT wildcards."""
MAX_SIGNALS: Final = 64
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
    """Absolute limits, in `unit`, that hold from the first sample on; exceeded upwards."""
    limit_source: str = ""
    """Where the limits come from (a standard and its clause, or the maker's manual)."""
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
    _check(asset_type)
    return asset_type


def generic_asset_type(signals: tuple[Signal, ...], name: str = "generic") -> AssetType:
    """The asset type of an unknown machine: its signals and nothing else; no failure modes, no limits."""
    asset_type = AssetType(asset_type=name, title=Text(en="Machine", zh="设备"), signals=signals)
    _check(asset_type)
    return asset_type


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
    low, high = signal.valid_min, signal.valid_max
    _require(low is None or high is None or low < high, where, "valid_min must be below valid_max")
    alert, alarm = signal.limit_alert, signal.limit_alarm
    _require(alert is None or alarm is None or alert <= alarm, where, "limit_alert must not be above limit_alarm")
    names.add(signal.name)


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
