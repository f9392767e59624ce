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
from collections.abc import Collection, Iterator, Mapping
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
_SCALES: Final = 10.0 ** np.arange(7)
_NOT_DECIMAL: Final = -1
_EXACT_BELOW: Final = 2.0**40
_TRIED: Final = 32
_DEFLATE_LEVEL: Final = 6
_VALUES_AT_ONCE: Final = 8192
"""More do not fit into the processor's cache."""
_BITS_TO_BE_WORTH: Final = 0.95
"""Packed bits take longer to read than deflated planes."""
_MAX_PART_BYTES: Final = 64 * 1024 * 1024

Floats = NDArray[np.float32]
Wholes = NDArray[np.int64]


class DamagedColumns(ValueError):
    """The stored bytes are not what was written."""


def pack_columns(t_ms: Wholes, signals: Mapping[str, Floats]) -> bytes:
    """`t_ms` int64 (n,), n >= 1, in any order; `signals` float32 (n,) each."""
    parts = {"": _pack_wholes(t_ms[None])[0]} | dict(zip(signals, _pack_readings(signals), strict=True))
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


def _pack_wholes(rows: Wholes) -> list[bytes]:
    """Of each row (n,): from the least or by steps, whichever has the smaller numbers; then in bits or deflated."""
    steps = np.diff(rows, axis=1, prepend=rows[:, :1])
    from_least = _size(rows - rows[:, rows.shape[1] // 2, None]) < _size(steps)
    base = np.where(from_least, rows.min(axis=1), rows[:, 0])
    zigzag = (steps << 1) ^ (steps >> 63)
    numbers = np.where(from_least[:, None], rows - base[:, None], zigzag).astype(np.uint64)
    transforms = np.where(from_least, _FROM_LEAST, _STEPS).tolist()
    bits = [greatest.bit_length() for greatest in numbers.max(axis=1).tolist()]
    return list(map(_stored, transforms, base.tolist(), numbers, bits))


def _size(rows: Wholes) -> NDArray[np.float64]:
    """Of their bits, about, row by row."""
    size: NDArray[np.float64] = np.log2(np.abs(rows.astype(np.float64)) + 1).sum(axis=1)
    return size


def _stored(transform: int, base: int, numbers: NDArray[np.uint64], bits: int) -> bytes:
    """In bits or deflated, whichever is shorter."""
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


def _pack_readings(signals: Mapping[str, Floats]) -> Iterator[bytes]:
    """Column by column; short ones several at a time, which takes a fraction of the time."""
    columns = list(signals.values())
    at_once = max(1, _VALUES_AT_ONCE // max(map(len, columns), default=1))
    for start in range(0, len(columns), at_once):
        rows = np.array(columns[start : start + at_once], dtype="<f4")
        missing = rows.view(np.uint32) == _MISSING
        whole = ~missing.any(axis=1)
        packed = iter(_pack_known(rows[whole], 0))
        for place, is_whole in enumerate(whole):
            yield next(packed) if is_whole else _pack_some(rows[place], missing[place])


_MISSING: Final = np.array([np.nan], dtype="<f4").view(np.uint32)[0]
"""The usual NaN; one with other bits is kept as it is."""


def _pack_some(column: Floats, missing: NDArray[np.bool_]) -> bytes:
    mask = zlib.compress(np.packbits(missing).tobytes(), _DEFLATE_LEVEL)
    (known,) = _pack_known(column[None, ~missing], _SOME_MISSING)
    return known[:1] + _LENGTH.pack(len(mask)) + mask + known[1:]


def _pack_known(rows: Floats, flag: int) -> list[bytes]:
    """Of each row (n,); n may be 0."""
    bits = rows.view(np.uint32)
    same = (bits == bits[:, :1]).all(axis=1)
    digits = np.where(same, _NOT_DECIMAL, _digits(rows))
    decimal = np.flatnonzero(digits != _NOT_DECIMAL)
    wholes = np.rint(rows[decimal] * _SCALES[digits[decimal], None]).astype(np.int64)
    packed = dict(zip(decimal.tolist(), _pack_wholes(wholes) if len(decimal) else (), strict=True))
    return [
        bytes([_DECIMAL | flag, digits[place]]) + packed[place]
        if place in packed
        else bytes([_SAME | flag]) + rows[place, :1].tobytes()
        if same[place]
        else bytes([_FLOATS | flag]) + zlib.compress(_planes(rows[place]), _DEFLATE_LEVEL)
        for place in range(len(rows))
    ]


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
        readings: Floats = (_unpack_wholes(body[1:], count) / _SCALES[body[0]]).astype("<f4")
        return readings
    column = _from_planes(_inflated(body), "<f4")
    if form != _FLOATS or len(column) != count:
        raise ValueError("a column has not as many samples as there are")
    return column


def _digits(rows: Floats) -> NDArray[np.intp]:
    """The decimals with which all readings of a row can be written exactly, or `_NOT_DECIMAL`."""
    digits = np.full(len(rows), _NOT_DECIMAL)
    for some in range(len(_SCALES)):
        likely = np.flatnonzero((digits == _NOT_DECIMAL) & _are_decimal(rows[:, :_TRIED], some))
        if len(likely):
            digits[likely[_are_decimal(rows[likely], some)]] = some
        if (digits != _NOT_DECIMAL).all():
            break
    return digits


def _are_decimal(rows: Floats, digits: int) -> NDArray[np.bool_]:
    wholes = np.rint(rows.astype(np.float64) * _SCALES[digits])
    again = ((wholes + 0.0) / _SCALES[digits]).astype("<f4")  # + 0.0: there is no whole number like -0.0
    fits = (np.abs(wholes) < _EXACT_BELOW) & (again.view(np.uint32) == rows.view(np.uint32))  # nor with NaN
    found: NDArray[np.bool_] = fits.all(axis=1)
    return found


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
