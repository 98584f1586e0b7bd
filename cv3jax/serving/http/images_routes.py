"""OpenAI's images API: generations, edits and models."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from cv3jax.serving.http import answers
from cv3jax.serving.http.asking import begin
from cv3jax.serving.http.context import Context
from cv3jax.serving.http.reading import Given, read_form, read_object
from cv3jax.web.errors import ApiError

JOB = "X-Job-Id"


def routes(context: Context) -> APIRouter:
    """Return the routes of the images API."""
    router, model = APIRouter(prefix="/v1"), context.model

    async def answer(request: Request, sent: Given) -> Response:
        job, stream = await begin(context, request, sent, streams=True)
        headers = {JOB: job.id}
        if stream:
            events = answers.events(job, context.book, model.tokenize)
            return StreamingResponse(
                events,
                media_type="text/event-stream",
                headers={**headers, "X-Accel-Buffering": "no"},
            )
        try:
            await answers.wait_over(job)
        except ApiError as e:
            return JSONResponse(e.body(), e.status, {**headers, **e.headers()})
        url_of = context.url_of(request)
        said = await answers.images(job, context.book, model.tokenize, url_of)
        return Response(said, headers=headers, media_type="application/json")

    @router.post("/images/generations")
    async def generations(request: Request) -> Response:
        """Draw pictures of a prompt."""
        return await answer(request, await read_object(request))

    @router.post("/images/edits")
    async def edits(request: Request) -> Response:
        """Enlarge a picture by the relay."""
        return await answer(request, await read_form(request))

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """List the models, of which there is one."""
        return {"object": "list", "data": [about()]}

    @router.get("/models/{name:path}")
    async def one(name: str) -> dict[str, Any]:
        """Describe a model."""
        if name != model.name:
            raise ApiError(
                404,
                f"there is no model {name[:60]!r}; there is {model.name!r}",
                code="model_not_found",
                param="model",
            )
        return about()

    def about() -> dict[str, Any]:
        return {
            "id": model.name,
            "object": "model",
            "created": model.created,
            "owned_by": "cv3jax",
            "fingerprint": model.fingerprint,
        }

    return router
