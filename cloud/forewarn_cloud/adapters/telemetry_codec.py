"""Columns of one record as bytes: compact, versioned, checked when they are read.

Version 1 is written here, as fast as records come; version 2 in telemetry_packing.py. Both are read here.

Layout, little-endian: `B` version, `B` 1 if the body is zlib-compressed, `I` CRC-32 of the body, body. The body is
`I` samples, `H` bytes of names, `B` width of a time step, `q` the first time, the names joined by a line feed, the
steps in time, and the readings signal by signal. Steps and readings are stored byte plane by byte plane (all first
bytes, then all second bytes, ...): neighbouring values share their high bytes, so this compresses where plain floats do
not.
"""

import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from forewarn_cloud.adapters.telemetry_packing import PACKED_VERSION, DamagedColumns, unpack_columns
from forewarn_cloud.series import Columns
from forewarn_models.wire import SignalColumns

VERSION: Final = 1
_HEADER: Final = struct.Struct("<BBI")
_BODY: Final = struct.Struct("<IHBq")
_STEP_WIDTHS: Final = (1, 2, 4, 8)
_WORTH_COMPRESSING_BYTES: Final = 200
_MAX_BODY_BYTES: Final = 64 * 1024 * 1024
_KNOWN_SIGNAL_SETS: Final = 1_024


class CodecError(ValueError):
    """The stored bytes are damaged or of an unknown version."""


def encode_columns(t_ms: NDArray[np.int64], signals: Mapping[str, NDArray[np.float32]]) -> bytes:
    """`t_ms` int64 (n,), n >= 1, non-decreasing; `signals` float32 (n,) each."""
    width, steps = _steps(t_ms)
    names = _joined(tuple(signals))
    first = _BODY.pack(len(t_ms), len(names), width, t_ms.item(0))
    body = b"".join((first, names, steps, *_planes_of(signals)))
    packed = zlib.compress(body, 1) if len(body) > _WORTH_COMPRESSING_BYTES else body
    smaller = len(packed) < len(body)
    return _HEADER.pack(VERSION, smaller, zlib.crc32(body)) + (packed if smaller else body)


def _steps(t_ms: NDArray[np.int64]) -> tuple[int, bytes]:
    """The bytes a step takes, and the steps."""
    if len(t_ms) == 1:
        return _STEP_WIDTHS[0], b""
    steps = np.diff(t_ms).astype(np.uint64)
    largest = int(steps.max())
    width = next(width for width in _STEP_WIDTHS if largest < 1 << 8 * width)
    return width, _planes(steps.astype(f"<u{width}"))


@lru_cache(_KNOWN_SIGNAL_SETS)
def _joined(names: tuple[str, ...]) -> bytes:
    return "\n".join(names).encode()


def _planes_of(signals: Mapping[str, NDArray[np.float32]]) -> tuple[bytes, ...]:
    """Of the readings of all signals, one signal after the other."""
    if isinstance(signals, SignalColumns):
        packed = signals.packed
    else:
        packed = np.concatenate([np.empty(0, "<f4"), *signals.values()], dtype="<f4").tobytes()
    return packed[::4], packed[1::4], packed[2::4], packed[3::4]


def decode_columns(stored: bytes, signals: Collection[str] | None = None) -> Columns:
    """What `encode_columns` or `pack_columns` was given; of these signals, or (None) of all.

    Raises:
        CodecError: the bytes are damaged, or a newer forewarn wrote them.
    """
    if stored[:1] == bytes([PACKED_VERSION]):
        try:
            return unpack_columns(stored, signals)
        except DamagedColumns as error:
            raise CodecError(f"the columns are damaged: {error}") from None
    t_ms, columns = _decode_first_version(stored)
    return t_ms, columns if signals is None else {name: c for name, c in columns.items() if name in signals}


def decode_all(stored: Iterable[bytes], signals: Collection[str] | None = None) -> list[Columns]:
    """The same of many: records of one sample, of which there may be thousands, are decoded together.

    Raises:
        CodecError: as `decode_columns`.
    """
    single, blocks = dict[int, list[bytes]](), list[Columns]()
    for columns in stored:
        if columns.startswith(_NOT_DEFLATED) and columns.startswith(_ONE_SAMPLE, _HEADER.size):
            single.setdefault(len(columns), []).append(columns)
        else:
            blocks.append(decode_columns(columns, signals))
    return [*blocks, *(block for as_long in single.values() for block in _decode_single(as_long, signals))]


