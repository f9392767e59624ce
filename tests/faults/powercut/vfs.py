"""A disk that forgets what was not synced when the power goes, for SQLite by way of apsw.

Writes stay in memory until their file is synced; only then do they reach the real file. At a cut nothing, a random part
of the sectors, or all of what was not synced reaches it, as on a real disk. Names of files come and go at once.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import apsw

SECTOR_BYTES: Final = 512
Fate = Literal["nothing", "some", "all"]
"""What of the writes since the last sync reaches the disk all the same; of some, sectors are torn."""


class PowerCutError(Exception):
    """The power is off."""


class Disk(apsw.VFS):
    """Known to SQLite as `name`; the power goes before that write or sync, counted from 1."""

    def __init__(self, name: str, cut_before: int | None = None) -> None:
        self.files: dict[str, Content] = {}
        self.operations = 0
        self.is_off = False
        self._cut_before = cut_before
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> "File":  # type: ignore[override]
        if self.is_off:
            raise PowerCutError
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None:
            return File(self, Content(None))
        flags[1] = flags[0]
        content = self.files.setdefault(path, Content(Path(path)))
        return File(self, content)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: ARG002
        if self.happens():
            self.files.pop(filename, None)
            Path(filename).unlink(missing_ok=True)

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: ARG002
        return Path(pathname).exists()

    def happens(self) -> bool:
        """Whether the next write or sync does anything. Without power nothing does, and nobody is told again."""
        self.operations += 1
        if self.operations == self._cut_before:
            self.is_off = True
            raise PowerCutError
        return not self.is_off

    def settle(self, fate: Fate, chance: random.Random) -> None:
        """What is on the real files once the power is off."""
        for content in self.files.values():
            content.settle(fate, chance)


class Content:
    """Of one file: as it is read, and what of it has not reached the disk."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._now = bytearray()
        self._waiting: list[Callable[[bytearray], None]] = []
        if path is not None:
            path.touch()
            self._now = bytearray(path.read_bytes())

    def size(self) -> int:
        return len(self._now)

    def read(self, offset: int, amount: int) -> bytes:
        return bytes(self._now[offset : offset + amount])

    def write(self, data: bytes, offset: int) -> None:
        for start in range(0, len(data), SECTOR_BYTES):
            piece, at = data[start : start + SECTOR_BYTES], offset + start
            self._change(lambda content, piece=piece, at=at: _put(content, piece, at))  # type: ignore[misc]

    def truncate(self, size: int) -> None:
        self._change(lambda content: _cut(content, size))

    def sync(self) -> None:
        if self._path is not None and self._waiting:
            self._path.write_bytes(self._now)
        self._waiting.clear()

    def settle(self, fate: Fate, chance: random.Random) -> None:
        if self._path is None or not self._path.exists():
            return
        on_disk = bytearray(self._path.read_bytes())
        for change in self._waiting:
            if fate == "all" or (fate == "some" and chance.random() < 0.5):
                change(on_disk)
        self._path.write_bytes(on_disk)

    def _change(self, change: Callable[[bytearray], None]) -> None:
        change(self._now)
        self._waiting.append(change)


def _put(content: bytearray, piece: bytes, at: int) -> None:
    content.extend(bytes(max(0, at - len(content))))
    content[at : at + len(piece)] = piece


def _cut(content: bytearray, size: int) -> None:
    del content[size:]


class File:
    """What apsw calls of an open file."""

    def __init__(self, disk: Disk, content: Content) -> None:
        self._disk = disk
        self._content = content

    def xRead(self, amount: int, offset: int) -> bytes:
        return self._content.read(offset, amount)

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._disk.happens():
            self._content.write(data, offset)

    def xTruncate(self, newsize: int) -> None:
        if self._disk.happens():
            self._content.truncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: ARG002
        if self._disk.happens():
            self._content.sync()

    def xFileSize(self) -> int:
        return self._content.size()

    def xClose(self) -> None:
        """Nothing: what is not synced stays so."""

    def xLock(self, level: int) -> None:
        """One process, one connection."""

    def xUnlock(self, level: int) -> None:
        """One process, one connection."""

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: ARG002
        return False

    def xSectorSize(self) -> int:
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:
        """As of any file on Linux: a write leaves what is beside it alone."""
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE
