"""Old telemetry is deleted, a little at a time. SQLite reuses the space; its file does not shrink."""

import logging
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, Engine, delete, func, select

from forewarn_cloud.adapters.sql.engine import reading, retrying, writing
from forewarn_cloud.adapters.sql.schema import telemetry_digests as pages
from forewarn_cloud.adapters.sql.schema import telemetry_leaves as leaves
from forewarn_cloud.series import DAY_MS, HOUR_MS

DIGEST_DAYS: Final = 35
"""Records older than 30 days are not accepted any more, so no repeat of an older one is compared."""
LOOK_MS: Final = HOUR_MS
_ROWS_A_STEP: Final = 50

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SqlRetention:
    """`step` is repeated by a worker. `days` None: samples are kept for ever."""

    engine: Engine
    days: int | None
    _next_look_ms: int = 0
    _leaves: int = field(default=0, init=False)
    _samples: int = field(default=0, init=False)

    def step(self, now_ms: int) -> bool:
        """Delete some of what is too old; whether there was any. What it deleted in all goes to the log.

        Raises:
            Unavailable: the database cannot serve.
        """
        if now_ms < self._next_look_ms:
            return False
        if self._delete_leaves(now_ms) or self._delete_pages(now_ms):
            return True
        self._next_look_ms = now_ms + LOOK_MS
        if self._leaves:
            _log.info(
                "telemetry from more than %d days ago was deleted: %d samples and their summaries, in %d blocks",
                self.days,
                self._samples,
                self._leaves,
            )
        self._leaves = self._samples = 0
        return False

    def _delete_leaves(self, now_ms: int) -> bool:
        if self.days is None:
            return False
        old = leaves.c.last_ms < now_ms - self.days * DAY_MS
        with reading(self.engine) as connection:
            ids = connection.execute(select(leaves.c.id).where(old).limit(_ROWS_A_STEP)).scalars().all()
        if not ids:
            return False

        def once() -> tuple[int, int]:
            with writing(self.engine) as connection:
                return _delete(connection, list(ids))

        deleted, samples = retrying(once)
        self._leaves, self._samples = self._leaves + deleted, self._samples + samples
        return True

    def _delete_pages(self, now_ms: int) -> bool:
        old = pages.c.updated_at < now_ms - DIGEST_DAYS * DAY_MS
        keys = (pages.c.tenant, pages.c.node, pages.c.epoch, pages.c.page)
        with reading(self.engine) as connection:
            found = connection.execute(select(*keys).where(old).limit(_ROWS_A_STEP)).all()

        def once() -> None:
            with writing(self.engine) as connection:
                for row in found:
                    is_it = (key == value for key, value in zip(keys, row, strict=True))
                    connection.execute(delete(pages).where(old, *is_it))

        if found:
            retrying(once)
        return bool(found)


def _delete(connection: Connection, ids: list[int]) -> tuple[int, int]:
    """How many leaves, and how many samples were in them."""
    some = leaves.c.id.in_(ids)
    samples = select(func.coalesce(func.sum(leaves.c.samples), 0)).where(some, leaves.c.level_ms == 0)
    count = int(connection.execute(samples).scalar_one())
    return connection.execute(delete(leaves).where(some)).rowcount, count
