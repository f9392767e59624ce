"""An asset type and its settings as arrays, worked out once: what the numeric stages index with."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from forewarn_models.asset_type import CELSIUS, FAHRENHEIT, AssetType

HOUR_MS: Final = 3_600_000.0
MONTH_MS: Final = 30 * 24 * HOUR_MS
_SAMPLES_PER_COEFFICIENT: Final = 10
_MOST_FEATURES: Final = 14
_WINDOWS_PER_BASELINE: Final = 16
_SHORTEST_WINDOW: Final = 5
_LONGEST_WINDOW: Final = 32
_LEAST_SMOOTHING_SAMPLES: Final = 8.0
_GREATEST: Final = 1e38
"""No measurement is larger, and the squares of larger ones could not be added up."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Columns = slice | NDArray[np.intp]


_Part = TypeVar("_Part")


def updated(part: _Part, **fields: object) -> _Part:
    """A copy of a plain dataclass with some fields changed: what `dataclasses.replace` does, ten times as fast.

    It runs no `__init__`; the parts of the state have none of their own.
    """
    copy = object.__new__(type(part))
    copy.__dict__.update(part.__dict__, **fields)
    return copy


def during(part: _Part, steps: slice) -> _Part:
    """Some steps of a plain dataclass whose arrays, and those of the dataclasses in it, have time first."""
    return updated(part, **{name: _during(value, steps) for name, value in part.__dict__.items()})


def _during(value: Any, steps: slice) -> Any:
    if value is None:
        return None
    return value[steps] if isinstance(value, np.ndarray) else during(value, steps)


EVERY_STEP: Final = (slice(None),)
_Array = TypeVar("_Array", bound=NDArray[Any])


def put(target: _Array, index: NDArray[np.intp], rows: _Array) -> _Array:
    """A copy of `target` with other `rows` at `index`."""
    result = target.copy()
    result[index] = rows
    return result


def row_sums(values: Floats) -> Floats:
    """Sums along a short last axis; a product with ones is several times as fast as the reduction of numpy."""
    sums: Floats = np.matmul(values, _ones(values.shape[-1]))
    return sums


@lru_cache(maxsize=64)
def _ones(n: int) -> Floats:
    return np.ones(n)


def row_dots(first: Floats, second: Floats) -> Floats:
    """Sums of the products of two arrays along their last axis."""
    dots: Floats = np.einsum("nap,nap->na", first, second)
    return dots


def inverse_where_positive(values: Floats) -> Floats:
    """1 / value, and 0 where a value is 0 or less."""
    return np.divide(1.0, values, out=np.zeros(values.shape), where=values > 0)


def sums(values: NDArray[Any], parts: Sequence[slice], dtype: Any = np.float64) -> NDArray[Any]:
    """Sums over the steps of each of consecutive `parts`."""
    if len(parts) == 1:
        return np.asarray(values.sum(axis=0, dtype=dtype))[None]
    return np.asarray(np.add.reduceat(values, [steps.start for steps in parts], axis=0, dtype=dtype))


def by_asset(rows: Floats, matrices: Floats, parts: Sequence[slice]) -> Floats:
    """(n, A, j) `rows` (n, A, i), those of each asset times its own of the `matrices` (A, i, j).

    The last bit of a product depends on how many rows are multiplied at once: it is the same for the same `parts`.
    """
    product = np.empty((*rows.shape[:2], matrices.shape[2]))
    of_asset, into = rows.transpose(1, 0, 2), product.transpose(1, 0, 2)
    for steps in parts:
        np.matmul(of_asset[:, steps], matrices, out=into[:, steps])
    return product


