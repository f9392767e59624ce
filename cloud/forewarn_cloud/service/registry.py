"""Nodes and assets: enrolled, described, deleted. Deleted ones are kept, because history is about them.

Raises as the desk does: NotFound, Conflict, Invalid.
"""

from dataclasses import replace
from typing import Any, Literal

from forewarn_cloud.clock import Clock
from forewarn_cloud.entities import Asset, AuditNote, Node
from forewarn_cloud.errors import Conflict, Invalid, NotFound
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.principal import Principal
from forewarn_cloud.service.episodes import close
from forewarn_models.asset_type import IDENTIFIER

MAX_NAME = 200


def enrol_node(uow: UnitOfWork, principal: Principal, clock: Clock, node: str, *, declares_assets: bool = True) -> Node:
    """Let a node send. A deleted one is let in again."""
    _identifier("node", node)
    found = uow.assets.node(principal.tenant, node)
    if found is not None and found.deleted_at is None:
        raise Conflict(f"node {node!r} is enrolled already")
    enrolled = Node(tenant=principal.tenant, node=node, enrolled_at=clock.now_ms(), declares_assets=declares_assets)
    uow.assets.save_node(enrolled)
    _note(uow, principal, clock, "node", node, "enrolled", {"declares_assets": declares_assets})
    return enrolled


def delete_node(uow: UnitOfWork, principal: Principal, clock: Clock, node: str) -> None:
    """Refuse whatever it sends from now on."""
    found = uow.assets.node(principal.tenant, node)
    if found is None or found.deleted_at is not None:
        raise NotFound("node", node)
    uow.assets.save_node(replace(found, deleted_at=clock.now_ms()))
    _note(uow, principal, clock, "node", node, "deleted", {})


def create_asset(
    uow: UnitOfWork,
    principal: Principal,
    clock: Clock,
    asset: str,
    *,
    node: str,
    asset_type: str,
    name: str | None = None,
    site: str | None = None,
) -> Asset:
    """Register a machine before its node declares it. A deleted one of the same name comes back."""
    _identifier("asset", asset)
    _identifier("asset_type", asset_type)
    found = uow.assets.lock(principal.tenant, asset)
    if found is not None and found.deleted_at is None:
        raise Conflict(f"asset {asset!r} exists already")
    created = Asset(
        tenant=principal.tenant,
        asset=asset,
        node=_known_node(uow, principal, node),
        asset_type=asset_type,
        name=_name(asset if name is None else name),
        site=_known_site(uow, principal, site),
        created_at=clock.now_ms() if found is None else found.created_at,
    )
    uow.assets.save(created)
    detail = {"node": node, "asset_type": asset_type, "name": created.name, "site": site}
    _note(uow, principal, clock, "asset", asset, "created", detail)
    return created


def update_asset(
    uow: UnitOfWork,
    principal: Principal,
    clock: Clock,
    asset: str,
    *,
    node: str | None = None,
    name: str | None = None,
    site: str | None = None,
) -> Asset:
    """Change what is given; what is None stays."""
    found = _asset(uow, principal, asset)
    changed = replace(
        found,
        node=found.node if node is None else _known_node(uow, principal, node),
        name=found.name if name is None else _name(name),
        site=found.site if site is None else _known_site(uow, principal, site),
    )
    if changed != found:
        uow.assets.save(changed)
        detail = {"node": changed.node, "name": changed.name, "site": changed.site}
        _note(uow, principal, clock, "asset", asset, "updated", detail)
    return changed


def delete_asset(uow: UnitOfWork, principal: Principal, clock: Clock, asset: str) -> None:
    """Watch it no longer. Its open order has to be completed or cancelled first."""
    found = _asset(uow, principal, asset)
    episode = uow.episodes.open_one(principal.tenant, asset)
    orders = uow.orders.of_episode(principal.tenant, episode.id) if episode is not None else ()
    for order in orders:
        if order.closed_at is None:
            raise Conflict(f"asset {asset!r} has the open order {order.number}: complete or cancel it first")
    if episode is not None:
        uow.episodes.save(close(episode, "asset deleted", clock.now_ms()))
    uow.assets.save(replace(found, deleted_at=clock.now_ms()))
    _note(uow, principal, clock, "asset", asset, "deleted", {})


def _asset(uow: UnitOfWork, principal: Principal, asset: str) -> Asset:
    found = uow.assets.lock(principal.tenant, asset)
    if found is None or found.deleted_at is not None:
        raise NotFound("asset", asset)
    return found


def _known_node(uow: UnitOfWork, principal: Principal, node: str) -> str:
    found = uow.assets.node(principal.tenant, node)
    if found is None or found.deleted_at is not None:
        raise Invalid("node", f"{node!r} is not enrolled")
    return node


def _known_site(uow: UnitOfWork, principal: Principal, site: str | None) -> str | None:
    if site is not None and uow.assets.site(principal.tenant, site) is None:
        raise Invalid("site", f"{site!r} does not exist")
    return site


def _identifier(field: str, text: str) -> None:
    if not IDENTIFIER.fullmatch(text):
        raise Invalid(field, "use letters, digits, _ and -, at most 64")


def _name(text: str) -> str:
    text = text.strip()
    if not 0 < len(text) <= MAX_NAME or not text.isprintable():
        raise Invalid("name", f"give one line of 1 to {MAX_NAME} characters")
    return text


def _note(
    uow: UnitOfWork,
    principal: Principal,
    clock: Clock,
    subject: Literal["asset", "node"],
    subject_id: str,
    action: str,
    detail: dict[str, Any],
) -> None:
    uow.records.add_audit(
        AuditNote(
            tenant=principal.tenant,
            at=clock.now_ms(),
            actor=principal.name,
            subject=subject,
            subject_id=subject_id,
            action=action,
            detail=detail,
        )
    )
