"""Where a new record lies among the others: with those of some other machines, in the order in which they came.

With a place of its own for each machine, a thousand records of a thousand machines would be written to a thousand
pages of the table, and again of each of its indexes. The records of a shard fill one page after the other; who looks
for those of one machine, or of one node, passes over its neighbours', of which upkeep leaves few.
"""

import zlib
from functools import lru_cache
from typing import Final

from sqlalchemy import ColumnElement

from forewarn_cloud.adapters.sql.schema import telemetry_blocks as blocks

SHARDS: Final = 64
"""A thousand records of a thousand machines touch so many pages, and reading one machine passes over one in so many of
all records. Stored rows depend on it: another number wants a migration."""
_KNOWN_ASSETS: Final = 16_384


@lru_cache(_KNOWN_ASSETS)
def shard_of(tenant: str, asset: str) -> int:
    return zlib.crc32(f"{tenant}/{asset}".encode()) % SHARDS


def of_lane(lane: tuple[str, str, str]) -> ColumnElement[bool]:
    """Whether a record came from this tenant, node and epoch."""
    tenant, node, epoch = lane
    return (blocks.c.tenant == tenant) & (blocks.c.node == node) & (blocks.c.epoch == epoch)
