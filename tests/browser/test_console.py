"""The console as people use it: in Chromium, by mouse and keyboard, in both languages, while things happen."""

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from forewarn_cloud import views
from forewarn_cloud.adapters.sql.engine import reading
from forewarn_cloud.principal import LOCAL_PRINCIPAL
from forewarn_cloud.service import desk as use_cases
from forewarn_models.wire import RulHours
from tests.browser.conftest import Tab
from tests.browser.world import NOW_MS, World, healthy, leaking_valve, rename, serving, wear_a_pump, worn_bearing
from tests.conftest import free_port

pytestmark = pytest.mark.browser

INK = """plot => {
    const { width, height } = plot.querySelector('canvas');
    const pixels = plot.querySelector('canvas').getContext('2d').getImageData(0, 0, width, height).data;
    const colours = new Set();
    for (let i = 0; i < pixels.length; i += 4) {
        if (pixels[i + 3] > 200) colours.add(pixels[i] << 16 | pixels[i + 1] << 8 | pixels[i + 2]);
    }
    return [...colours];
}"""
UNLABELLED = """() => [
    ...[...document.querySelectorAll('input:not([type=hidden]), select, textarea')].filter(e => !e.labels.length),
    ...[...document.querySelectorAll('table')].filter(e => !e.caption || !e.caption.textContent.trim()),
    ...[...document.querySelectorAll('table th')].filter(e => !e.scope),
    ...[...document.querySelectorAll('svg:not([aria-hidden=true])')].filter(e => !e.getAttribute('aria-label')),
    ...[...document.querySelectorAll('a, button, summary')].filter(e => !e.textContent.trim()),
].filter(e => !e.closest('[aria-hidden=true]')).map(e => e.outerHTML.slice(0, 120))"""


def order_of(desk: World, asset: str) -> views.Order:
    with reading(desk.engine) as connection:
        found = views.list_orders(connection, "local", asset=asset).items
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("language", "marked", "title", "problem", "button"),
    [
        ("en", "en", "Service orders", "Bearing wear", "Acknowledge"),
        ("zh", "zh-Hans", "服务工单", "轴承磨损", "受理"),
    ],
)
def test_the_queue_leads_to_an_order_and_its_reasons(
    desk: World, tab: Tab, language: str, marked: str, title: str, problem: str, button: str
) -> None:
    wear_a_pump(desk)
    tab.open(f"/orders?lang={language}")
    expect(tab.page.locator("html")).to_have_attribute("lang", marked)
    expect(tab.page.get_by_role("heading", level=1)).to_have_text(title)
    tab.page.get_by_role("link", name="SO-000001").click()
    expect(tab.page.get_by_role("heading", level=1)).to_have_text(problem)
    expect(tab.page.get_by_role("button", name=button)).to_be_visible()
    plots = tab.page.locator(".plot")
    expect(plots).to_have_count(4)
    expect(plots.first.locator("canvas")).to_be_visible()
    assert len(plots.nth(1).evaluate(INK)) > 3, "the chart of the vibration is drawn: line, axes, marks"


def test_the_chart_marks_when_it_was_noticed(desk: World, tab: Tab) -> None:
    wear_a_pump(desk)
    tab.open(f"/orders/{order_of(desk, 'pump-1').id}")
    expect(tab.page.locator(".plot canvas").first).to_be_visible()
    colour = tab.page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--fw-evidence').trim()")
    assert int(colour.lstrip("#"), 16) in tab.page.locator(".plot").first.evaluate(INK)
    expect(tab.page.locator(".chart-legend")).to_contain_text("First evidence: 2026-03-04 00:00")


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("is_empty", [True, False])
def test_every_list_can_be_read_by_a_screen_reader(desk: World, tab: Tab, language: str, is_empty: bool) -> None:
    if not is_empty:
        wear_a_pump(desk)
        desk.say(leaking_valve())
    tab.open(f"/orders?lang={language}")
    for path in ("/orders", "/orders?show=closed", "/machines", "/stock", "/messages", "/nodes"):
        tab.open(path)
        expect(tab.page.get_by_role("heading", level=1)).to_have_count(1)
        assert tab.page.evaluate(UNLABELLED) == [], path


