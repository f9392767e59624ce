"""/healthz, /readyz, /metrics: for the machines that look after this one."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from forewarn_cloud import views
from forewarn_cloud.api import answers, metrics
from forewarn_cloud.api.access import Deps, Reader

router = APIRouter(tags=["system"])


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process answers. Says nothing else, to anyone."""
    return {"status": "ok"}


@router.get("/readyz", response_model=answers.Readiness)
def readyz(deps: Deps) -> Response:
    """200 when everything needed to serve is there, else 503; which check failed is named."""
    checks = dict(deps.ready())
    answer = answers.Readiness(ready=all(checks.values()), checks=checks)
    return JSONResponse(answer.model_dump(), 200 if answer.ready else 503, headers={"Cache-Control": "no-store"})


@router.get("/metrics", response_class=Response)
def read_metrics(deps: Deps, principal: Reader, request: Request) -> Response:
    """Figures in Prometheus' text format."""
    with deps.reading() as connection:
        figures = views.figures(connection, principal.tenant, silent_before=deps.silent_before())
    return Response(
        metrics.exposition(request.app.state.metrics, figures, deps.ingest_figures(), deps.clock.now_ms()),
        media_type=metrics.MEDIA_TYPE,
    )
