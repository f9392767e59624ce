"""What the desk does with messages that did not arrive."""

from forewarn_cloud.clock import Clock
from forewarn_cloud.entities import AuditNote
from forewarn_cloud.errors import Conflict, NotFound
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.principal import Principal


def replay(uow: UnitOfWork, principal: Principal, clock: Clock, message_id: str) -> None:
    """Try a dead message again, under the id it always had.

    Raises:
        NotFound: no such message.
        Conflict: it is not dead: it was delivered, or is being tried.
    """
    found = uow.records.queued(principal.tenant, message_id)
    if found is None:
        raise NotFound("notification", message_id)
    if found.state != "DEAD":
        raise Conflict(f"notification {message_id!r} is {found.state}: only a DEAD one can be replayed")
    uow.records.requeue(principal.tenant, message_id)
    if found.order_id is None:
        return
    uow.records.add_audit(
        AuditNote(
            tenant=principal.tenant,
            at=clock.now_ms(),
            actor=principal.name,
            subject="order",
            subject_id=found.order_id,
            action="message_replayed",
            detail={"message": message_id},
        )
    )
