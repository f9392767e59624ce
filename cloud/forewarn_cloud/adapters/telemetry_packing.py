"""Columns of many samples as few bytes: version 2 of the stored form, written when small blocks are compacted.

Each column stands for itself, so that one signal is read without the others. Most signals are measured to a few
decimals: their float32 are whole numbers over a power of ten, exactly, and take as many bits as their spread or their
steps need. Where that fails, the bytes are stored plane by plane. A part is deflated where that is shorter.

Layout, little-endian: `B` version, `I` CRC-32 of the directory, `H` its bytes; the directory: `I` samples, then for the
time and each signal `B` bytes of its name, the name, `I` bytes of its part, `I` its CRC-32; then the parts.

A part of whole numbers is `B` transform (0 from the least, 1 zigzag steps), `B` storage (0 bits, 1 deflated planes),
`B` bits or bytes a number, `q` base, numbers. A part of readings is `B` form: 0 the same in all (`4s`), 1 decimal (`B`
digits, whole numbers), 2 planes (deflated float32); 16 is added where readings are missing, and the form is then
followed by `I` bytes of the deflated bits that say which, and the rest is about those that are not.
"""

import struct
import zlib
from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

PACKED_VERSION: Final = 2
_HEADER: Final = struct.Struct("<BIH")
_SAMPLES: Final = struct.Struct("<I")
_PART: Final = struct.Struct("<II")
_WHOLE: Final = struct.Struct("<BBBq")
_LENGTH: Final = struct.Struct("<I")
_FROM_LEAST, _STEPS = 0, 1
_BITS, _PLANES = 0, 1
_SAME, _DECIMAL, _FLOATS, _SOME_MISSING = 0, 1, 2, 16
_MOST_DIGITS: Final = 6
_EXACT_BELOW: Final = 2.0**40
_TRIED: Final = 32
_DEFLATE_LEVEL: Final = 6
_BITS_TO_BE_WORTH: Final = 0.95
"""Packed bits take longer to read than deflated planes."""
_MAX_PART_BYTES: Final = 64 * 1024 * 1024

Floats = NDArray[np.float32]
Wholes = NDArray[np.int64]


class DamagedColumns(ValueError):
    """The stored bytes are not what was written."""


def pack_columns(t_ms: Wholes, signals: Mapping[str, Floats]) -> bytes:
    """`t_ms` int64 (n,), n >= 1, in any order; `signals` float32 (n,) each."""
    parts = {"": _pack_wholes(t_ms)} | {name: _pack_readings(column) for name, column in signals.items()}
    directory = _SAMPLES.pack(len(t_ms)) + b"".join(
        bytes([len(name.encode())]) + name.encode() + _PART.pack(len(part), zlib.crc32(part))
        for name, part in parts.items()
    )
    header = _HEADER.pack(PACKED_VERSION, zlib.crc32(directory), len(directory))
    return b"".join((header, directory, *parts.values()))


def unpack_columns(stored: bytes, signals: Collection[str] | None = None) -> tuple[Wholes, dict[str, Floats]]:
    """What `pack_columns` was given, of some signals only or (None) of all.

    Raises:
        DamagedColumns: the bytes are not what was written.
    """
    try:
        samples, places = _directory(stored)
        t_ms = _unpack_wholes(_part(stored, *places.pop("")), samples)
        wanted = places if signals is None else {name: at for name, at in places.items() if name in signals}
        return t_ms, {name: _unpack_readings(_part(stored, *at), samples) for name, at in wanted.items()}
    except (struct.error, IndexError, KeyError, ValueError, zlib.error) as error:
        raise DamagedColumns(str(error)) from None


def _directory(stored: bytes) -> tuple[int, dict[str, tuple[int, int, int]]]:
    """Samples; start, length and checksum of each part."""
    _, checksum, length = _HEADER.unpack_from(stored)
    directory = stored[_HEADER.size : _HEADER.size + length]
    if zlib.crc32(directory) != checksum or len(directory) != length:
        raise ValueError("the checksum of the directory is wrong")
    (samples,) = _SAMPLES.unpack_from(directory)
    places, at, start = dict[str, tuple[int, int, int]](), _SAMPLES.size, _HEADER.size + length
    while at < length:
        name_end = at + 1 + directory[at]
        size, checksum = _PART.unpack_from(directory, name_end)
        places[directory[at + 1 : name_end].decode()] = (start, size, checksum)
        at, start = name_end + _PART.size, start + size
    return samples, places


def _part(stored: bytes, start: int, size: int, checksum: int) -> bytes:
    part = stored[start : start + size]
    if len(part) != size or zlib.crc32(part) != checksum:
        raise ValueError("the checksum of a column is wrong")
    return part


# --- whole numbers ----------------------------------------------------------------------------------------------------


