"""Errors by their consequence for the caller. Each is mapped once to HTTP and once to the command line."""


class ServiceError(Exception):
    """Something the caller asked for cannot be done; the message says why and what to do."""


class NotFound(ServiceError):
    """There is no such thing, or it belongs to another tenant (HTTP 404)."""

    def __init__(self, kind: str, key: str) -> None:
        super().__init__(f"{kind} {key!r} does not exist")
        self.kind = kind
        self.key = key


class Conflict(ServiceError):
    """It exists, but its state does not allow this (HTTP 409)."""


class VersionConflict(Conflict):
    """Someone changed it since the caller read it (HTTP 412)."""

    def __init__(self, kind: str, key: str, *, expected: int, found: int) -> None:
        super().__init__(f"{kind} {key!r} is at version {found}, not {expected}: read it again and decide anew")
        self.expected = expected
        self.found = found


class Invalid(ServiceError):
    """A field of the request is wrong (HTTP 422)."""

    def __init__(self, field: str, fix: str) -> None:
        super().__init__(f"{field}: {fix}")
        self.field = field
        self.fix = fix


class Unavailable(ServiceError):
    """The database cannot serve this now; the same request may succeed later (HTTP 503). Nothing was changed.

    `is_outage`: it can serve nothing of that kind, whatever is asked: the disk is full or gone, the server stops.
    Else it may be the request that is at fault."""

    def __init__(self, message: str = "", *, is_outage: bool = True) -> None:
        super().__init__(message)
        self.is_outage = is_outage


class Contended(Unavailable):
    """Another transaction was faster; the whole transaction is worth trying again at once."""


class SchemaTooNew(ServiceError):
    """The database belongs to a newer version of forewarn; this one leaves it alone."""

    def __init__(self, revision: str) -> None:
        super().__init__(
            f"a newer forewarn has written this database (revision {revision}): install that or a later one"
        )
        self.revision = revision
