"""/api/v1/quarantine, /gaps, /audit: what was refused, what agents had to drop, and who did what."""

from typing import Literal

from fastapi import APIRouter

from forewarn_cloud import views
from forewarn_cloud.api import answers
from forewarn_cloud.api.access import Deps, Reader
from forewarn_cloud.api.fields import IdentifierInQuery, IdInQuery
from forewarn_cloud.api.pagination import Listing, Pages

router = APIRouter(tags=["records"])


@router.get("/quarantine", response_model=Listing[answers.Refused])
def list_quarantine(
    deps: Deps, principal: Reader, pages: Pages, node: IdentifierInQuery = None, security: bool | None = None
) -> Listing[views.Refused]:
    """Messages and records that were refused, with the reason, the latest first."""
    with deps.reading() as connection:
        page = views.list_quarantine(
            connection, principal.tenant, node=node, security=security, after=pages.after, limit=pages.limit
        )
    return pages.listing(page)


@router.get("/gaps", response_model=Listing[answers.Gap])
def list_gaps(deps: Deps, principal: Reader, pages: Pages, node: IdentifierInQuery = None) -> Listing[views.Gap]:
    """Records that agents reported as dropped, or that are known to be lost, and whether they have come after all."""
    with deps.reading() as connection:
        page = views.list_gaps(connection, principal.tenant, node=node, after=pages.after, limit=pages.limit)
    return pages.listing(page)


@router.get("/audit", response_model=Listing[answers.AuditEntry])
def list_audit(
    deps: Deps,
    principal: Reader,
    pages: Pages,
    subject: Literal["order", "episode", "part", "asset", "node", "diagnosis", "database"] | None = None,
    subject_id: IdInQuery = None,
) -> Listing[views.AuditEntry]:
    """Who did what to which thing, the latest first."""
    with deps.reading() as connection:
        page = views.list_audit(
            connection,
            principal.tenant,
            subject=subject,
            subject_id=subject_id,
            after=pages.after,
            limit=pages.limit,
        )
    return pages.listing(page)
