"""Digests of compacted records: pages of sequence numbers, so that a late repeat is still known for what it is.

A page is 128 bytes of bits, set for the records that are there, and their digests one after the other.
"""

from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from typing import Final

import numpy as np
from sqlalchemy import ColumnElement, Connection, delete, insert, select

from forewarn_cloud.adapters.sql.schema import telemetry_digests as pages

RECORDS_A_PAGE: Final = 1024
_BITS_BYTES: Final = RECORDS_A_PAGE // 8
_DIGEST_BYTES: Final = 16
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


def add_digests(connection: Connection, lane: Lane, digests: Mapping[int, bytes], *, now_ms: int) -> None:
    """Page by page: read, joined, written anew."""
    tenant, node, epoch = lane
    for page, seqs in groupby(sorted(digests), lambda seq: seq // RECORDS_A_PAGE):
        place = (_of(lane), pages.c.page == page)
        stored = connection.execute(select(pages.c.digests).where(*place).with_for_update()).scalar()
        known = {} if stored is None else dict(digests_of_page(page, bytes(stored)))
        packed = _packed(page, known | {seq: digests[seq] for seq in seqs})
        connection.execute(delete(pages).where(*place))
        row = {"tenant": tenant, "node": node, "epoch": epoch, "page": page, "digests": packed, "updated_at": now_ms}
        connection.execute(insert(pages).values(row))


def _of(lane: Lane) -> ColumnElement[bool]:
    tenant, node, epoch = lane
    return (pages.c.tenant == tenant) & (pages.c.node == node) & (pages.c.epoch == epoch)


def _packed(page: int, digests: Mapping[int, bytes]) -> bytes:
    is_there = np.zeros(RECORDS_A_PAGE, dtype=np.uint8)
    seqs = sorted(digests)
    is_there[[seq - page * RECORDS_A_PAGE for seq in seqs]] = 1
    return np.packbits(is_there).tobytes() + b"".join(digests[seq] for seq in seqs)


def digests_of_page(page: int, packed: bytes) -> Iterator[tuple[int, bytes]]:
    bits = np.unpackbits(np.frombuffer(packed[:_BITS_BYTES], np.uint8))
    for place, offset in enumerate(np.flatnonzero(bits).tolist()):
        start = _BITS_BYTES + place * _DIGEST_BYTES
        yield page * RECORDS_A_PAGE + offset, packed[start : start + _DIGEST_BYTES]
