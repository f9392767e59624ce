"""E-mail over SMTP."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Final
from urllib.parse import unquote, urlsplit

import aiosmtplib

from forewarn_cloud.notifications.delivery import Delivery, DeliveryError, Undeliverable
from forewarn_cloud.notifications.render import render

TIMEOUT_SECONDS: Final = 20.0
_ADDRESS: Final = re.compile(r"[^\s@<>(),;:\"\\\x00-\x20\x7f]+@[^\s@<>(),;:\"\\\x00-\x20\x7f]+")
_PORTS: Final = {"smtp": 25, "smtps": 465}


@dataclass(frozen=True, kw_only=True)
class SmtpServer:
    """Where mail is handed over. `tls`: from the first byte; else STARTTLS is used where the server offers it."""

    host: str
    port: int
    tls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def parse_smtp_url(url: str) -> SmtpServer:
    """`smtp://[user:password@]host[:port]` or `smtps://...`; the port is 25 or 465 where none is given.

    Raises:
        ValueError: it is no such URL; the message says what is wrong and never repeats a password.
    """
    found = urlsplit(url)
    if found.scheme not in _PORTS:
        raise ValueError("smtp_url: must begin with smtp:// or smtps://")
    try:
        host, port = found.hostname, found.port
    except ValueError:
        raise ValueError("smtp_url: the port must be a number from 1 to 65535") from None
    if not host or found.path not in ("", "/") or found.query or found.fragment:
        raise ValueError("smtp_url: write smtp://user:password@host:port and nothing behind it")
    return SmtpServer(
        host=host,
        port=port or _PORTS[found.scheme],
        tls=found.scheme == "smtps",
        user=unquote(found.username) if found.username else None,
        password=unquote(found.password) if found.password else None,
    )


@dataclass(frozen=True, kw_only=True)
class SmtpSender:
    """`Sender` of e-mails. What was sent is the server's as soon as it has answered the data with 250."""

    server: SmtpServer
    sender: str = "forewarn <forewarn@localhost>"
    timeout_seconds: float = TIMEOUT_SECONDS

    async def send(self, delivery: Delivery) -> None:
        message = compose(delivery, self.sender)
        try:
            await aiosmtplib.send(
                message,
                hostname=self.server.host,
                port=self.server.port,
                username=self.server.user,
                password=self.server.password,
                use_tls=self.server.tls,
                timeout=self.timeout_seconds,
            )
        except (aiosmtplib.SMTPException, OSError) as error:
            raise DeliveryError(f"{self.server.host}:{self.server.port}: {_words(error)}") from error


def compose(delivery: Delivery, sender: str) -> EmailMessage:
    """The message of a delivery: the same bytes on every attempt.

    Raises:
        Undeliverable: the recipient is no mail address, or the message cannot be written.
    """
    if _ADDRESS.fullmatch(delivery.recipient) is None:
        raise Undeliverable(f"recipient: {delivery.recipient!r} is not a mail address")
    words = render(delivery.kind, delivery.language, delivery.payload)
    domain = sender.rpartition("@")[2].rstrip("> ")
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = Address(addr_spec=delivery.recipient)
    message["Subject"] = words.subject
    message["Date"] = datetime.fromtimestamp(delivery.created_at // 1000, UTC)
    message["Message-ID"] = f"<{delivery.id}@{domain}>"
    if delivery.order_id is not None:
        message["References"] = f"<order.{delivery.order_id}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message["Content-Language"] = delivery.language
    message.set_content(words.text)
    message.add_alternative(words.html, subtype="html")
    message.set_boundary(f"forewarn-{delivery.id}")
    return message


def _words(error: BaseException) -> str:
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return f"{error.code} {error.message}"
    return f"{type(error).__name__}: {error}"
