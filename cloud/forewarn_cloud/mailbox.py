"""The built-in mailbox: an SMTP server on this machine that keeps what it receives for reading in the console.

It stands in for a mail server until one is configured. A message is acknowledged only once it is stored; one that comes
again under the same Message-ID is counted, not shown twice.
"""

import asyncio
import hashlib
import logging
import socket
from collections.abc import Awaitable
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as default_policy
from typing import Any, Final, cast

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from forewarn_cloud.adapters.sql.engine import retrying, writing
from forewarn_cloud.clock import Clock
from forewarn_cloud.errors import Unavailable

HOST: Final = "127.0.0.1"
MAX_MESSAGE_BYTES: Final = 1024 * 1024
_STORED: Final = "250 OK stored"
_LATER: Final = "451 4.3.0 cannot store it now, try again later"

_log = logging.getLogger(__name__)

_STORE: Final = text(
    "INSERT INTO mailbox (message_id, tenant, received_at, sender, recipient, subject, body, copies) "
    "VALUES (:message_id, :tenant, :received_at, :sender, :recipient, :subject, :body, 1) "
    "ON CONFLICT (message_id) DO UPDATE SET copies = mailbox.copies + 1"
)


class Mailbox(Controller):
    """A running mailbox; `url` is where to send to, `stop()` ends it."""

    def __init__(self, engine: Engine, clock: Clock, tenant: str, port: int) -> None:
        self._socket = socket.create_server((HOST, port))
        bound = int(self._socket.getsockname()[1])
        handler = _Handler(engine=engine, clock=clock, tenant=tenant)
        super().__init__(
            handler, hostname=HOST, port=bound, data_size_limit=MAX_MESSAGE_BYTES, ident="forewarn mailbox"
        )

    @property
    def url(self) -> str:
        return f"smtp://{HOST}:{self.port}"

    def _create_server(self) -> Awaitable[asyncio.AbstractServer]:
        # On a socket bound before, so that port 0 is a free one that nobody else can take meanwhile.
        server = self.loop.create_server(self._factory_invoker, sock=self._socket)
        return cast("Awaitable[asyncio.AbstractServer]", server)


def start_mailbox(engine: Engine, clock: Clock, *, tenant: str, port: int = 0) -> Mailbox:
    """Start the mailbox on 127.0.0.1 in a thread of its own; port 0 is any free one.

    Raises:
        OSError: the port is taken.
    """
    mailbox = Mailbox(engine, clock, tenant, port)
    mailbox.start()
    return mailbox


@dataclass(frozen=True, kw_only=True)
class _Handler:
    engine: Engine
    clock: Clock
    tenant: str

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        row = _row(cast("bytes", envelope.original_content), envelope.mail_from or "", envelope.rcpt_tos)
        try:
            await asyncio.to_thread(self._store, row)
        except (Unavailable, SQLAlchemyError) as error:
            _log.warning("mailbox: cannot store: %s", error)
            return _LATER
        return _STORED

    def _store(self, row: dict[str, Any]) -> None:
        def work() -> None:
            with writing(self.engine) as connection:
                connection.execute(_STORE, {**row, "tenant": self.tenant, "received_at": self.clock.now_ms()})

        retrying(work)


def _row(raw: bytes, sender: str, recipients: list[str]) -> dict[str, Any]:
    message = message_from_bytes(raw, policy=default_policy)
    identity = str(message.get("Message-ID", "")).strip() or f"<{hashlib.sha256(raw).hexdigest()}@mailbox>"
    return {
        "message_id": _storable(identity, 300),
        "sender": _storable(sender, 254),
        "recipient": _storable(", ".join(recipients), 254),
        "subject": _storable(str(message.get("Subject", "")), 500),
        "body": _storable(_body(message), MAX_MESSAGE_BYTES),
    }


def _body(message: EmailMessage) -> str:
    """The text for people: the plain part where there is one."""
    part = message.get_body(preferencelist=("plain", "html"))
    if part is None:
        return ""
    payload = cast("bytes", part.get_payload(decode=True) or b"")
    try:
        return payload.decode(part.get_content_charset("utf-8"), "replace")
    except LookupError:  # a charset nobody knows
        return payload.decode("utf-8", "replace")


def _storable(text: str, limit: int) -> str:
    """Without what PostgreSQL refuses in text, and not longer than its column."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()[:limit]
