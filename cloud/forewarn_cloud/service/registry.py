"""Which nodes and machines there are: enrolled, registered, changed and retired by people.

Retired ones keep their rows and their history, and nothing more is accepted from them.
"""

from dataclasses import replace
from typing import Any, Literal

from forewarn_cloud.clock import Clock
from forewarn_cloud.entities import OPEN_STATES, Asset, AuditNote, Node
from forewarn_cloud.errors import Conflict, Invalid, NotFound
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.principal import Principal
from forewarn_cloud.service.episodes import close


def enrol_node(uow: UnitOfWork, principal: Principal, clock: Clock, node: str, *, declares_assets: bool = True) -> Node:
    """Let a node in, for the first time or again.

    Raises:
        Conflict: it is enrolled already.
    """
    found = uow.assets.node(principal.tenant, node)
    if found is not None and found.deleted_at is None:
        raise Conflict(f"node {node!r} is enrolled already")
    at = clock.now_ms()
    enrolled = Node(tenant=principal.tenant, node=node, enrolled_at=at, declares_assets=declares_assets)
    uow.assets.save_node(enrolled)
    _note(uow, principal, at, "node", node, "enrolled", {"declares_assets": declares_assets})
    return enrolled


def retire_node(uow: UnitOfWork, principal: Principal, clock: Clock, node: str) -> None:
    """Accept nothing more from a node. Its machines and their history stay.

    Raises:
        NotFound: no such node.
    """
    found = uow.assets.node(principal.tenant, node)
    if found is None or found.deleted_at is not None:
        raise NotFound("node", node)
    at = clock.now_ms()
    uow.assets.save_node(replace(found, deleted_at=at))
    _note(uow, principal, at, "node", node, "retired", {})


def register_asset(uow: UnitOfWork, principal: Principal, clock: Clock, asset: Asset) -> Asset:
    """Watch a machine, for the first time or again.

    Raises:
        Conflict: the identifier is taken.
        Invalid: no such node or site.
    """
    assert asset.tenant == principal.tenant, "a principal acts in its own tenant"
    found = uow.assets.lock(principal.tenant, asset.asset)
    if found is not None and found.deleted_at is None:
        raise Conflict(f"asset {asset.asset!r} exists already")
    return _save(uow, principal, clock, asset, "registered")


def change_asset(uow: UnitOfWork, principal: Principal, clock: Clock, asset: str, **changes: str | None) -> Asset:
    """Give a machine another `name`, `node` or `site`.

    Raises:
        NotFound: no such asset.
        Invalid: no such node or site.
    """
    found = _living(uow, principal, asset)
    return _save(uow, principal, clock, replace(found, **changes), "changed")  # type: ignore[arg-type]


def retire_asset(uow: UnitOfWork, principal: Principal, clock: Clock, asset: str) -> None:
    """Stop watching a machine; its history stays.

    Raises:
        NotFound: no such asset.
        Conflict: an order for it is open.
    """
    found = _living(uow, principal, asset)
    at = clock.now_ms()
    episode = uow.episodes.open_one(principal.tenant, asset)
    if episode is not None:
        for order in uow.orders.of_episode(principal.tenant, episode.id):
            if order.state in OPEN_STATES:
                raise Conflict(f"order {order.number} for {asset!r} is {order.state}: complete or cancel it first")
        uow.episodes.save(close(episode, "asset_retired", at))
    uow.assets.save(replace(found, deleted_at=at))
    _note(uow, principal, at, "asset", asset, "retired", {})


def _living(uow: UnitOfWork, principal: Principal, asset: str) -> Asset:
    found = uow.assets.lock(principal.tenant, asset)
    if found is None or found.deleted_at is not None:
        raise NotFound("asset", asset)
    return found


def _save(uow: UnitOfWork, principal: Principal, clock: Clock, asset: Asset, action: str) -> Asset:
    node = uow.assets.node(principal.tenant, asset.node)
    if node is None or node.deleted_at is not None:
        raise Invalid("node", f"{asset.node!r} is not enrolled")
    if asset.site is not None and uow.assets.site(principal.tenant, asset.site) is None:
        raise Invalid("site", f"{asset.site!r} does not exist")
    uow.assets.save(asset)
    detail = {"name": asset.name, "node": asset.node, "site": asset.site, "asset_type": asset.asset_type}
    _note(uow, principal, clock.now_ms(), "asset", asset.asset, action, detail)
    return asset


def _note(
    uow: UnitOfWork,
    principal: Principal,
    at: int,
    subject: Literal["asset", "node"],
    subject_id: str,
    action: str,
    detail: dict[str, Any],
) -> None:
    note = AuditNote(
        tenant=principal.tenant,
        at=at,
        actor=principal.name,
        subject=subject,
        subject_id=subject_id,
        action=action,
        detail=detail,
    )
    uow.records.add_audit(note)
