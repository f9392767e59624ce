"""Diagnosis: which failure mode the pattern of residuals looks like, and what findings teach about that.

The pattern x has an entry per condition signal: its residual in standard deviations in health, cut to the bad direction
and brought one nearer to 0 (what chance alone would give); then all of them are divided by their length, or by 2 if
that is more, so that x says what deviates rather than how far, and a deviation without a direction stays near 0. An
advisory carries all of it: edge and cloud see the same. The probabilities are a softmax over the failure modes m and
"none of these":

    z_m = 12 (s_m . x - 0.6) + l_m . (x, 1/2)        z_none = l_none . (x, 1/2)

with s_m the symptoms of the mode as a unit vector, so that s_m . x is a cosine, and l what findings taught: 0 at first.

A finding is one step of gradient descent on the log loss of the softmax (multinomial logistic regression: Bishop 2006,
"Pattern Recognition and Machine Learning", 4.3.4): l_m += 0.4 (y_m - p_m) (x, 1/2). y is 1 for what was found; where
only the suspected mode was ruled out, it is p without that mode (the loss of a complementary label: -log(1 - p)).

Bounds. (y_a - p_a) - (y_b - p_b) is at most 2 and (x, 1/2) . (x', 1/2) at most 5/4: one finding changes the odds
between any two modes, of any pattern, by a factor of e = 2.72 at most, so that a mode with a probability of 3/4 stays
first after one wrong finding. "No fault found" weighs half: an early fault is easily not seen. The rows of l are kept
within a length of 6: enough findings overturn a wrong table, but none does by more than 13.4 in the log odds.
"""

import math
from collections.abc import Callable
from typing import Annotated, Final, Literal

import msgspec
import numpy as np

from forewarn_models.asset_type import IDENTIFIER, MAX_SIGNALS, SIGNAL_NAME, AssetType
from forewarn_models.layout import Bools, Floats, Layout
from forewarn_models.wire import Advisory

FORMAT: Final = 1
MAX_MODES: Final = 64
_SHARPNESS: Final = 12.0
_NONE_OF_THESE: Final = 0.6
"""Cosine below which a pattern is rather none of the known ones."""
_BY_CHANCE: Final = 1.0
_LEAST_LENGTH: Final = 2.0
_BIAS: Final = 0.5
_STEP: Final = 0.4
_NO_FAULT_WEIGHT: Final = 0.5
_LONGEST: Final = 6.0
_LEAST_PROBABILITY: Final = 1e-6

Row = tuple[float, ...]
Outcome = Literal["CONFIRMED", "OTHER_FAULT", "NO_FAULT_FOUND"]


class DiagnosisError(ValueError):
    """The stored diagnosis cannot be used; the message names the field and the fix."""


class FoundFault(msgspec.Struct, frozen=True, kw_only=True):
    """What was found on site. A mode is None, or one the model does not know, where nobody named one."""

    outcome: Outcome
    suspected: str | None
    """The failure mode someone was sent for."""
    found: str | None = None


class DiagnosisModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """M failure modes, C condition signals; as JSON it is what `load_diagnosis` reads."""

    asset_type: str
    signals: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_SIGNALS)]
    failure_modes: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_MODES)]
    symptoms: tuple[Row, ...]
    """(M, C) unit vectors."""
    learned: tuple[Row, ...]
    """(M + 1, C + 1): "none of these" comes last among the rows, the bias among the columns."""
    findings: int = 0
    """How many it has learned from: its version."""
    format: int = FORMAT


# --- on the edge ----------------------------------------------------------------------------------------------------


def mode_probabilities(layout: Layout, significance: Floats, evident: Bools) -> Floats:
    """(n, A, M) from `significance` (n, A, C), the residuals in standard deviations in health.

    0 where not `evident` (n, A). What is missing to 1 is "none of these".
    """
    probability = np.zeros((*evident.shape, len(layout.symptoms)))
    if not len(layout.symptoms) or not evident.any():
        return probability
    pattern = _pattern(significance[evident], layout.lowest_deviation, layout.highest_deviation)
    weight = np.exp(_prior_logits(layout.symptoms, pattern))
    probability[evident] = weight / (1.0 + weight.sum(axis=1, keepdims=True))
    return probability


def _pattern(significance: Floats, lowest: Floats, highest: Floats) -> Floats:
    """(..., C), never longer than 1."""
    bad = np.clip(significance, lowest, highest)
    beyond = np.sign(bad) * np.maximum(np.abs(bad) - _BY_CHANCE, 0.0)
    length = np.sqrt((beyond * beyond).sum(axis=-1, keepdims=True))
    pattern: Floats = beyond / np.maximum(length, _LEAST_LENGTH)
    return pattern


