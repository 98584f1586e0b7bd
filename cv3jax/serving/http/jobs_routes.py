"""Jobs: begun without waiting, looked at, fetched, cancelled; and the files of pictures."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from cv3jax.serving.http import answers
from cv3jax.serving.http.asking import begin
from cv3jax.serving.http.context import Context
from cv3jax.serving.http.encoding import MEDIA, data_url, json_of
from cv3jax.serving.http.images_routes import JOB
from cv3jax.serving.http.job import Job
from cv3jax.serving.http.plan import check_tokens
from cv3jax.serving.http.reading import is_form, read_form, read_object
from cv3jax.web.errors import ApiError, wrong


def routes(context: Context) -> APIRouter:
    """Return the routes of jobs."""
    router, book = APIRouter(prefix="/v1"), context.book

    async def said(
        request: Request, job: Job, status: int = 200, headers: dict[str, str] | None = None
    ) -> Response:
        """Return the answer that says how a job is now, with the previews of this moment."""
        shown = {p.number: p.preview for p in job.pictures if p.preview is not None and not p.row}
        left = [
            context.engine.remaining(job.order_id(one.number))
            for one in job.pictures
            if not one.drawn and not job.is_over
        ]
        known = [seconds for seconds in left if seconds is not None]
        remaining = round(max(known), 2) if known else None
        body = answers.job_body(job, remaining, book.ahead(job), context.url_of(request))
        # not by the threads that may all be encoding large pictures, since previews are small
        urls = await asyncio.gather(*(book.drawing.run(data_url, one) for one in shown.values()))
        for number, url in zip(shown, urls, strict=True):
            body["pictures"][number]["preview"] = url
        data = await book.drawing.run(json_of, body) if shown else json_of(body)
        return Response(data, status, headers, "application/json")

    async def found(request: Request, id: str) -> Job:
        request.state.job = id[:60]
        return await book.find(id, request.state.owner)

    @router.post("/jobs")
    async def start(request: Request) -> Response:
        """Begin a job: JSON as for generations, or a form as for edits."""
        sent = await (read_form(request) if is_form(request) else read_object(request))
        job, _ = await begin(context, request, sent, streams=False, previews=True)
        return await said(request, job, 202, {JOB: job.id, "Location": f"/v1/jobs/{job.id}"})

    @router.get("/jobs/{id}")
    async def look(request: Request, id: str) -> Response:
        """Return a job's state, step, preview and the seconds until it is done."""
        return await said(request, await found(request, id))

    @router.get("/jobs/{id}/result")
    async def fetch(request: Request, id: str) -> Response:
        """Return the answer of the images API for a job that is done."""
        job = await found(request, id)
        form = request.query_params.get("response_format")
        if form not in (None, "url", "b64_json"):
            raise wrong("response_format", "response_format: give url or b64_json")
        if problem := job.problem():
            raise problem
        if not job.is_over:
            raise ApiError(
                409, "the job is not done; look at its state", code="job_not_done", retry_after=1
            )
        url_of = context.url_of(request)
        data = await answers.images(job, book, context.model.tokenize, url_of, form)
        return Response(data, media_type="application/json")

    @router.get("/jobs/{id}/base/{number:int}")
    async def fetch_base(request: Request, id: str, number: int) -> Response:
        """Return the base's own picture of one of a job's pictures, while it is drawn and after."""
        job = await found(request, id)
        return Response(await book.base(job, number), media_type=MEDIA[job.plan.output_format])

    @router.delete("/jobs/{id}")
    async def cancel(request: Request, id: str) -> Response:
        """Cancel a job before its next step; one that is done stays."""
        job = await found(request, id)
        await book.cancel(job)
        return await said(request, job)

    @router.get("/files/{name}")
    async def file(name: str) -> Response:
        """Return a finished picture. Its name is all that it takes."""
        if not await book.has_file(name):
            raise ApiError(
                404,
                f"there is no such picture; results are kept for {context.limits.keep:g} s",
                code="file_not_found",
            )
        data = await book.read(name)
        return Response(
            data,
            media_type=MEDIA[name.rpartition(".")[2]],
            headers={
                "Cache-Control": "private, max-age=3600, immutable",
                # who knows the name may show it, also in an <img> of another site's page
                "Cross-Origin-Resource-Policy": "cross-origin",
            },
        )

    @router.post("/expansions")
    async def expand(request: Request) -> dict[str, Any]:
        """Return a prompt written out by the language model, to be read before it is drawn."""
        values = (await read_object(request)).values
        prompt = values.get("prompt")
        if values.keys() != {"prompt"} or not isinstance(prompt, str) or not prompt.strip():
            raise wrong("prompt", 'give {"prompt": "..."} and nothing else')
        if context.expand is None:
            raise ApiError(
                400, "this server was started without --expand", code="unsupported_parameter"
            )
        check_tokens(prompt, context.model)
        expansion = await context.expand(prompt)
        return {
            "prompt": prompt,
            "revised_prompt": expansion.text,
            "tokens": expansion.tokens,
            "model": expansion.model,
            "fallback": expansion.fallback,
        }

    return router
