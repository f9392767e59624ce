"""What of telemetry is stored, whether upkeep has compacted it or not."""

from collections import defaultdict
from collections.abc import Iterator

from sqlalchemy import Connection, select, union_all

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.telemetry_codec import decode_columns
from forewarn_cloud.adapters.telemetry_digests import digests_of_page
from forewarn_cloud.series import Columns


def stored_seqs(connection: Connection) -> dict[tuple[str, str], list[int]]:
    """By node and epoch, in order; a record that is there twice is there twice."""
    found = defaultdict[tuple[str, str], list[int]](list)
    blocks, pages = schema.telemetry_blocks.c, schema.telemetry_digests.c
    for node, epoch, seq in connection.execute(select(blocks.node, blocks.epoch, blocks.seq)):
        found[node, epoch].append(seq)
    for node, epoch, page, packed in connection.execute(select(pages.node, pages.epoch, pages.page, pages.digests)):
        found[node, epoch] += [seq for seq, _ in digests_of_page(page, bytes(packed))]
    return {lane: sorted(seqs) for lane, seqs in found.items()}


def stored_samples(connection: Connection) -> Iterator[tuple[str, Columns]]:
    """(asset, columns) of every block."""
    blocks, leaves = schema.telemetry_blocks.c, schema.telemetry_leaves.c
    compacted = select(leaves.asset, leaves.columns).where(leaves.level_ms == 0)
    for asset, columns in connection.execute(union_all(select(blocks.asset, blocks.columns), compacted)):
        yield asset, decode_columns(bytes(columns))
