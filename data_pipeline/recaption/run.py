"""Recaptioning a dataset, from the checks to the report."""

import asyncio
import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.chat.endpoint import Endpoint
from data_pipeline.chat.rate_limit import Pacer
from data_pipeline.io import progress
from data_pipeline.io.errors import InputError, StoppedError, counted
from data_pipeline.io.objects.places import public
from data_pipeline.io.shares import Share
from data_pipeline.recaption.dialogue import Dialogue, load_dialogue
from data_pipeline.recaption.journal import Journal
from data_pipeline.recaption.output import REPORT, SameShards
from data_pipeline.recaption.parts import Parts, Stored, journal_folder
from data_pipeline.recaption.scheduler import Asking
from data_pipeline.recaption.settings import RecaptionSettings
from data_pipeline.recaption.summary import spent
from data_pipeline.recaption.triplets import Triplets
from data_pipeline.recaption.writing import Writing
from data_pipeline.records.array_records import check_replaceable
from data_pipeline.records.digest import dataset_content
from data_pipeline.records.records import RecordSource
from data_pipeline.records.remote import cache_of, open_any

WHOLE = Share(0, 1)


def recaption(
    data: str | Path,
    out: str | Path,
    settings: RecaptionSettings,
    *,
    triplets: Path | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
    share: Share = WHOLE,
    stored: Stored | None = None,
) -> dict[str, Any]:
    """Ask a vision model for a new caption of every record, and write the dataset with them.

    Images, old captions, order and shards stay as they are. Every answer is in
    `out`.recaption/journal.jsonl before the next question is asked, so after a kill the same call
    resumes. `out` appears when every record has a new caption or a reason why it has none.

    Args:
        data: the dataset's directory, or its address.
        out: the new dataset's directory.
        settings: the server, the model and the questions.
        triplets: a JSON file of ⟨image, old, new⟩ to write, see triplets.py.
        retry_failed: repeat the questions at which the server failed, and replace the dataset of
            the earlier run.
        overwrite: replace a dataset at `out`, and set aside a journal of another model or dialogue.
        share: the share of this process, of whole shards; the last to finish publishes `out`.
        stored: what is in a bucket, where `out` is the copy of an address.

    Returns:
        The report, also written to `out`/recaption_report.json, or with a limit to `out`.recaption:
        {"source", "model", "endpoint", "dialogue", "records", "recaptioned",
        "reasons": {reason: n}, "examples": {reason: ["key: detail", …]}, "requests", "retries",
        "tokens": {"prompt", "completion", "unmeasured"}, "cost": None or a number, "seconds",
        "requests_per_second"}.
        Requests, tokens and cost are of all runs in the journal, seconds of this one. A process of
        several returns its own part's report with "lacking", the parts that are not done; the last
        one returns that of all, with "parts".

    Raises:
        InputError: an input is unusable, the server does not accept the requests, or no record got
            a caption.
        StoppedError: a signal came.
        StoppedByServerError, OSError: the server is gone or asks for payment; the disk is full.
    """
    start = time.monotonic()
    script = load_dialogue(settings.dialogue)
    cache = cache_of(data)
    source, out, limit = open_any(data, cache), Path(out).absolute(), settings.limit
    replaces = overwrite or (retry_failed and (out / REPORT).is_file())
    asked = {
        "model": settings.model,
        "dialogue": dataclasses.asdict(script),
        "max_tokens": settings.max_tokens,
        "image_side": settings.image_side,
    }
    folder, parts = stored.journal if stored else journal_folder(out, share), None
    if share.count > 1:
        _check_parts(triplets, limit)
        parts = Parts(out, dataset_content(data, cache), source, share, asked, stored)
    if limit is None:
        if os.path.realpath(out) == os.path.realpath(data):
            raise InputError(f"--out {out} is the dataset itself; give another directory")
        if not parts:
            check_replaceable(out, replaces)
    rows = (
        [index for own in parts.rows.values() for index in own]
        if parts
        else range(min(len(source), limit or len(source)))
    )
    exported = (
        Triplets(triplets, script.triplet, overwrite=overwrite or retry_failed)
        if triplets
        else None
    )
    with Journal(
        folder, asked, turns=len(script.turns), retry_failed=retry_failed, overwrite=overwrite
    ) as journal:
        if parts and (done := parts.begin(replaces, retry_failed)):
            return done if "parts" in done else _finished(parts)
        before = journal.totals.requests
        _ask(source, rows, script, journal, settings, json.dumps(asked, sort_keys=True))
        asking_seconds = time.monotonic() - start
        report = {
            "source": str(data),
            "model": settings.model,
            "endpoint": settings.endpoint,
            "dialogue": settings.dialogue.name,
            "records": len(rows),
            "recaptioned": 0,
            "reasons": {},
            "examples": {},
            **spent(journal.totals, settings),
            "seconds": 0.0,
            "requests_per_second": round((journal.totals.requests - before) / asking_seconds, 2),
            "journal": public(journal.path),
        }
        writing = Writing(data, source, journal, report, start)
        if parts:
            writing.part(parts)
        else:
            with contextlib.ExitStack() as stack:
                dataset = (
                    stack.enter_context(SameShards(out, source.lengths, overwrite=replaces))
                    if limit is None
                    else None
                )
                triplet_writer = stack.enter_context(exported.writing()) if exported else None
                writing.whole(len(rows), dataset, triplet_writer, folder)
    return _finished(parts) if parts else report


def _check_parts(triplets: Path | None, limit: int | None) -> None:
    for flag, given in (("--triplets", triplets), ("--limit", limit)):
        if given is not None:
            raise InputError(
                f"{flag} and --part: {flag} is of the whole dataset; leave one of them out"
            )


def _finished(parts: Parts) -> dict[str, Any]:
    """Publish the dataset where this was the last part; return its report, or this part's."""
    whole, lacking = parts.finish()
    return whole or {**parts.report(), "lacking": lacking}


def _ask(
    source: RecordSource,
    rows: Sequence[int],
    script: Dialogue,
    journal: Journal,
    settings: RecaptionSettings,
    seed: str,
) -> None:
    """Ask about the records `rows` of `source` until each has a caption or a reason.

    Raises StoppedError where a signal came.
    """
    server = Endpoint(
        settings.endpoint,
        key=settings.key,
        timeout=settings.timeout,
        connections=settings.concurrency,
    )

    async def ask() -> int | None:
        async with server:
            pacer = Pacer(
                rate=settings.rate and settings.rate / 60,
                tokens=settings.tokens_per_minute and settings.tokens_per_minute / 60,
                max_wait=settings.max_wait,
            )
            asking = Asking(source, script, journal, server, pacer, settings, seed)
            with progress.bar(len(rows), "recaption", "record") as bar:
                await asking.run(rows, bar)
            return asking.signal

    stopped = asyncio.run(ask())
    if stopped is not None:
        raise StoppedError(
            stopped,
            f"{counted(journal.totals.requests, 'request')} saved in {public(journal.path)}; run"
            " the same command to resume",
        )
