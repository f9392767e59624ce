"""Fleet knowledge: what the histories of other machines of a type say about the next one. JSON, nothing executable.

From run-to-failure histories: how severe the fault is when machines fail, how long they last from a given severity on,
how long they live altogether and, from enough of them, a fleet model of their paths (fleet_model.py).
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from forewarn_models.fleet_model import FleetModel, FleetModelError, load_fleet_model, save_fleet_model
from forewarn_models.layout import Floats

FORMAT: Final = 1
FEWEST_FAILURES: Final = 3
_KNOTS: Final = 12
_LEAST_LOG_SEVERITY: Final = math.log(0.5)
_NARROWEST: Final = 0.1
_LEAST_HOURS: Final = 1e-3


class KnowledgeError(ValueError):
    """The fleet knowledge cannot be used or learned; the message says why and what is needed."""


class FleetKnowledge(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What past failures of a type of machine taught. Severity is the anomaly score, 1 at the ALARM level."""

    asset_type: str
    failures: int
    """Histories that ended in a failure."""
    censored: int
    """Histories that ended without one."""
    failure_log_severity: float
    failure_log_spread: float
    """Mean and standard deviation of the logarithm of severity just before the failure."""
    log_severity: tuple[float, ...]
    """Knots, increasing."""
    log_rul_hours: tuple[float, ...]
    log_rul_spread: tuple[float, ...]
    """Mean and standard deviation of the logarithm of the hours to failure at each knot."""
    life_shape: float
    life_scale_hours: float
    """Weibull distribution of the life, from the first sample of a history."""
    alarm_hours: float | None = None
    """Median of the hours left at the first ALARM, of the histories that had one; None where less than half had."""
    fleet_model: FleetModel | None = None
    """Kept in files of its own."""
    fleet_model_missing: str = ""
    """Why there is no fleet model: what is needed for one."""
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True, eq=False)
class Path:
    """One assessed history: `hours` (n,) since its first sample, the anomaly score `severity` (n,), and its end."""

    hours: Floats
    severity: Floats
    failed: bool
    alarmed_at: float | None = None
    """Hours at the first ALARM; None without one."""


# --- learning -------------------------------------------------------------------------------------------------------


def fit_knowledge(asset_type: str, paths: Sequence[Path]) -> FleetKnowledge:
    """Fleet knowledge from assessed histories; those without a failure count for the lives only.

    Raises:
        KnowledgeError: fewer than 3 histories end in a failure, or too few of them show any evidence before it.
    """
    failed = [path for path in paths if path.failed and len(path.hours)]
    censored = [path for path in paths if not path.failed and len(path.hours)]
    if len(failed) < FEWEST_FAILURES:
        raise KnowledgeError(
            f"failures.csv: {len(failed)} {'history ends' if len(failed) == 1 else 'histories end'} in a failure; "
            f"at least {FEWEST_FAILURES} are needed: "
            "add machines that failed, each with its telemetry until then and a row asset_id, failed_at, failure_mode"
        )
    at_failure = np.array([math.log(max(_end(path), 1e-3)) for path in failed])
    severity, rul = _points(failed)
    knots, mean, spread = _curve(severity, rul)
    shape, scale = _weibull(_lives(failed), _lives(censored))
    return FleetKnowledge(
        asset_type=asset_type,
        failures=len(failed),
        censored=len(censored),
        failure_log_severity=float(at_failure.mean()),
        failure_log_spread=max(float(at_failure.std(ddof=1)), _NARROWEST),
        log_severity=tuple(knots.tolist()),
        log_rul_hours=tuple(mean.tolist()),
        log_rul_spread=tuple(spread.tolist()),
        life_shape=shape,
        life_scale_hours=scale,
        alarm_hours=_alarm_hours(failed),
    )


def _alarm_hours(failed: Sequence[Path]) -> float | None:
    left = [path.hours[-1] - path.alarmed_at for path in failed if path.alarmed_at is not None]
    usual = float(np.median(left)) if 2 * len(left) >= len(failed) else 0.0
    return usual if usual > 0 else None


def _end(path: Path) -> float:
    """Severity just before the failure: the median of the last few samples that were judged."""
    judged = path.severity[path.severity > 0]
    return float(np.median(judged[-5:])) if len(judged) else 0.0


def _points(failed: Sequence[Path]) -> tuple[Floats, Floats]:
    """Logarithms of severity and of hours to failure, at every sample of every path that showed evidence."""
    severity = np.concatenate([path.severity for path in failed])
    left = np.concatenate([path.hours[-1] - path.hours for path in failed])
    log_severity = np.log(np.maximum(severity, 1e-9))
    shown = (log_severity >= _LEAST_LOG_SEVERITY) & (left > 0)
    return log_severity[shown], np.log(np.maximum(left[shown], _LEAST_HOURS))


