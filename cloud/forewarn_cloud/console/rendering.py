"""Templates to pages: the language and the time of one request, safe headers, errors as pages."""

import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import tzinfo
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy.exc import OperationalError

from forewarn_cloud.api.access import Deps, Reader, deps_of
from forewarn_cloud.api.events import high_water
from forewarn_cloud.api.problems import status_of
from forewarn_cloud.console import formatting
from forewarn_cloud.console.i18n import HTML_LANGUAGE, LANGUAGES, Words, choose_language, words
from forewarn_cloud.errors import NotFound, ServiceError

LANGUAGE_COOKIE: Final = "forewarn_language"
_HERE: Final = Path(__file__).parent
_STATIC: Final = _HERE / "static"
_YEAR_SECONDS: Final = 365 * 24 * 3600
_DIGEST_CHARS: Final = 12
_CONTENT_SECURITY_POLICY: Final = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True, kw_only=True)
class Page:
    """What every page of one request knows."""

    language: str
    path: str
    query: tuple[tuple[str, str], ...]
    now_ms: int
    marks: str = ""
    """How much of what happened is on the page: live events start after it."""

    @property
    def words(self) -> Words:
        return words(self.language)

    @property
    def html_language(self) -> str:
        return HTML_LANGUAGE[self.language]

    @property
    def here(self) -> str:
        return self.address()

    def address(self, **changed: str) -> str:
        """This page's address with some of its parameters given or changed."""
        kept = {**dict(self.query), **changed}
        return f"{self.path}?{urlencode(kept)}" if kept else self.path

    def without(self, name: str) -> str:
        """This page's address less one of its parameters."""
        kept = {key: value for key, value in self.query if key != name}
        return f"{self.path}?{urlencode(kept)}" if kept else self.path

    def at(self, path: str) -> "Page":
        """The same reader on another page."""
        return replace(self, path=path, query=())

    def in_language(self, language: str) -> str:
        return self.address(lang=language)


def page_of(
    request: Request, deps: Deps, principal: Reader, lang: Annotated[str | None, Query(max_length=8)] = None
) -> Page:
    with deps.reading() as connection:
        marks = high_water(connection, principal.tenant).text
    return Page(
        language=_language(request, lang),
        path=request.url.path,
        query=tuple((key, value) for key, value in request.query_params.multi_items() if key != "done"),
        now_ms=deps.clock.now_ms(),
        marks=marks,
    )


CurrentPage = Annotated[Page, Depends(page_of)]


def render(page: Page, template: str, *, status: HTTPStatus = HTTPStatus.OK, **facts: Any) -> HTMLResponse:
    """The page, in its language."""
    response = HTMLResponse(_environment().get_template(template).render(**_speech(page), **facts), int(status))
    response.headers["Cache-Control"] = "no-store"
    response.headers["Vary"] = "Accept-Language, Cookie"
    if dict(page.query).get("lang") in LANGUAGES:
        response.set_cookie(LANGUAGE_COOKIE, page.language, max_age=_YEAR_SECONDS, httponly=True, samesite="lax")
    return response


class PageRoute(APIRoute):
    """A route whose answers carry the security headers and whose errors are pages that people can read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_as_page(request: Request) -> Response:
            try:
                response = await handle(request)
            except (ServiceError, RequestValidationError, OperationalError) as error:
                response = _error_page(request, error)
            response.headers.update(SECURITY_HEADERS)
            return response

        return handle_as_page


def static_file(path: str, version: str | None) -> FileResponse:
    """A file of the console. Asked for by its digest it may be kept for ever."""
    if path not in _digests():
        raise NotFound("file", path)
    is_this = version == _digests()[path]
    kept = f"public, max-age={_YEAR_SECONDS}, immutable" if is_this else "no-cache"
    return FileResponse(_STATIC / path, headers={"Cache-Control": kept})


@cache
def _digests() -> dict[str, str]:
    """Every file there is to serve, by its path, with the digest that goes into its address."""
    files = [file for file in _STATIC.rglob("*") if file.is_file()]
    return {
        file.relative_to(_STATIC).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()[:_DIGEST_CHARS]
        for file in files
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "static": lambda path: f"/static/{path}?v={_digests()[path]}",
        "languages": LANGUAGES,
        "html_languages": HTML_LANGUAGE,
        "iso": formatting.iso,
        "quantity": formatting.quantity,
        "signed": formatting.signed,
        "money": formatting.money,
        "percent": formatting.percent,
    }
    return environment


def _speech(page: Page) -> dict[str, Any]:
    """How this page says things."""
    return {
        "page": page,
        "t": page.words,
        "local": _local,
        "relative": partial(_relative, page),
        "span": partial(formatting.span, words=page.words),
    }


def _local(at_ms: int, zone: str | tzinfo | None = None) -> str:
    return formatting.local(at_ms, zone if isinstance(zone, tzinfo) else formatting.time_zone(zone))


def _relative(page: Page, at_ms: int) -> str:
    return formatting.relative(at_ms, page.now_ms, page.words)


def _language(request: Request, asked: str | None) -> str:
    return choose_language(asked, request.cookies.get(LANGUAGE_COOKIE), request.headers.get("Accept-Language"))


def _error_page(request: Request, error: ServiceError | RequestValidationError | OperationalError) -> HTMLResponse:
    """Made without the database, which may be what is broken."""
    page = Page(
        language=_language(request, request.query_params.get("lang")),
        path=request.url.path,
        query=(),
        now_ms=deps_of(request).clock.now_ms(),
    )
    return render(page, "error.html", status=_status(error), key=_error_key(error), detail=_detail(error))


def _status(error: Exception) -> HTTPStatus:
    if isinstance(error, ServiceError):
        return status_of(error)
    is_request = isinstance(error, RequestValidationError)
    return HTTPStatus.UNPROCESSABLE_ENTITY if is_request else HTTPStatus.SERVICE_UNAVAILABLE


def _error_key(error: Exception) -> str:
    keys = {
        HTTPStatus.NOT_FOUND: "not_found",
        HTTPStatus.FORBIDDEN: "forbidden",
        HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
    }
    return keys.get(_status(error), "refused")


def _detail(error: Exception) -> str:
    if isinstance(error, RequestValidationError):
        return "; ".join(f"{found['loc'][-1]}: {found['msg']}" for found in error.errors()[:5])
    return str(error) if isinstance(error, ServiceError) else ""
