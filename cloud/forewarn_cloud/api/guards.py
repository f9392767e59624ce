"""What is refused before any route: a rebound name, another page's request, a body that is too large."""

from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forewarn_cloud.api.problems import problem

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Guards:
    """ASGI middleware. Without an identity the network address is the only lock, and a browser is inside it.

    A declared length is believed when it is too large, and counted as it comes in any case.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: tuple[str, ...], max_body_bytes: int) -> None:
        self._app = app
        self._allowed_hosts = allowed_hosts
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, _counted(receive, self._max_body_bytes), send)
            return
        status, detail = refusal
        await problem(Request(scope), status, detail)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[HTTPStatus, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if "*" not in self._allowed_hosts and _name(host) not in self._allowed_hosts:
            return HTTPStatus.MISDIRECTED_REQUEST, "Host: this server is not known by that name; see public_url"
        origin = headers.get("origin")
        if scope["method"] not in _SAFE and origin is not None and urlsplit(origin).netloc != host:
            return HTTPStatus.FORBIDDEN, "Origin: a page of another site may not change anything here"
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(self._max_body_bytes)
        return None


def _counted(receive: Receive, max_bytes: int) -> Receive:
    """`receive`, which raises 413 once more than `max_bytes` of body have come."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(max_bytes))
        return message

    return counted


def _too_large(max_bytes: int) -> str:
    return f"a body of at most {max_bytes} bytes is accepted"


def _name(host: str) -> str:
    """The host without its port."""
    return host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
