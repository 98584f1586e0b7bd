"""From a request to its job: read, planned, expanded, accepted."""

import dataclasses

from fastapi import Request

from cv3jax.serving.http import given, parameters
from cv3jax.serving.http.context import Context
from cv3jax.serving.http.job import Job
from cv3jax.serving.http.plan import (
    EDIT,
    GENERATION,
    Plan,
    check_tokens,
    plan_edit,
    plan_generation,
)
from cv3jax.serving.http.reading import Given, retry_of
from cv3jax.web.errors import ApiError, wrong


async def begin(
    context: Context, request: Request, sent: Given, *, streams: bool, previews: bool = False
) -> tuple[Job, bool]:
    """Return (the accepted job of a request, whether it is to be streamed).

    streams: whether the route has streams. previews: whether each step is to be shown.

    Raises ApiError.
    """
    kind = GENERATION if sent.image is None else EDIT
    known = parameters.GENERATION if kind == GENERATION else parameters.EDIT
    if not streams:
        known = {n: p for n, p in known.items() if n not in ("stream", "partial_images")}
    values = parameters.read(sent.values, known)
    drawing = context.book.drawing
    # a picture may be large
    digest = await drawing.work(sent.digest, kind) if sent.image else sent.digest(kind)
    retry = (retry_of(request), digest)
    owner = request.state.owner
    if (before := await context.book.earlier(owner, *retry)) is not None:
        context.note(request, before.id, before.plan.prompt)
        return before, values.get("stream", False)
    chains = context.engine.sizes
    if kind == GENERATION:
        plan = plan_generation(values, context.model, chains, previews=previews)
        plan = await _expanded(context, plan, values["expand"])
    else:
        pixels = context.limits.pixels
        size = await drawing.work(given.size_of, sent.image, pixels)
        plan = plan_edit(values, context.model, chains, size, previews)
    job = await context.book.accept(plan, owner, sent.image, retry)
    context.note(request, job.id, plan.prompt)
    return job, values.get("stream", False)


async def _expanded(context: Context, plan: Plan, asked: bool) -> Plan:
    """Return the plan with its prompt written out where that is asked for."""
    if not asked:
        return plan
    if context.expand is None:
        raise wrong("expand", "expand: this server was started without --expand")
    if context.book.drawing.draining:
        raise ApiError(503, "the server stops", code="server_stopping", retry_after=10)
    expansion = await context.expand(plan.prompt)
    check_tokens(expansion.text, context.model)
    return dataclasses.replace(plan, expansion=expansion)
