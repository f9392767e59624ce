"""The console's pages. Each reads what it shows through the views and hands it to a template."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Form, Path, Query
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from sqlalchemy import Connection

from forewarn_cloud import views
from forewarn_cloud.api.access import ApiDeps, Deps, Desk, Reader, Technician
from forewarn_cloud.api.fields import IdentifierInPath, IdInPath
from forewarn_cloud.api.pagination import Pages
from forewarn_cloud.api.problems import status_of
from forewarn_cloud.console import charts as charting
from forewarn_cloud.console import presentation
from forewarn_cloud.console.charts import Chart, Frame, Mark
from forewarn_cloud.console.formatting import HOUR_MS, time_zone
from forewarn_cloud.console.knowledge import TypeWords
from forewarn_cloud.console.rendering import CurrentPage, Page, PageRoute, render, static_file
from forewarn_cloud.entities import OPEN_STATES, Finding, Order, Outcome
from forewarn_cloud.errors import Invalid, NotFound, ServiceError, VersionConflict
from forewarn_cloud.idempotency import Answered
from forewarn_cloud.ingest.replay import replay as replay_quarantined
from forewarn_cloud.notifications.delivery import Undeliverable
from forewarn_cloud.notifications.render import Rendered
from forewarn_cloud.notifications.render import render as write_message
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.principal import Principal
from forewarn_cloud.service import desk
from forewarn_cloud.service import messages as message_use_cases
from forewarn_cloud.service.resend import resend_records
from forewarn_models.asset_type import IDENTIFIER
from forewarn_models.wire import MAX_SEQ, Lane

router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=HTMLResponse)

Window = Literal["fault", "3d", "14d", "60d"]
Show = Literal["open", "closed"]
Condition = Literal["ALARM", "ALERT", "NORMAL", "UNKNOWN"]
Version = Annotated[int | None, Form(ge=1)]

WINDOW_HOURS: Final[Mapping[Window, float]] = {"3d": 72.0, "14d": 336.0, "60d": 1440.0}
BEFORE_FAULT_HOURS: Final = 120.0
"""How much of the time before the first evidence is shown, to see what normal was."""
SIGNALS_OF_AN_ORDER: Final = 4
QUEUE_LIMIT: Final = 500
MACHINES_A_PAGE: Final = 100
NODES_SHOWN: Final = 200
STORM_SHOWN_HOURS: Final = 24.0
DEFAULT_WINDOW_HOURS: Final = 336.0
CLOSED_STATES: Final = ("COMPLETED", "WITHDRAWN", "CANCELLED")
ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "PROPOSED": ("acknowledge", "cancel"),
    "OPEN": ("acknowledge", "cancel"),
    "ACKNOWLEDGED": ("schedule", "start", "cancel"),
    "SCHEDULED": ("start", "schedule", "cancel"),
    "IN_PROGRESS": ("complete",),
}
"""What the page offers in each state; the desk's use-cases decide."""


@router.get("/")
def index(principal: Reader) -> RedirectResponse:
    del principal
    return RedirectResponse("/orders", 303)


@router.get("/static/{path:path}")
def static(principal: Reader, path: str, v: Annotated[str | None, Query(max_length=64)] = None) -> FileResponse:
    del principal
    return static_file(path, v)


# --- orders ---------------------------------------------------------------------------------------------------------


@router.get("/orders")
def orders(deps: Deps, principal: Reader, page: CurrentPage, pages: Pages, show: Show = "open") -> HTMLResponse:
    """The queue, the most urgent first; or what was closed, the latest first."""
    with deps.reading() as connection:
        waiting = views.list_orders(connection, principal.tenant, states=OPEN_STATES, limit=QUEUE_LIMIT)
        closed = views.list_orders(
            connection, principal.tenant, states=CLOSED_STATES, sort="-opened", after=pages.after, limit=pages.limit
        )
        figures = views.figures(connection, principal.tenant, silent_before=deps.silent_before())
    queue = presentation.queue_lines(waiting.items, page.now_ms, page.words)
    cursor = pages.listing(closed).next_cursor if show == "closed" else None
    return render(
        page,
        "orders.html",
        show=show,
        figures=presentation.figure_cards(figures, queue),
        lines=queue if show == "open" else presentation.queue_lines(closed.items, page.now_ms, page.words),
        **_pager(page, cursor),
    )