@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_order_in_every_state_can_be_read_by_a_screen_reader(desk: World, tab: Tab, language: str) -> None:
    wear_a_pump(desk)
    path = f"/orders/{order_of(desk, 'pump-1').id}"
    tab.open(f"{path}?lang={language}")
    for button, state in (("acknowledge", "acknowledged"), ("start", "in-progress"), ("complete", "completed")):
        assert tab.page.evaluate(UNLABELLED) == []
        if button == "complete":
            tab.page.locator("input[name=outcome]").first.check()
        tab.page.locator(f"#act-{button}").click()
        expect(tab.page.locator(f"#order-head .state-{state}")).to_be_visible()
    assert tab.page.evaluate(UNLABELLED) == []
    assert order_of(desk, "pump-1").state == "COMPLETED"


def test_a_new_order_appears_by_itself(desk: World, tab: Tab) -> None:
    wear_a_pump(desk)
    tab.open("/orders")
    tab.page.evaluate("window.notReloaded = true")
    expect(tab.page.get_by_role("link", name="SO-000002")).to_have_count(0)
    desk.say(leaking_valve())
    expect(tab.page.get_by_role("link", name="SO-000002")).to_be_visible()
    expect(tab.page.locator(".figure").first).to_contain_text("2")
    assert tab.page.evaluate("window.notReloaded") is True


def test_an_order_page_follows_what_others_do(desk: World, tab: Tab) -> None:
    wear_a_pump(desk)
    order = order_of(desk, "pump-1")
    tab.open(f"/orders/{order.id}")
    desk.transactions.run(lambda uow: use_cases.acknowledge(uow, LOCAL_PRINCIPAL, desk.clock, order.id, None))
    expect(tab.page.locator("#order-head .state")).to_have_text("Acknowledged")
    expect(tab.page.locator("#order-timeline")).to_contain_text("Acknowledged")
    expect(tab.page.get_by_role("button", name="Start work")).to_be_visible()


def test_what_someone_is_typing_stays_while_the_page_follows(desk: World, tab: Tab) -> None:
    wear_a_pump(desk)
    order = order_of(desk, "pump-1")
    tab.open(f"/orders/{order.id}")
    tab.page.get_by_text("Cancel the order").click()
    tab.page.get_by_label("Reason").fill("The customer repl")
    desk.transactions.run(lambda uow: use_cases.acknowledge(uow, LOCAL_PRINCIPAL, desk.clock, order.id, None))
    expect(tab.page.locator("#order-head .state")).to_have_text("Acknowledged")
    expect(tab.page.get_by_label("Reason")).to_have_value("The customer repl")


def test_the_keyboard_is_enough_to_schedule_a_visit(desk: World, tab: Tab) -> None:
    wear_a_pump(desk)
    tab.open("/orders")
    keys = tab.page.keyboard
    keys.press("Tab")
    expect(tab.page.get_by_role("link", name="Skip to the content")).to_be_focused()
    keys.press("Enter")
    tab_until(tab.page, "a.order-number")
    keys.press("Enter")
    tab_until(tab.page, "#act-acknowledge")
    keys.press("Enter")
    expect(tab.page.locator("#notice .alert")).to_be_focused()
    tab_until(tab.page, "#assignee")
    keys.type("Ms Weber")
    tab_until(tab.page, "#act-schedule")
    keys.press("Enter")
    expect(tab.page.locator("#order-head .state")).to_have_text("Scheduled")
    expect(tab.page.locator("#order-head")).to_contain_text("Ms Weber")
    order = order_of(desk, "pump-1")
    assert (order.state, order.assignee) == ("SCHEDULED", "Ms Weber")
    assert order.scheduled_at == NOW_MS + 24 * 3_600_000, "09:00 in Berlin on the next day is 08:00 UTC"


def tab_until(page: Page, selector: str) -> None:
    """Move the focus on with the Tab key until it is there; fail if the keyboard does not reach it."""
    page.wait_for_selector(selector)
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"the keyboard does not reach {selector}")


