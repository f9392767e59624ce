"""Types of single fields, in and out: instants are ISO 8601 here and epoch milliseconds everywhere else."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from forewarn_models.asset_type import IDENTIFIER, SIGNAL_NAME

MAX_QUANTITY: Final = 1_000_000
_LATEST_MS: Final = 253_402_300_799_999
"""The end of the year 9999, which is where ISO 8601 with four digits ends."""
_DATE_TIME: Final = {"type": "string", "format": "date-time"}


class RequestBody(BaseModel):
    """A request body: nothing unknown, no number in quotes, no true for 1."""

    model_config = ConfigDict(extra="forbid", strict=True, str_strip_whitespace=False)


class Answer(BaseModel):
    """A response body, built from a view of the same shape."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


def to_iso(at_ms: int) -> str:
    """2026-01-02T03:04:05.678Z for epoch milliseconds."""
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"


def from_iso(text: Any) -> int:
    """Epoch milliseconds of an ISO 8601 instant with its offset; nothing is guessed.

    Raises:
        ValueError: it is no such instant.
    """
    if not isinstance(text, str):
        raise ValueError("give an ISO 8601 instant as text, such as 2026-01-31T08:00:00Z")
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("not an ISO 8601 instant; write 2026-01-31T08:00:00Z") from None
    if at.utcoffset() is None:
        raise ValueError("no time zone; write 2026-01-31T08:00:00Z or with an offset such as +08:00")
    at_ms = round((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)
    if not 0 <= at_ms <= _LATEST_MS:
        raise ValueError("before 1970 or after 9999")
    return at_ms


def _one_line(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    if not text.isprintable():
        raise ValueError("must be one line without control characters")
    return text


def _no_control(text: str) -> str:
    if any(not (char.isprintable() or char in "\n\t") for char in text):
        raise ValueError("must be text without control characters")
    return text


InstantIn = Annotated[int, BeforeValidator(from_iso), WithJsonSchema(_DATE_TIME)]
InstantOut = Annotated[int, PlainSerializer(to_iso, return_type=str), WithJsonSchema(_DATE_TIME)]
Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_one_line)]
"""A name or a short reason: one line, so that it is safe in a mail header and a log."""
Prose = Annotated[str, Field(max_length=4000), AfterValidator(_no_control)]
Identifier = Annotated[str, Field(pattern=f"^{IDENTIFIER.pattern}$")]
Quantity = Annotated[int, Field(ge=1, le=MAX_QUANTITY)]

IdentifierInPath = Annotated[str, Path(pattern=f"^{IDENTIFIER.pattern}$")]
IdInPath = Annotated[str, Path(pattern="^[0-9A-Za-z-]{1,36}$")]
IdentifierInQuery = Annotated[str | None, Query(pattern=f"^{IDENTIFIER.pattern}$")]
IdInQuery = Annotated[str | None, Query(pattern="^[0-9A-Za-z-]{1,36}$")]
InstantInQuery = Annotated[InstantIn | None, Query()]
SIGNALS_PATTERN: Final = f"^{SIGNAL_NAME.pattern}(,{SIGNAL_NAME.pattern})*$"
