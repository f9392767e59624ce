"""E-mail: what is on the wire, and what counts as delivered."""

import asyncio
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default

import pytest

from forewarn_cloud.adapters.smtp import SmtpSender, SmtpServer, compose, parse_smtp_url
from forewarn_cloud.notifications.delivery import Delivery, DeliveryError, Undeliverable
from tests.cloud.notifications.facts import delivery, facts
from tests.cloud.notifications.servers import mail_server
from tests.conftest import free_port

SENDER = "forewarn <service@forewarn.example>"


def send(port: int, sent: Delivery, timeout_seconds: float = 10.0) -> None:
    server = SmtpServer(host="127.0.0.1", port=port)
    asyncio.run(SmtpSender(server=server, sender=SENDER, timeout_seconds=timeout_seconds).send(sent))


def parsed(message: EmailMessage) -> EmailMessage:
    return BytesParser(policy=default).parsebytes(message.as_bytes())


def test_a_mail_says_who_what_and_when_and_that_no_human_wrote_it() -> None:
    message = parsed(compose(delivery(id="abc", order_id="o-1"), SENDER))
    assert message["Message-ID"] == "<abc@forewarn.example>"
    assert message["References"] == "<order.o-1@forewarn.example>"
    assert message["To"] == "plant@example.com"
    assert message["Date"] == "Wed, 25 Feb 2026 06:13:20 +0000"
    assert message["Auto-Submitted"] == "auto-generated"
    assert [part.get_content_type() for part in message.walk()][1:] == ["text/plain", "text/html"]


def test_every_attempt_is_the_same_message() -> None:
    first, again = delivery(id="abc", attempt=1), delivery(id="abc", attempt=5, lease="another")
    assert compose(first, SENDER).as_bytes() == compose(again, SENDER).as_bytes()


def test_chinese_text_survives_the_way() -> None:
    message = parsed(compose(delivery(language="zh", payload=facts(asset_name="七号泵")), SENDER))
    plain = message.get_body(("plain",))
    assert plain is not None
    assert "七号泵" in str(message["Subject"])
    assert "问题：" in plain.get_content()


def test_39_a_line_break_in_a_customer_name_adds_no_header() -> None:
    message = parsed(compose(delivery(payload=facts(asset_name="x\r\nBcc: all@example.com")), SENDER))
    assert message["Bcc"] is None
    assert message["To"] == "plant@example.com"


@pytest.mark.parametrize(
    "recipient", ["", "nobody", "a@b\r\nBcc: c@d", "a@b, c@d", "<a@b>", "a b@c", "a@b\x00", 'a"@b']
)
def test_what_is_no_mail_address_is_not_sent_to(recipient: str) -> None:
    with pytest.raises(Undeliverable, match="not a mail address"):
        compose(delivery(recipient=recipient), SENDER)


def test_a_message_is_handed_over_to_a_real_server() -> None:
    with mail_server() as server:
        send(server.port, delivery(id="abc"))
    assert server.message_ids == ["<abc@forewarn.example>"]


@pytest.mark.parametrize("answer", ["451 try later", "554 no", "cut"])
def test_a_refusal_or_a_cut_is_not_a_delivery(answer: str) -> None:
    with mail_server(answer) as server, pytest.raises(DeliveryError):
        send(server.port, delivery())


def test_nobody_listening_is_not_a_delivery() -> None:
    with pytest.raises(DeliveryError, match=r"127\.0\.0\.1"):
        send(free_port(), delivery())


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://127.0.0.1:2525", SmtpServer(host="127.0.0.1", port=2525)),
        ("smtp://mail", SmtpServer(host="mail", port=25)),
        ("smtps://me%40x:p%3Aw@mail", SmtpServer(host="mail", port=465, tls=True, user="me@x", password="p:w")),
    ],
)
def test_smtp_urls_are_read(url: str, server: SmtpServer) -> None:
    assert parse_smtp_url(url) == server


@pytest.mark.parametrize(
    "url", ["mail:25", "http://mail", "smtp://", "smtp://mail:x", "smtp://mail/x", "smtp://m?tls=1"]
)
def test_a_wrong_smtp_url_is_refused_with_its_name(url: str) -> None:
    with pytest.raises(ValueError, match="smtp_url"):
        parse_smtp_url(url)


def test_a_password_is_never_shown() -> None:
    assert "hunter2" not in repr(parse_smtp_url("smtp://me:hunter2@mail"))
    with pytest.raises(ValueError, match="smtp_url") as refused:
        parse_smtp_url("smtp://me:hunter2@mail:99999")
    assert "hunter2" not in str(refused.value)
