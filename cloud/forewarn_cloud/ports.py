"""What the service domain needs from outside. Each port says when it may be called and how it fails.

A `UnitOfWork` is one transaction: everything read in it is consistent, everything written in it is committed together
or not at all. Locks are taken in one order everywhere (asset, then parts, then diagnosis, then audit), so that two
transactions wait for each other only by accident, and then one of them is tried again.

Any method may raise `errors.Contended` (another transaction was faster: `Transactions.run` tries again) or
`errors.Unavailable` (the database cannot serve; nothing was changed).
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

from forewarn_cloud.entities import (
    Asset,
    AuditNote,
    DecisionRecord,
    Diagnosis,
    Episode,
    Finding,
    Node,
    NodeCommand,
    Order,
    OutboxMessage,
    Part,
    Place,
    QueuedMessage,
    ReceivedAdvisory,
    Reservation,
    Site,
    StockLevel,
    Transfer,
)
from forewarn_models.wire import Advisory, Lane

T = TypeVar("T")
OVERTAKEN_MS: Final = 60_000
"""How long evidence waits for what its node recorded before it. What is missing is asked for again before that."""


class Assets(Protocol):
    """Nodes and the machines they watch. Deleted ones stay as rows with `deleted_at`, and are returned."""

    def node(self, tenant: str, node: str) -> Node | None: ...

    def save_node(self, node: Node) -> None: ...

    def get(self, tenant: str, asset: str) -> Asset | None: ...

    def save(self, asset: Asset) -> None: ...

    def lock(self, tenant: str, asset: str) -> Asset | None:
        """The asset, with its episodes and orders kept from all other transactions until this one ends."""
        ...

    def place(self, tenant: str, asset: str) -> Place | None:
        """Where it stands; None if nobody has said."""
        ...

    def site(self, tenant: str, site: str) -> Site | None: ...

    def record_health(self, tenant: str, advisory: Advisory) -> bool:
        """Make it the asset's latest health, unless a later one is known; whether it did."""
        ...

    def note_storm(self, tenant: str, asset: str, at: int, quiet_before: int) -> bool:
        """Advisories came in a storm; whether the last one was before `quiet_before`, or there was none."""
        ...


class Inbox(Protocol):
    """Advisories as they were received, each waiting until a transaction has acted on it.

    One that has overtaken others of its node on the way is not told of before they have come, for at most
    `OVERTAKEN_MS`: evidence is to be followed in the order in which the machine gave it.
    """

    def next_asset(self, now_ms: int) -> tuple[str, str] | None:
        """(tenant, asset) with advisories waiting, locked as `Assets.lock` does; one that nobody else has locked."""
        ...

    def pending(self, tenant: str, asset: str, limit: int, now_ms: int) -> Sequence[ReceivedAdvisory]:
        """The oldest that wait, by the machine's time."""
        ...

    def mark_handled(self, ids: Sequence[int], at: int) -> None: ...

    def set_aside(self, advisory_id: int, reason: str, at: int) -> None:
        """Handled by putting it into quarantine: it cannot be acted on."""
        ...


class Episodes(Protocol):
    def open_one(self, tenant: str, asset: str) -> Episode | None:
        """The open episode of an asset."""
        ...

    def get(self, tenant: str, episode_id: str) -> Episode | None: ...

    def next_due(self, at: int) -> Episode | None:
        """The open episode that is to be decided on again and most overdue by `at`."""
        ...

    def save(self, episode: Episode) -> None: ...

    def add_decision(self, decision: DecisionRecord) -> None: ...


class Orders(Protocol):
    def get(self, tenant: str, order_id: str) -> Order | None: ...

    def of_episode(self, tenant: str, episode_id: str) -> Sequence[Order]:
        """All orders of an episode, the oldest first; at most one is open."""
        ...

    def last_repair_at(self, tenant: str, asset: str) -> int | None:
        """When an order for this asset was last completed."""
        ...

    def next_number(self, tenant: str) -> str:
        """A human order number no other order has or will have."""
        ...

    def add(self, order: Order) -> None: ...

    def update(self, order: Order) -> Order:
        """Write the order over the version it was read at; returned with the next version.

        Raises:
            Contended: another transaction has changed it meanwhile.
        """
        ...

    def add_finding(self, order: Order, finding: Finding, *, reported_by: str, reported_at: int) -> None: ...


