"""What a machine's source was told is durable: the harness's own knowledge of what was appended.

A line is written when the agent confirms a record, which it may do only once the record is committed. A process that is
killed loses none: the lines are in the kernel's hands.
"""

import os
from pathlib import Path
from typing import Self


class Journal:
    """Use as a context manager. Records are confirmed in order, from 1."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.last = last_confirmed(path)

    def __enter__(self) -> Self:
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._file)

    def confirm(self, record: int) -> None:
        """A record that was confirmed before may be again."""
        if record <= self.last:
            return
        if record != self.last + 1:
            raise AssertionError(f"{self._path}: record {record} is confirmed after {self.last}")
        os.write(self._file, b"%d\n" % record)
        self.last = record


def last_confirmed(path: Path) -> int:
    """The last record that was confirmed, 0 if none was."""
    if not path.exists():
        return 0
    lines = path.read_bytes().split(b"\n")[:-1]
    if lines != [b"%d" % (i + 1) for i in range(len(lines))]:
        raise AssertionError(f"{path}: not every record was confirmed once and in order")
    return len(lines)