@router.get("/orders/{order_id}")
def order(
    deps: Deps,
    principal: Reader,
    page: CurrentPage,
    order_id: IdInPath,
    window: Window = "fault",
    done: Annotated[str | None, Query(max_length=32)] = None,
) -> HTMLResponse:
    known = done if f"done.{done}" in page.words.catalogue else None
    return render(
        page, "order.html", **_order_facts(deps, principal, page, order_id, window), done=known, problem_text=""
    )


@router.post("/orders/{order_id}/acknowledge")
def acknowledge(
    deps: Deps, principal: Technician, page: CurrentPage, order_id: IdInPath, version: Version = None
) -> Response:
    return _act(
        deps, principal, page, order_id, lambda uow: desk.acknowledge(uow, principal, deps.clock, order_id, version)
    )


@router.post("/orders/{order_id}/schedule")
def schedule(
    deps: Deps,
    principal: Technician,
    page: CurrentPage,
    order_id: IdInPath,
    at: Annotated[str, Form(max_length=32)],
    assignee: Annotated[str, Form(max_length=desk.MAX_NAME)],
    version: Version = None,
) -> Response:
    zone = _zone_of(deps, principal, order_id)
    return _act(
        deps,
        principal,
        page,
        order_id,
        lambda uow: desk.schedule(
            uow, principal, deps.clock, order_id, version, visit_at=_instant(at, zone), assignee=assignee
        ),
    )


@router.post("/orders/{order_id}/start")
def start(
    deps: Deps, principal: Technician, page: CurrentPage, order_id: IdInPath, version: Version = None
) -> Response:
    return _act(deps, principal, page, order_id, lambda uow: desk.start(uow, principal, deps.clock, order_id, version))


@router.post("/orders/{order_id}/complete")
def complete(
    deps: Deps,
    principal: Technician,
    page: CurrentPage,
    order_id: IdInPath,
    outcome: Annotated[Outcome, Form()],
    failure_mode: Annotated[str, Form(max_length=64)] = "",
    note: Annotated[str, Form(max_length=desk.MAX_NOTE)] = "",
    version: Version = None,
) -> Response:
    other = failure_mode or None if outcome == "OTHER_FAULT" else None
    finding = Finding(outcome=outcome, failure_mode=other, note=note.strip())
    return _act(
        deps,
        principal,
        page,
        order_id,
        lambda uow: desk.complete(uow, principal, deps.clock, order_id, version, finding=finding),
    )


@router.post("/orders/{order_id}/cancel")
def cancel(
    deps: Deps,
    principal: Desk,
    page: CurrentPage,
    order_id: IdInPath,
    reason: Annotated[str, Form(max_length=desk.MAX_REASON)],
    version: Version = None,
) -> Response:
    return _act(
        deps,
        principal,
        page,
        order_id,
        lambda uow: desk.cancel(uow, principal, deps.clock, order_id, version, reason=reason),
    )


def _act(
    deps: ApiDeps, principal: Principal, page: Page, order_id: str, work: Callable[[UnitOfWork], Order]
) -> Response:
    """Do it, and show the order as it is then; what was refused is said above the order as it is now."""
    action = page.path.rpartition("/")[2]
    try:
        deps.transactions.run(work)
    except NotFound:
        raise
    except ServiceError as error:
        words = page.words
        said = words("error.version") if isinstance(error, VersionConflict) else str(error)
        page = page.at(f"/orders/{order_id}")
        facts = _order_facts(deps, principal, page, order_id, "fault")
        return render(page, "order.html", status=status_of(error), **facts, done=None, problem_text=said)
    return RedirectResponse(f"/orders/{order_id}?done={action}", 303)


