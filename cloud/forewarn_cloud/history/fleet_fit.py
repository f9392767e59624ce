"""Learn a fleet model from run-to-failure histories, with scikit-learn; the result is plain arrays.

Everything is scaled by the fleet itself: hours by the median life, signals by their spread over the fleet. How the
constants below were chosen, and by what cross-validation, stands in docs/models.md.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.cross_decomposition import PLSRegression
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from forewarn_cloud.history.dataset import Dataset
from forewarn_cloud.history.lives import MS_PER_HOUR, Life
from forewarn_models.fleet_model import (
    LARGEST_DEVIATION,
    FleetModel,
    FleetModelArrays,
    FleetModelHeader,
    followed_path,
    new_path_state,
    predicted_level,
    regime_design,
    scale_of_hours,
    usable_readings,
)
from forewarn_models.kernel import Model
from forewarn_models.layout import HOUR_MS, Bools, Floats, Layout, during
from forewarn_models.readings import Readings, new_reading_state, read

FEWEST_LIVES: Final = 10
"""Lives that end in a failure, below which networks would learn the single machines."""
FEWEST_SAMPLES: Final = 500
_KNEE: Final = 0.6
_HORIZONS: Final = (1 / 64, 1 / 25, 1 / 10, 3 / 10)
"""Of the median life."""
_SMOOTHED: Final = 1
"""Index of the horizon whose averages the components are found on."""
_COMPONENTS: Final = 3
_HIDDEN: Final = (16, 16)
_PENALTY: Final = 12.0
"""L2 penalty of the weights, divided by the number of lives: few machines must not be learned by heart."""
_EPOCHS: Final = 100
_NETWORKS: Final = 8
_NETWORKS_UNSEEN: Final = 3
"""Of each fold of the cross-validation that calibrates the distribution."""
_FOLDS: Final = 5
_MOST_SAMPLES: Final = 7000
_KNOTS: Final = 16
_NEIGHBOURS: Final = 0.08
"""Share of the samples around a level whose quantiles count for it."""
_SYMPTOM_FREE: Final = 0.8
_RIDGE: Final = 1e-9
_LEAST_SPREAD: Final = 0.1
_STEPS_AT_ONCE: Final = 32
_SEED: Final = 1


class TooFewLives(ValueError):
    """There is not enough to learn a fleet model from; the message says what is needed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Examples:
    """Samples of lives that ended in a failure; m rows."""

    life: NDArray[np.int64]
    """(m,)"""
    average: Floats
    """(m, H + 1, C) of the standardised signals."""
    age_hours: Floats
    rul_hours: Floats
    """(m,)"""


def fit_fleet_model(
    dataset: Dataset, kernel: Model, lives: Sequence[Life], life_shape: float, life_scale_hours: float
) -> FleetModel:
    """A fleet model from the lives that ended in a failure; the Weibull distribution of the lives is given.

    Raises:
        TooFewLives: it says how many lives or samples there are and how many are needed, or that the telemetry ends too
            long before the failures.
    """
    failed = [life for life in lives if life.failure is not None and len(life.rows) > 1]
    if len(failed) < FEWEST_LIVES:
        end = "life ends" if len(failed) == 1 else "lives end"
        raise TooFewLives(f"failures.csv: {len(failed)} {end} in a failure; at least {FEWEST_LIVES} are needed")
    median_hours = life_scale_hours * math.log(2.0) ** (1.0 / life_shape)
    layout = kernel.layout
    readings = [_readings(dataset, kernel, life) for life in failed]
    blank = _blank(
        kernel, len(failed), median_hours, (life_shape, life_scale_hours), max(life.hours for life in failed)
    )
    standard = replace(blank, arrays=_with_standards(blank.arrays, layout, readings))
    examples = _examples(standard, layout, failed, readings)
    if len(examples.life) < FEWEST_SAMPLES:
        raise TooFewLives(
            f"the lives that end in a failure have {len(examples.life)} samples; at least {FEWEST_SAMPLES} are needed"
        )
    groups = _groups(failed)
    _check_recorded_until_failure(examples, groups, standard.header.knee_hours)
    fitted = _with_networks(standard, examples, _NETWORKS)
    level = _unseen_levels(standard, examples, groups)
    return replace(fitted, arrays=_with_curve(fitted, examples, level))


# --- readings -------------------------------------------------------------------------------------------------------


def _readings(dataset: Dataset, kernel: Model, life: Life) -> Readings:
    """The readings of one life as the kernel takes them; of a machine that is not known yet, no sensor is stuck."""
    return read(
        kernel.layout,
        new_reading_state(1, len(kernel.layout.valid_min)),
        dataset.telemetry.t_ms[life.rows][:, None],
        dataset.telemetry.values[life.rows][:, None],
        learning=np.ones(1, dtype=np.bool_),
        settling_ms=kernel.settings.settling_hours * HOUR_MS,
    )