class Diagnoses(Protocol):
    """What findings have taught, one row per asset type."""

    def get(self, tenant: str, asset_type: str) -> Diagnosis | None: ...

    def lock(self, first: Diagnosis) -> Diagnosis:
        """The one stored, or `first` where there is none, kept from all other transactions until this one ends."""
        ...

    def save(self, diagnosis: Diagnosis) -> None: ...


class Parts(Protocol):
    """Stock and who holds it. Who changes a part's stock or reservations locks the part first."""

    def lock(self, tenant: str, part_nos: Sequence[str]) -> dict[str, Part]:
        """The parts that exist, by number, kept from all other transactions until this one ends."""
        ...

    def get(self, tenant: str, part_no: str) -> Part | None: ...

    def levels(self, tenant: str, part_no: str) -> Sequence[StockLevel]: ...

    def transfers_to(self, tenant: str, depot: str) -> Sequence[Transfer]: ...

    def has_depot(self, tenant: str, depot: str) -> bool: ...

    def change_stock(self, tenant: str, part_no: str, depot: str, *, on_hand: int = 0, reserved: int = 0) -> None:
        """Add to both figures at once; a row that is missing starts at 0.

        Raises:
            Contended: the result would break 0 <= reserved <= on_hand (someone else took the last one).
        """
        ...

    def add_reservation(self, reservation: Reservation) -> None: ...

    def update_reservation(self, reservation: Reservation) -> None: ...

    def reservations(self, tenant: str, order_id: str) -> Sequence[Reservation]:
        """All reservations of an order, by part number."""
        ...

    def waiting(self, tenant: str, part_no: str, depot: str) -> Sequence[Reservation]:
        """Those BACK_ORDERED to a depot."""
        ...

    def next_arrival(self, at: int) -> Reservation | None:
        """The one IN_TRANSFER that was expected first, and by `at`."""
        ...


class Lanes(Protocol):
    """What nodes have sent, by sequence number. An epoch is one spool file of a node."""

    def latest_epoch(self, tenant: str, node: str, lane: Lane) -> str | None:
        """The one begun last."""
        ...

    def missing(self, tenant: str, node: str, lane: Lane, epoch: str) -> Sequence[tuple[int, int]]:
        """[first, last] of all that has not come: holes below what has, and gaps that have not filled. Sorted."""
        ...

    def missing_between(
        self, tenant: str, node: str, lane: Lane, from_ms: int, to_ms: int
    ) -> Sequence[tuple[str, tuple[int, int]]]:
        """(epoch, [first, last]) of gaps that may be of that time: by what was measured before and after each."""
        ...

    def ask_again(self, command: NodeCommand) -> bool:
        """Queue a resend; False if these records are being asked for already."""
        ...


class Records(Protocol):
    """What is only ever added: messages to people, commands to nodes, the audit."""

    def add_message(self, message: OutboxMessage) -> None:
        """Queue it, unless this news has been told to this recipient on this channel already."""
        ...

    def queued(self, tenant: str, message_id: str) -> QueuedMessage | None: ...

    def requeue(self, tenant: str, message_id: str) -> None:
        """Have a dead message tried again at once, with all its tries before it."""
        ...

    def add_command(self, command: NodeCommand) -> None: ...

    def awaits_answer(self, asset: Asset, command: str) -> bool:
        """Whether a command about the asset waits for the answer of its node."""
        ...

    def add_audit(self, note: AuditNote) -> None:
        """Noted now, chained at the end of the transaction."""
        ...


class UnitOfWork(Protocol):
    """One transaction: committed when the block ends well, rolled back when it raises."""

    @property
    def assets(self) -> Assets: ...

    @property
    def inbox(self) -> Inbox: ...

    @property
    def episodes(self) -> Episodes: ...

    @property
    def orders(self) -> Orders: ...

    @property
    def diagnoses(self) -> Diagnoses: ...

    @property
    def parts(self) -> Parts: ...

    @property
    def lanes(self) -> Lanes: ...

    @property
    def records(self) -> Records: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Transactions(Protocol):
    """How use-cases are run."""

    def run(self, work: Callable[[UnitOfWork], T]) -> T:
        """Run `work` in a transaction of its own and commit; again from the start when it was contended.

        `work` must have no effect outside its unit of work.

        Raises:
            Unavailable: the database cannot serve, or is contended still after several tries. Nothing was changed.
        """
        ...
