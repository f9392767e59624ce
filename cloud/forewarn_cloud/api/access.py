"""What a route is given: the parts of the program, who asks, and whether they may."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Request
from sqlalchemy import Connection

from forewarn_cloud.adapters.ingest_sql import SqlLedgerTransaction
from forewarn_cloud.api.problems import Forbidden
from forewarn_cloud.clock import Clock
from forewarn_cloud.idempotency import Changes
from forewarn_cloud.ingest.figures import IngestFigures
from forewarn_cloud.ingest.replay import QuarantineTransaction
from forewarn_cloud.ports import Transactions
from forewarn_cloud.principal import LOCAL_PRINCIPAL, Principal, Role
from forewarn_cloud.telemetry import TelemetryStore

LOCAL_HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, kw_only=True)
class ApiDeps:
    """What bootstrap chose for the API and the console."""

    clock: Clock
    reading: Callable[[], AbstractContextManager[Connection]]
    """A connection for queries that must agree with each other."""
    telemetry: Callable[[Connection], TelemetryStore]
    transactions: Transactions
    """How use-cases are run."""
    changes: Changes
    """How they are run for callers who may repeat themselves."""
    ledger: Callable[[Connection], QuarantineTransaction] = SqlLedgerTransaction
    """How what is in quarantine is judged anew."""
    silent_after_ms: int = 600_000
    """For how long nothing may be heard of a node, in wall time."""
    ingest_figures: Callable[[], IngestFigures] = IngestFigures
    """What the ingest of this process tells about itself."""
    principal: Principal = LOCAL_PRINCIPAL
    """Who every request is from, until identity is built."""
    ready: Callable[[], Mapping[str, bool]] = dict
    """What must be true to serve (`/readyz`): name -> whether it is."""
    allowed_hosts: tuple[str, ...] = LOCAL_HOSTS
    """Names under which the server may be addressed; a page elsewhere cannot rebind its own name to us."""

    def silent_before(self) -> int:
        """The instant of the run before which a node must have been heard of last to be silent."""
        return self.clock.now_ms() - round(self.silent_after_ms / self.clock.wall_seconds(1.0))


def deps_of(request: Request) -> ApiDeps:
    found = request.app.state.deps
    assert isinstance(found, ApiDeps)
    return found


Deps = Annotated[ApiDeps, Depends(deps_of)]


def current_principal(deps: Deps) -> Principal:
    """Who asks. Every route depends on it; what it reads and writes is within `principal.tenant`."""
    return deps.principal


def allow(*roles: Role) -> Callable[[Principal], Principal]:
    """A dependency that gives the principal if its role is one of `roles`, and else answers 403."""

    def allowed(principal: Annotated[Principal, Depends(current_principal)]) -> Principal:
        if principal.role not in roles:
            raise Forbidden(f"the role {principal.role} may not do this; it takes {' or '.join(roles)}")
        return principal

    return allowed


Reader = Annotated[Principal, Depends(current_principal)]
Technician = Annotated[Principal, Depends(allow("admin", "desk", "technician"))]
Desk = Annotated[Principal, Depends(allow("admin", "desk"))]
Admin = Annotated[Principal, Depends(allow("admin"))]
