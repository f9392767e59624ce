"""The wire contract, version 1: topics, messages and records between an edge agent and the cloud.

A message is one MessagePack map, or the same as JSON (a first byte `{` tells). It holds records of one lane; record i
has the sequence number `seq + i`, and (node, lane, epoch, sequence) is a record's identity. A message whose envelope
cannot be read is refused whole; in a readable one each record stands or falls alone.

Decoding never guesses: a wrong type, an unknown field, a number in quotes, seconds instead of milliseconds are errors
that name the field. NaN in a binary column, like null in a JSON list, is a missing reading.
"""

import hashlib
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Final, Literal, NoReturn, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from forewarn_models.asset_type import IDENTIFIER, MAX_SIGNALS, SIGNAL_NAME
from forewarn_models.wire_singles import KnownSingles

SCHEMA: Final = 1
MAX_MESSAGE_BYTES: Final = 256 * 1024
MAX_RECORDS: Final = 500
MAX_SEQ: Final = 2**53
MINUTE_MS: Final = 60_000
MAX_FUTURE_MS: Final = 5 * MINUTE_MS
MAX_AGE_MS: Final = 30 * 24 * 60 * MINUTE_MS

Lane = Literal["telemetry", "advisory"]
LANES: Final[tuple[Lane, ...]] = ("telemetry", "advisory")
Channel = Literal["telemetry", "advisory", "presence", "ack", "command", "reply"]

_TOPIC: Final = re.compile(
    r"fw/v1/(?P<tenant>[^/]+)/(?P<node>[^/]+)/(?P<channel>telemetry|advisory|presence|ack|command|reply)"
)
_MAX_DIGITS: Final = 19
_KNOWN_TOPICS: Final = 16_384
_KNOWN_NAMES: Final = 16_384
_KNOWN_SIGNAL_SETS: Final = 1_024
_TIME: Final = np.dtype("<i8")
_READING: Final = np.dtype("<f4")
_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"BZh": "bzip2"}
_MAGIC: Final = tuple(_COMPRESSED)


class WireError(ValueError):
    """The message or record breaks the contract; the message says where and how."""


# --- topics ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Address:
    """Which node of which tenant, and what kind of message."""

    tenant: str
    node: str
    channel: Channel


def topic(tenant: str, node: str, channel: Channel) -> str:
    return f"fw/v1/{tenant}/{node}/{channel}"


@lru_cache(_KNOWN_TOPICS)
def parse_topic(text: str) -> Address:
    """The address in an MQTT topic.

    Raises:
        WireError: it is not one of ours, or names what no tenant or node can be called.
    """
    match = _TOPIC.fullmatch(text)
    if match is None:
        raise WireError("topic: not fw/v1/{tenant}/{node}/{channel}")
    for level in ("tenant", "node"):
        _require(bool(IDENTIFIER.fullmatch(match[level])), f"topic: {level} is not a valid identifier")
    return Address(tenant=match["tenant"], node=match["node"], channel=match["channel"])  # type: ignore[arg-type]


# --- what a record says ---------------------------------------------------------------------------------------------


