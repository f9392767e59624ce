"""What the kernel remembers of a fleet: bounded arrays, and how they are kept on disk exactly."""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from forewarn_models.condition import ConditionState, new_condition_state
from forewarn_models.evidence import EvidenceState, new_evidence_state
from forewarn_models.fleet_model import PathState, new_path_state
from forewarn_models.layout import Ints, Layout
from forewarn_models.prognosis import TrendState, new_trend_state
from forewarn_models.readings import ReadingState, new_reading_state
from forewarn_models.reference import ReferenceState, new_reference_state
from forewarn_models.regime import RegimeState, new_regime_state
from forewarn_models.relearning import RelearningState, new_relearning_state

_MAGIC: Final = b"forewarn-state\n"
_VERSION: Final = 3
_DIGEST_BYTES: Final = 32
LONG_AGO: Final = 1_000_000


class StateError(ValueError):
    """The saved state cannot be used; the message says why. The model then has to learn anew."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselineState:
    """(assets,) how far learning has come."""

    samples: Ints
    """Healthy samples learned."""
    pending: Ints
    """Of the window under way."""
    pending_familiar: Ints
    pending_strange: Ints
    since_strange: Ints
    """Windows since the last one that was spent in regimes not known yet."""
    log_interval: NDArray[np.float64]
    intervals: Ints
    """Sum of the logarithms, and number, of the times between samples seen while learning."""
    pending_log_interval: NDArray[np.float64]
    pending_intervals: Ints
    """The same of the window under way."""


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """Of a fleet; every array has one row per asset. A single asset is a fleet of one."""

    step: int
    """Samples into the window under way; the same for all assets."""
    readings: ReadingState
    regime: RegimeState
    reference: ReferenceState
    evidence: EvidenceState
    condition: ConditionState
    trend: TrendState
    path: PathState
    baseline: BaselineState
    relearning: RelearningState

    @property
    def assets(self) -> int:
        return len(self.baseline.samples)


_PARTS: Final = ("readings", "regime", "reference", "evidence", "condition", "trend", "path", "baseline", "relearning")


def fresh_state(layout: Layout, assets: int) -> State:
    if assets < 1:
        raise ValueError(f"assets: {assets}, a fleet has at least one")
    counts = np.zeros(assets, dtype=np.int64)
    baseline = BaselineState(
        samples=counts,
        pending=counts,
        pending_familiar=counts,
        pending_strange=counts,
        since_strange=counts + LONG_AGO,
        log_interval=np.zeros(assets),
        intervals=counts,
        pending_log_interval=np.zeros(assets),
        pending_intervals=counts,
    )
    return State(
        step=0,
        readings=new_reading_state(assets, len(layout.valid_min)),
        regime=new_regime_state(layout, assets),
        reference=new_reference_state(layout, assets),
        evidence=new_evidence_state(layout, assets),
        condition=new_condition_state(layout, assets),
        trend=new_trend_state(assets),
        path=new_path_state(assets, layout.horizons, len(layout.condition)),
        baseline=baseline,
        relearning=new_relearning_state(assets),
    )


def with_fresh_asset(layout: Layout, state: State, index: int, at_ms: int) -> State:
    """The state with everything forgotten about one asset, as if its last sample had been at `at_ms`."""
    fresh = fresh_state(layout, 1)
    parts = {part: _with_row(getattr(state, part), getattr(fresh, part), index) for part in _PARTS}
    parts["readings"].last_ms[index] = at_ms
    return replace(state, **parts)


def with_clock_set_back(state: State, index: int, at_ms: int) -> State:
    """The state as if no sample of one asset had been after `at_ms`: those that were had a wrong time.

    What was learned stays.
    """
    readings, condition, trend = state.readings, state.condition, state.trend
    return replace(
        state,
        readings=replace(
            readings,
            last_ms=_at_most(readings.last_ms, index, at_ms),
            started_ms=_at_most(readings.started_ms, index, at_ms),
        ),
        condition=replace(condition, since_ms=_at_most(condition.since_ms, index, at_ms)),
        trend=replace(trend, estimated_ms=_at_most(trend.estimated_ms, index, at_ms)),
    )


def _at_most(t_ms: Ints, index: int, at_ms: int) -> Ints:
    changed = t_ms.copy()
    changed[index] = min(int(t_ms[index]), at_ms)
    return changed


_Part = TypeVar(
    "_Part",
    ReadingState,
    RegimeState,
    ReferenceState,
    EvidenceState,
    ConditionState,
    TrendState,
    PathState,
    BaselineState,
    RelearningState,
)


def _with_row(part: _Part, fresh: _Part, index: int) -> _Part:
    changed = {}
    for name, array in _arrays(part):
        changed[name] = array.copy()
        changed[name][index] = getattr(fresh, name)[0]
    return replace(part, **changed)


def _arrays(part: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    for field in fields(part):
        yield field.name, getattr(part, field.name)


# --- on disk --------------------------------------------------------------------------------------------------------


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: int
    model: str
    assets: int
    step: int
    arrays: str
    """SHA-256 (hex) of the names, types and shapes of the arrays, in the order their bytes follow."""


def encode_state(model_hash: str, state: State) -> bytes:
    named = [(f"{part}.{name}", array) for part in _PARTS for name, array in _arrays(getattr(state, part))]
    header = _Header(
        version=_VERSION,
        model=model_hash,
        assets=state.assets,
        step=state.step,
        arrays=_described(named),
    )
    head = msgspec.json.encode(header)
    raw = [np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes() for _, array in named]
    body = b"".join([_MAGIC, struct.pack("<I", len(head)), head, *raw])
    return body + hashlib.sha256(body).digest()


def _described(named: Sequence[tuple[str, NDArray[Any]]]) -> str:
    shapes = [(name, array.dtype.newbyteorder("<").str, array.shape) for name, array in named]
    return hashlib.sha256(msgspec.json.encode(shapes)).hexdigest()


def decode_state(model_hash: str, layout: Layout, blob: bytes) -> State:
    """The state that `encode_state` made of the same model.

    Raises:
        StateError: the bytes are damaged, of another version or model, have another shape, or hold NaN.
    """
    header, raw = _opened(blob)
    _require(header.version == _VERSION, f"version {header.version}, this is version {_VERSION}")
    _require(header.model == model_hash, "it belongs to another model or other settings")
    _require(1 <= header.assets <= 10_000_000, "the number of assets is out of range")
    _require(0 <= header.step < layout.window, "the step is out of range")
    template = fresh_state(layout, header.assets)
    expected = [(f"{part}.{name}", array) for part in _PARTS for name, array in _arrays(getattr(template, part))]
    _require(header.arrays == _described(expected), "its arrays have other names, types or shapes")
    _require(len(raw) == sum(array.nbytes for _, array in expected), "its arrays are cut short")
    parts: dict[str, dict[str, NDArray[Any]]] = {part: {} for part in _PARTS}
    at = 0
    for name, like in expected:
        array = np.frombuffer(raw, dtype=like.dtype.newbyteorder("<"), count=like.size, offset=at)
        array = array.reshape(like.shape).astype(like.dtype)
        _require(like.dtype.kind != "f" or bool(np.isfinite(array).all()), f"{name} holds NaN or infinity")
        part, field = name.split(".")
        parts[part][field] = array
        at += like.nbytes
    changed = {part: replace(getattr(template, part), **arrays) for part, arrays in parts.items()}
    return replace(template, step=header.step, **changed)


def _opened(blob: bytes) -> tuple[_Header, bytes]:
    start = len(_MAGIC) + 4
    _require(len(blob) > start + _DIGEST_BYTES and blob.startswith(_MAGIC), "it is no saved state or cut short")
    body, digest = blob[:-_DIGEST_BYTES], blob[-_DIGEST_BYTES:]
    _require(hashlib.sha256(body).digest() == digest, "its checksum does not match; the file is damaged")
    (length,) = struct.unpack_from("<I", body, len(_MAGIC))
    _require(start + length <= len(body), "its header is cut short")
    try:
        return msgspec.json.decode(body[start : start + length], type=_Header), body[start + length :]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(f"saved state: its header is not readable: {error}") from None


def _require(right: bool, reason: str) -> None:
    if not right:
        raise StateError(f"saved state: {reason}")
