"""Prognosis learned from run-to-failure histories: how much life is left, from a unit's own path and its age.

A unit's path is followed by exponential averages of its signals over several horizons, and the mean since its start.
The signals are first freed from the operating regime and standardised, both by what the fleet showed; few components
of them are kept, those which told most about the remaining life (partial least squares, Wold 1975). Small networks
with two layers of rectified linear units, averaged, take path and age to the level u = E[min(RUL, knee)] / knee; beyond
the knee nothing in the signals tells how much longer a unit lives (piecewise linear target of Heimes 2008).

The predictive distribution lives on a scale v that is RUL / knee up to the knee and goes on with the cumulative hazard
of the fleet's Weibull lives, given the age reached: under that prior v - 1 is exponential with mean 1 at every age. The
quantiles of v at a level u are those of histories the networks had not seen (split conformal prediction by level,
Vovk 2005). So a unit without symptoms has the survival prior, and one with symptoms what its path says.

Everything is arrays; nothing that is loaded can execute. Learning is done elsewhere, with scikit-learn.
"""

import io
import zipfile
from dataclasses import dataclass, fields
from itertools import zip_longest
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from forewarn_models.layout import HOUR_MS, Bools, Floats, Ints, Layout
from forewarn_models.readings import Readings

FORMAT: Final = 1
LARGEST_DEVIATION: Final = 6.0
"""Standard deviations at which a reading is cut, so that a single spike cannot bend a path."""
_LEAST_WEIGHT: Final = 1e-6
_LARGEST_FILE: Final = 64 * 2**20
QUANTILES: Final = 3
"""P10, P50, P90."""


class FleetModelError(ValueError):
    """The fleet model cannot be used; the message says why and what to do."""


class FleetModelHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is no array. C condition and R regime signals, in the order of the asset type."""

    condition: tuple[str, ...]
    regime: tuple[str, ...]
    lives: int
    """Run-to-failure histories learned from."""
    knee_hours: float
    life_shape: float
    life_scale_hours: float
    """Weibull distribution of the life."""
    longest_hours: float
    """Age up to which the fleet is known."""
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True, eq=False)
class FleetModelArrays:
    """C condition signals, R regime signals, p regime features, H horizons, K components, F path features, N networks.

    All float64 and finite.
    """

    horizons_hours: Floats
    """(H,) time constants of the exponential averages."""
    regime_origin: Floats
    regime_scale: Floats
    """(R,) regime features are built from (reading - origin) / scale ..."""
    regime_low: Floats
    regime_high: Floats
    """(R,) ... kept within what the fleet showed."""
    expected: Floats
    """(1 + p, C) what a signal reads in a regime, on 1, the regime signals, their squares and products."""
    log_spread: Floats
    """(1 + p, C) the logarithm of its standard deviation there."""
    relevance: Floats
    """(C,) 1, or 0 for a signal that does not vary."""
    components: Floats
    """(C, K)"""
    feature_low: Floats
    feature_high: Floats
    feature_mean: Floats
    feature_scale: Floats
    """(F,) F = (H + 1) K + 1: K components of the average over each horizon, of the mean since the start; the age."""
    weight_1: Floats
    bias_1: Floats
    weight_2: Floats
    bias_2: Floats
    weight_3: Floats
    bias_3: Floats
    """(N, F, I), (N, I), (N, I, J), (N, J), (N, J), (N,): the networks."""
    curve_level: Floats
    """(Q,) levels u, increasing."""
    curve_offset: Floats
    """(Q, 3) P10, P50, P90 of v - u there."""


_SHAPES: Final = {
    "horizons_hours": "H",
    "regime_origin": "R",
    "regime_scale": "R",
    "regime_low": "R",
    "regime_high": "R",
    "expected": "PC",
    "log_spread": "PC",
    "relevance": "C",
    "components": "CK",
    "feature_low": "F",
    "feature_high": "F",
    "feature_mean": "F",
    "feature_scale": "F",
    "weight_1": "NFI",
    "bias_1": "NI",
    "weight_2": "NIJ",
    "bias_2": "NJ",
    "weight_3": "NJ",
    "bias_3": "N",
    "curve_level": "Q",
    "curve_offset": "QT",
}
"""Array -> its dimensions, by letter; P is 1 + p, T the three quantiles."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FleetModel:
    header: FleetModelHeader
    arrays: FleetModelArrays

    @property
    def horizons(self) -> int:
        """Averages that are kept of a path: one for each horizon, and the mean since the start."""
        return len(self.arrays.horizons_hours) + 1


