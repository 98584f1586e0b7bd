"""Answers of the images API: the JSON of a finished job, and the events of a streamed one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from cv3jax.serving.http import journal
from cv3jax.serving.http.book import Book
from cv3jax.serving.http.encoding import event_of, json_of
from cv3jax.serving.http.fields import written
from cv3jax.serving.http.job import Job
from cv3jax.serving.http.plan import EDIT
from cv3jax.web.errors import ApiError
from data_pipeline.loading.tokenizer import Tokenize

PING = 15.0  # seconds after which a silent stream says that it is alive


async def wait_over(job: Job) -> None:
    """Return when a job is drawn. Raises ApiError where it will not be."""
    while True:
        changed = job.changed
        if problem := job.problem():
            raise problem
        if job.is_over:
            return
        await changed.wait()


async def images(
    job: Job, book: Book, tokenize: Tokenize, url_of: Callable[[str], str], form: str | None = None
) -> bytes:
    """Return the answer of the images API for a job that is done, as JSON.

    url_of: makes a file's name an address. form: b64_json or url; None is what was asked for.
    """
    data = []
    for picture in job.pictures:
        entry = dict(picture.row.about)
        if picture.row.file is None:
            entry["b64_json"] = None
        elif (form or job.plan.response_format) == "url":
            entry["url"] = url_of(picture.row.file)
        else:
            entry["b64_json"] = await book.read(picture.row.file)
        data.append(entry)
    clear = any(entry.pop("background", "") == "transparent" for entry in data)
    background = "transparent" if clear else "opaque"
    said = {"created": int(job.accepted), "data": data, **_common(job, background, tokenize)}
    return await book.drawing.work(json_of, said)


def _common(job: Job, background: str, tokenize: Tokenize) -> dict[str, Any]:
    """Return what an answer and the last event of a picture both say."""
    plan = job.plan
    said = {
        "background": background,
        "output_format": plan.output_format,
        "quality": "auto",
        "size": written(plan.size),
        "usage": _usage(tokenize.count(plan.text)),
        "job": job.id,
    }
    return said if plan.identifier is None else {**said, "safety_identifier": plan.identifier}


def _usage(count: int) -> dict[str, Any]:
    """Return the tokens of a request. Pictures are not made of tokens here, so they count none."""
    return {
        "input_tokens": count,
        "input_tokens_details": {"text_tokens": count, "image_tokens": 0},
        "output_tokens": 0,
        "total_tokens": count,
    }


async def events(job: Job, book: Book, tokenize: Tokenize) -> AsyncIterator[bytes]:
    """Yield the server-sent events of a job: partial images as they come, then each picture.

    A job that fails ends the stream with an event that has OpenAI's error in it.
    """
    sent = [0] * job.plan.n
    completed: set[int] = set()
    try:
        while len(completed) < job.plan.n:
            changed = job.changed
            said = False
            for picture in job.pictures:
                while sent[picture.number] < len(picture.partials):
                    encoding = picture.partials[sent[picture.number]]
                    sent[picture.number] += 1
                    if (data := await asyncio.shield(encoding)) is not None:
                        partial = _partial(job, picture.number, sent[picture.number] - 1, data)
                        yield await _event(job, book, "partial_image", partial)
                        said = True
                if picture.row is not None and picture.number not in completed:
                    completed.add(picture.number)
                    done = await _completed(job, picture.number, book, tokenize)
                    yield await _event(job, book, "completed", done)
                    said = True
            if len(completed) == job.plan.n or said:
                continue
            if (problem := job.problem()) is not None:
                raise problem
            try:
                await asyncio.wait_for(changed.wait(), PING)
            except TimeoutError:
                yield b": waiting\n\n"
    except ApiError as e:
        yield event_of("error", {"type": "error", **e.body()})


async def _completed(job: Job, number: int, book: Book, tokenize: Tokenize) -> dict[str, Any]:
    row = job.pictures[number].row
    if row.file is None:
        problem = ApiError(
            400,
            "the safety check withheld this picture; change the prompt",
            code="moderation_blocked",
            param="prompt",
        )
        if job.plan.n == 1:
            raise problem
        body = {**problem.body()["error"], "blocked": True, "b64_json": None}
    else:
        body = {"b64_json": await book.read(row.file)}
    about = dict(row.about)
    background = about.pop("background", "opaque")
    common = _common(job, background, tokenize)
    return {"created_at": int(job.accepted), "image_index": number, **about, **common, **body}


def _partial(job: Job, number: int, index: int, data: bytes) -> dict[str, Any]:
    return {
        "b64_json": data,
        "created_at": int(job.accepted),
        "size": written(job.plan.size),
        "quality": "auto",
        "background": "opaque",
        "output_format": job.plan.output_format,
        "partial_image_index": index,
        "image_index": number,
    }


async def _event(job: Job, book: Book, what: str, said: dict[str, Any]) -> bytes:
    name = f"image_{'edit' if job.plan.kind == EDIT else 'generation'}.{what}"
    # the type is the event's, also where an error of a withheld picture has one
    return await book.drawing.work(event_of, name, {**said, "type": name})


def job_body(
    job: Job,
    remaining: float | None,
    ahead: int,
    url_of: Callable[[str], str],
) -> dict[str, Any]:
    """Return what is said of a job: its state, and of each picture how far it is, no preview yet.

    remaining: seconds until it is drawn, where that is known. ahead: how many pictures were
    accepted before it and are not drawn.
    """
    plan = job.plan
    pictures = []
    for one in job.pictures:
        over = one.row is not None
        said: dict[str, Any] = {
            "index": one.number,
            "seed": plan.seed + one.number,
            "state": "done" if over else "drawn" if one.drawn else job.state,
            "stage": one.stage or None,
            "relay_pass": one.relay_pass,
            "step": one.done,
            "steps": one.count,
            "preview": None,
            "base": one.base is not None or (over and one.row.base is not None),
            "url": url_of(one.row.file) if over and one.row.file else None,
        }
        if over and one.row.file is None:
            said["blocked"] = True
        pictures.append(said)
    error = None
    if job.state in (journal.FAILED, journal.CANCELLED):
        error = job.problem().body()["error"]
    return {
        "id": job.id,
        "object": "job",
        "kind": plan.kind,
        "state": job.state,
        "created_at": int(job.accepted),
        "ended_at": None if job.ended is None else int(job.ended),
        "eta_seconds": remaining,
        "ahead": ahead,
        "n": plan.n,
        "prompt": plan.prompt,
        "revised_prompt": None if plan.expansion is None else plan.text,
        "size": written(plan.size),
        "sizes": [written(size) for size in plan.sizes],
        "output_format": plan.output_format,
        "settings": {
            name: {
                "steps": one.steps,
                "guidance": one.guidance,
                "eta": one.eta,
                **({"strength": one.strength} if name == "relay" else {}),
            }
            for name, one in plan.stages.items()
        },
        "loras": [{"name": one["name"], "weight": one["weight"]} for one in plan.loras],
        "pictures": pictures,
        "error": error,
    }