class SignalColumns(Mapping[str, NDArray[np.float32]]):
    """Readings by signal. `names` (k,), `packed` those of one signal after the other as little-endian float32: one
    piece of memory, cut up where it is read."""

    __slots__ = ("names", "packed")

    def __init__(self, names: tuple[str, ...], packed: bytes) -> None:
        self.names = names
        self.packed = packed

    @property
    def readings(self) -> NDArray[np.float32]:
        """(k, n)."""
        return np.frombuffer(self.packed, _READING).reshape(len(self.names), -1)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        try:
            place = self.names.index(name)
        except ValueError:
            raise KeyError(name) from None
        column: NDArray[np.float32] = self.readings[place]
        return column

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Telemetry(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A block of samples of one asset, in time order, as columns.

    `t_ms` int64 (n,), milliseconds since the epoch, non-decreasing; `signals` float32 (n,) each, NaN where missing.
    """

    asset: str
    asset_type: str
    t_ms: NDArray[np.int64]
    signals: Mapping[str, NDArray[np.float32]]


class RulHours(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Quantiles of the remaining useful life, in hours."""

    p10: float
    p50: float
    p90: float


class ModelRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which model said it: its name and the SHA-256 of its settings and knowledge."""

    id: str
    hash: str


class Advisory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What someone should know about one asset, and why (ISO 13374 advisory generation)."""

    asset: str
    asset_type: str
    observed_at: int
    """Epoch milliseconds of the sample that caused it."""
    condition: Literal["UNKNOWN", "NORMAL", "ALERT", "ALARM"]
    health_index: float
    anomaly_score: float
    contributions: dict[str, float]
    """Signal -> its share of `anomaly_score`; they sum to it."""
    failure_modes: dict[str, float]
    """Failure mode -> probability; what is missing to 1 is 'none of these'. Empty where there is no symptom."""
    rul_hours: RulHours | None
    maturity: Literal["LEARNING", "PROVISIONAL", "MATURE"]
    model: ModelRef
    since: int | None = None
    """Epoch milliseconds of the first sample of the present run of evidence."""
    residuals: dict[str, float] = {}
    """Signal -> observed minus expected in this regime, in the signal's unit."""
    significance: dict[str, float] = {}
    """Signal -> that residual in the standard deviations it has in health."""
    expected: dict[str, float] = {}
    """Signal -> what it should read in this regime, in its unit."""
    limits_exceeded: tuple[str, ...] = ()
    """Signals above an absolute limit, or below a lower one."""
    sensor_faults: dict[str, str] = {}
    """Signal -> what is wrong with its sensor: sentinel, out_of_range, stuck or leap. Its readings count as missing."""
    reason: str = "change"
    """Why it was sent: change, limit, sensor, periodic, reset, silent (nothing is heard of the asset), back."""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Records [first_seq, last_seq] that the agent had to drop, or lost with an earlier spool file.

    `epoch`: of the lost records, None where it is that of the message. `last_seq` is MAX_SEQ where the agent cannot
    know how far the lost file went.
    """

    first_seq: int
    last_seq: int
    reason: str
    epoch: str | None = None


Record = Telemetry | Advisory | Gap


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A record that broke the contract, kept as it came."""

    reason: str
    body: bytes


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """One record with its identity and the digest of its body (first 16 bytes of SHA-256)."""

    seq: int
    digest: bytes
    record: Record | Rejected


class Message(msgspec.Struct, frozen=True, kw_only=True):
    epoch: str
    seq: int
    records: tuple[Received, ...]
    historical: bool = False
    """Sent late: every record in it waited at the node for more than a minute."""

    @property
    def last_seq(self) -> int:
        return self.seq + len(self.records) - 1


# --- encoding -------------------------------------------------------------------------------------------------------


def encode_telemetry(record: Telemetry) -> bytes:
    """One telemetry record as MessagePack, ready for `encode_message`."""
    t = np.ascontiguousarray(record.t_ms, dtype="<i8").tobytes()
    signals = {name: np.ascontiguousarray(column, dtype="<f4").tobytes() for name, column in record.signals.items()}
    return _MSGPACK.encode({"asset": record.asset, "asset_type": record.asset_type, "t": t, "signals": signals})


def encode_advisory(record: Advisory) -> bytes:
    return _MSGPACK.encode(record)


def encode_gap(record: Gap) -> bytes:
    gap: dict[str, object] = {"gap": [record.first_seq, record.last_seq], "reason": record.reason}
    return _MSGPACK.encode(gap if record.epoch is None else gap | {"epoch": record.epoch})


def encode_message(epoch: str, seq: int, records: Sequence[bytes], *, historical: bool = False) -> bytes:
    """A message of records that are already encoded; the first has the sequence number `seq`."""
    raw = [msgspec.Raw(body) for body in records]
    envelope: dict[str, object] = {"schema": SCHEMA, "epoch": epoch, "seq": seq, "records": raw}
    return _MSGPACK.encode(envelope | {"historical": True} if historical else envelope)


# --- decoding -------------------------------------------------------------------------------------------------------


def decode_message(lane: Lane, payload: bytes, *, now_ms: int) -> Message:
    """A message with every record either read or rejected.

    `now_ms` is the receiver's time: samples more than 5 minutes ahead of it or 30 days behind are rejected.

    Raises:
        WireError: the envelope cannot be read; nothing in the message has an identity.
    """
    is_json = check_payload(payload)
    envelope = _decode_struct(payload, _Envelope, is_json, "message")
    _check_envelope(envelope)
    received = [
        Received(seq=seq, digest=digest(body), record=_read_record(lane, body, is_json, now_ms))
        for seq, body in enumerate(map(bytes, envelope.records), envelope.seq)
    ]
    return Message(epoch=envelope.epoch, seq=envelope.seq, records=tuple(received), historical=envelope.historical)


def decode_telemetry(body: bytes) -> Telemetry:
    """One record as `encode_telemetry` wrote it: a node reads back its own.

    Raises:
        WireError: it is not one.
    """
    raw = _decode_struct(body, _PackedTelemetry, False, "telemetry")
    t_ms = _times(raw.t) if isinstance(raw.t, list) else _column(raw.t, "<i8", "t")
    return Telemetry(asset=raw.asset, asset_type=raw.asset_type, t_ms=t_ms, signals=_packed_columns(raw.signals))


def digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:16]


