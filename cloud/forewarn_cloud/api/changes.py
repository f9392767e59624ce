"""Every change through the API: one transaction, repeatable under the Idempotency-Key of the request."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Header, Request, Response
from sqlalchemy import Connection

from forewarn_cloud.api.access import deps_of
from forewarn_cloud.api.fields import Answer
from forewarn_cloud.api.versions import etag
from forewarn_cloud.errors import Conflict
from forewarn_cloud.idempotency import Answered, Changes, Claim
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.principal import Principal


@dataclass(frozen=True)
class InFlight:
    """The keys that this process is working on. Another process would wait for the database instead."""

    _keys: set[tuple[str, str]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def only(self, claim: Claim) -> Iterator[None]:
        """Raises: Conflict: another request with this key is being worked on."""
        identity = (claim.tenant, claim.key)
        with self._lock:
            if identity in self._keys:
                raise Conflict("a request with this Idempotency-Key is being worked on; wait for its answer")
            self._keys.add(identity)
        try:
            yield
        finally:
            with self._lock:
                self._keys.remove(identity)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One request that changes something. `digest` covers its body and its precondition."""

    changes: Changes
    in_flight: InFlight
    key: str | None
    request: str
    digest: bytes
    wall_ms: int

    def run(
        self,
        principal: Principal,
        act: Callable[[UnitOfWork], object],
        answer: Callable[[Connection], Answer] | None = None,
        *,
        status: HTTPStatus = HTTPStatus.OK,
    ) -> Response:
        """Act, and answer with what is there then; without a body if `answer` is None."""
        return self.run_on(principal, lambda uow, _: act(uow), answer, status=status)

    def run_on(
        self,
        principal: Principal,
        act: Callable[[UnitOfWork, Connection], object],
        answer: Callable[[Connection], Answer] | None = None,
        *,
        status: HTTPStatus = HTTPStatus.OK,
    ) -> Response:
        """The same for what acts on the connection, too."""

        def work(uow: UnitOfWork, connection: Connection) -> Answered:
            act(uow, connection)
            if answer is None:
                return Answered(status=HTTPStatus.NO_CONTENT, body="")
            return Answered(status=status, body=answer(connection).model_dump_json())

        if self.key is None:
            return _response(self.changes.run(work, None))
        claim = self._claim(principal, self.key)
        with self.in_flight.only(claim):
            return _response(self.changes.run(work, claim))

    def _claim(self, principal: Principal, key: str) -> Claim:
        digest = hashlib.sha256(json.dumps([principal.name, self.request]).encode() + self.digest).digest()
        return Claim(tenant=principal.tenant, key=key, request=self.request[:300], digest=digest, wall_ms=self.wall_ms)


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,200}$",
        description="Any text of your own. A repeat with the same key gets the same answer and has no second effect.",
    ),
]


async def change_of(request: Request, idempotency_key: IdempotencyKey = None) -> Change:
    deps = deps_of(request)
    precondition = request.headers.get("if-match", "").encode()
    return Change(
        changes=deps.changes,
        in_flight=request.app.state.in_flight,
        key=idempotency_key,
        request=f"{request.method} {request.url.path}",
        digest=hashlib.sha256(precondition + b"\n" + await request.body()).digest(),
        wall_ms=deps.clock.wall_ms(),
    )


Changing = Annotated[Change, Depends(change_of)]


def _response(answered: Answered) -> Response:
    if not answered.body:
        return Response(status_code=answered.status)
    version = json.loads(answered.body).get("version")
    headers = {"ETag": etag(version)} if isinstance(version, int) else {}
    return Response(answered.body, answered.status, headers=headers, media_type="application/json")