_ABSOLUTE: Final = {**dict.fromkeys(CELSIUS, 273.15), **dict.fromkeys(FAHRENHEIT, 459.67)}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may choose; the defaults suit an unknown machine sampled every few minutes.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    baseline_samples: int = 500
    """Healthy running samples that define what is normal."""
    false_alarms_per_asset_month: float = 0.01
    """The budget the ALARM threshold is calibrated to."""
    settling_hours: float = 1.0
    """After a start the machine warms up and is not judged for this long; only for types that know when they run."""

    def __post_init__(self) -> None:
        _require(10 <= self.baseline_samples <= 1_000_000, "baseline_samples", "give 10 to 1000000")
        _require(
            0 < self.false_alarms_per_asset_month < float("inf"), "false_alarms_per_asset_month", "give more than 0"
        )
        _require(0 <= self.settling_hours <= 168, "settling_hours", "give 0 to 168")


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Index arrays and constants of an asset type: S signals (C condition, R regime), p features, M failure modes."""

    condition: NDArray[np.intp]
    """(C,) columns of the condition signals."""
    regime: NDArray[np.intp]
    """(R,) columns of the regime signals."""
    valid_min: Floats
    valid_max: Floats
    """(S,) readings outside are no measurements; infinite where unknown."""
    absolute: Floats
    """(S,) what makes a reading one that has a true zero: 273.15 for degrees Celsius, mostly 0."""
    sentinels: tuple[tuple[int, float], ...]
    """(column, value) pairs."""
    limit_alert: Floats
    limit_alarm: Floats
    limit_alert_low: Floats
    limit_alarm_low: Floats
    """(S,) infinite where there is no limit."""
    lowest_deviation: Floats
    highest_deviation: Floats
    """(C,) -inf/0 and 0/inf: deviations beyond them are not bad."""
    running_column: int
    """Column that tells whether the machine runs, or -1: it always does."""
    running_above: float
    products: tuple[NDArray[np.intp], NDArray[np.intp]]
    """Pairs of regime signals whose product is a feature; squares included."""
    symptoms: Floats
    """(M, C) unit vectors."""
    p_f_hours: Floats
    """(M,)"""
    window: int
    """Samples after which the model learns."""
    horizons: int = 0
    """Averages a fleet model keeps of a path; 0 without one."""

    @cached_property
    def features(self) -> int:
        return len(self.regime) + len(self.products[0])

    @cached_property
    def least(self) -> Floats:
        """(S,) the least and the greatest reading that can be a measurement."""
        return np.maximum(self.valid_min, -_GREATEST)

    @cached_property
    def greatest(self) -> Floats:
        return np.minimum(self.valid_max, _GREATEST)

    @cached_property
    def has_limits(self) -> bool:
        limits = (self.limit_alert, self.limit_alarm, self.limit_alert_low, self.limit_alarm_low)
        return any(bool(np.isfinite(limit).any()) for limit in limits)

    @cached_property
    def smoothing_samples(self) -> float:
        """Time constant of the exponential window in which residuals become evidence."""
        return max(self.window / 2.0, _LEAST_SMOOTHING_SAMPLES)

    @cached_property
    def smoothed_variance(self) -> float:
        """Of white noise of variance 1, smoothed: g / (2 - g) for a weight g of one sample."""
        gain = -np.expm1(-1.0 / self.smoothing_samples)
        return float(gain / (2.0 - gain))

    @cached_property
    def one_sided(self) -> bool:
        """Some deviations are not bad."""
        return bool(np.isfinite(self.lowest_deviation).any() or np.isfinite(self.highest_deviation).any())

    @cached_property
    def condition_at(self) -> Columns:
        return _columns(self.condition)

    @cached_property
    def regime_at(self) -> Columns:
        return _columns(self.regime)


def _columns(indices: NDArray[np.intp]) -> Columns:
    """The same columns for indexing: a slice, which is much faster, where they stand side by side."""
    if len(indices) and (np.diff(indices) == 1).all():
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def layout_of(asset_type: AssetType, settings: Settings) -> Layout:
    signals = asset_type.signals
    condition = [i for i, signal in enumerate(signals) if signal.role == "condition"]
    regime = [i for i, signal in enumerate(signals) if signal.role == "regime"]
    running = asset_type.running
    return Layout(
        condition=np.array(condition, dtype=np.intp),
        regime=np.array(regime, dtype=np.intp),
        valid_min=_bound([signal.valid_min for signal in signals], -np.inf),
        valid_max=_bound([signal.valid_max for signal in signals], np.inf),
        absolute=np.array([_ABSOLUTE.get(signal.unit, 0.0) for signal in signals]),
        sentinels=tuple((i, value) for i, signal in enumerate(signals) for value in signal.sentinels),
        limit_alert=_bound([_first(signal.limit_alert, signal.limit_alarm) for signal in signals], np.inf),
        limit_alarm=_bound([signal.limit_alarm for signal in signals], np.inf),
        limit_alert_low=_bound([_first(signal.limit_alert_low, signal.limit_alarm_low) for signal in signals], -np.inf),
        limit_alarm_low=_bound([signal.limit_alarm_low for signal in signals], -np.inf),
        lowest_deviation=np.array([0.0 if signals[i].worse == "up" else -np.inf for i in condition]),
        highest_deviation=np.array([0.0 if signals[i].worse == "down" else np.inf for i in condition]),
        running_column=-1 if running is None else asset_type.signal_names.index(running.signal),
        running_above=0.0 if running is None else running.above,
        products=_products(len(regime), settings.baseline_samples),
        symptoms=_symptoms(asset_type, [signals[i].name for i in condition]),
        p_f_hours=np.array([mode.p_f_interval_hours for mode in asset_type.failure_modes], dtype=np.float64),
        window=_window(settings.baseline_samples),
    )


def _window(baseline_samples: int) -> int:
    return min(max(baseline_samples // _WINDOWS_PER_BASELINE, _SHORTEST_WINDOW), _LONGEST_WINDOW)


def _products(regimes: int, baseline_samples: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Squares and products of the regime signals (speed squared, speed times load), or the squares only, as far as the
    baseline can carry them and the state of an asset stays small."""
    for first, second in (np.triu_indices(regimes), (np.arange(regimes), np.arange(regimes))):
        features = regimes + len(first)
        if features <= _MOST_FEATURES and _SAMPLES_PER_COEFFICIENT * (1 + features) <= baseline_samples:
            return first, second
    return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)


def _symptoms(asset_type: AssetType, names: list[str]) -> Floats:
    rows = [[mode.symptoms.get(name, 0.0) for name in names] for mode in asset_type.failure_modes]
    matrix = np.array(rows, dtype=np.float64).reshape(len(rows), len(names))
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(length > 0, length, 1.0)


def _first(alert: float | None, alarm: float | None) -> float | None:
    """What is an ALARM is an ALERT, too."""
    return alarm if alert is None else alert


def _bound(values: list[float | None], missing: float) -> Floats:
    return np.array([missing if value is None else value for value in values], dtype=np.float64)


def _require(right: bool, where: str, fix: str) -> None:
    if not right:
        raise ValueError(f"{where}: {fix}")
