"""Webhooks: signed, never into our own network, and delivered only when the receiver says so in full."""

import asyncio
import json
import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from forewarn_cloud.adapters.webhook import WebhookSender, is_public
from forewarn_cloud.notifications.delivery import Delivery, DeliveryError, Undeliverable
from tests.cloud.notifications.facts import delivery, facts
from tests.cloud.notifications.servers import Request, web_server
from tests.conftest import free_port

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def hook(url: str, *, secret: str | None = SECRET, identity: str = "abc") -> Delivery:
    return delivery(id=identity, channel="webhook", recipient=url, secret=secret)


def send(sent: Delivery, *, allow_private: bool = True, timeout_seconds: float = 10.0) -> None:
    sender = WebhookSender(wall_ms=wall_ms, allow_private=allow_private, timeout_seconds=timeout_seconds)
    asyncio.run(sender.send(sent))


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def verified(request: Request, secret: str = SECRET) -> object:
    return Webhook(secret).verify(request.body, request.headers)


def test_the_receiver_can_verify_who_sent_it_and_read_the_facts() -> None:
    with web_server() as server:
        send(hook(server.url))
    (request,) = server.seen
    assert request.path == "/hook?x=1"
    assert request.headers["webhook-id"] == "abc"
    assert request.headers["host"] == f"127.0.0.1:{server.server_port}"
    assert verified(request) == {"type": "order_opened", "timestamp": "2026-02-25T06:13:20.000Z", "data": facts()}
    with pytest.raises(WebhookVerificationError):
        verified(request, "whsec_bm90IHRoZSBzZWNyZXQgYXQgYWxs")


@pytest.mark.parametrize("answer", [500, 503, 404, 301, "reset", "reset-body", "hang"])
def test_what_is_not_a_whole_2xx_is_tried_again_as_the_same_message(answer: str | int) -> None:
    with web_server(answer) as server:
        with pytest.raises(DeliveryError) as failed:
            send(hook(server.url), timeout_seconds=1.0)
        assert not isinstance(failed.value, Undeliverable)
        server.released.set()
        send(hook(server.url))
    first, second = server.seen
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == "abc"
    assert first.body == second.body


def test_gone_is_final() -> None:
    with web_server(410) as server, pytest.raises(Undeliverable, match="410"):
        send(hook(server.url))


def test_nobody_listening_is_tried_again() -> None:
    with pytest.raises(DeliveryError) as failed:
        send(hook(f"http://127.0.0.1:{free_port()}/"))
    assert not isinstance(failed.value, Undeliverable)


def test_a_redirect_is_not_followed() -> None:
    with web_server() as inside, web_server(302, location=inside.url) as server:
        with pytest.raises(DeliveryError, match="302"):
            send(hook(server.url))
        assert len(server.seen) == 1
        assert inside.seen == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://0x7f.1:{port}/",
        "http://2130706433:{port}/",
        "http://0.0.0.0:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.1.2.3/",
        "http://100.64.0.1/",
        "http://[fd00::1]/",
        "http://[fe80::1]/",
        "http://[64:ff9b:1::7f00:1]/",
        "http://[64:ff9b::10.0.0.1]/",
        "http://[::127.0.0.1]/",
        "http://[2002:7f00:1::]/",
        "http://224.0.0.1/",
        "file:///etc/passwd",
        "ftp://example.com/",
        "gopher://example.com/",
        "http:///",
        "//example.com/",
        "http://user:password@example.com/",
        "http://example.com:99999/",
        "http://[::1",
        "",
    ],
)
def test_an_address_that_is_not_public_is_never_connected_to(url: str) -> None:
    with web_server() as server:
        with pytest.raises(Undeliverable):
            send(hook(url.format(port=server.server_port)), allow_private=False)
        assert server.seen == []


def test_public_addresses_are_public() -> None:
    assert is_public("93.184.215.14")
    assert is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")
    assert is_public("::ffff:93.184.215.14")


def test_a_name_that_does_not_resolve_is_tried_again() -> None:
    with pytest.raises(DeliveryError, match="cannot be resolved") as failed:
        send(hook("http://no-such-host.invalid/"))
    assert not isinstance(failed.value, Undeliverable)


@pytest.mark.parametrize("secret", [None, "", "whsec_", "whsec_a"])
def test_nothing_goes_out_unsigned(secret: str | None) -> None:
    with web_server() as server:
        with pytest.raises(DeliveryError, match="webhook_secret") as failed:
            send(hook(server.url, secret=secret))
        assert server.seen == []
    assert secret is None or len(secret) < 7 or secret not in str(failed.value)


def test_a_secret_is_never_shown() -> None:
    assert SECRET not in repr(hook("http://example.com/"))
    assert SECRET not in json.dumps(facts())
