"""The pages as HTTP: headers, forms without JavaScript, refusals, files."""

import re
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from sqlalchemy import insert, select, update

from forewarn_cloud import views
from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import reading, writing
from forewarn_cloud.console import pages
from forewarn_cloud.console.rendering import SECURITY_HEADERS
from forewarn_cloud.principal import LOCAL_PRINCIPAL
from forewarn_cloud.service import desk as use_cases
from tests.browser.world import NOW_MS, World, serving

PAGES = ["/orders", "/orders?show=closed", "/machines", "/machines/pump-1", "/stock", "/messages", "/nodes"]


def the_order(desk: World) -> views.Order:
    with reading(desk.engine) as connection:
        (found,) = views.list_orders(connection, "local").items
    return found


@pytest.mark.parametrize("path", [*PAGES, "/orders/nope", "/machines/nope", "/static/nope.js", "/static/console.css"])
def test_every_answer_forbids_what_a_page_does_not_need(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'")
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", PAGES)
def test_no_page_has_inline_code_or_style(client: httpx.Client, path: str) -> None:
    text = client.get(path).text
    assert re.search(r"<script(?![^>]*\ssrc=)", text) is None
    assert re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text) is None
    assert set(re.findall(r"""(?:src|href|action)=["'](https?:)?//""", text)) == set()


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_not_kept_by_caches(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Cookie" in answer.headers["Vary"]


def test_the_chosen_language_is_remembered(client: httpx.Client) -> None:
    assert "服务工单" in client.get("/orders?lang=zh").text
    assert "服务工单" in client.get("/orders").text
    assert "Service orders" in client.get("/orders?lang=en").text
    assert "Service orders" in client.get("/orders").text


def test_a_form_works_without_javascript(desk: World, client: httpx.Client) -> None:
    order = the_order(desk)
    answer = client.post(f"/orders/{order.id}/acknowledge", data={"version": order.version})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/orders/{order.id}?done=acknowledge")
    assert "Acknowledged." in client.get(answer.headers["location"]).text
    assert the_order(desk).state == "ACKNOWLEDGED"


def test_an_order_goes_all_the_way_through_its_forms(desk: World, client: httpx.Client) -> None:
    path = f"/orders/{the_order(desk).id}"
    steps = {
        "acknowledge": {},
        "schedule": {"at": "2026-03-06T09:30", "assignee": "李工"},
        "start": {},
        "complete": {"outcome": "CONFIRMED", "failure_mode": "seal_leak", "note": "Both bearings, as foretold."},
    }
    for action, fields in steps.items():
        answer = client.post(f"{path}/{action}", data={**fields, "version": the_order(desk).version})
        assert answer.status_code == 303, answer.text
    with reading(desk.engine) as connection:
        found = views.get_order_detail(connection, "local", the_order(desk).id)
    assert found is not None
    assert found.order.state == "COMPLETED"
    assert found.order.scheduled_at == NOW_MS + round(24.5 * 3_600_000), "09:30 on the clock of Berlin"
    assert found.finding is not None
    assert (found.finding.outcome, found.finding.failure_mode) == ("CONFIRMED", "bearing_wear")
    text = client.get(path).text
    assert "Both bearings, as foretold." in text
    assert "李工" in text


@pytest.mark.parametrize(
    ("action", "fields", "status", "said"),
    [
        ("acknowledge", {"version": "99"}, 412, "Someone changed this order meanwhile"),
        ("start", {}, 409, "cannot start order SO-000001"),
        ("complete", {"outcome": "CONFIRMED"}, 409, "cannot complete order SO-000001"),
        ("cancel", {"reason": "two\nlines"}, 422, "reason: give one line"),
        ("cancel", {"reason": ""}, 422, "reason"),
        ("complete", {"outcome": "EXPLODED"}, 422, "outcome"),
        ("acknowledge", {"version": "one"}, 422, "version"),
    ],
)
def test_what_is_refused_is_said_and_changes_nothing(
    desk: World, client: httpx.Client, action: str, fields: dict[str, str], status: int, said: str
) -> None:
    before = the_order(desk)
    answer = client.post(f"/orders/{before.id}/{action}", data=fields)
    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith("text/html")
    assert said in answer.text
    assert the_order(desk) == before


@pytest.mark.parametrize(
    ("at", "said"),
    [("tomorrow", "at: give a date and a time"), ("2026-03-04T09:00", "at: "), ("2029-01-01T09:00", "at: ")],
)
def test_a_visit_needs_a_date_ahead(desk: World, client: httpx.Client, at: str, said: str) -> None:
    order = the_order(desk)
    desk.transactions.run(lambda uow: use_cases.acknowledge(uow, LOCAL_PRINCIPAL, desk.clock, order.id, None))
    answer = client.post(f"/orders/{order.id}/schedule", data={"at": at, "assignee": "Ms Weber"})
    assert answer.status_code == 422
    assert said in answer.text
    assert the_order(desk).scheduled_at is None


def test_another_sites_page_cannot_act(desk: World, client: httpx.Client) -> None:
    order = the_order(desk)
    answer = client.post(f"/orders/{order.id}/acknowledge", headers={"Origin": "https://elsewhere.example"})
    assert answer.status_code == 403
    assert the_order(desk).state == "OPEN"


@pytest.mark.parametrize("action", ["acknowledge", "start", "cancel"])
def test_an_order_that_does_not_exist_is_not_found(client: httpx.Client, action: str) -> None:
    answer = client.post(f"/orders/00000000-0000-0000-0000-000000000000/{action}", data={"reason": "none"})
    assert answer.status_code == 404


def test_a_viewer_may_look_and_not_act(desk: World) -> None:
    order = the_order(desk)
    viewer = replace(LOCAL_PRINCIPAL, role="viewer")
    with serving(desk, principal=viewer) as home, httpx.Client(base_url=home, timeout=20.0) as client:
        assert client.get(f"/orders/{order.id}").status_code == 200
        assert client.post(f"/orders/{order.id}/acknowledge").status_code == 403
    assert the_order(desk).state == "OPEN"


def test_nothing_of_another_tenant_is_shown(desk: World) -> None:
    order = the_order(desk)
    stranger = replace(LOCAL_PRINCIPAL, tenant="other")
    with serving(desk, principal=stranger) as home, httpx.Client(base_url=home, timeout=20.0) as client:
        for path in (f"/orders/{order.id}", "/machines/pump-1"):
            assert client.get(path).status_code == 404
        assert client.post(f"/orders/{order.id}/acknowledge").status_code == 404
        for path in ("/orders", "/machines", "/stock", "/messages", "/nodes"):
            text = client.get(path).text
            assert not re.search("SO-0|Feed pump|PMP-|edge-1|acme", text), path


@pytest.mark.parametrize(
    ("language", "likely", "advice"),
    [
        ("en", "bearing wear (", "Replace both pump bearings; check alignment and lubrication."),
        ("zh", "轴承磨损（", "更换两端轴承；检查对中与润滑。"),
    ],
)
def test_a_machine_page_says_what_it_likely_is_and_what_to_do(
    client: httpx.Client, language: str, likely: str, advice: str
) -> None:
    text = client.get("/machines/pump-1", params={"lang": language}, follow_redirects=True).text
    assert likely in text
    assert advice in text
    assert advice not in client.get("/machines/pump-2", params={"lang": language}, follow_redirects=True).text


def test_a_part_that_should_have_come_is_overdue(desk: World, client: httpx.Client) -> None:
    held = schema.reservations
    with writing(desk.engine) as connection:
        connection.execute(
            update(held).values(state="BACK_ORDERED", from_depot=None, expected_at=NOW_MS - 3 * 3_600_000)
        )
    for path in ("/orders", f"/orders/{the_order(desk).id}", "/stock"):
        assert "3 h overdue" in client.get(path).text, path
    desk.clock.at_ms = NOW_MS - 5 * 3_600_000
    for path in ("/orders", f"/orders/{the_order(desk).id}", "/stock"):
        text = client.get(path).text
        assert "overdue" not in text, path
        assert "in 2 h" in text, path


def test_closed_orders_come_page_by_page(desk: World, client: httpx.Client) -> None:
    close_and_copy(desk, 70)
    seen, path = list[str](), "/orders?show=closed"
    for _ in range(3):
        text = client.get(path).text
        seen += re.findall(r">(SO-\d+)</a>", text)
        following = re.search(r'href="([^"]+)" rel="next"', text)
        if following is None:
            break
        path = following[1].replace("&amp;", "&")
    assert len(seen) == len(set(seen)) == 71


def close_and_copy(desk: World, copies: int) -> None:
    orders = schema.orders
    with writing(desk.engine) as connection:
        connection.execute(update(orders).values(state="CANCELLED", closed_at=NOW_MS, close_reason="tried"))
        row = dict(connection.execute(orders.select()).one()._mapping)
        rows = [{**row, "id": f"copy-{i:04}", "number": f"SO-9{i:05}", "opened_at": NOW_MS - i} for i in range(copies)]
        connection.execute(insert(orders), rows)


def test_what_was_refused_is_shown_as_it_came(desk: World, client: httpx.Client) -> None:
    row = {
        "tenant": "local",
        "topic": "fw/v1/local/edge-1/telemetry",
        "digest": b"0" * 16,
        "reason": "telemetry: <b>not</b> readable",
        "body": b"\xff<script>alert(1)</script>",
        "security": True,
        "received_at": NOW_MS,
    }
    with writing(desk.engine) as connection:
        connection.execute(insert(schema.quarantine).values(row))
    text = client.get("/nodes").text
    assert "telemetry: &lt;b&gt;not&lt;/b&gt; readable" in text
    assert r"\xff&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_a_mail_can_be_read(desk: World, client: httpx.Client) -> None:
    row = {
        "message_id": "<a/b+c%d@forewarn>",
        "tenant": "local",
        "received_at": NOW_MS,
        "sender": "forewarn@localhost",
        "recipient": "operations@acme-water.example",
        "subject": "Feed pump 1: <service> planned",
        "body": "We come on Friday.\n\n{{7*7}}",
    }
    with writing(desk.engine) as connection:
        connection.execute(insert(schema.mailbox).values(row))
    link = re.search(r'href="(/messages/[^"]+)"', client.get("/messages").text)
    assert link is not None
    text = client.get(link[1]).text
    assert "Feed pump 1: &lt;service&gt; planned" in text
    assert "We come on Friday.\n\n{{7*7}}" in text


def test_a_dead_message_can_be_tried_again(desk: World, client: httpx.Client) -> None:
    outbox = schema.outbox
    with writing(desk.engine) as connection:
        connection.execute(update(outbox).values(state="DEAD", attempts=8, last_error="550 no such mailbox"))
    text = client.get("/messages").text
    assert "550 no such mailbox" in text
    button = re.search(r'action="(/messages/[^"]+/replay)"', text)
    assert button is not None
    assert client.post(button[1]).headers["location"] == "/messages"
    with reading(desk.engine) as connection:
        assert connection.execute(select(outbox.c.state)).scalar_one() == "PENDING"
    assert client.post(button[1]).status_code == 409, "it is being tried"


def test_the_message_to_the_customer_is_shown_in_their_words(desk: World, client: httpx.Client) -> None:
    text = client.get(f"/orders/{the_order(desk).id}?lang=zh").text
    assert "operations@acme-water.example" in text
    assert "a fault found early, service planned (SO-000001)" in text


def test_files_are_kept_only_under_their_digest(client: httpx.Client) -> None:
    linked = re.search(r'"(/static/console\.css\?v=\w+)"', client.get("/orders").text)
    assert linked is not None
    assert "immutable" in client.get(linked[1]).headers["Cache-Control"]
    for path in ("/static/console.css", "/static/console.css?v=old"):
        assert client.get(path).headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "path", ["../pages.py", "%2e%2e/pages.py", "vendor/%2e%2e/%2e%2e/pages.py", "", "vendor", "/etc/passwd"]
)
def test_only_the_consoles_own_files_are_served(client: httpx.Client, path: str) -> None:
    assert client.get(f"/static/{path}").status_code == 404


def test_vendored_files_are_what_the_list_says() -> None:
    vendor = Path(pages.__file__).parent / "static" / "vendor"
    listed = re.findall(
        r"^\| (\S+) \|.*\| ([0-9a-f]{64}) \|$", (vendor / "VENDORED.md").read_text("utf-8"), re.MULTILINE
    )
    present = {file.name for file in vendor.iterdir() if file.suffix in (".js", ".css")}
    assert {name for name, _ in listed} == present
    for name, digest in listed:
        assert sha256((vendor / name).read_bytes()).hexdigest() == digest, name


def test_a_database_that_is_away_is_said_on_a_page(desk: World, client: httpx.Client) -> None:
    with writing(desk.engine) as connection:
        connection.exec_driver_sql("ALTER TABLE parts RENAME TO parts_gone")
    answer = client.get("/stock")
    assert answer.status_code == 503
    assert "The database does not answer" in answer.text