def _curve(severity: Floats, rul: Floats) -> tuple[Floats, Floats, Floats]:
    """Knots of severity with the mean and spread of the logarithm of remaining hours near them, never rising."""
    if len(severity) < 10 * _KNOTS:
        raise KnowledgeError(
            f"too few samples before the failures show evidence of a fault: {len(severity)} of at least {10 * _KNOTS} "
            "that are needed; give longer histories, or check that the signals react to the fault"
        )
    knots = np.unique(np.quantile(severity, np.linspace(0.02, 0.98, _KNOTS)))
    width = max(float(knots[-1] - knots[0]) / _KNOTS, _NARROWEST)
    weight = np.exp(-0.5 * ((severity - knots[:, None]) / width) ** 2)
    total = weight.sum(axis=1)
    mean = (weight @ rul) / total
    variance = (weight * (rul - mean[:, None]) ** 2).sum(axis=1) / total
    if len(knots) < 2:
        knots, mean, variance = knots[0] + np.array([0.0, 1.0]), np.repeat(mean, 2), np.repeat(variance, 2)
    return knots, np.minimum.accumulate(mean), np.sqrt(np.maximum(variance, _NARROWEST**2))


def _lives(paths: Sequence[Path]) -> Floats:
    return np.array([max(float(path.hours[-1] - path.hours[0]), _LEAST_HOURS) for path in paths], dtype=np.float64)


def _weibull(failed: Floats, censored: Floats) -> tuple[float, float]:
    """Shape and scale by maximum likelihood with right censoring.

    The shape k solves sum(t^k ln t) / sum(t^k) - 1/k = mean(ln t of the failed), by bisection: the left side grows
    with k (Cohen 1965). The scale follows from it.
    """
    everything = np.concatenate([failed, censored])
    unit = float(everything.max())
    log_all, log_failed = np.log(everything / unit), np.log(failed / unit)

    def excess(shape: float) -> float:
        power = np.exp(shape * log_all)
        return float((power * log_all).sum() / power.sum()) - 1.0 / shape - float(log_failed.mean())

    low, high = 0.05, 50.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    shape = math.sqrt(low * high)
    scale = unit * float(np.exp(shape * log_all).sum() / len(failed)) ** (1.0 / shape)
    return shape, scale


# --- use ------------------------------------------------------------------------------------------------------------


def remaining_life_given_severity(knowledge: FleetKnowledge, severity: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the logarithm of the hours to failure at a `severity` (k,)."""
    at = np.log(np.maximum(severity, 1e-3))
    mean = np.interp(at, knowledge.log_severity, knowledge.log_rul_hours)
    return mean, np.interp(at, knowledge.log_severity, knowledge.log_rul_spread)


# --- on disk --------------------------------------------------------------------------------------------------------

KNOWLEDGE: Final = "knowledge"
FLEET_MODEL: Final = "fleet_model"
FLEET_ARRAYS: Final = "fleet_arrays"


def fingerprint(part: object) -> str:
    """What stands for an array of a fleet model where knowledge is written as JSON: shape and SHA-256."""
    if isinstance(part, np.ndarray):
        return f"{part.shape} {hashlib.sha256(np.ascontiguousarray(part, dtype='<f8').tobytes()).hexdigest()}"
    raise NotImplementedError(f"{type(part).__name__} is no part of the knowledge")


def save_knowledge(knowledge: FleetKnowledge) -> dict[str, bytes]:
    """Role -> content, JSON and, for the arrays of a fleet model, npz; the same bytes for the same knowledge."""
    plain = msgspec.structs.replace(knowledge, fleet_model=None)
    contents = {KNOWLEDGE: msgspec.json.format(msgspec.json.encode(plain)) + b"\n"}
    if knowledge.fleet_model is not None:
        contents[FLEET_MODEL], contents[FLEET_ARRAYS] = save_fleet_model(knowledge.fleet_model)
    return contents


def load_knowledge(contents: Mapping[str, bytes]) -> FleetKnowledge:
    """Read what `save_knowledge` made, completely checked.

    Raises:
        KnowledgeError: a part is missing, is no JSON or npz, or a field or array is missing, unknown or out of range;
            the message names it.
    """
    _require(KNOWLEDGE in contents, "it is missing; run `forewarn-cloud fit` again")
    try:
        knowledge = msgspec.json.decode(contents[KNOWLEDGE], type=FleetKnowledge)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KnowledgeError(f"fleet knowledge: {error}") from None
    _check(knowledge)
    _require((FLEET_MODEL in contents) == (FLEET_ARRAYS in contents), "a part of the fleet model is missing")
    if FLEET_MODEL not in contents:
        return knowledge
    try:
        model = load_fleet_model(contents[FLEET_MODEL], contents[FLEET_ARRAYS])
    except FleetModelError as error:
        raise KnowledgeError(str(error)) from None
    return msgspec.structs.replace(knowledge, fleet_model=model)


def _check(knowledge: FleetKnowledge) -> None:
    _require(knowledge.format == FORMAT, f"format: {knowledge.format} is not known; this is version {FORMAT}")
    knots = len(knowledge.log_severity)
    _require(
        knots >= 2 and knots == len(knowledge.log_rul_hours) == len(knowledge.log_rul_spread),
        "log_severity, log_rul_hours, log_rul_spread: give two or more values, as many of each",
    )
    _require(bool((np.diff(knowledge.log_severity) > 0).all()), "log_severity: not increasing")
    _require(min(knowledge.log_rul_spread) > 0, "log_rul_spread: not positive")
    _require(knowledge.failure_log_spread > 0, "failure_log_spread: not positive")
    _require(knowledge.life_shape > 0 and knowledge.life_scale_hours > 0, "life: shape and scale must be positive")
    _require(knowledge.alarm_hours is None or knowledge.alarm_hours > 0, "alarm_hours: not positive")


def _require(right: bool, reason: str) -> None:
    if not right:
        raise KnowledgeError(f"fleet knowledge: {reason}")