# --- the path of a unit ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class PathState:
    """(assets, ...); of no width without a fleet model."""

    total: Floats
    weight: Floats
    """(A, H + 1, C) sums of w z and of w over the samples so far, w = exp(-hours since then / horizon)."""
    started_ms: Ints
    """(A,) the first sample of this life, -1 before it."""


def new_path_state(assets: int, horizons: int, condition: int) -> PathState:
    shape = (assets, horizons, condition if horizons else 0)
    return PathState(total=np.zeros(shape), weight=np.zeros(shape), started_ms=np.full(assets, -1, dtype=np.int64))


def followed_path(model: FleetModel, layout: Layout, state: PathState, readings: Readings) -> tuple[Floats, PathState]:
    """Path features of each sample of a segment, (n, A, F), and the state after it.

    Readings that are missing or were taken while the machine did not run leave the averages as they are.
    """
    standard, usable = standardised(model, layout, readings)
    sums = _sums(model, state, readings.step_ms.T, np.concatenate([standard, usable], axis=2).transpose(1, 0, 2))
    started_ms = np.where(state.started_ms >= 0, state.started_ms, readings.t_ms[0])
    signals = standard.shape[2]
    total, weight = sums[..., :signals], sums[..., signals:]
    after = PathState(total=total[:, :, -1], weight=weight[:, :, -1], started_ms=started_ms)
    age_hours = np.maximum(readings.t_ms - started_ms, 0) / HOUR_MS
    return _features(model, total, weight, age_hours), after


def _sums(model: FleetModel, state: PathState, step_ms: Floats, added: Floats) -> Floats:
    """(A, H + 1, n, 2 C) the sums of the state after each of n samples; `added` (A, n, 2 C) is what each adds."""
    n = step_ms.shape[1]
    rate = np.append(1.0 / model.arrays.horizons_hours, 0.0)[:, None, None]
    hours = np.cumsum(step_ms, axis=1)[:, None, :, None] / HOUR_MS
    since = np.maximum(hours - hours.swapaxes(2, 3), 0.0)
    weight = np.exp(-since * rate) * np.tri(n)
    before = np.concatenate([state.total, state.weight], axis=2)[:, :, None]
    sums: Floats = np.matmul(weight, added[:, None]) + np.exp(-hours * rate) * before
    return sums


def _features(model: FleetModel, total: Floats, weight: Floats, age_hours: Floats) -> Floats:
    """(n, A, F) from the sums (A, H + 1, n, C); 0, the mean of the fleet, where a signal was never read."""
    mean = total / np.maximum(weight, _LEAST_WEIGHT)
    average = np.where(weight > _LEAST_WEIGHT, mean, mean[:, -1:])
    components = np.matmul(average, model.arrays.components).transpose(2, 0, 1, 3)
    flat = components.reshape(*age_hours.shape, -1)
    return np.concatenate([flat, age_hours[:, :, None]], axis=2)


def standardised(model: FleetModel, layout: Layout, readings: Readings) -> tuple[Floats, Floats]:
    """(n, A, C) deviations from what the fleet read in this regime, in standard deviations; and 1 where usable."""
    usable = usable_readings(layout, readings)
    design = regime_design(model.arrays, readings.values[:, :, layout.regime])
    spread = np.exp(_in_regime(design, model.arrays.log_spread))
    deviation = (readings.values[:, :, layout.condition] - _in_regime(design, model.arrays.expected)) / spread
    standard = np.clip(deviation, -LARGEST_DEVIATION, LARGEST_DEVIATION) * model.arrays.relevance
    return np.where(usable, standard, 0.0), usable.astype(np.float64)


def _in_regime(design: Floats, coefficients: Floats) -> Floats:
    """(n, A, C) from the `design` (n, A, 1 + p) and `coefficients` (1 + p, C): one product for each asset."""
    by_asset: Floats = np.matmul(design.swapaxes(0, 1), coefficients)
    return by_asset.swapaxes(0, 1)