def _prior_logits(symptoms: Floats, pattern: Floats) -> Floats:
    """(..., M) relative to "none of these", from the table alone."""
    logits: Floats = _SHARPNESS * (np.matmul(pattern, symptoms.T) - _NONE_OF_THESE)
    return logits


# --- in the cloud: with what findings taught -------------------------------------------------------------------------


def new_diagnosis(asset_type: AssetType) -> DiagnosisModel:
    """What the asset type's table of symptoms says, before any finding."""
    signals = tuple(signal.name for signal in asset_type.signals if signal.role == "condition")
    modes = asset_type.failure_modes
    return DiagnosisModel(
        asset_type=asset_type.asset_type,
        signals=signals,
        failure_modes=tuple(mode.code for mode in modes),
        symptoms=tuple(_unit([mode.symptoms.get(name, 0.0) for name in signals]) for mode in modes),
        learned=tuple((0.0,) * (len(signals) + 1) for _ in range(len(modes) + 1)),
    )


def pattern_of(asset_type: AssetType, advisory: Advisory) -> Row | None:
    """The pattern (C,) that an advisory tells of; None where it tells of no deviation.

    From one that does not tell significance (made by hand) it is the roots of the shares, signed like the residuals.
    """
    if not advisory.anomaly_score > 0:
        return None
    signals = [signal for signal in asset_type.signals if signal.role == "condition"]
    if advisory.significance:
        lowest = np.array([0.0 if signal.worse == "up" else -np.inf for signal in signals])
        highest = np.array([0.0 if signal.worse == "down" else np.inf for signal in signals])
        told = np.array([advisory.significance.get(signal.name, 0.0) for signal in signals])
        pattern = tuple(_pattern(told, lowest, highest).tolist())
    else:
        pattern = tuple(_signed_root(advisory, signal.name) for signal in signals)
    return pattern if any(pattern) else None


def _signed_root(advisory: Advisory, signal: str) -> float:
    share = advisory.contributions.get(signal, 0.0) / advisory.anomaly_score
    residual = advisory.residuals.get(signal, 0.0)
    return math.copysign(math.sqrt(max(share, 0.0)), residual) if residual != 0 else 0.0


def diagnose(model: DiagnosisModel, pattern: Row) -> dict[str, float]:
    """Failure mode -> probability; what is missing to 1 is "none of these".

    Raises:
        ValueError: the pattern is not finite, longer than 1, or does not fit the model's signals.
    """
    return _named(model, _probabilities(model, _checked(model, pattern)))


def revised(model: DiagnosisModel, pattern: Row | None, told: dict[str, float]) -> dict[str, float]:
    """The probabilities an edge has `told`, with what findings taught since; without any they stand as they are.

    Each is multiplied by exp(l . (x, 1/2)): equal to `diagnose` where the edge knows the same table.
    """
    if model.findings == 0 or pattern is None or not told:
        return told
    shift = dict(zip((*model.failure_modes, None), _shifts(model, _checked(model, pattern)).tolist(), strict=True))
    weight = {mode: p * math.exp(shift.get(mode, 0.0)) for mode, p in told.items()}
    none = max(1.0 - sum(told.values()), _LEAST_PROBABILITY) * math.exp(shift[None])
    total = none + sum(weight.values())
    return {mode: value / total for mode, value in weight.items()}


def learn(model: DiagnosisModel, pattern: Row, finding: FoundFault) -> DiagnosisModel:
    """The model after one finding about a machine that showed `pattern`; the same where the finding names nothing.

    Raises:
        ValueError: the pattern is not finite, longer than 1, or does not fit the model's signals.
    """
    x = _checked(model, pattern)
    p = _probabilities(model, x)
    target = _target(model, p, finding)
    if target is None:
        return model
    step = _STEP * (_NO_FAULT_WEIGHT if finding.outcome == "NO_FAULT_FOUND" else 1.0)
    learned = np.array(model.learned) + step * np.outer(target - p, np.append(x, _BIAS))
    length = np.linalg.norm(learned, axis=1, keepdims=True)
    learned *= np.minimum(1.0, _LONGEST / np.maximum(length, _LONGEST))
    return msgspec.structs.replace(model, learned=_rows(learned), findings=model.findings + 1)


def carried_over(model: DiagnosisModel, asset_type: AssetType) -> DiagnosisModel:
    """What was learned, put by name onto the present table of the asset type; what the table lost is forgotten."""
    fresh = new_diagnosis(asset_type)
    if (model.signals, model.failure_modes) == (fresh.signals, fresh.failure_modes):
        return msgspec.structs.replace(fresh, learned=model.learned, findings=model.findings)
    rows = dict(zip((*model.failure_modes, None), model.learned, strict=True))
    column = {name: i for i, name in enumerate((*model.signals, None))}
    learned = tuple(
        tuple(rows[mode][column[name]] if mode in rows and name in column else 0.0 for name in (*fresh.signals, None))
        for mode in (*fresh.failure_modes, None)
    )
    return msgspec.structs.replace(fresh, learned=learned, findings=model.findings)