def _order_facts(deps: ApiDeps, principal: Principal, page: Page, order_id: str, window: Window) -> dict[str, Any]:
    """Everything the order page says."""
    with deps.reading() as connection:
        found = views.get_order_detail(connection, principal.tenant, order_id)
        if found is None:
            raise NotFound("order", order_id)
        evidence = views.timeline(connection, principal.tenant, "episode", found.episode.id)
        payloads = views.message_facts(connection, principal.tenant, order_id)
        drawn = _order_charts(connection, deps, principal, page, found, window)
    order, advisory = found.order, found.episode.advisory
    kind, zone = TypeWords(name=order.asset_type, words=page.words), time_zone(order.time_zone)
    return {
        "order": order,
        "kind": kind,
        "episode": found.episode,
        "decision": found.decision,
        "finding": found.finding,
        "messages": found.messages,
        "written": {message.id: _written(message, payloads[message.id]) for message in found.messages},
        "problem": kind.problem(order.failure_mode),
        "action": kind.action(order.failure_mode),
        "why": kind.why(advisory),
        "reasons": presentation.reasons(advisory, kind),
        "suspects": presentation.suspects(advisory, kind),
        "options": presentation.options(found.decision.outcome, page.words),
        "chosen": presentation.option_title(found.decision.outcome["option"], page.words),
        "timeline": presentation.timeline([*found.timeline, *evidence], kind, zone),
        "is_open": order.state in OPEN_STATES,
        "urgency": presentation.urgency(order, page.now_ms),
        "late_hours": presentation.late_hours(order),
        "plan": presentation.plan(order, page.now_ms),
        "allowed": ACTIONS.get(order.state, ()),
        "missing_parts": any(part.state in ("IN_TRANSFER", "BACK_ORDERED") for part in order.reservations),
        "suggested_visit": presentation.suggested_visit(order, page.now_ms, zone).strftime("%Y-%m-%dT%H:%M"),
        "charts": drawn,
        "window": window,
        "windows": ("fault", *WINDOW_HOURS),
    }


def _order_charts(
    connection: Connection, deps: ApiDeps, principal: Principal, page: Page, found: views.OrderDetail, window: Window
) -> list[Chart]:
    order, episode, words = found.order, found.episode, page.words
    end_ms = order.closed_at or page.now_ms
    fault_ms = episode.started_at - round(BEFORE_FAULT_HOURS * HOUR_MS)
    marks = [
        Mark(at_ms=episode.started_at, label=words("chart.mark_evidence"), kind="evidence"),
        Mark(at_ms=order.opened_at, label=words("chart.mark_order"), kind="order"),
    ]
    if order.closed_at is not None:
        marks.append(Mark(at_ms=order.closed_at, label=words("chart.mark_closed"), kind="closed"))
    frame = Frame(
        from_ms=fault_ms if window == "fault" else _from(end_ms, window),
        to_ms=end_ms,
        zone=time_zone(order.time_zone),
        marks=tuple(marks),
        words=words,
    )
    kind = TypeWords(name=order.asset_type, words=words)
    telling = [reason.name for reason in presentation.reasons(episode.advisory, kind)]
    return _charts(connection, deps, principal, order.asset, kind, telling[:SIGNALS_OF_AN_ORDER], frame)


def _written(message: views.Notification, facts: Mapping[str, Any]) -> Rendered | None:
    """The message in the customer's words; None if it cannot be written, which its delivery will say."""
    try:
        return write_message(message.kind, message.language, facts)
    except Undeliverable:
        return None


def _zone_of(deps: ApiDeps, principal: Principal, order_id: str) -> tzinfo:
    with deps.reading() as connection:
        found = views.get_order(connection, principal.tenant, order_id)
    if found is None:
        raise NotFound("order", order_id)
    return time_zone(found.time_zone)


def _instant(local: str, zone: tzinfo) -> int:
    """What a date-and-time field says, on the wall clock where the machine stands."""
    try:
        at = datetime.fromisoformat(local)
    except ValueError:
        raise Invalid("at", "give a date and a time, such as 2026-01-31T09:00") from None
    return round((at if at.tzinfo else at.replace(tzinfo=zone)).timestamp() * 1000)


# --- machines -------------------------------------------------------------------------------------------------------