def usable_readings(layout: Layout, readings: Readings) -> Bools:
    """(n, A, C) good, of a machine that runs, in a regime that is known."""
    known = readings.settled & readings.good[:, :, layout.regime].all(axis=2)
    usable: Bools = readings.good[:, :, layout.condition] & known[:, :, None]
    return usable


def regime_design(arrays: FleetModelArrays, regime: Floats) -> Floats:
    """(..., 1 + p) from regime readings (..., R): 1, the readings scaled, their squares and products."""
    scaled = np.clip((regime - arrays.regime_origin) / arrays.regime_scale, arrays.regime_low, arrays.regime_high)
    first, second = np.triu_indices(scaled.shape[-1])
    ones = np.ones((*scaled.shape[:-1], 1))
    return np.concatenate([ones, scaled, scaled[..., first] * scaled[..., second]], axis=-1)


# --- what it says ---------------------------------------------------------------------------------------------------


def predicted_life(model: FleetModel, features: Floats) -> Floats:
    """(..., 3) P10, P50, P90 of the remaining hours, from path features (..., F)."""
    level = predicted_level(model.arrays, features)
    curve = model.arrays
    offset = np.stack([np.interp(level, curve.curve_level, column) for column in curve.curve_offset.T], axis=-1)
    v = np.maximum.accumulate(np.maximum(level[..., None] + offset, 0.0), axis=-1)
    return hours_of_scale(model.header, v, features[..., -1:])


def predicted_level(arrays: FleetModelArrays, features: Floats) -> Floats:
    """(...) the mean of the networks, within [0, 1]."""
    inside = np.clip(features, arrays.feature_low, arrays.feature_high)
    x = ((inside - arrays.feature_mean) / arrays.feature_scale).reshape(1, -1, features.shape[-1])
    hidden = np.maximum(np.matmul(x, arrays.weight_1) + arrays.bias_1[:, None], 0.0)
    hidden = np.maximum(np.matmul(hidden, arrays.weight_2) + arrays.bias_2[:, None], 0.0)
    each = np.matmul(hidden, arrays.weight_3[:, :, None])[:, :, 0] + arrays.bias_3[:, None]
    level: Floats = np.clip(each.mean(axis=0), 0.0, 1.0).reshape(features.shape[:-1])
    return level


def hours_of_scale(header: FleetModelHeader, v: Floats, age_hours: Floats) -> Floats:
    """Remaining hours from the scale v, at an age."""
    age = np.clip(age_hours, 0.0, header.longest_hours)
    hazard = _cumulative_hazard(header, age + header.knee_hours) + np.maximum(v - 1.0, 0.0)
    beyond = header.life_scale_hours * hazard ** (1.0 / header.life_shape) - age
    return np.where(v <= 1.0, v * header.knee_hours, beyond)


def scale_of_hours(header: FleetModelHeader, rul_hours: Floats, age_hours: Floats) -> Floats:
    """The inverse of `hours_of_scale`."""
    age = np.clip(age_hours, 0.0, header.longest_hours)
    end = age + np.maximum(rul_hours, header.knee_hours)
    excess = _cumulative_hazard(header, end) - _cumulative_hazard(header, age + header.knee_hours)
    return np.where(rul_hours <= header.knee_hours, rul_hours / header.knee_hours, 1.0 + excess)


def _cumulative_hazard(header: FleetModelHeader, hours: Floats) -> Floats:
    """-log of the survival function of the Weibull distribution."""
    hazard: Floats = (hours / header.life_scale_hours) ** header.life_shape
    return hazard


# --- on disk --------------------------------------------------------------------------------------------------------


def save_fleet_model(model: FleetModel) -> tuple[bytes, bytes]:
    """The header as JSON and the arrays as npz, the same bytes for the same model."""
    stream = io.BytesIO()
    np.savez(stream, **{name: np.ascontiguousarray(array, dtype="<f8") for name, array in _named(model.arrays)})  # type: ignore[arg-type]
    return msgspec.json.format(msgspec.json.encode(model.header)) + b"\n", stream.getvalue()