def _read_record(lane: Lane, body: bytes, is_json: bool, now_ms: int) -> Record | Rejected:
    if lane == "telemetry" and not is_json:
        quick = _read_single(body, now_ms) or _read_packed(body, now_ms)
        if quick is not None:
            return quick
    try:
        return _decode_record(lane, body, is_json, now_ms)
    except WireError as error:
        return Rejected(reason=str(error), body=body)


_SINGLES: Final = KnownSingles()
_INFINITE: Final = frozenset(struct.pack("<f", value) for value in (float("inf"), float("-inf")))


def _read_single(body: bytes, now_ms: int) -> Telemetry | None:
    """One sample, all right, of a machine that has sent such before. The same as `_read_packed`, faster."""
    found = _SINGLES.read(body)
    if found is None:
        return None
    machine, time_at, t_ms, readings = found
    if not now_ms - MAX_AGE_MS <= t_ms <= now_ms + MAX_FUTURE_MS or not _INFINITE.isdisjoint(readings):
        return None
    return Telemetry(
        asset=machine.asset,
        asset_type=machine.asset_type,
        t_ms=np.frombuffer(body, _TIME, 1, time_at),
        signals=SignalColumns(machine.layout.names, b"".join(readings)),
    )


def _read_packed(body: bytes, now_ms: int) -> Telemetry | None:
    """Telemetry as nodes write it: binary columns, in time order, all right. The same as `_decode_record`, faster.

    None for anything else: `_decode_record` knows every form and names what is wrong.
    """
    try:
        raw = _PACKED_COLUMNS.decode(body)
        names = tuple(raw.signals)
        _check_names(raw.asset, raw.asset_type)
        _check_signal_names(names)
    except (msgspec.MsgspecError, WireError, UnicodeDecodeError, RecursionError):
        return None
    samples, rest = divmod(len(raw.t), _TIME.itemsize)
    if rest or not samples or set(map(len, raw.signals.values())) != {samples * _READING.itemsize}:
        return None
    t_ms, columns = np.frombuffer(raw.t, _TIME), SignalColumns(names, b"".join(raw.signals.values()))
    if not now_ms - MAX_AGE_MS <= t_ms.item(0) <= t_ms.item(-1) <= now_ms + MAX_FUTURE_MS:
        return None
    if (samples > 1 and np.count_nonzero(t_ms[1:] < t_ms[:-1])) or np.count_nonzero(np.isinf(columns.readings)):
        return None
    if samples == 1:
        _SINGLES.learn(body, raw.asset, raw.asset_type, names)
    return Telemetry(asset=raw.asset, asset_type=raw.asset_type, t_ms=t_ms, signals=columns)


def _decode_record(lane: Lane, body: bytes, is_json: bool, now_ms: int) -> Record:
    if _is_gap(body, is_json):
        gap = _decode_struct(body, _GapRecord, is_json, "gap")
        first, last = gap.gap
        _require(1 <= first <= last <= MAX_SEQ, "gap: give [first, last] with 1 <= first <= last")
        _require(gap.epoch is None or bool(IDENTIFIER.fullmatch(gap.epoch)), "epoch: not a valid identifier")
        return Gap(first_seq=first, last_seq=last, reason=gap.reason[:200], epoch=gap.epoch)
    if lane == "advisory":
        advisory = _decode_struct(body, Advisory, is_json, "advisory")
        _check_advisory(advisory, now_ms)
        return advisory
    if is_json:
        text = _decode_struct(body, _JsonTelemetry, is_json, "telemetry")
        return _telemetry(text.asset, text.asset_type, _times(text.t), _json_columns(text.signals), now_ms)
    raw = _decode_struct(body, _PackedTelemetry, is_json, "telemetry")
    t_ms = _times(raw.t) if isinstance(raw.t, list) else _column(raw.t, "<i8", "t")
    return _telemetry(raw.asset, raw.asset_type, t_ms, _packed_columns(raw.signals), now_ms)


