"""Digests of compacted records: pages of sequence numbers, so that a late repeat is still known for what it is.

A page is 128 bytes of bits, set for the records that are there, and their digests one after the other.
"""

from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, insert, select

from forewarn_cloud.adapters.sql.bulk import fetch_all
from forewarn_cloud.adapters.sql.schema import telemetry_digests as pages

RECORDS_A_PAGE: Final = 1024
_BITS_BYTES: Final = RECORDS_A_PAGE // 8
_DIGEST_BYTES: Final = 16
_NO_DIGESTS: Final = bytes(_BITS_BYTES)
_PAGES_A_QUERY: Final = 100

Lane = tuple[str, str, str]
"""(tenant, node, epoch)."""


def paged_digests(connection: Connection, lane: Lane, seqs: Collection[int]) -> dict[int, bytes]:
    """Of those of these records that were compacted."""
    numbers = sorted({seq // RECORDS_A_PAGE for seq in seqs})
    found = dict[int, bytes]()
    for start in range(0, len(numbers), _PAGES_A_QUERY):
        wanted = pages.c.page.in_(numbers[start : start + _PAGES_A_QUERY])
        for row in connection.execute(select(pages.c.page, pages.c.digests).where(_of(lane), wanted)):
            found.update(digests_of_page(row.page, bytes(row.digests)))
    return {seq: found[seq] for seq in seqs if seq in found}


_KEY: Final = (pages.c.tenant, pages.c.node, pages.c.epoch, pages.c.page)
_IS_IT: Final = and_(*(column == bindparam(column.name) for column in _KEY))
_STORED: Final = select(pages.c.digests).where(_IS_IT).with_for_update()
_REMOVE: Final = delete(pages).where(_IS_IT)
"""Made once: to put a statement together takes several times as long as to run it."""


def add_digests(connection: Connection, digests: Mapping[Lane, Mapping[int, bytes]], *, now_ms: int) -> None:
    """Page by page: read, joined, written anew."""
    known, rows = list[dict[str, object]](), list[dict[str, object]]()
    for lane, of_lane in sorted(digests.items()):
        for page, seqs in groupby(sorted(of_lane), lambda seq: seq // RECORDS_A_PAGE):
            key = dict(zip((column.name for column in _KEY), (*lane, page), strict=True))
            stored = fetch_all(connection, _STORED, key)
            added = {seq % RECORDS_A_PAGE: of_lane[seq] for seq in seqs}
            if stored:
                known.append(key)
            joined = _joined(bytes(stored[0].digests) if stored else _NO_DIGESTS, added)
            rows.append(key | {"digests": joined, "updated_at": now_ms})
    if known:
        connection.execute(_REMOVE, known)
    if rows:
        connection.execute(insert(pages), rows)


def _of(lane: Lane) -> ColumnElement[bool]:
    tenant, node, epoch = lane
    return (pages.c.tenant == tenant) & (pages.c.node == node) & (pages.c.epoch == epoch)


def _joined(packed: bytes, added: Mapping[int, bytes]) -> bytes:
    """A page with more digests, by their place in it."""
    is_there, known = _unpacked(packed)
    digests = np.zeros((RECORDS_A_PAGE, _DIGEST_BYTES), dtype=np.uint8)
    digests[is_there] = known
    places = list(added)
    digests[places] = np.frombuffer(b"".join(added.values()), np.uint8).reshape(-1, _DIGEST_BYTES)
    is_there[places] = True
    return np.packbits(is_there).tobytes() + digests[is_there].tobytes()


def digests_of_page(page: int, packed: bytes) -> Iterator[tuple[int, bytes]]:
    is_there, digests = _unpacked(packed)
    for offset, digest in zip(np.flatnonzero(is_there).tolist(), digests, strict=True):
        yield page * RECORDS_A_PAGE + offset, digest.tobytes()


def _unpacked(packed: bytes) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Which records are there (RECORDS_A_PAGE,), and the digest (16,) of each of those."""
    is_there = np.unpackbits(np.frombuffer(packed, np.uint8, _BITS_BYTES)).astype(bool)
    return is_there, np.frombuffer(packed, np.uint8, offset=_BITS_BYTES).reshape(-1, _DIGEST_BYTES)
