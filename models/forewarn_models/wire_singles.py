"""Records of one sample, of which one is like the other but for its time and its readings.

A record that was read thoroughly teaches where they are. One that has the same bytes in all other places says the same
about everything else: MessagePack tells the length of each part before it.
"""

import struct
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

KNOWN_MACHINES: Final = 16_384
LONGEST_BYTES: Final = 1024
"""Of a record that is learned from: what is remembered of strangers takes some 25 MB at most."""
_KNOWN_SIGNAL_SETS: Final = 1_024
_TIME_KEY: Final = b"\xa1t\xc4\x08"
"""The key `t`, with eight bytes to follow."""


class _Layout(NamedTuple):
    """What follows the key of the time: the time, and in turn what does not change and the reading of a signal."""

    names: tuple[str, ...]
    form: struct.Struct
    fixed: tuple[bytes, ...]


class Machine(NamedTuple):
    """What all records of a kind say."""

    asset: str
    asset_type: str
    layout: _Layout


class KnownSingles:
    """Reads records like those it has learned, and bounded many."""

    def __init__(self) -> None:
        self._machines = dict[tuple[int, bytes], Machine]()

    def read(self, body: bytes) -> tuple[Machine, int, int, tuple[bytes, ...]] | None:
        """What it says besides its machine: where its time is, its time, and its readings, four bytes each.

        None: it is not like any that is known.
        """
        at = body.find(_TIME_KEY)
        machine = self._machines.get((len(body), body[:at]))
        if machine is None:
            return None
        time_at = at + len(_TIME_KEY)
        _, form, fixed = machine.layout
        parts = form.unpack_from(body, time_at)
        return (machine, time_at, parts[0], parts[2::2]) if parts[1::2] == fixed else None

    def learn(self, body: bytes, asset: str, asset_type: str, names: tuple[str, ...]) -> None:
        """Of a record that says this, with the names in this order."""
        if len(body) > LONGEST_BYTES:
            return
        at, layout = body.find(_TIME_KEY), _layout(names)
        key, time_at = (len(body), body[:at]), at + len(_TIME_KEY)
        if at < 0 or key in self._machines or len(body) != time_at + layout.form.size:
            return
        if layout.form.unpack_from(body, time_at)[1::2] == layout.fixed:
            if len(self._machines) >= KNOWN_MACHINES:
                self._machines.clear()
            self._machines[key] = Machine(asset, asset_type, layout)


@lru_cache(_KNOWN_SIGNAL_SETS)
def _layout(names: tuple[str, ...]) -> _Layout:
    encoded = msgspec.msgpack.encode({"signals": dict.fromkeys(names, bytes(4))})[1:]
    sizes = [len(msgspec.msgpack.encode(name)) + 2 for name in names]
    sizes[0] += len(encoded) - sum(sizes) - 4 * len(names)
    form = struct.Struct("<q" + "".join(f"{size}s4s" for size in sizes))
    return _Layout(names, form, form.unpack(bytes(8) + encoded)[1::2])