def _pack_wholes(values: Wholes) -> bytes:
    """From the least or by steps, whichever has the smaller numbers; deflated or in bits, whichever is shorter."""
    least, first = int(values.min()), int(values[0])
    steps = np.diff(values, prepend=values[0])
    from_least = values.astype(np.uint64) - np.uint64(least % 2**64)
    zigzag = ((steps << 1) ^ (steps >> 63)).astype(np.uint64)
    if _size(values - values[len(values) // 2]) < _size(steps):
        return _stored(_FROM_LEAST, least, from_least)
    return _stored(_STEPS, first, zigzag)


def _size(numbers: Wholes) -> float:
    """Of their bits, about."""
    return float(np.log2(np.abs(numbers.astype(np.float64)) + 1).sum())


def _stored(transform: int, base: int, numbers: NDArray[np.uint64]) -> bytes:
    bits = int(numbers.max()).bit_length()
    width = next(width for width in (1, 2, 4, 8) if bits <= 8 * width)
    deflated = zlib.compress(_planes(numbers.astype(f"<u{width}")), _DEFLATE_LEVEL)
    if len(numbers) * bits / 8 < _BITS_TO_BE_WORTH * len(deflated):
        return _WHOLE.pack(transform, _BITS, bits, base) + _packed_bits(numbers, bits)
    return _WHOLE.pack(transform, _PLANES, width, base) + deflated


def _unpack_wholes(part: bytes, count: int) -> Wholes:
    transform, storage, width, base = _WHOLE.unpack_from(part)
    body = part[_WHOLE.size :]
    if storage == _PLANES:
        numbers = _from_planes(_inflated(body), f"<u{width}").astype(np.uint64)
    else:
        numbers = _unpacked_bits(body, width, count)
    if len(numbers) != count:
        raise ValueError("a column has not as many samples as there are")
    if transform == _FROM_LEAST:
        return (numbers + np.uint64(base % 2**64)).astype(np.int64)
    steps = (numbers >> np.uint64(1)).astype(np.int64) ^ -(numbers & np.uint64(1)).astype(np.int64)
    values: Wholes = base + np.cumsum(steps)
    return values


def _packed_bits(numbers: NDArray[np.uint64], bits: int) -> bytes:
    each = (numbers[:, None] >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(each.astype(np.uint8), axis=None, bitorder="little").tobytes()


def _unpacked_bits(packed: bytes, bits: int, count: int) -> NDArray[np.uint64]:
    if bits == 0:
        return np.zeros(count, dtype=np.uint64)
    each = np.unpackbits(np.frombuffer(packed, np.uint8), count=count * bits, bitorder="little").reshape(count, bits)
    octets = np.packbits(each, axis=1, bitorder="little")
    whole = np.zeros((count, 8), dtype=np.uint8)
    whole[:, : octets.shape[1]] = octets
    return whole.view("<u8").reshape(count).astype(np.uint64)


# --- readings ---------------------------------------------------------------------------------------------------------


def _pack_readings(column: Floats) -> bytes:
    column = np.ascontiguousarray(column, dtype="<f4")
    missing = column.view(np.uint32) == _MISSING
    if not missing.any():
        return _pack_known(column, 0)
    mask = zlib.compress(np.packbits(missing).tobytes(), _DEFLATE_LEVEL)
    known = _pack_known(column[~missing], _SOME_MISSING)
    return known[:1] + _LENGTH.pack(len(mask)) + mask + known[1:]


_MISSING: Final = np.array([np.nan], dtype="<f4").view(np.uint32)[0]
"""The usual NaN; one with other bits is kept as it is."""


def _pack_known(column: Floats, flag: int) -> bytes:
    bits = column.view(np.uint32)
    if not len(column) or (bits == bits[0]).all():
        return bytes([_SAME | flag]) + column[:1].tobytes()
    digits = _digits(column)
    if digits is None:
        return bytes([_FLOATS | flag]) + zlib.compress(_planes(column), _DEFLATE_LEVEL)
    wholes = np.rint(column.astype(np.float64) * 10.0**digits).astype(np.int64)
    return bytes([_DECIMAL | flag, digits]) + _pack_wholes(wholes)


def _unpack_readings(part: bytes, samples: int) -> Floats:
    form, body = part[0], part[1:]
    if not form & _SOME_MISSING:
        return _unpack_known(form, body, samples)
    (length,) = _LENGTH.unpack_from(body)
    mask = np.frombuffer(_inflated(body[_LENGTH.size : _LENGTH.size + length]), np.uint8)
    missing = np.unpackbits(mask, count=samples).astype(bool)
    column = np.full(samples, _MISSING, dtype=np.uint32).view("<f4")
    known = _unpack_known(form - _SOME_MISSING, body[_LENGTH.size + length :], samples - int(missing.sum()))
    column[~missing] = known
    return column


def _unpack_known(form: int, body: bytes, count: int) -> Floats:
    if form == _SAME:
        return np.repeat(np.frombuffer(body, "<f4"), count) if count else np.empty(0, "<f4")
    if form == _DECIMAL:
        return (_unpack_wholes(body[1:], count) / 10.0 ** body[0]).astype("<f4")
    column = _from_planes(_inflated(body), "<f4")
    if form != _FLOATS or len(column) != count:
        raise ValueError("a column has not as many samples as there are")
    return column


def _digits(column: Floats) -> int | None:
    """The decimals with which all readings can be written exactly; None if there is no such number."""
    for digits in range(_MOST_DIGITS + 1):
        if _is_decimal(column[:_TRIED], digits) and _is_decimal(column, digits):
            return digits
    return None


def _is_decimal(column: Floats, digits: int) -> bool:
    wholes = np.rint(column.astype(np.float64) * 10.0**digits)
    if not (np.abs(wholes) < _EXACT_BELOW).all():  # nor with NaN
        return False
    again = (wholes.astype(np.int64) / 10.0**digits).astype("<f4")
    return bool((again.view(np.uint32) == column.view(np.uint32)).all())


def _inflated(deflated: bytes) -> bytes:
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(deflated, _MAX_PART_BYTES)
    if not inflater.eof:
        raise ValueError("a column is cut off")
    return inflated


def _planes(values: NDArray[Any]) -> bytes:
    return values.view(np.uint8).reshape(-1, values.itemsize).T.tobytes()


def _from_planes(planes: bytes, dtype: str) -> NDArray[Any]:
    width = np.dtype(dtype).itemsize
    return np.frombuffer(planes, np.uint8).reshape(width, -1).T.copy().view(dtype).reshape(-1)