@router.get("/machines")
def machines(
    deps: Deps,
    principal: Reader,
    page: CurrentPage,
    condition: Condition | None = None,
    skip: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> HTMLResponse:
    """Every machine, the sickest first."""
    with deps.reading() as connection:
        found = views.sickest_assets(
            connection,
            principal.tenant,
            silent_before=deps.silent_before(),
            offset=skip,
            limit=MACHINES_A_PAGE + 1,
            condition=condition,
        )
        figures = views.figures(connection, principal.tenant, silent_before=deps.silent_before())
    shown = found[:MACHINES_A_PAGE]
    return render(
        page,
        "machines.html",
        machines=presentation.machine_lines(shown, page.now_ms, page.words),
        chosen=condition,
        counts=figures.assets_by_condition,
        previous=page.address(skip="0") if skip else None,
        next=page.address(skip=str(skip + MACHINES_A_PAGE)) if len(found) > len(shown) else None,
    )


@router.get("/machines/{asset}")
def machine(
    deps: Deps, principal: Reader, page: CurrentPage, asset: IdentifierInPath, window: Window = "14d"
) -> HTMLResponse:
    with deps.reading() as connection:
        found = views.get_asset(connection, principal.tenant, asset, silent_before=deps.silent_before())
        if found is None:
            raise NotFound("asset", asset)
        orders = views.list_orders(connection, principal.tenant, sort="-opened", asset=asset).items
        kind = TypeWords(name=found.asset_type, words=page.words)
        frame = Frame(
            from_ms=_from(page.now_ms, window),
            to_ms=page.now_ms,
            zone=time_zone(found.time_zone),
            marks=tuple(_machine_marks(found, orders, page)),
            words=page.words,
        )
        drawn = _charts(connection, deps, principal, asset, kind, None, frame)
    return render(
        page,
        "machine.html",
        asset=found,
        kind=kind,
        orders=orders,
        why=kind.why(found.health.advisory) if found.health else None,
        advice=kind.advice(found.health.advisory) if found.health else None,
        remaining=presentation.life_of(found.health, page.now_ms),
        storm=found.storm_at is not None and page.now_ms - found.storm_at < STORM_SHOWN_HOURS * HOUR_MS,
        charts=drawn,
        window=window,
        windows=tuple(WINDOW_HOURS),
    )


def _machine_marks(asset: views.Asset, orders: Sequence[views.Order], page: Page) -> list[Mark]:
    """When the present evidence began, and when orders were opened and closed."""
    since = asset.health.advisory.get("since") if asset.health else None
    began = [] if since is None else [Mark(at_ms=since, label=page.words("chart.mark_evidence"), kind="evidence")]
    opened = [Mark(at_ms=order.opened_at, label=page.words("chart.mark_order"), kind="order") for order in orders]
    closed = [
        Mark(at_ms=order.closed_at, label=page.words("chart.mark_closed"), kind="closed")
        for order in orders
        if order.closed_at is not None
    ]
    return sorted([*began, *opened, *closed], key=lambda mark: mark.at_ms)


def _charts(
    connection: Connection,
    deps: ApiDeps,
    principal: Principal,
    asset: str,
    kind: TypeWords,
    names: Sequence[str] | None,
    frame: Frame,
) -> list[Chart]:
    """The health chart and one for each of `names`; None: every signal that is watched, then what explains them."""
    history = _history(connection, principal, asset, frame)
    telemetry = deps.telemetry(connection).read(
        tenant=principal.tenant,
        asset=asset,
        signals=names,
        from_ms=frame.from_ms,
        to_ms=frame.to_ms,
        max_points=charting.MAX_POINTS,
    )
    health = charting.health_chart(history, frame)
    shown = kind.in_order(telemetry.signals) if names is None else names
    drawn = charting.signal_charts(telemetry, history, kind, shown, frame)
    return [health, *drawn] if health else drawn


def _history(connection: Connection, principal: Principal, asset: str, frame: Frame) -> list[views.Health]:
    """What was said of the asset in the frame, oldest first."""
    page = views.health_history(
        connection, principal.tenant, asset, from_ms=frame.from_ms, to_ms=frame.to_ms, limit=charting.MAX_POINTS
    )
    return list(page.items)[::-1]


def _from(end_ms: int, window: Window) -> int:
    return end_ms - round(WINDOW_HOURS.get(window, DEFAULT_WINDOW_HOURS) * HOUR_MS)


# --- parts, messages, nodes -----------------------------------------------------------------------------------------


@router.get("/stock")
def stock(deps: Deps, principal: Reader, page: CurrentPage, pages: Pages) -> HTMLResponse:
    with deps.reading() as connection:
        parts = views.list_parts(connection, principal.tenant, after=pages.after, limit=pages.limit)
    return render(page, "stock.html", parts=parts.items, **_pager(page, pages.listing(parts).next_cursor))


@router.get("/messages")
def messages(deps: Deps, principal: Reader, page: CurrentPage, pages: Pages) -> HTMLResponse:
    """The mailbox, and before it what could not be delivered yet."""
    with deps.reading() as connection:
        dead = views.list_notifications(connection, principal.tenant, state="DEAD").items
        pending = views.list_notifications(connection, principal.tenant, state="PENDING").items
        mails = views.list_mailbox(connection, principal.tenant, after=pages.after, limit=pages.limit)
    undelivered = [*dead, *(message for message in pending if message.attempts)]
    cursor = pages.listing(mails).next_cursor
    return render(page, "messages.html", undelivered=undelivered, mails=mails.items, **_pager(page, cursor))


@router.get("/messages/{message_id:path}")
def message(
    deps: Deps, principal: Reader, page: CurrentPage, message_id: Annotated[str, Path(max_length=300)]
) -> HTMLResponse:
    with deps.reading() as connection:
        mail = views.get_mail(connection, principal.tenant, message_id)
    if mail is None:
        raise NotFound("mail", message_id)
    return render(page, "message.html", mail=mail)


@router.post("/messages/{notification_id}/replay")
def replay(deps: Deps, principal: Desk, notification_id: IdInPath) -> RedirectResponse:
    """Try a dead message again."""
    deps.transactions.run(lambda uow: message_use_cases.replay(uow, principal, deps.clock, notification_id))
    return RedirectResponse("/messages", 303)


@router.get("/nodes")
def nodes(
    deps: Deps,
    principal: Reader,
    page: CurrentPage,
    pages: Pages,
    replayed: Literal["taken", "refused_again"] | None = None,
) -> HTMLResponse:
    """The nodes, what they had to drop, and what was refused."""
    with deps.reading() as connection:
        enrolled = views.list_nodes(
            connection, principal.tenant, silent_before=deps.silent_before(), now_ms=page.now_ms, limit=NODES_SHOWN
        )
        gaps = views.list_gaps(connection, principal.tenant)
        refused = views.list_quarantine(connection, principal.tenant, after=pages.after, limit=pages.limit)
    return render(
        page,
        "nodes.html",
        nodes=[presentation.node_line(node) for node in enrolled.items],
        gaps=gaps.items,
        quarantined=refused.items,
        replayed=replayed,
        bodies={row.id: row.body.decode("utf-8", "backslashreplace") for row in refused.items},
        **_pager(page, pages.listing(refused).next_cursor),
    )


@router.post("/quarantine/{refused_id}/replay")
def replay_refused(deps: Deps, principal: Desk, refused_id: Annotated[int, Path(ge=1, le=2**53)]) -> Response:
    """Judge it anew; where it is refused again, its row says why."""

    def work(uow: UnitOfWork, connection: Connection) -> Answered:
        found = replay_quarantined(uow, deps.ledger(connection), principal, deps.clock, refused_id)
        return Answered(status=303, body="taken" if found.taken else "refused_again")

    outcome = deps.changes.run(work, None).body
    return RedirectResponse(f"/nodes?replayed={outcome}", 303)


@router.post("/gaps/resend")
def resend_gap(
    deps: Deps,
    principal: Desk,
    node: Annotated[str, Form(pattern=f"^{IDENTIFIER.pattern}$")],
    lane: Annotated[Lane, Form()],
    epoch: Annotated[str, Form(pattern=f"^{IDENTIFIER.pattern}$")],
    first_seq: Annotated[int, Form(ge=1, le=MAX_SEQ)],
    last_seq: Annotated[int, Form(ge=1, le=MAX_SEQ)] = MAX_SEQ,
) -> RedirectResponse:
    """Ask the node for what is missing of a gap."""
    deps.transactions.run(
        lambda uow: resend_records(
            uow, principal, deps.clock, node, lane, first_seq=first_seq, last_seq=last_seq, epoch=epoch
        )
    )
    return RedirectResponse("/nodes", 303)


def _pager(page: Page, cursor: str | None) -> dict[str, Any]:
    """The addresses of the first and of the next page, where there are."""
    is_first = "cursor" not in dict(page.query)
    return {
        "previous": None if is_first else page.without("cursor"),
        "next": page.address(cursor=cursor) if cursor else None,
    }