def dump_diagnosis(model: DiagnosisModel) -> str:
    """As JSON; the same model gives the same text."""
    return msgspec.json.encode(model, order="deterministic").decode()


def load_diagnosis(text: str | bytes) -> DiagnosisModel:
    """The model that `dump_diagnosis` wrote.

    Raises:
        DiagnosisError: it is no such JSON, of another format, or its names, shapes or numbers cannot be right.
    """
    try:
        model = msgspec.json.decode(text, type=DiagnosisModel)
    except msgspec.MsgspecError as error:
        raise DiagnosisError(f"diagnosis: {error}") from None
    _check(model)
    return model


# --- parts ----------------------------------------------------------------------------------------------------------


def _shifts(model: DiagnosisModel, x: Floats) -> Floats:
    """(M + 1,) what findings add to the logits."""
    shifts: Floats = np.matmul(np.array(model.learned), np.append(x, _BIAS))
    return shifts


def _probabilities(model: DiagnosisModel, x: Floats) -> Floats:
    """(M + 1,) "none of these" last."""
    symptoms = np.array(model.symptoms).reshape(len(model.failure_modes), len(model.signals))
    logits = np.append(_prior_logits(symptoms, x), 0.0) + _shifts(model, x)
    weight = np.exp(logits - logits.max())
    probability: Floats = weight / weight.sum()
    return probability


def _target(model: DiagnosisModel, p: Floats, finding: FoundFault) -> Floats | None:
    """(M + 1,) what the probabilities should have been; None where the finding names nothing."""
    target = np.zeros_like(p)
    if finding.outcome == "NO_FAULT_FOUND":
        target[-1] = 1.0
    elif finding.found in model.failure_modes:
        target[model.failure_modes.index(finding.found)] = 1.0
    elif finding.outcome == "OTHER_FAULT" and finding.suspected in model.failure_modes:
        target = p.copy()
        target[model.failure_modes.index(finding.suspected)] = 0.0
        target /= max(float(target.sum()), _LEAST_PROBABILITY)
    else:
        return None
    return target


def _named(model: DiagnosisModel, probability: Floats) -> dict[str, float]:
    return dict(zip(model.failure_modes, probability[:-1].tolist(), strict=True))


def _unit(values: list[float]) -> Row:
    length = math.sqrt(math.fsum(value * value for value in values)) or 1.0
    return tuple(value / length for value in values)


def _rows(matrix: Floats) -> tuple[Row, ...]:
    return tuple(tuple(row) for row in matrix.tolist())


def _checked(model: DiagnosisModel, pattern: Row) -> Floats:
    x = np.array(pattern, dtype=np.float64)
    if x.shape != (len(model.signals),) or not np.isfinite(x).all() or float(x @ x) > 1.0 + 1e-6:
        raise ValueError(f"pattern: give {len(model.signals)} finite numbers whose squares sum to 1 at most")
    return x


def _check(model: DiagnosisModel) -> None:
    signals, modes = len(model.signals), len(model.failure_modes)
    _require(model.format == FORMAT, "format", f"{model.format} is not {FORMAT}, the one this version reads")
    _require(bool(IDENTIFIER.fullmatch(model.asset_type)), "asset_type", "is no name of an asset type")
    _check_names(model.signals, SIGNAL_NAME.fullmatch, "signals")
    _check_names(model.failure_modes, IDENTIFIER.fullmatch, "failure_modes")
    _check_rows(model.symptoms, modes, signals, 1.0, "symptoms")
    _check_rows(model.learned, modes + 1, signals + 1, _LONGEST, "learned")
    _require(model.findings >= 0, "findings", "is negative")


def _check_names(names: tuple[str, ...], matches: Callable[[str], object], where: str) -> None:
    _require(len(set(names)) == len(names), where, "names one twice")
    _require(all(matches(name) is not None for name in names), where, "holds what is no name")


def _check_rows(rows: tuple[Row, ...], count: int, width: int, longest: float, where: str) -> None:
    right = len(rows) == count and all(len(row) == width for row in rows)
    _require(right, where, f"must be {count} rows of {width} numbers")
    lengths = [math.sqrt(math.fsum(value * value for value in row)) for row in rows]
    _require(all(length <= longest + 1e-6 for length in lengths), where, f"has a row longer than {longest:g}")


def _require(right: bool, where: str, what: str) -> None:
    if not right:
        raise DiagnosisError(f"diagnosis.{where}: {what}; delete it to learn anew from the asset type's table")
