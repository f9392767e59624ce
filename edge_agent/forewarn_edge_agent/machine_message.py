"""What a machine publishes, read into telemetry records.

Three forms are understood. `{"t": epoch ms or a list, "signals": {name: number, null or a list}}`; a flat object such
as `{"temperature_c": 41.2}`, with or without "t"; and a telemetry message of the wire contract. Without "t" the time
is that of receipt. Values are float32 from here on: what is assessed is exactly what is sent.

Beside "signals", of one time, there may be `"waveforms": {point: {"sample_rate_hz", "acceleration_m_s2": [..]}}`:
what the configuration says of the point becomes signals. A waveform that cannot be used costs only itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from forewarn_edge_agent import waveforms
from forewarn_edge_agent.sources import Refusal
from forewarn_edge_agent.waveforms import Waveform, WaveformError
from forewarn_models import wire
from forewarn_models.asset_type import MAX_SIGNALS, SIGNAL_NAME

MAX_RECORD_SAMPLES: Final = 256
"""A record with 64 signals then stays far below the size of a message."""
EARLIEST_MS: Final = 1_704_067_200_000
"""2024-01-01: no machine measured before this agent was written."""
LATEST_MS: Final = 4_102_444_800_000
"""2100-01-01: beyond, it is no time in milliseconds."""
Readings = float | None | list[float | None]
_NESTED: Final = frozenset({"signals", "waveforms"})


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What the configuration says of an asset: its type's name, what its signals are called at the source, and the
    points that send waveforms.
    """

    asset_type: str
    rename: Mapping[str, str]
    waveforms: tuple[Waveform, ...] = ()


class MessageError(Exception):
    """The message cannot be used: `refusal` says why."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.refusal = Refusal(kind=kind, detail=detail)


@dataclass(frozen=True, kw_only=True, eq=False)
class MachineMessage:
    records: tuple[wire.Telemetry, ...]
    refusals: tuple[Refusal, ...] = ()
    timed_on_receipt: bool = False


class _Columns(msgspec.Struct, forbid_unknown_fields=True):
    signals: dict[str, Readings] = {}
    t: int | list[int] | None = None
    waveforms: dict[str, msgspec.Raw] = {}


def read(
    asset: str, payload: bytes, assets: Mapping[str, Declared], *, now_ms: int, confirmed: bool = True
) -> MachineMessage:
    """The records in one message that came for `asset`.

    `confirmed`: `now_ms` can be relied on. Else a time is refused only if it cannot be one in milliseconds: a node
    whose clock is wrong must not lose what a machine with a right one measured. The cloud judges it again.

    Raises:
        MessageError: nothing in it can be used.
    """
    try:
        if not wire.check_payload(payload):
            return _read_wire(payload, assets, now_ms)
        keys = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
        if "schema" in keys:
            return _read_wire(payload, assets, now_ms)
        columns = msgspec.json.decode(payload, type=_Columns) if keys.keys() & _NESTED else _read_flat(payload)
        return _read_columns(asset, columns, assets, now_ms, confirmed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, wire.WireError) as error:
        raise MessageError("malformed", str(error)) from None


def telemetry(
    asset: str, declared: Declared, t_ms: NDArray[np.int64], signals: Mapping[str, NDArray[np.float32]]
) -> tuple[wire.Telemetry, ...]:
    """Records of at most `MAX_RECORD_SAMPLES` in time order, the signals under the names of the asset type."""
    order = np.argsort(t_ms, kind="stable")
    renamed = {declared.rename.get(name, name): column[order] for name, column in signals.items()}
    t_ms = t_ms[order]
    parts = [slice(i, i + MAX_RECORD_SAMPLES) for i in range(0, len(t_ms), MAX_RECORD_SAMPLES)]
    return tuple(
        wire.Telemetry(
            asset=asset,
            asset_type=declared.asset_type,
            t_ms=t_ms[part],
            signals={name: column[part] for name, column in renamed.items()},
        )
        for part in parts
    )


def _read_wire(payload: bytes, assets: Mapping[str, Declared], now_ms: int) -> MachineMessage:
    records: list[wire.Telemetry] = []
    refusals: list[Refusal] = []
    for received in wire.decode_message("telemetry", payload, now_ms=now_ms).records:
        record = received.record
        if not isinstance(record, wire.Telemetry):
            reason = record.reason if isinstance(record, wire.Rejected) else "not telemetry"
            refusals.append(Refusal(kind="malformed", detail=f"record {received.seq}: {reason}"))
        elif record.asset not in assets:
            refusals.append(_unknown(record.asset))
        else:
            records += telemetry(record.asset, assets[record.asset], record.t_ms, record.signals)
    return MachineMessage(records=tuple(records), refusals=tuple(refusals))


def _read_flat(payload: bytes) -> _Columns:
    readings = msgspec.json.decode(payload, type=dict[str, int | float | None])
    t = readings.pop("t", None)
    if isinstance(t, float):
        raise MessageError("malformed", f"t: {t} is not a whole number of milliseconds")
    return _Columns(signals=dict(readings), t=t)


def _read_columns(
    asset: str, columns: _Columns, assets: Mapping[str, Declared], now_ms: int, confirmed: bool
) -> MachineMessage:
    if asset not in assets:
        raise MessageError("unknown_asset", _unknown(asset).detail)
    declared = assets[asset]
    t_ms = np.array([now_ms]) if columns.t is None else _times(columns.t, now_ms, confirmed)
    signals = {name: _readings(name, given, len(t_ms), declared) for name, given in columns.signals.items()}
    if columns.waveforms and len(t_ms) > 1:
        raise MessageError("malformed", f"waveforms: give one time with them, not {len(t_ms)}")
    refusals = _add_waveforms(declared, columns.waveforms, signals)
    if len(signals) > MAX_SIGNALS or not (signals or refusals):
        raise MessageError("malformed", f"signals: give 1 to {MAX_SIGNALS}, not {len(signals)}")
    records = telemetry(asset, declared, t_ms, signals) if signals else ()
    return MachineMessage(records=records, refusals=refusals, timed_on_receipt=columns.t is None)


def _add_waveforms(
    declared: Declared, sent: Mapping[str, msgspec.Raw], signals: dict[str, NDArray[np.float32]]
) -> tuple[Refusal, ...]:
    """What could not be used of the waveforms `sent`; the features of the others are added to the `signals`."""
    if len(sent) > MAX_SIGNALS:
        raise MessageError("malformed", f"waveforms: give at most {MAX_SIGNALS}, not {len(sent)}")
    refusals: list[Refusal] = []
    readings = {declared.rename.get(name, name): column for name, column in signals.items()}
    points = {waveform.point: waveform for waveform in declared.waveforms}
    for point, raw in sent.items():
        if point not in points:
            refusals.append(Refusal(kind="unknown_point", detail=f"waveforms: {point[:64]!r} is not declared"))
            continue
        try:
            found = waveforms.signals(points[point], raw, readings)
        except WaveformError as error:
            refusals.append(Refusal(kind="waveform", detail=str(error)))
            continue
        if twice := sorted(found.keys() & readings.keys()):
            raise MessageError("malformed", f"signals.{twice[0]}: it is also a feature of waveforms.{point}")
        signals |= {name: to_float32(value) for name, value in found.items()}
    return tuple(refusals)


def _times(t: int | list[int], now_ms: int, confirmed: bool) -> NDArray[np.int64]:
    given = t if isinstance(t, list) else [t]
    if not given:
        raise MessageError("malformed", "t: give at least one time")
    if confirmed or not EARLIEST_MS <= min(given) <= max(given) <= LATEST_MS:
        try:
            wire.check_time(min(given), now_ms, "t")
            wire.check_time(max(given), now_ms, "t")
        except wire.WireError as error:
            raise MessageError("time", str(error)) from None
    return np.array(given, dtype=np.int64)


def _readings(name: str, given: Readings, samples: int, declared: Declared) -> NDArray[np.float32]:
    if not SIGNAL_NAME.fullmatch(declared.rename.get(name, name)):
        raise MessageError("malformed", "signals: name with letters, digits and _, at most 64, a letter first")
    column = given if isinstance(given, list) else [given]
    if len(column) != samples:
        raise MessageError("malformed", f"signals.{name}: {len(column)} readings for {samples} times")
    return to_float32(np.array(column, dtype=np.float64))


def to_float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """What float32 cannot hold is missing: no sensor reads 1e39."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    narrow[np.isinf(narrow)] = np.nan
    return narrow


def _unknown(asset: str) -> Refusal:
    return Refusal(kind="unknown_asset", detail=f"asset {asset[:64]!r} is not declared in the configuration")
