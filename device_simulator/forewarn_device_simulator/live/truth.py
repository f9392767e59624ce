"""The ground truth of a live run, one JSON object a line.

After a restart everything known is written again, so a line may come twice; equal lines mean one thing. A line cut
short by a crash is followed by a complete copy.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec


class WouldFail(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="would_fail"):
    """A failure that comes if nobody does anything more. `twin`: of the machine to which nothing was ever done."""

    asset: str
    failure_mode: str
    started_at: int
    """Epoch milliseconds of the first symptom that stands out from the sensors' noise."""
    would_fail_at: int
    twin: bool


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="failed"):
    """A breakdown that has happened."""

    asset: str
    failure_mode: str
    failed_at: int


class Repaired(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="repaired"):
    """A repair that was carried out, and when the machine was back."""

    id: str
    asset: str
    failure_mode: str | None
    at: int
    back_at: int


Truth = WouldFail | Failed | Repaired


class TruthFile:
    """Appends to the file; every line is on disk when `add` returns. Writes each truth once per process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = set[Truth]()
        with path.open("ab") as file:
            if file.tell():
                file.write(b"\n")  # ends a line that a crash may have cut short

    def add(self, truths: Iterator[Truth]) -> None:
        new = [truth for truth in truths if truth not in self._written]
        if not new:
            return
        with self._path.open("ab") as file:
            file.write(b"".join(msgspec.json.encode(truth) + b"\n" for truth in new))
        self._written.update(new)


def read_truth(path: Path) -> list[Truth]:
    """Everything in a truth file, each truth once, in the order it was first told; lines cut short are left out."""
    found = dict[Truth, None]()
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            found[msgspec.json.decode(line, type=Truth)] = None
        except msgspec.DecodeError:
            continue
    return list(found)
