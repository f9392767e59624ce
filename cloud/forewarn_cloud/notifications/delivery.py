"""One message on its way to one recipient, and the port that carries it."""

from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A leased row of the outbox. `id` is the same on every attempt, so that a receiver can tell a repeat."""

    id: str
    tenant: str
    channel: str
    recipient: str
    kind: str
    language: str
    payload: dict[str, Any]
    order_id: str | None
    created_at: int
    """Epoch milliseconds of the run."""
    attempt: int
    """1 for the first."""
    lease: str
    """The fencing token: only who holds it may say how this attempt ended."""
    secret: str | None = field(default=None, repr=False)
    """What a webhook is signed with."""


class DeliveryError(Exception):
    """It did not arrive, or nobody can say whether it did. It is tried again."""


class Undeliverable(DeliveryError):
    """No repetition can help; the message goes to the dead letters with this reason."""


class Sender(Protocol):
    """Carries messages of one channel. Returns only when the receiver has taken responsibility."""

    async def send(self, delivery: Delivery) -> None:
        """Deliver, with `delivery.id` as its identity.

        Raises:
            DeliveryError: try again later. The receiver may have got it all the same.
            Undeliverable: never.
        """
        ...


class Outbox(Protocol):
    """The messages that wait. Every method is one transaction."""

    def is_due(self, wall_ms: int) -> bool:
        """Whether `lease` would find something."""
        ...

    def lease(self, wall_ms: int, *, until_wall_ms: int, limit: int) -> list[Delivery]:
        """Take due messages, at most one per recipient, so that nobody else takes them before `until_wall_ms`."""
        ...

    def mark_sent(self, delivery: Delivery, *, at: int) -> bool:
        """It was delivered; False if the lease was lost meanwhile, and with it the right to say so."""
        ...

    def mark_failed(self, delivery: Delivery, *, error: str, retry_wall_ms: int | None) -> bool:
        """It was not; try again then, or never if None. False if the lease was lost."""
        ...