def _blank(kernel: Model, lives: int, median_hours: float, weibull: tuple[float, float], longest: float) -> FleetModel:
    """A model of the right shape that has learned nothing but the lives."""
    layout, names = kernel.layout, kernel.asset_type.signal_names
    regimes, conditions = len(layout.regime), len(layout.condition)
    design, kept = 1 + regimes + regimes * (regimes + 1) // 2, min(_COMPONENTS, conditions)
    features = (len(_HORIZONS) + 1) * kept + 1
    first, second = _HIDDEN
    return FleetModel(
        header=FleetModelHeader(
            condition=tuple(names[i] for i in layout.condition.tolist()),
            regime=tuple(names[i] for i in layout.regime.tolist()),
            lives=lives,
            knee_hours=_KNEE * median_hours,
            life_shape=weibull[0],
            life_scale_hours=weibull[1],
            longest_hours=longest,
        ),
        arrays=FleetModelArrays(
            horizons_hours=np.array(_HORIZONS) * median_hours,
            regime_origin=np.zeros(regimes),
            regime_scale=np.ones(regimes),
            regime_low=np.full(regimes, -np.inf),
            regime_high=np.full(regimes, np.inf),
            expected=np.zeros((design, conditions)),
            log_spread=np.zeros((design, conditions)),
            relevance=np.ones(conditions),
            components=np.eye(conditions)[:, :kept],
            feature_low=np.zeros(features),
            feature_high=np.zeros(features),
            feature_mean=np.zeros(features),
            feature_scale=np.ones(features),
            weight_1=np.zeros((1, features, first)),
            bias_1=np.zeros((1, first)),
            weight_2=np.zeros((1, first, second)),
            bias_2=np.zeros((1, second)),
            weight_3=np.zeros((1, second)),
            bias_3=np.zeros(1),
            curve_level=np.array([0.0, 1.0]),
            curve_offset=np.zeros((2, 3)),
        ),
    )


# --- what a signal reads in a regime --------------------------------------------------------------------------------


def _with_standards(blank: FleetModelArrays, layout: Layout, lives: Sequence[Readings]) -> FleetModelArrays:
    """Mean and spread of every signal over the fleet, as functions of the regime."""
    values = np.concatenate([readings.values[:, 0] for readings in lives])
    usable = np.concatenate([usable_readings(layout, readings)[:, 0] for readings in lives])
    regime, known = values[:, layout.regime], usable.any(axis=1)
    if not known.any():
        raise TooFewLives("no sample has a reading in a regime that is known; check the regime signals")
    origin, spread = np.asarray(regime[known].mean(axis=0)), np.asarray(regime[known].std(axis=0))
    scale = np.where(spread > 1e-9 * np.maximum(np.abs(origin), 1e-300), spread, 1.0)
    scaled = (regime[known] - origin) / scale
    arrays = replace(
        blank,
        regime_origin=origin,
        regime_scale=scale,
        regime_low=scaled.min(axis=0),
        regime_high=scaled.max(axis=0),
    )
    design = regime_design(arrays, regime)
    columns = [_standard(design[ok], values[ok, c]) for ok, c in zip(usable.T, layout.condition, strict=True)]
    expected, log_spread, relevance = (np.array(part) for part in zip(*columns, strict=True))
    return replace(arrays, expected=expected.T, log_spread=log_spread.T, relevance=relevance)


def _standard(design: Floats, value: Floats) -> tuple[Floats, Floats, float]:
    """Coefficients of the mean and of the logarithm of the spread of one signal; relevance 0 where it does not vary."""
    nothing = np.zeros(design.shape[1])
    if len(value) <= design.shape[1]:
        return nothing, nothing, 0.0
    level = float(value.mean())
    expected = _least_squares(design, value - level)
    expected[0] += level
    residual = value - design @ expected
    spread = float(residual.std())
    if spread <= 1e-9 * max(abs(level), 1e-300):
        return expected, nothing, 0.0
    log_size = np.log(np.maximum(np.abs(residual), _LEAST_SPREAD * spread))
    log_spread = _least_squares(design, log_size)
    standard = residual / np.exp(design @ log_spread)
    log_spread[0] += math.log(float(np.clip(standard, -LARGEST_DEVIATION, LARGEST_DEVIATION).std()))
    return expected, log_spread, 1.0


def _least_squares(design: Floats, value: Floats) -> Floats:
    gram = design.T @ design + _RIDGE * len(design) * np.eye(design.shape[1])
    solution: Floats = np.asarray(np.linalg.solve(gram, design.T @ value), dtype=np.float64)
    return solution


