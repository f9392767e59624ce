"""Who the spool file is, in a tiny file beside it: what is still known when the file itself cannot be read."""

import os
import zlib
from pathlib import Path
from typing import Final

import msgspec

from forewarn_models import wire
from forewarn_models.asset_type import IDENTIFIER

NAME: Final = "spool.identity"


class Outstanding(msgspec.Struct, frozen=True, kw_only=True):
    """Records of another epoch from `first_seq` on that the file holds and the cloud lacks."""

    lane: wire.Lane
    epoch: str
    first_seq: int


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Of some moment since the file was made; its sequences and acknowledgements can only have grown since."""

    version: int
    epoch: str
    acknowledged: dict[str, int]
    last: dict[str, int]
    outstanding: tuple[Outstanding, ...] = ()


def read(path: Path) -> Identity | None:
    """None if there is none, or none that is whole."""
    try:
        body, _, crc = path.read_bytes().rpartition(b"\n")
        if zlib.crc32(body) != int(crc, 16):
            return None
        found = msgspec.json.decode(body, type=Identity)
    except (OSError, ValueError, msgspec.DecodeError):
        return None
    return found if IDENTIFIER.fullmatch(found.epoch) else None


def write(path: Path, identity: Identity) -> None:
    """The old one or this one, never half of it, even if the power goes.

    Raises:
        OSError: the disk does not allow it.
    """
    body = msgspec.json.encode(identity)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(body + b"\n%08x" % zlib.crc32(body))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