def _telemetry(
    asset: str, asset_type: str, t_ms: NDArray[np.int64], columns: dict[str, NDArray[np.float32]], now_ms: int
) -> Telemetry:
    _check_names(asset, asset_type)
    _require(len(t_ms) > 0, "t: a record needs at least one sample")
    _check_signal_names(tuple(columns))
    for name, column in columns.items():
        _require(len(column) == len(t_ms), f"signals.{name}: {len(column)} readings for {len(t_ms)} times")
        _require(not bool(np.isinf(column).any()), f"signals.{name}: infinite; send null or NaN if it is missing")
    check_time(int(t_ms.min()), now_ms, "t")
    check_time(int(t_ms.max()), now_ms, "t")
    order = np.argsort(t_ms, kind="stable")
    if bool(np.any(order[:-1] > order[1:])):
        t_ms, columns = t_ms[order], {name: column[order] for name, column in columns.items()}
    return Telemetry(asset=asset, asset_type=asset_type, t_ms=t_ms, signals=columns)


def check_payload(payload: bytes) -> bool:
    """Whether the payload is JSON.

    Raises:
        WireError: it is empty, too large, compressed, or JSON that hides or repeats content.
    """
    _require(len(payload) > 0, "message: empty payload")
    if len(payload) > MAX_MESSAGE_BYTES:
        raise WireError(f"message: {len(payload)} bytes, the limit is {MAX_MESSAGE_BYTES}")
    if payload.startswith(_MAGIC):
        name = next(name for magic, name in _COMPRESSED.items() if payload.startswith(magic))
        raise WireError(f"message: compressed with {name}; send it uncompressed")
    if payload[:1] != b"{":
        return False
    try:
        json.loads(payload, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_short_int)
    except RecursionError:
        raise WireError("message: nested too deeply") from None
    except UnicodeDecodeError:
        raise WireError("message: not valid UTF-8") from None
    except json.JSONDecodeError as error:
        raise WireError(f"message: not JSON: {error.msg} at byte {error.pos}") from None
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise WireError("message: a key appears twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise WireError(f"message: {name} is not JSON; send null for a missing reading")


def _short_int(digits: str) -> int:
    if len(digits.lstrip("-")) > _MAX_DIGITS:
        raise WireError(f"message: a whole number has {len(digits)} digits, at most {_MAX_DIGITS} are allowed")
    return int(digits)


def _check_envelope(envelope: "_Envelope") -> None:
    if envelope.schema != SCHEMA:
        raise WireError(f"schema: {envelope.schema} is not known; this is version {SCHEMA}")
    _check_epoch(envelope.epoch)
    if not 1 <= len(envelope.records) <= MAX_RECORDS:
        raise WireError(f"records: give 1 to {MAX_RECORDS}, not {len(envelope.records)}")
    if not 1 <= envelope.seq <= MAX_SEQ - MAX_RECORDS:
        raise WireError(f"seq: {envelope.seq} is not within 1..2^53")


@lru_cache(_KNOWN_NAMES)
def _check_epoch(epoch: str) -> None:
    _require(bool(IDENTIFIER.fullmatch(epoch)), "epoch: use letters, digits, _ and -, at most 64")


def _check_advisory(advisory: Advisory, now_ms: int) -> None:
    _check_names(advisory.asset, advisory.asset_type)
    check_time(advisory.observed_at, now_ms, "observed_at")
    _require(len(advisory.contributions) <= MAX_SIGNALS, f"contributions: at most {MAX_SIGNALS}")
    for field in ("residuals", "significance", "expected"):
        _require(len(getattr(advisory, field)) <= MAX_SIGNALS, f"{field}: at most {MAX_SIGNALS}")
    _require(len(advisory.failure_modes) <= MAX_SIGNALS, f"failure_modes: at most {MAX_SIGNALS}")
    _require(len(advisory.limits_exceeded) <= MAX_SIGNALS, f"limits_exceeded: at most {MAX_SIGNALS}")
    _require(len(advisory.sensor_faults) <= MAX_SIGNALS, f"sensor_faults: at most {MAX_SIGNALS}")
    _require(all(len(fault) <= MAX_SIGNALS for fault in advisory.sensor_faults.values()), "sensor_faults: too long")
    by_signal = (advisory.contributions, advisory.residuals, advisory.significance, advisory.expected)
    for name in (*chain.from_iterable(by_signal), *advisory.limits_exceeded, *advisory.sensor_faults):
        _require(bool(SIGNAL_NAME.fullmatch(name)), "advisory: not a signal name")
    for mode, probability in advisory.failure_modes.items():
        _require(bool(IDENTIFIER.fullmatch(mode)), "failure_modes: not a failure mode code")
        _require(0 <= probability <= 1, f"failure_modes.{mode}: {probability} is not a probability")
    _require(0 <= advisory.health_index <= 1, "health_index: not within 0..1")
    numbers = [advisory.anomaly_score, *chain.from_iterable(column.values() for column in by_signal)]
    _require(bool(np.isfinite(numbers).all()), "advisory: a number is not finite")
    if advisory.rul_hours is not None:
        rul = advisory.rul_hours
        _require(0 <= rul.p10 <= rul.p50 <= rul.p90 < float("inf"), "rul_hours: not 0 <= p10 <= p50 <= p90 < infinity")


@lru_cache(_KNOWN_SIGNAL_SETS)
def _check_signal_names(names: tuple[str, ...]) -> None:
    _require(0 < len(names) <= MAX_SIGNALS, f"signals: give 1 to {MAX_SIGNALS}, not {len(names)}")
    right = all(map(SIGNAL_NAME.fullmatch, names))
    _require(right, "signals: name with letters, digits and _, at most 64, a letter first")


@lru_cache(_KNOWN_NAMES)
def _check_names(asset: str, asset_type: str) -> None:
    _require(bool(IDENTIFIER.fullmatch(asset)), "asset: use letters, digits, _ and -, at most 64")
    _require(bool(IDENTIFIER.fullmatch(asset_type)), "asset_type: use letters, digits, _ and -, at most 64")


def check_time(t_ms: int, now_ms: int, field: str) -> None:
    """Refuse an instant the cloud would refuse: more than 5 minutes ahead of `now_ms` or 30 days behind it.

    Raises:
        WireError: with the likely cause, such as seconds instead of milliseconds.
    """
    if now_ms - MAX_AGE_MS <= t_ms <= now_ms + MAX_FUTURE_MS:
        return
    if now_ms - MAX_AGE_MS <= t_ms * 1000 <= now_ms + MAX_FUTURE_MS:
        raise WireError(f"{field}: {t_ms} looks like seconds; send milliseconds since 1970")
    if now_ms - MAX_AGE_MS <= t_ms // 1000 <= now_ms + MAX_FUTURE_MS:
        raise WireError(f"{field}: {t_ms} looks like microseconds; send milliseconds since 1970")
    if t_ms > now_ms:
        raise WireError(f"{field}: {t_ms} is more than 5 minutes in the future")
    raise WireError(f"{field}: {t_ms} is more than 30 days old")


def _require(right: bool, reason: str) -> None:
    if not right:
        raise WireError(reason)


# --- the shapes on the wire -----------------------------------------------------------------------------------------


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    schema: int
    epoch: str
    seq: int
    records: list[msgspec.Raw]
    historical: bool = False


class _GapRecord(msgspec.Struct, forbid_unknown_fields=True):
    gap: tuple[int, int]
    reason: str
    epoch: str | None = None


class _PackedColumns(msgspec.Struct, forbid_unknown_fields=True):
    asset: str
    asset_type: str
    t: bytes
    signals: dict[str, bytes]


_PACKED_COLUMNS: Final = msgspec.msgpack.Decoder(_PackedColumns)


class _PackedTelemetry(msgspec.Struct, forbid_unknown_fields=True):
    asset: str
    asset_type: str
    t: bytes | list[int]
    signals: dict[str, bytes | list[float | None]]


class _JsonTelemetry(msgspec.Struct, forbid_unknown_fields=True):
    asset: str
    asset_type: str
    t: int | list[int]
    signals: dict[str, float | list[float | None] | None]


class Presence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Birth (`online`, with the assets the node serves), orderly `offline`, or, from the broker, the will."""

    schema: int
    state: Literal["online", "offline"]
    at: int
    epochs: dict[str, str] = {}
    """Lane -> epoch."""
    first_seqs: dict[str, int] = {}
    """Lane -> the first sequence number the node still holds or will assign next. What the cloud lacks below it can no
    longer come: the cloud notes a gap and goes on, instead of waiting for ever (a cloud that was restored or reset)."""
    acknowledged: dict[str, int] = {}
    """Lane -> up to where the node believes everything committed. Where the cloud has less (it was restored from a
    backup), it asks for the rest again."""
    version: str = ""
    assets: dict[str, str] = {}
    """Asset -> asset type."""


class Ack(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Every record of the lane and epoch up to and including `seq` is committed."""

    lane: Lane
    epoch: str
    seq: int
    at: int | None = None
    """The cloud's time when it sent this, epoch milliseconds: the node measures its clock against it."""
    replay_records_per_s: int | None = None
    """How fast the cloud would like the backlog; None: as the node is configured."""


class ResetBaseline(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="command", tag="reset_baseline"
):
    """The asset was repaired at `at`; learn anew what normal is."""

    schema: int
    id: str
    asset: str
    at: int


class Resend(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="command", tag="resend"):
    """Send these records again, acknowledged or not; what is no longer held is to be told in a gap record."""

    schema: int
    id: str
    lane: Lane
    epoch: str
    first_seq: int
    last_seq: int


Command = ResetBaseline | Resend
"""An order to a node."""


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The answer to the command of that id; a command that comes twice is answered twice and done once."""

    schema: int
    id: str
    ok: bool
    detail: str = ""


Control = Presence | Ack | ResetBaseline | Resend | Reply
_Control = TypeVar("_Control", bound=Control)
_MSGPACK: Final = msgspec.msgpack.Encoder()


def encode_control(message: Control) -> bytes:
    """Presence, acknowledgements, commands and replies travel as JSON: few, and readable with any MQTT client."""
    return msgspec.json.encode(message)


def decode_control(payload: bytes, kind: type[_Control]) -> _Control:
    """Read a control message of the given kind.

    Raises:
        WireError: it breaks the contract; the message names the field.
    """
    return _decode_struct(payload, kind, check_payload(payload), kind.__name__.lower())


def decode_command(payload: bytes) -> Command:
    """Read a command, of whatever kind.

    Raises:
        WireError: it breaks the contract, or no command of that name is known.
    """
    return _decode_struct(payload, cast("type[Command]", Command), check_payload(payload), "command")


_T = TypeVar("_T")


def _decode_struct(body: bytes, kind: type[_T], is_json: bool, what: str) -> _T:
    try:
        return msgspec.json.decode(body, type=kind) if is_json else msgspec.msgpack.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise WireError(f"{what}: {error}") from None
    except msgspec.DecodeError as error:
        raise WireError(f"{what}: not readable: {error}") from None
    except RecursionError:
        raise WireError(f"{what}: nested too deeply") from None
    except UnicodeDecodeError:
        raise WireError(f"{what}: not valid UTF-8") from None


class _MaybeGap(msgspec.Struct):
    gap: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def _is_gap(body: bytes, is_json: bool) -> bool:
    return _decode_struct(body, _MaybeGap, is_json, "record").gap is not msgspec.UNSET


def _column(raw: bytes, dtype: str, name: str) -> NDArray[Any]:
    if len(raw) % np.dtype(dtype).itemsize:
        raise WireError(f"{name}: {len(raw)} bytes is not a whole number of {dtype} values")
    return np.frombuffer(raw, dtype=dtype)


def _numbers(values: Sequence[float | None], name: str) -> NDArray[np.float32]:
    column = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    _require(not bool((np.abs(column) > np.finfo(np.float32).max).any()), f"signals.{name}: a reading is out of range")
    return column.astype(np.float32)


def _times(t: int | list[int]) -> NDArray[np.int64]:
    times = [t] if isinstance(t, int) else t
    _require(all(abs(value) < 2**62 for value in times), "t: a time is out of range")
    return np.asarray(times, dtype=np.int64)


def _packed_columns(signals: dict[str, bytes | list[float | None]]) -> dict[str, NDArray[np.float32]]:
    return {name: _column(c, "<f4", name) if isinstance(c, bytes) else _numbers(c, name) for name, c in signals.items()}


def _json_columns(signals: dict[str, float | list[float | None] | None]) -> dict[str, NDArray[np.float32]]:
    return {name: _numbers(value if isinstance(value, list) else [value], name) for name, value in signals.items()}
