"""Telemetry as InfluxDB line protocol: a line for each sample, its signals as fields.

    telemetry,tenant=local,asset=pump-1 flow_m3_h=41.2,head_m=30.5 1700000000000

A reading is written as the shortest decimal that is the same float32. A missing one is no field, a sample without any
is no line.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_cloud.telemetry import TelemetryRecord

MEASUREMENT: Final = "telemetry"
_ESCAPES: Final = str.maketrans({",": r"\,", "=": r"\=", " ": r"\ ", "\n": r"\n", "\r": "", "\\": "\\\\"})
_MOST_DECIMALS: Final = 5
_EXACT_BELOW: Final = 2.0**50
_TRIED: Final = 8


def lines(records: Sequence[TelemetryRecord], *, most: int) -> Iterator[bytes]:
    """All samples, in requests of at most about `most` lines."""
    waiting = list[str]()
    for record in records:
        waiting += _record_lines(record)
        if len(waiting) >= most:
            yield "\n".join(waiting).encode()
            waiting = []
    if waiting:
        yield "\n".join(waiting).encode()


def _record_lines(record: TelemetryRecord) -> list[str]:
    head = f"{MEASUREMENT},tenant={escaped(record.tenant)},asset={escaped(record.asset)} "
    times = map(str, record.t_ms.tolist())
    fields = [_fields(escaped(name), column) for name, column in record.signals.items()]
    if all(bool(np.isfinite(column).all()) for column in record.signals.values()):
        return [
            f"{head}{','.join(of_sample)} {t_ms}"
            for of_sample, t_ms in zip(zip(*fields, strict=True), times, strict=True)
        ]
    measured = (
        (",".join(field for field in of_sample if field), t_ms)
        for of_sample, t_ms in zip(zip(*fields, strict=True), times, strict=True)
    )
    return [f"{head}{of_sample} {t_ms}" for of_sample, t_ms in measured if of_sample]


def escaped(name: str) -> str:
    """A tag or the name of a field."""
    return name.translate(_ESCAPES)


def _fields(name: str, column: NDArray[np.float32]) -> list[str]:
    finite = np.isfinite(column)
    if finite.all():
        return [f"{name}={text}" for text in decimals(column)]
    texts = iter(decimals(column[finite]))
    return [f"{name}={next(texts)}" if is_finite else "" for is_finite in finite.tolist()]


def decimals(column: NDArray[np.float32]) -> list[str]:
    """Of each finite reading a short decimal that is the same float32.

    Most are measured to a few decimals: where all of a column are, Python's own printing of float64 is short, and ten
    times as fast as finding the shortest text of a float32.
    """
    wide = column.astype(np.float64)
    for digits in range(_MOST_DECIMALS + 1):
        if _are_decimals(wide[:_TRIED], column[:_TRIED], digits) and _are_decimals(wide, column, digits):
            scale = 10.0**digits
            short: list[float] = (np.rint(wide * scale) / scale).tolist()
            return list(map(repr, short))
    texts: list[str] = column.astype(str).tolist()
    return texts


def _are_decimals(wide: NDArray[np.float64], column: NDArray[np.float32], digits: int) -> bool:
    scaled = np.rint(wide * 10.0**digits)
    is_exact = bool((np.abs(scaled) < _EXACT_BELOW).all())
    return is_exact and bool(((scaled / 10.0**digits).astype(np.float32) == column).all())
