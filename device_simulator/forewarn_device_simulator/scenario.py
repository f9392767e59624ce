"""Scenarios: which fleet, for how long, how it wears and which sensors lie, as a TOML file."""

import re
import tomllib
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from forewarn_models.asset_type import IDENTIFIER, AssetTypeError, builtin_asset_type

DutyKind = Literal["continuous", "two_shift", "weekdays"]
AfterFailure = Literal["repair", "end"]
SensorFaultKind = Literal["stuck", "missing", "constant", "offset", "fahrenheit"]
_TOPIC = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")


class ScenarioError(ValueError):
    """The scenario cannot be used; the message names the field and the fix."""


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Machines of one type that share a duty and an expectation of life."""

    asset_type: str
    prefix: str
    """Machines are called prefix-001, prefix-002 and so on."""
    count: int
    topic: str = "machines"
    """Live, its machines publish to topic/ASSET."""
    duty: DutyKind = "continuous"
    life_hours: dict[str, float] | None = None
    """Failure mode -> median life in hours at rated load. A mode that is not listed does not occur; {} is a fleet that
    never fails; left out, every mode occurs with the life usual for the machine type."""
    life_after_repair: Literal["same", "usual"] = "same"
    """`usual`: a renewed component lives as long as is usual for the machine type."""
    life_spread: float = 0.25
    """Standard deviation of the logarithm of life."""
    wear_at_start: tuple[float, float] = (0.0, 0.0)
    """Range from which the wear of each component at the start is drawn; 0 new, 1 failed."""


class SensorFault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A sensor that lies from one day of the scenario to another; the machine itself is not affected."""

    asset: str
    signal: str
    kind: SensorFaultKind
    from_day: float
    to_day: float
    value: float = 0.0
    """What a `constant` sensor says, or by how much an `offset` one is wrong, in the signal's unit."""


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    fleet: tuple[Group, ...]
    about: str = ""
    seed: int = 1
    start: datetime
    days: float
    sample_minutes: float = 10.0
    after_failure: AfterFailure = "repair"
    """`repair`: the machine stands still, is repaired and runs on. `end`: its recording ends with the failure."""
    repair_delay_hours: tuple[float, float] = (12.0, 72.0)
    """Range from which the time between a failure and the return to service is drawn."""
    sensor_fault: tuple[SensorFault, ...] = ()

    @property
    def start_ms(self) -> int:
        return round(self.start.timestamp() * 1000)

    @property
    def interval_ms(self) -> int:
        return round(self.sample_minutes * 60_000)

    @property
    def samples(self) -> int:
        """Samples of one machine over the whole scenario."""
        return max(1, int(self.days * 86_400_000 // self.interval_ms))


def shipped_names() -> tuple[str, ...]:
    """The scenarios that come with the simulator, sorted."""
    folder = resources.files(__package__).joinpath("scenarios")
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_scenario(name_or_path: str) -> Scenario:
    """The shipped scenario of that name, or the one in the file of that path.

    Raises:
        ScenarioError: there is no such scenario, or it cannot be used.
    """
    if name_or_path in shipped_names():
        text = resources.files(__package__).joinpath("scenarios", f"{name_or_path}.toml").read_text("utf-8")
        return parse_scenario(text)
    try:
        return parse_scenario(Path(name_or_path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(shipped_names())
        raise ScenarioError(f"{name_or_path}: no readable file ({error}) and not shipped; shipped: {known}") from None


def parse_scenario(text: str) -> Scenario:
    """Read a scenario from TOML, completely checked.

    Raises:
        ScenarioError: it is no TOML, a key is unknown, or a value makes no sense; the message names the field.
    """
    try:
        scenario = msgspec.convert(tomllib.loads(text), Scenario)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ScenarioError(str(error)) from None
    _check(scenario)
    return scenario


def asset_names(group: Group) -> list[str]:
    return [f"{group.prefix}-{number:03d}" for number in range(1, group.count + 1)]


def units_total(scenario: Scenario) -> int:
    return sum(group.count for group in scenario.fleet)


def _check(scenario: Scenario) -> None:
    _require(bool(IDENTIFIER.fullmatch(scenario.name)), "name", "use letters, digits, _ and -, at most 64")
    _require(scenario.start.tzinfo is not None, "start", "give the time zone, as in 2025-01-06T00:00:00Z")
    _require(scenario.seed >= 0, "seed", "give 0 or a positive whole number")
    _require(0 < scenario.days <= 3660, "days", "give more than 0 and at most 3660")
    _require(1 / 60 <= scenario.sample_minutes <= 1440, "sample_minutes", "give one second (0.0167) to one day (1440)")
    _require(bool(scenario.fleet), "fleet", "give at least one group of machines")
    _check_range(scenario.repair_delay_hours, "repair_delay_hours", upper=8760)
    for i, group in enumerate(scenario.fleet):
        _check_group(group, f"fleet[{i}]")
    prefixes = [group.prefix for group in scenario.fleet]
    _require(len(set(prefixes)) == len(prefixes), "fleet", "give each group a prefix of its own")
    types = {asset: group.asset_type for group in scenario.fleet for asset in asset_names(group)}
    for i, fault in enumerate(scenario.sensor_fault):
        _check_sensor_fault(fault, types, f"sensor_fault[{i}]")


def _check_group(group: Group, where: str) -> None:
    try:
        asset_type = builtin_asset_type(group.asset_type)
    except AssetTypeError as error:
        raise ScenarioError(f"{where}.{error}") from None
    _require(
        bool(IDENTIFIER.fullmatch(group.prefix)) and len(group.prefix) <= 48,
        f"{where}.prefix",
        "at most 48 of a-z, 0-9, _, -",
    )
    _require(1 <= group.count <= 10_000, f"{where}.count", "give 1 to 10000")
    _require(
        bool(_TOPIC.fullmatch(group.topic)), f"{where}.topic", "levels of letters, digits, _ and -, between slashes"
    )
    _require(0 <= group.life_spread <= 1, f"{where}.life_spread", "give 0 to 1")
    _check_range(group.wear_at_start, f"{where}.wear_at_start", upper=0.99)
    for mode, hours in (group.life_hours or {}).items():
        known = ", ".join(mode.code for mode in asset_type.failure_modes)
        _require(
            asset_type.failure_mode(mode) is not None, f"{where}.life_hours.{mode}", f"no failure mode; known: {known}"
        )
        _require(hours > 0, f"{where}.life_hours.{mode}", "give a positive number of hours")


def _check_sensor_fault(fault: SensorFault, types: dict[str, str], where: str) -> None:
    _require(fault.asset in types, f"{where}.asset", f"{fault.asset!r} is not in the fleet")
    signals = builtin_asset_type(types[fault.asset]).signal_names
    _require(fault.signal in signals, f"{where}.signal", f"{fault.signal!r} is not one of {', '.join(signals)}")
    _require(0 <= fault.from_day < fault.to_day, f"{where}.to_day", "must be after from_day")


def _check_range(bounds: tuple[float, float], where: str, upper: float) -> None:
    low, high = bounds
    _require(0 <= low <= high <= upper, where, f"give [low, high] with 0 <= low <= high <= {upper:g}")


def _require(right: bool, where: str, fix: str) -> None:
    if not right:
        raise ScenarioError(f"{where}: {fix}")