# --- examples -------------------------------------------------------------------------------------------------------


def _examples(model: FleetModel, layout: Layout, lives: Sequence[Life], readings: Sequence[Readings]) -> _Examples:
    """As many samples of every life, evenly over it; as few as needed to learn fast."""
    most = max(_MOST_SAMPLES // len(lives), 2)
    parts = [_examples_of(model, layout, life, mine, most) for life, mine in zip(lives, readings, strict=True)]
    return _Examples(
        life=np.repeat(np.arange(len(lives)), [len(part[1]) for part in parts]),
        average=np.concatenate([part[0] for part in parts]),
        age_hours=np.concatenate([part[1] for part in parts]),
        rul_hours=np.concatenate([part[2] for part in parts]),
    )


def _examples_of(
    model: FleetModel, layout: Layout, life: Life, readings: Readings, most: int
) -> tuple[Floats, Floats, Floats]:
    steps = len(readings.t_ms)
    chosen = np.unique(np.linspace(0, steps - 1, min(most, steps)).round().astype(np.int64))
    averages = _averages(model, layout, readings, chosen)
    t_ms = readings.t_ms[chosen, 0]
    return averages, (t_ms - life.started_ms) / MS_PER_HOUR, (life.ended_ms - t_ms) / MS_PER_HOUR


def _averages(model: FleetModel, layout: Layout, readings: Readings, chosen: NDArray[np.int64]) -> Floats:
    """(m, H + 1, C) the averages of a path at the chosen steps: path features of a model that keeps every signal."""
    every = len(layout.condition)
    whole = replace(model, arrays=replace(model.arrays, components=np.eye(every)))
    state = new_path_state(1, model.horizons, every)
    found = []
    for start in range(0, len(readings.t_ms), _STEPS_AT_ONCE):
        steps = slice(start, start + _STEPS_AT_ONCE)
        features, state = followed_path(whole, layout, state, during(readings, steps))
        mine = chosen[(chosen >= start) & (chosen < start + _STEPS_AT_ONCE)] - start
        found.append(features[mine, 0, :-1])
    return np.concatenate(found).reshape(len(chosen), model.horizons, every)


def _check_recorded_until_failure(examples: _Examples, groups: NDArray[np.int64], knee_hours: float) -> None:
    """Beyond the knee all remaining lives are learned as one: some must be shorter, also where a fold is left out.

    Raises:
        TooFewLives: they are not.
    """
    near = np.unique(examples.life[examples.rul_hours < knee_hours])
    if len(np.unique(groups[near])) < min(2, len(np.unique(groups))):
        lives = len(groups)
        raise TooFewLives(
            f"the telemetry of {lives - len(near)} of {lives} lives ends more than {knee_hours:.0f} h before their "
            "failures; record until the failure, or check failed_at in failures.csv"
        )


# --- networks -------------------------------------------------------------------------------------------------------


def _with_networks(model: FleetModel, examples: _Examples, networks: int) -> FleetModel:
    """The model with components and networks learned from the examples."""
    target = np.minimum(examples.rul_hours / model.header.knee_hours, 1.0)
    kept = model.arrays.components.shape[1]
    components = _components(examples.average[:, _SMOOTHED], target, kept)
    features = _path_features(examples, components)
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    arrays = replace(
        model.arrays,
        components=components,
        feature_low=features.min(axis=0),
        feature_high=features.max(axis=0),
        feature_mean=mean,
        feature_scale=scale,
    )
    x, middle, size = (features - mean) / scale, float(target.mean()), float(target.std())
    penalty = _PENALTY / len(np.unique(examples.life))
    fitted = [_network(x, (target - middle) / size, penalty, _SEED + i) for i in range(networks)]
    return replace(model, arrays=with_regressors(arrays, fitted, middle, size))


def _components(average: Floats, target: Floats, kept: int) -> Floats:
    """(C, K) weights of the signals, by partial least squares on what varies."""
    varies = average.std(axis=0) > 1e-9
    components = np.zeros((average.shape[1], kept))
    found = min(kept, int(varies.sum()))
    if found:
        rotations = PLSRegression(found, scale=True).fit(average[:, varies], target).x_rotations_
        components[np.ix_(varies, np.arange(found))] = rotations
    return components


def _path_features(examples: _Examples, components: Floats) -> Floats:
    flat = (examples.average @ components).reshape(len(examples.life), -1)
    return np.column_stack([flat, examples.age_hours])


def _network(x: Floats, target: Floats, penalty: float, seed: int) -> MLPRegressor:
    network = MLPRegressor(
        hidden_layer_sizes=_HIDDEN,
        alpha=penalty,
        max_iter=_EPOCHS,
        learning_rate_init=0.01,
        batch_size=min(256, len(x)),
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the epochs are chosen, not the loss
        return network.fit(x, target)


def with_regressors(
    arrays: FleetModelArrays, fitted: Sequence[MLPRegressor], middle: float, size: float
) -> FleetModelArrays:
    """The arrays of fitted networks of two hidden layers, whose output is `middle` + `size` times the regressor's."""
    first, second, third = (np.stack([each.coefs_[i] for each in fitted]) for i in range(3))
    bias_1, bias_2, bias_3 = (np.stack([each.intercepts_[i] for each in fitted]) for i in range(3))
    return replace(
        arrays,
        weight_1=first,
        bias_1=bias_1,
        weight_2=second,
        bias_2=bias_2,
        weight_3=third[:, :, 0] * size,
        bias_3=bias_3[:, 0] * size + middle,
    )


# --- the distribution -----------------------------------------------------------------------------------------------


def _groups(lives: Sequence[Life]) -> NDArray[np.int64]:
    """(lives,) fold of each life: all lives of a machine in one, long and short lives in every one."""
    longest: dict[str, float] = {}
    for life in lives:
        longest[life.asset] = max(longest.get(life.asset, 0.0), life.hours)
    ranked = {asset: rank for rank, asset in enumerate(sorted(longest, key=lambda asset: (longest[asset], asset)))}
    return np.array([ranked[life.asset] % _FOLDS for life in lives])


def _unseen_levels(model: FleetModel, examples: _Examples, groups: NDArray[np.int64]) -> Floats:
    """(m,) the level of every example, told by networks that did not see its machine."""
    level = np.zeros(len(examples.life))
    fold = groups[examples.life]
    for held_out in np.unique(fold):
        mine = fold == held_out
        if mine.all():
            return predicted_level(
                (fitted := _with_networks(model, examples, _NETWORKS_UNSEEN)).arrays,
                _path_features(examples, fitted.arrays.components),
            )
        fitted = _with_networks(model, _only(examples, ~mine), _NETWORKS_UNSEEN)
        level[mine] = predicted_level(fitted.arrays, _path_features(_only(examples, mine), fitted.arrays.components))
    return level


def _only(examples: _Examples, rows: Bools) -> _Examples:
    return _Examples(
        life=examples.life[rows],
        average=examples.average[rows],
        age_hours=examples.age_hours[rows],
        rul_hours=examples.rul_hours[rows],
    )


def _with_curve(model: FleetModel, examples: _Examples, level: Floats) -> FleetModelArrays:
    """The arrays with the quantiles of what unseen machines did at each level."""
    v = scale_of_hours(model.header, examples.rul_hours, examples.age_hours)
    weight = 1.0 / np.bincount(examples.life)[examples.life]
    lives = len(np.unique(examples.life))
    order = np.argsort(level, kind="stable")
    near = max(int(_NEIGHBOURS * len(order)), 20)
    centres = np.linspace(near // 2, len(order) - 1 - near // 2, _KNOTS).round().astype(np.int64)
    knots: list[float] = []
    offsets: list[list[float]] = []
    for centre in centres:
        rows = order[max(centre - near // 2, 0) : centre + near // 2 + 1]
        knot = float(np.average(level[rows], weights=weight[rows]))
        if knots and knot <= knots[-1] + 1e-6:
            continue
        knots.append(knot)
        offsets.append(_offsets(v[rows], level[rows], weight[rows], lives))
    if len(knots) < 2:
        knots, offsets = [0.0, 1.0], [offsets[0], offsets[0]]
    return replace(model.arrays, curve_level=np.array(knots), curve_offset=np.array(offsets))


def _offsets(v: Floats, level: Floats, weight: Floats, lives: int) -> list[float]:
    """P10, P50, P90 of v - level; the median is left at the level while the unit may have symptoms.

    Below the knee both agree. Near it the level is the mean of min(RUL, knee), below the median: a prognosis that is
    late costs more than one that is early (Saxena et al. 2008).
    """
    outside = 0.1 * (1.0 - 1.0 / (lives + 1.0))
    low, middle, high = _quantiles(v - level, weight, (outside, 0.5, 1.0 - outside))
    symptom_free = float(np.average(v > 1.0, weights=weight)) >= _SYMPTOM_FREE
    point = middle if symptom_free else 0.0
    return [min(low, point), point, max(high, point)]


def _quantiles(value: Floats, weight: Floats, wanted: tuple[float, ...]) -> list[float]:
    order = np.argsort(value, kind="stable")
    share = (np.cumsum(weight[order]) - 0.5 * weight[order]) / weight.sum()
    return np.interp(wanted, share, value[order]).tolist()
