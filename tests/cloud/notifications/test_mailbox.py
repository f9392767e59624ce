"""The built-in mailbox: what it has acknowledged it has stored."""

import smtplib
from collections.abc import Iterator
from email.message import EmailMessage

import pytest
from sqlalchemy import Engine, text

from forewarn_cloud.adapters.sql.engine import writing
from forewarn_cloud.mailbox import Mailbox, start_mailbox
from tests.cloud.clock import FixedClock
from tests.cloud.notifications.facts import SINCE_MS, mails


@pytest.fixture
def mailbox(engine: Engine) -> Iterator[Mailbox]:
    started = start_mailbox(engine, FixedClock(at_ms=SINCE_MS), tenant="local")
    yield started
    started.stop()


def send(mailbox: Mailbox, raw: bytes, *recipients: str) -> None:
    with smtplib.SMTP("127.0.0.1", mailbox.port, timeout=10) as client:
        client.sendmail("forewarn@localhost", recipients or ("plant@example.com",), raw)


def a_mail(message_id: str | None = "<1@forewarn>", body: str = "Guten Tag, 您好") -> bytes:
    message = EmailMessage()
    message["Subject"] = "七号泵: Über"
    if message_id:
        message["Message-ID"] = message_id
    message.set_content(body)
    message.add_alternative(f"<p>{body}</p>", subtype="html")
    return message.as_bytes()


def test_a_mail_is_kept_as_people_read_it(engine: Engine, mailbox: Mailbox) -> None:
    send(mailbox, a_mail(), "plant@example.com", "boss@example.com")
    (row,) = mails(engine)
    assert (row.message_id, row.tenant, row.received_at, row.copies) == ("<1@forewarn>", "local", SINCE_MS, 1)
    assert (row.sender, row.recipient) == ("forewarn@localhost", "plant@example.com, boss@example.com")
    assert row.subject == "七号泵: Über"
    assert row.body.strip() == "Guten Tag, 您好"


def test_the_same_mail_again_is_counted_and_not_shown_twice(engine: Engine, mailbox: Mailbox) -> None:
    for message_id in ("<1@forewarn>", "<2@forewarn>", "<1@forewarn>"):
        send(mailbox, a_mail(message_id))
    assert [(row.message_id, row.copies) for row in mails(engine)] == [("<1@forewarn>", 2), ("<2@forewarn>", 1)]


def test_a_mail_without_an_id_is_known_by_its_content(engine: Engine, mailbox: Mailbox) -> None:
    for body in ("one", "two", "one"):
        send(mailbox, b"Subject: x\r\n\r\n" + body.encode() + b"\r\n")
    assert sorted(row.copies for row in mails(engine)) == [1, 2]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe\x00\x01 no headers at all",
        b"Subject: =?utf-8?b?////?=\r\nMessage-ID: \xff<x\r\n\r\nbody \x00 with NUL",
        b"Subject: x\r\nContent-Type: text/plain; charset=klingon\r\n\r\n\xe4",
        b"Subject: x\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\nno part",
        b"Subject:" + b"\r\n ".join([b"s" * 500] * 10) + b"\r\nMessage-ID: <" + b"i" * 800 + b">\r\n\r\nlong",
    ],
)
def test_no_mail_is_too_odd_to_be_kept(engine: Engine, mailbox: Mailbox, raw: bytes) -> None:
    send(mailbox, raw)
    assert len(mails(engine)) == 1


def test_nothing_is_acknowledged_that_is_not_stored(engine: Engine, mailbox: Mailbox) -> None:
    with writing(engine) as connection:
        connection.execute(text("ALTER TABLE mailbox RENAME TO elsewhere"))
    with pytest.raises(smtplib.SMTPDataError, match="451"):
        send(mailbox, a_mail())
    with writing(engine) as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO mailbox"))
    send(mailbox, a_mail())
    assert [row.copies for row in mails(engine)] == [1]


def test_a_mail_that_is_too_large_is_refused(engine: Engine, mailbox: Mailbox) -> None:
    with pytest.raises(smtplib.SMTPException):
        send(mailbox, a_mail(body="x" * 70 + ("\n" + "x" * 70) * 20_000))
    assert mails(engine) == []


def test_it_listens_on_this_machine_only_and_a_taken_port_is_an_error(engine: Engine, mailbox: Mailbox) -> None:
    assert mailbox.url == f"smtp://127.0.0.1:{mailbox.port}"
    with pytest.raises(OSError, match="in use"):
        start_mailbox(engine, FixedClock(at_ms=0), tenant="local", port=mailbox.port)
