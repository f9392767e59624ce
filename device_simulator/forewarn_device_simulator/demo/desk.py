"""The cloud as the people of the demo see it: its REST API."""

from datetime import datetime
from typing import Any, TypeVar

import httpx
import msgspec

T = TypeVar("T")
PAGE = 200


class CloudAway(Exception):
    """The cloud does not answer now; try again later."""


class Refused(Exception):
    """The cloud does not allow it now: somebody else was faster, or a part is missing."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    observed_at: datetime
    condition: str
    health_index: float
    rul_hours_p10: float | None
    rul_hours_p50: float | None
    rul_hours_p90: float | None
    failure_mode: str | None
    maturity: str


class OrderRef(msgspec.Struct, frozen=True, kw_only=True):
    number: str
    state: str


class Asset(msgspec.Struct, frozen=True, kw_only=True):
    asset: str
    asset_type: str
    node: str
    health: Health | None
    open_orders: list[OrderRef]


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    part_no: str
    quantity: int
    state: str
    sourcing: str
    to_depot: str
    expected_at: datetime


class Order(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    number: str
    state: str
    asset: str
    asset_type: str
    failure_mode: str
    opened_at: datetime
    needed_by_at: datetime
    ready_at: datetime | None
    scheduled_at: datetime | None
    started_at: datetime | None
    version: int
    reservations: list[Reservation]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    channel: str
    kind: str
    state: str
    recipient: str
    order_id: str | None
    created_at: datetime
    sent_at: datetime | None


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    message_id: str
    received_at: datetime
    recipient: str
    subject: str
    copies: int


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    lane: str
    epoch: str
    records_stored: int
    records_quarantined: int


class Node(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    online: bool
    lanes: list[Lane]


class Desk:
    """Each call answers or raises CloudAway; those that change something may raise Refused."""

    def __init__(self, api_url: str) -> None:
        self._http = httpx.Client(base_url=api_url, timeout=3.0, trust_env=False)
        self._root = api_url.removesuffix("/api/v1")

    def close(self) -> None:
        self._http.close()

    def ready(self) -> bool:
        try:
            return self._http.get(f"{self._root}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def assets(self) -> list[Asset]:
        return self._all("/assets", Asset)

    def orders(self) -> list[Order]:
        return self._all("/orders", Order)

    def messages(self) -> list[Message]:
        return self._all("/notifications", Message)

    def mailbox(self) -> list[Mail]:
        return self._all("/mailbox", Mail)

    def nodes(self) -> list[Node]:
        return self._all("/nodes", Node)

    def act(self, order: Order, action: str, body: dict[str, Any]) -> None:
        """Acknowledge, schedule, start or complete an order as we have seen it. Safe to repeat."""
        headers = {"Idempotency-Key": f"{order.id}:{action}:{order.version}", "If-Match": f'"{order.version}"'}
        self._post(f"/orders/{order.id}/{action}", body, headers)

    def receive(self, reservation: Reservation) -> None:
        """Goods receipt of what a back-order waits for. Safe to repeat."""
        body = {"depot": reservation.to_depot, "quantity": reservation.quantity}
        headers = {"Idempotency-Key": f"receipt:{reservation.id}"}
        self._post(f"/parts/{reservation.part_no}/receipts", body, headers)

    def _all(self, path: str, kind: type[T]) -> list[T]:
        found, cursor = list[T](), None
        while True:
            page = self._get(path, {"limit": PAGE} | ({"cursor": cursor} if cursor else {}))
            found += msgspec.convert(page["items"], list[kind])  # type: ignore[valid-type]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def _get(self, path: str, parameters: dict[str, Any]) -> Any:
        return msgspec.json.decode(self._answer(self._request("GET", path, params=parameters)).content)

    def _post(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> None:
        self._answer(self._request("POST", path, json=body, headers=headers))

    def _request(self, method: str, path: str, **parts: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **parts)
        except httpx.TransportError as error:
            raise CloudAway(str(error)) from None

    @staticmethod
    def _answer(response: httpx.Response) -> httpx.Response:
        if response.status_code in (409, 412, 422):
            raise Refused(response.text)
        if response.status_code >= 500:
            raise CloudAway(f"status {response.status_code}")
        response.raise_for_status()
        return response
