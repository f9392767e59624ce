"""ETag and If-Match: a caller changes only what it has seen."""

import re
from typing import Annotated, Final

from fastapi import Depends, Header

from forewarn_cloud.errors import Invalid

_ETAG: Final = re.compile(r'"(\d{1,9})"')


def etag(version: int) -> str:
    return f'"{version}"'


IfMatch = Annotated[str | None, Header(alias="If-Match", description="The ETag of what you have seen.")]


def expected_version(if_match: IfMatch = None) -> int | None:
    """The version that a change expects to find; None if it takes any."""
    if if_match is None or if_match == "*":
        return None
    found = _ETAG.fullmatch(if_match)
    if found is None:
        raise Invalid("If-Match", 'give one ETag as it was received, such as "3", or *')
    return int(found[1])


ExpectedVersion = Annotated[int | None, Depends(expected_version)]
