"""Changes that a caller may safely repeat: the answer is committed with the effect, under the caller's key."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from sqlalchemy import Connection

from forewarn_cloud.ports import UnitOfWork

KEPT_HOURS: Final = 24.0
"""How long a key is remembered, in wall time."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A request that carries an Idempotency-Key. `digest` (32 bytes) covers all that the answer depends on."""

    tenant: str
    key: str
    request: str
    digest: bytes
    wall_ms: int


@dataclass(frozen=True, kw_only=True)
class Answered:
    """An answer as it goes out, and as it is kept."""

    status: int
    body: str


Work = Callable[[UnitOfWork, Connection], Answered]
"""What to do in a transaction, and the answer; the connection sees what the unit of work wrote."""


class Changes(Protocol):
    """How changes are committed."""

    def run(self, work: Work, claim: Claim | None) -> Answered:
        """Run `work` in a transaction, again from the start while it is contended; or give the answer of an earlier
        request with the same claim, if there was one.

        The claim, the effect and the answer are committed together, so a repeat after a crash finds all or none. When
        `work` raises, nothing is kept, the claim neither. Of two at once, the second waits for the first.

        Raises:
            Invalid: the key was used for another request.
            Unavailable: the database cannot serve. Nothing was changed.
        """
        ...
