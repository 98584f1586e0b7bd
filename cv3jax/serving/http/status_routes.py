"""What operators and pages ask: is it alive, is it ready, what can it do, what did it do."""

import dataclasses
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from cv3jax import __version__
from cv3jax.cascade import COLOUR_FIXES
from cv3jax.cascade.limits import most_steps
from cv3jax.checkpoints.description import StageDescription
from cv3jax.serving.http.context import Context
from cv3jax.serving.http.fields import written
from cv3jax.serving.http.metrics import CONTENT_TYPE
from cv3jax.serving.http.parameters import FORMATS, MAX_N, MAX_PARTIAL
from cv3jax.serving.http.plan import edit_chains


def routes(context: Context) -> APIRouter:
    """Return the routes of operations."""
    router = APIRouter()

    def draws() -> bool:
        return context.engine.gauges.get("alive", 1.0) > 0

    @router.get("/healthz")
    async def alive() -> Response:
        """Say that the process answers and its engine draws; 503 where it no longer does."""
        fine = draws() or context.book.drawing.draining  # whose engine ends before its answers
        return JSONResponse({"status": "alive" if fine else "engine dead"}, 200 if fine else 503)

    @router.get("/readyz")
    async def ready() -> Response:
        """Say whether new requests are taken; 503 where not."""
        drawing = context.book.drawing
        status = "ready"
        if drawing.draining:
            status = "stopping"
        elif not draws():
            status = "engine dead"
        elif drawing.disk is not None:
            status = "disk full or failing"
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    @router.get("/metrics")
    async def metrics() -> Response:
        """Return the metrics as Prometheus reads them."""
        return Response(context.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    @router.get("/v1/capabilities")
    async def capabilities() -> dict[str, Any]:
        """Return what this server draws, its limits, and the engine's programs."""
        return about(context)

    return router


def about(context: Context) -> dict[str, Any]:
    """Return what the server can do, as JSON has it."""
    chains, model = context.engine.sizes, context.model
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "version": __version__,
        "sizes": [[written(size) for size in chain] for chain in chains],
        "default_size": written(chains[0][-1]),
        "enlargements": [[written(size) for size in chain] for chain in edit_chains(chains)],
        "stages": {name: _stage(one) for name, one in model.description.stages.items()},
        "output_formats": list(FORMATS),
        "colour_fixes": list(COLOUR_FIXES),
        "prompt_tokens": model.tokenize.length,
        "max_n": MAX_N,
        "max_partial_images": MAX_PARTIAL,
        "loras": {name: dict(one) for name, one in model.loras.items()},
        "expand": context.expand is not None,
        "safety": context.safe,
        "limits": dataclasses.asdict(context.limits),
        "engine": context.engine.capabilities,
    }


def _stage(stage: StageDescription) -> dict[str, Any]:
    """Return the defaults of a stage, and what it was distilled to."""
    said: dict[str, Any] = {
        "steps": stage.steps,
        "max_steps": most_steps(stage),
        "guidance": stage.guidance,
        "eta": stage.eta,
        "distilled": None,
    }
    if stage.distilled is not None:
        w = stage.distilled.w
        said["distilled"] = {"steps": stage.distilled.steps, "guidance": list(w) if w else None}
    return said