_NOT_DEFLATED: Final = bytes([VERSION, 0])
_ONE_SAMPLE: Final = struct.pack("<I", 1)
_NAMES_AT: Final = _HEADER.size + _BODY.size
_TIME: Final = slice(_NAMES_AT - 8, _NAMES_AT)


def _decode_single(records: Sequence[bytes], signals: Collection[str] | None) -> Iterator[Columns]:
    """Records of one sample and of as many bytes each; those of the same signals in order of time."""
    if [zlib.crc32(one[_HEADER.size :]) for one in records] != [_HEADER.unpack_from(one)[2] for one in records]:
        raise CodecError("the columns are damaged: their checksum is wrong")
    octets = np.frombuffer(b"".join(records), np.uint8).reshape(len(records), -1)
    while len(octets):
        names = list(decode_columns(octets[0].tobytes())[1])
        readings_at = octets.shape[1] - 4 * len(names)
        head = octets[:, _HEADER.size : readings_at].copy()
        head[:, _TIME.start - _HEADER.size : _TIME.stop - _HEADER.size] = 0
        alike = (head == head[0]).all(axis=1)
        yield _columns_of(octets[alike], names, signals)
        octets = octets[~alike]


def _columns_of(octets: NDArray[np.uint8], names: Sequence[str], signals: Collection[str] | None) -> Columns:
    t_ms = octets[:, _TIME].copy().view("<i8").reshape(-1)
    planes = octets[:, octets.shape[1] - 4 * len(names) :].reshape(len(octets), 4, len(names))
    order = np.argsort(t_ms, kind="stable")
    readings = planes[order].transpose(2, 0, 1).copy().view("<f4").reshape(len(names), len(octets))
    found = zip(names, readings, strict=True)
    return t_ms[order], {name: column for name, column in found if signals is None or name in signals}


def _decode_first_version(stored: bytes) -> Columns:
    body = _checked_body(stored)
    samples, name_bytes, width, first_ms = _BODY.unpack_from(body)
    names_end = _BODY.size + name_bytes
    steps_end = names_end + (samples - 1) * width
    names = body[_BODY.size : names_end].decode().split("\n") if name_bytes else []
    if len(body) != steps_end + len(names) * samples * 4:
        raise CodecError("the columns do not have the length their header says")
    readings = _values(body[steps_end:], "<f4").reshape(len(names), samples)
    return _times(first_ms, body[names_end:steps_end], width, samples), dict(zip(names, readings, strict=True))


def _times(first_ms: int, steps: bytes, width: int, samples: int) -> NDArray[np.int64]:
    t_ms = np.full(samples, first_ms, dtype=np.int64)
    if samples > 1:
        t_ms[1:] += np.cumsum(_values(steps, f"<u{width}"), dtype=np.int64)
    return t_ms


def _checked_body(stored: bytes) -> bytes:
    if len(stored) < _HEADER.size:
        raise CodecError("the columns are cut off")
    version, compressed, checksum = _HEADER.unpack_from(stored)
    if version != VERSION:
        raise CodecError(f"the columns are of version {version}; this forewarn reads 1 and 2")
    body = _inflate(stored[_HEADER.size :]) if compressed else stored[_HEADER.size :]
    if zlib.crc32(body) != checksum or len(body) < _BODY.size:
        raise CodecError("the columns are damaged: their checksum is wrong")
    return body


def _inflate(packed: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(packed, _MAX_BODY_BYTES)
    except zlib.error as error:
        raise CodecError(f"the columns are damaged: {error}") from None


def _planes(values: NDArray[Any]) -> bytes:
    return values.view(np.uint8).reshape(-1, values.itemsize).T.tobytes()


def _values(planes: bytes, dtype: str) -> NDArray[Any]:
    width = np.dtype(dtype).itemsize
    return np.frombuffer(planes, np.uint8).reshape(width, -1).T.copy().view(dtype).reshape(-1)
