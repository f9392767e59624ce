"""/api/v1/assets: the machines, what they measured and what is known of their health."""

import math
from functools import partial
from http import HTTPStatus
from typing import Annotated, Final

import numpy as np
from fastapi import APIRouter, Query, Response
from numpy.typing import NDArray
from pydantic import Field
from sqlalchemy import Connection

from forewarn_cloud import views
from forewarn_cloud.api import answers
from forewarn_cloud.api.access import Admin, Deps, Reader
from forewarn_cloud.api.changes import Changing
from forewarn_cloud.api.fields import (
    SIGNALS_PATTERN,
    Identifier,
    IdentifierInPath,
    IdentifierInQuery,
    InstantInQuery,
    Line,
    RequestBody,
)
from forewarn_cloud.api.pagination import Listing, Pages
from forewarn_cloud.errors import Invalid, NotFound
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.service import registry
from forewarn_cloud.telemetry import TelemetrySeries
from forewarn_models.asset_type import builtin_asset_type, builtin_names

router = APIRouter(prefix="/assets", tags=["assets"])

DEFAULT_POINTS: Final = 1000
MAX_POINTS: Final = 10_000
_WEEK_MS: Final = 7 * 24 * 3_600_000


@router.get("", response_model=Listing[answers.Asset])
def list_assets(
    deps: Deps,
    principal: Reader,
    pages: Pages,
    asset_type: IdentifierInQuery = None,
    node: IdentifierInQuery = None,
    site: IdentifierInQuery = None,
    customer: IdentifierInQuery = None,
    condition: IdentifierInQuery = None,
) -> Listing[views.Asset]:
    with deps.reading() as connection:
        page = views.list_assets(
            connection,
            principal.tenant,
            silent_before=deps.silent_before(),
            after=pages.after,
            limit=pages.limit,
            asset_type=asset_type,
            node=node,
            site=site,
            customer=customer,
            condition=condition,
        )
    return pages.listing(page)


@router.get("/{asset}", response_model=answers.Asset)
def get_asset(deps: Deps, principal: Reader, asset: IdentifierInPath) -> views.Asset:
    with deps.reading() as connection:
        found = views.get_asset(connection, principal.tenant, asset, silent_before=deps.silent_before())
    if found is None:
        raise NotFound("asset", asset)
    return found


class NewAsset(RequestBody):
    asset: Identifier
    asset_type: Identifier = Field(description="A built-in one, or any other: unknown types get general defaults.")
    node: Identifier
    name: Line | None = Field(None, description="The identifier if left out.")
    site: Identifier | None = None


class AssetChanges(RequestBody):
    """What is left out stays."""

    name: Line | None = None
    node: Identifier | None = None
    site: Identifier | None = None


@router.post("", status_code=HTTPStatus.CREATED, response_model=answers.Asset)
def create_asset(deps: Deps, principal: Admin, change: Changing, body: NewAsset) -> Response:
    """Register a machine before its node declares it."""

    def act(uow: UnitOfWork) -> None:
        registry.create_asset(uow, principal, deps.clock, **body.model_dump())

    return change.run(principal, act, partial(_answer, principal.tenant, body.asset), status=HTTPStatus.CREATED)


@router.patch("/{asset}", response_model=answers.Asset)
def update_asset(
    deps: Deps, principal: Admin, change: Changing, asset: IdentifierInPath, body: AssetChanges
) -> Response:
    def act(uow: UnitOfWork) -> None:
        registry.update_asset(uow, principal, deps.clock, asset, **body.model_dump())

    return change.run(principal, act, partial(_answer, principal.tenant, asset))


@router.delete("/{asset}", status_code=HTTPStatus.NO_CONTENT)
def delete_asset(deps: Deps, principal: Admin, change: Changing, asset: IdentifierInPath) -> Response:
    """Watch it no longer; its history stays. Its open order has to be completed or cancelled first."""
    return change.run(principal, lambda uow: registry.delete_asset(uow, principal, deps.clock, asset))


def _answer(tenant: str, asset: str, connection: Connection) -> answers.Asset:
    return answers.Asset.model_validate(views.get_asset(connection, tenant, asset))


@router.get("/{asset}/health", response_model=Listing[answers.Health])
def health_history(
    deps: Deps,
    principal: Reader,
    asset: IdentifierInPath,
    pages: Pages,
    from_: Annotated[InstantInQuery, Query(alias="from")] = None,
    to: InstantInQuery = None,
) -> Listing[views.Health]:
    """What was said about the asset, the latest first."""
    with deps.reading() as connection:
        if views.get_asset(connection, principal.tenant, asset) is None:
            raise NotFound("asset", asset)
        page = views.health_history(
            connection, principal.tenant, asset, from_ms=from_, to_ms=to, after=pages.after, limit=pages.limit
        )
    return pages.listing(page)


@router.get("/{asset}/telemetry")
def read_telemetry(
    deps: Deps,
    principal: Reader,
    asset: IdentifierInPath,
    signals: Annotated[
        str | None,
        Query(pattern=SIGNALS_PATTERN, max_length=4200, description="Names with commas between; default all."),
    ] = None,
    from_: Annotated[InstantInQuery, Query(alias="from", description="Default a week before `to`.")] = None,
    to: Annotated[InstantInQuery, Query(description="Default now.")] = None,
    max_points: Annotated[int, Query(ge=2, description=f"More than {MAX_POINTS} is {MAX_POINTS}.")] = DEFAULT_POINTS,
) -> answers.Telemetry:
    """What the asset measured from `from` to `to`, both included; in buckets where that is more than `max_points`."""
    to_ms = deps.clock.now_ms() if to is None else to
    from_ms = to_ms - _WEEK_MS if from_ is None else from_
    if from_ms > to_ms:
        raise Invalid("from", "must not be after `to`")
    with deps.reading() as connection:
        found = views.get_asset(connection, principal.tenant, asset, silent_before=deps.silent_before())
        if found is None:
            raise NotFound("asset", asset)
        series = deps.telemetry(connection).read(
            tenant=principal.tenant,
            asset=asset,
            signals=None if signals is None else signals.split(","),
            from_ms=from_ms,
            to_ms=to_ms,
            max_points=min(max_points, MAX_POINTS),
        )
    return _telemetry(found, series)


def _telemetry(asset: views.Asset, series: TelemetrySeries) -> answers.Telemetry:
    units = _units(asset.asset_type)
    columns = [
        answers.Column(
            signal=name,
            unit=units.get(name),
            values=_decimals(column),
            low=_decimals(series.low[name]) if series.bucket_ms else None,
            high=_decimals(series.high[name]) if series.bucket_ms else None,
        )
        for name, column in series.signals.items()
    ]
    return answers.Telemetry(
        asset=asset.asset,
        samples=series.samples,
        bucket_ms=series.bucket_ms,
        times=series.t_ms.tolist(),
        signals=columns,
    )


def _decimals(column: NDArray[np.float32]) -> list[float | None]:
    """Of each value the shortest decimal that is the same float32: 41.2, not 41.20000076293945; None where missing."""
    shortest: list[float] = column.astype(str).astype(float).tolist()
    return [None if math.isnan(value) else value for value in shortest]


def _units(asset_type: str) -> dict[str, str]:
    if asset_type not in builtin_names():
        return {}
    return {signal.name: signal.unit for signal in builtin_asset_type(asset_type).signals}