def load_fleet_model(header: bytes, arrays: bytes) -> FleetModel:
    """Read a fleet model, completely checked.

    Raises:
        FleetModelError: it is of another version, something is missing, unknown, of another type or shape, NaN,
            infinite or out of range; the message names it.
    """
    try:
        head = msgspec.json.decode(header, type=FleetModelHeader)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FleetModelError(f"fleet model: {error}") from None
    _require(head.format == FORMAT, f"format: {head.format} is not known; this is version {FORMAT}")
    model = FleetModel(header=head, arrays=FleetModelArrays(**_read(arrays)))
    check_fleet_model(model)
    return model


def _read(blob: bytes) -> dict[str, Any]:
    _require(len(blob) <= _LARGEST_FILE, f"the arrays are larger than {_LARGEST_FILE} bytes")
    try:
        with np.load(io.BytesIO(blob), allow_pickle=False) as stored:
            _require(set(stored.files) == set(_SHAPES), f"the arrays must be {', '.join(sorted(_SHAPES))}")
            return {name: stored[name] for name in stored.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, AttributeError, TypeError) as error:
        if isinstance(error, FleetModelError):
            raise
        raise FleetModelError(f"fleet model: the arrays cannot be read: {error}") from None


def check_fleet_model(model: FleetModel) -> None:
    """
    Raises:
        FleetModelError: the parts do not fit each other; the message names them.
    """
    head, arrays = model.header, model.arrays
    conditions, regimes = len(head.condition), len(head.regime)
    sizes = {"C": conditions, "R": regimes, "P": 1 + regimes + regimes * (regimes + 1) // 2, "T": QUANTILES}
    for name, array in _named(arrays):
        _require(array.dtype == np.float64, f"{name}: {array.dtype}, must be float64")
        _require(array.ndim == len(_SHAPES[name]), f"{name}: {array.ndim} dimensions, must be {len(_SHAPES[name])}")
        for letter, size in zip(_SHAPES[name], array.shape, strict=True):
            expected = sizes.setdefault(letter, size)
            _require(size == expected, f"{name}: shape {array.shape}, {expected} expected where it has {size}")
        _require(bool(np.isfinite(array).all()), f"{name}: NaN or infinite")
    _require(sizes["F"] == (sizes["H"] + 1) * sizes["K"] + 1, "the networks take another number of path features")
    _require(min(sizes["N"], sizes["H"], sizes["K"], sizes["Q"], conditions) >= 1, "a part of it is empty")
    for name in ("horizons_hours", "regime_scale", "feature_scale"):
        _require(bool((getattr(arrays, name) > 0).all()), f"{name}: must be positive")
    _require(bool((np.diff(arrays.curve_level) > 0).all()), "curve_level: must be increasing")
    _require(bool((np.diff(arrays.curve_offset, axis=1) >= 0).all()), "curve_offset: P10, P50, P90 must be in order")
    positive = (head.knee_hours, head.life_shape, head.life_scale_hours, head.longest_hours)
    _require(min(positive) > 0, "knee_hours, life_shape, life_scale_hours, longest_hours: must be positive")


def check_signals(model: FleetModel, condition: tuple[str, ...], regime: tuple[str, ...]) -> None:
    """
    Raises:
        FleetModelError: it was learned from machines with other signals, or in another order or role; it names them.
    """
    learned, given = (*model.header.condition, *model.header.regime), (*condition, *regime)
    missing, more = sorted(set(learned) - set(given)), sorted(set(given) - set(learned))
    _require(not missing, f"learned with the signals {', '.join(missing)}, which this machine lacks; fit it again")
    _require(not more, f"learned without the signals {', '.join(more)}; fit it again")
    roles = (("condition", model.header.condition, condition), ("regime", model.header.regime, regime))
    for role, before, now in roles:
        for one, other in zip_longest(before, now):
            _require(
                one == other,
                f"learned with {one or 'nothing more'} where this machine has {other or 'nothing more'} as a {role} "
                "signal; give the signals in the same order and role, or fit it again",
            )


def _named(arrays: FleetModelArrays) -> list[tuple[str, NDArray[Any]]]:
    return [(field.name, getattr(arrays, field.name)) for field in fields(FleetModelArrays)]


def _require(right: bool, reason: str) -> None:
    if not right:
        raise FleetModelError(f"fleet model: {reason}")
