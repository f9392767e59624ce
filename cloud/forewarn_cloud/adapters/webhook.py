"""Signed webhooks (Standard Webhooks): JSON by POST, verifiable with the customer's secret.

A webhook's address comes from outside, so it must not become a way into our own network: only http and https, only
addresses of the public internet, and the address that was checked is the one that is connected to. Redirects are not
followed. `allow_private` is for customers on one's own network.
"""

import asyncio
import binascii
import ipaddress
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import httpx
from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from forewarn_cloud.notifications.delivery import Delivery, DeliveryError, Undeliverable

TIMEOUT_SECONDS: Final = 15.0
_BODY_READ_BYTES: Final = 64 * 1024
_TRANSLATED: Final = tuple(map(ipaddress.IPv6Network, ("::/96", "64:ff9b::/96", "64:ff9b:1::/48")))
"""IPv4-compatible and NAT64 (RFC 4291, RFC 6052, RFC 8215): an IPv4 address is inside, perhaps a private one."""
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class WebhookSender:
    """`Sender` of webhooks. Any 2xx means the receiver has it."""

    wall_ms: Callable[[], int]
    """For the signature, whose age the receiver checks against real time."""
    allow_private: bool = False
    timeout_seconds: float = TIMEOUT_SECONDS

    async def send(self, delivery: Delivery) -> None:
        target = _split(delivery.recipient)
        request = self._request(delivery, target, await self._address(target))
        try:
            async with asyncio.timeout(self.timeout_seconds):
                status = await _post(request)
        except (httpx.HTTPError, OSError, TimeoutError) as error:
            raise DeliveryError(f"{target.hostname}: {type(error).__name__}: {error}") from error
        if status == HTTPStatus.GONE:
            raise Undeliverable(f"{target.hostname}: answered 410, it wants no more of these")
        if not 200 <= status < 300:
            raise DeliveryError(f"{target.hostname}: answered {status}")

    async def _address(self, target: SplitResult) -> str:
        """One address of the host, after all of them were found to be public."""
        port = target.port or _PORTS[target.scheme]
        try:
            found = await asyncio.get_running_loop().getaddrinfo(target.hostname, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise DeliveryError(f"{target.hostname}: cannot be resolved: {error}") from error
        addresses = [str(entry[4][0]) for entry in found]
        if not self.allow_private and not all(map(is_public, addresses)):
            raise Undeliverable(f"{target.hostname}: not an address of the public internet; see allow_private_webhooks")
        return addresses[0]

    def _request(self, delivery: Delivery, target: SplitResult, address: str) -> httpx.Request:
        body = json.dumps(content(delivery), ensure_ascii=False, separators=(",", ":"))
        at = datetime.fromtimestamp(self.wall_ms() // 1000, UTC)
        headers = {
            "Host": target.netloc,
            "Content-Type": "application/json",
            "User-Agent": "forewarn",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": _sign(delivery, at, body),
        }
        url = httpx.URL(delivery.recipient).copy_with(host=address)
        return httpx.Request(
            "POST", url, headers=headers, content=body.encode(), extensions={"sni_hostname": target.hostname}
        )


def content(delivery: Delivery) -> dict[str, Any]:
    """What is sent: the same on every attempt."""
    at = datetime.fromtimestamp(delivery.created_at / 1000, UTC).isoformat(timespec="milliseconds")
    return {"type": delivery.kind, "timestamp": at.replace("+00:00", "Z"), "data": delivery.payload}


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet.

    An IPv4 address mapped into IPv6 counts as itself; one behind a translator, which may stand anywhere, does not.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if any(found in network for network in _TRANSLATED):
            return False
        found = found.ipv4_mapped or found.sixtofour or found
    return found.is_global and not found.is_multicast


def _split(url: str) -> SplitResult:
    try:
        target = urlsplit(url)
        known = target.scheme in _PORTS and bool(target.hostname) and target.port != 0
    except ValueError:
        known = False
    if not known or target.username is not None or target.password is not None:
        raise Undeliverable("webhook_url: must be http:// or https:// with a host, and without a user")
    return target


def _sign(delivery: Delivery, at: datetime, body: str) -> str:
    if not delivery.secret:
        raise DeliveryError("webhook_secret: the customer has none to sign with; give it one")
    try:
        return Webhook(delivery.secret).sign(delivery.id, at, body)
    except (binascii.Error, EmptyWebhookSecretError, ValueError):
        raise DeliveryError("webhook_secret: must be whsec_ and then base64") from None


async def _post(request: httpx.Request) -> int:
    """The status of the whole answer: one that breaks off does not count. Of its body only the beginning is read."""
    async with httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=TIMEOUT_SECONDS) as client:
        response = await client.send(request, stream=True)
        read = 0
        async for chunk in response.aiter_raw():
            read += len(chunk)
            if read > _BODY_READ_BYTES:
                break
        await response.aclose()
        return response.status_code