def test_someone_elses_change_is_not_overwritten(desk: World, tab: Tab) -> None:
    wear_a_pump(desk)
    order = order_of(desk, "pump-1")
    tab.open(f"/orders/{order.id}")
    tab.page.evaluate("document.querySelector('[name=version]').value = '7'")
    with tab.page.expect_response("**/acknowledge") as answer:
        tab.page.get_by_role("button", name="Acknowledge").click()
    assert answer.value.status == 412
    expect(tab.page.get_by_role("alert")).to_contain_text("Someone changed this order meanwhile")
    assert order_of(desk, "pump-1").state == "OPEN"
    # The browser itself notes the refusal; nothing else may have complained.
    assert [text for text in tab.complaints if "412" not in text] == []
    tab.complaints.clear()


def test_text_from_machines_and_customers_stays_text(desk: World, tab: Tab) -> None:
    wear_a_pump(desk)
    name = """<img src=x onerror="window.taken=1">'"{{7*7}}"""
    rename(desk, "pump-1", name)
    for path in ("/orders", f"/orders/{order_of(desk, 'pump-1').id}", "/machines", "/machines/pump-1"):
        tab.open(path)
        expect(tab.page.get_by_text(name).first).to_be_visible()
        assert not tab.page.evaluate("window.taken"), path


def test_it_follows_the_readers_dark_mode(desk: World, tab: Tab) -> None:
    wear_a_pump(desk)
    tab.page.emulate_media(color_scheme="light")
    tab.open(f"/orders/{order_of(desk, 'pump-1').id}")
    light = set(tab.page.locator(".plot").nth(1).evaluate(INK))
    tab.page.emulate_media(color_scheme="dark")
    expect(tab.page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    assert set(tab.page.locator(".plot").nth(1).evaluate(INK)) != light, (
        "the charts are drawn again in the other colours"
    )


def test_a_phone_needs_no_sideways_scrolling(desk: World, tab: Tab) -> None:
    wear_a_pump(desk)
    desk.say(leaking_valve())
    tab.page.set_viewport_size({"width": 390, "height": 844})
    paths = ["/orders", f"/orders/{order_of(desk, 'pump-1').id}", "/machines", "/machines/pump-1", "/stock", "/nodes"]
    for path in paths:
        tab.open(path)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_a_page_comes_back_to_life_after_the_server_was_away(desk: World, context: BrowserContext) -> None:
    wear_a_pump(desk)
    page, port = context.new_page(), free_port()
    with serving(desk, port) as home:
        page.goto(f"{home}/orders")
        expect(page.locator("#live")).to_have_text("Live")
    expect(page.locator("#live")).to_have_text("Reconnecting")
    desk.say(leaking_valve())
    with serving(desk, port):
        expect(page.locator("#live")).to_have_text("Live")
        expect(page.get_by_role("link", name="SO-000002")).to_be_visible()


def test_a_page_tries_again_when_a_proxy_refuses_the_events(desk: World, home: str, context: BrowserContext) -> None:
    """A browser gives up on an event stream that is answered with an error; the page does not."""
    wear_a_pump(desk)
    page = context.new_page()
    page.route("**/api/v1/events?*", lambda route: route.fulfill(status=502), times=1)
    page.goto(f"{home}/orders")
    expect(page.locator("#live")).to_have_text("Reconnecting")
    expect(page.locator("#live")).to_have_text("Live")


def test_a_machine_page_draws_what_is_measured_and_follows_its_health(desk: World, tab: Tab) -> None:
    wear_a_pump(desk)
    tab.open("/machines/pump-1")
    expect(tab.page.locator(".plot")).to_have_count(6)
    expect(tab.page.locator("#machine-head .health")).to_contain_text("46 %")
    desk.say(worn_bearing(at_ms=NOW_MS, p50_hours=90.0, health_index=0.31))
    expect(tab.page.locator("#machine-head .health")).to_contain_text("31 %")
    tab.page.get_by_role("link", name="3 days").click()
    expect(tab.page.locator("#window-3d")).to_have_attribute("aria-current", "true")


def test_the_queue_puts_first_what_is_needed_first(desk: World, tab: Tab) -> None:
    desk.say(leaking_valve(rul_hours=RulHours(p10=90.0, p50=140.0, p90=260.0)))
    desk.say(worn_bearing(p50_hours=100.0))
    desk.say(healthy("fan-1", "motor_fan", at_ms=NOW_MS))
    tab.open("/orders")
    expect(tab.page.locator("#queue tbody tr .problem")).to_have_text(["Bearing wear", "Second-stage valve leak"])
