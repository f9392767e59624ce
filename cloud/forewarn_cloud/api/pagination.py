"""Pages of a list: a capped limit and an opaque cursor that says where the next page begins."""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Generic, TypeVar

from fastapi import Depends, Query, Request
from pydantic import Field

from forewarn_cloud.api.fields import Answer
from forewarn_cloud.errors import Invalid
from forewarn_cloud.views import Key, Page

T = TypeVar("T")

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 200
_FIX: Final = "give the next_cursor of the same list with the same filters and sort, or none"


class Listing(Answer, Generic[T]):
    """One page of a list. `next_cursor` is null on the last."""

    items: list[T] = Field(description="At most `limit` of them.")
    next_cursor: str | None = Field(description="Give it back as `cursor` for the page that follows.")


@dataclass(frozen=True, kw_only=True)
class Paging:
    """Which page was asked for. `scope` ties a cursor to its list, filters and sort."""

    limit: int
    after: Key | None
    scope: str

    def listing(self, page: Page[T]) -> Listing[T]:
        cursor = None if page.next_key is None else encode_cursor(self.scope, page.next_key)
        return Listing.model_construct(items=list(page.items), next_cursor=cursor)


def paging(
    request: Request,
    limit: Annotated[int, Query(ge=1, description=f"At most so many; more than {MAX_LIMIT} is {MAX_LIMIT}.")] = (
        DEFAULT_LIMIT
    ),
    cursor: Annotated[str | None, Query(max_length=2000)] = None,
) -> Paging:
    scope = scope_of(request.url.path, request.query_params.multi_items())
    after = None if cursor is None else decode_cursor(scope, cursor)
    return Paging(limit=min(limit, MAX_LIMIT), after=after, scope=scope)


Pages = Annotated[Paging, Depends(paging)]
_NOT_SCOPE: Final = ("limit", "cursor")


def scope_of(path: str, query: Sequence[tuple[str, str]]) -> str:
    """What ties a cursor to one list with its filters and sort."""
    kept = sorted((name, value) for name, value in query if name not in _NOT_SCOPE)
    return hashlib.sha256(json.dumps([path, kept]).encode()).hexdigest()[:16]


def encode_cursor(scope: str, key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps([scope, *key]).encode()).decode().rstrip("=")


def decode_cursor(scope: str, cursor: str) -> Key:
    """The key in a cursor; whether it fits the columns is for the view to check.

    Raises:
        Invalid: it is not one of ours, or belongs to another list.
    """
    try:
        found = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise Invalid("cursor", _FIX) from None
    if not isinstance(found, list) or found[:1] != [scope]:
        raise Invalid("cursor", _FIX)
    return tuple(found[1:])
