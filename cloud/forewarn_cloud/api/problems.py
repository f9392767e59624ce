"""Every error of the API as an RFC 9457 problem, mapped here once from what went wrong."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from forewarn_cloud.errors import Conflict, Invalid, NotFound, ServiceError, Unavailable, VersionConflict

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 2

_log = logging.getLogger(__name__)

_STATUS: Final[Sequence[tuple[type[ServiceError], HTTPStatus]]] = (
    (NotFound, HTTPStatus.NOT_FOUND),
    (VersionConflict, HTTPStatus.PRECONDITION_FAILED),
    (Conflict, HTTPStatus.CONFLICT),
    (Invalid, HTTPStatus.UNPROCESSABLE_ENTITY),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
)


class Forbidden(ServiceError):
    """The principal's role does not allow this (HTTP 403)."""


def problem(
    request: Request,
    status: HTTPStatus,
    detail: str,
    *,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem document; `errors` names each wrong field and what is wrong with it."""
    body: dict[str, Any] = {
        "type": f"urn:forewarn:problem:{status.name.lower().replace('_', '-')}",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        "instance": quote(request.scope["path"]),
    }
    if errors:
        body["errors"] = [dict(error) for error in errors]
    return JSONResponse(body, int(status), headers=dict(headers or {}), media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem."""
    app.add_exception_handler(ServiceError, _of_service)
    app.add_exception_handler(RequestValidationError, _of_request)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(OperationalError, _of_database)
    app.add_exception_handler(Exception, _of_defect)


def status_of(error: ServiceError) -> HTTPStatus:
    if isinstance(error, Forbidden):
        return HTTPStatus.FORBIDDEN
    return next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


def _of_service(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    status = status_of(error)
    errors = [{"field": error.field, "fix": error.fix}] if isinstance(error, Invalid) else []
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if isinstance(error, Unavailable) else None
    return problem(request, status, str(error), errors=errors, headers=headers)


def _of_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # What was sent is not echoed: it may be a secret, or megabytes.
    errors = [
        {"field": _field(found["loc"]), "fix": str(found["msg"]).removeprefix("Value error, ")}
        for found in error.errors()
    ]
    detail = "; ".join(f"{found['field']}: {found['fix']}" for found in errors[:5])
    return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)


def _of_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    detail = error.detail if error.detail and error.detail != status.phrase else status.description or status.phrase
    return problem(request, status, detail, headers=error.headers)


def _of_database(request: Request, error: Exception) -> JSONResponse:
    _log.warning("database unavailable: %s", type(error).__name__, exc_info=error)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    detail = "the database does not answer now; nothing was changed, try again"
    return problem(request, HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=headers)


def _of_defect(request: Request, error: Exception) -> JSONResponse:
    # The server logs the traceback itself; the caller learns nothing of our insides.
    del error
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "an error on our side; it was logged")


def _field(location: Sequence[Any]) -> str:
    return ".".join(str(step) for step in location)


def _fix(message: str) -> str:
    return message.removeprefix("Value error, ")
