"""Recaptioning a dataset, from the checks to the report."""

import asyncio
import collections
import contextlib
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

from data_pipeline.chat.answers import Answer, Failure
from data_pipeline.chat.endpoint import Endpoint
from data_pipeline.chat.rate_limit import Pacer
from data_pipeline.io import progress
from data_pipeline.io.errors import InputError, StoppedError, counted, naming
from data_pipeline.io.files import json_bytes
from data_pipeline.recaption.dialogue import load_dialogue
from data_pipeline.recaption.journal import Journal, Totals, identify
from data_pipeline.recaption.output import REPORT, SameShards
from data_pipeline.recaption.scheduler import Asking
from data_pipeline.recaption.settings import RecaptionSettings
from data_pipeline.recaption.triplets import Triplets
from data_pipeline.records.array_records import check_replaceable
from data_pipeline.records.records import Record, RecordSource, open_records

_EXAMPLES = 20  # examples per reason in the report


@dataclasses.dataclass
class Summary:
    """How many records have a new caption, and why the others have none."""

    recaptioned: int = 0
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, record: Record, outcome: Answer | Failure) -> None:
        """Count the result of a record."""
        if isinstance(outcome, Answer):
            self.recaptioned += 1
            return
        self.reasons[outcome.reason] += 1
        if len(lines := self.examples.setdefault(outcome.reason, [])) < _EXAMPLES:
            lines.append(f"{record['key']}: {outcome.detail}" if outcome.detail else record["key"])


def recaption(
    data: str | Path,
    out: str | Path,
    settings: RecaptionSettings,
    *,
    triplets: Path | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Ask a vision model for a new caption of every record, and write the dataset with them.

    Images, old captions, order and shards stay as they are. Every answer is in
    `out`.recaption/journal.jsonl before the next question is asked, so after a kill the same call
    resumes. `out` appears when every record has a new caption or a reason why it has none.

    Args:
        data: the dataset's directory.
        out: the new dataset's directory.
        settings: the server, the model and the questions.
        triplets: a JSON file of ⟨image, old, new⟩ to write, see triplets.py.
        retry_failed: repeat the questions at which the server failed, and replace the dataset of
            the earlier run.
        overwrite: replace a dataset at `out`, and set aside a journal of another model or dialogue.

    Returns:
        The report, also written to `out`/recaption_report.json, or with a limit to `out`.recaption:
        {"source", "model", "endpoint", "dialogue", "records", "recaptioned",
        "reasons": {reason: n}, "examples": {reason: ["key: detail", …]}, "requests", "retries",
        "tokens": {"prompt", "completion", "unmeasured"}, "cost": None or a number, "seconds",
        "requests_per_second"}.
        Requests, tokens and cost are of all runs in the journal, seconds of this one.

    Raises:
        InputError: an input is unusable, the server does not accept the requests, or no record got
            a caption.
        StoppedError: a signal came.
        StoppedByServerError, OSError: the server is gone or asks for payment; the disk is full.
    """
    start = time.monotonic()
    script = load_dialogue(settings.dialogue)
    server = Endpoint(
        settings.endpoint,
        key=settings.key,
        timeout=settings.timeout,
        connections=settings.concurrency,
    )
    source, out, limit = open_records(data), Path(out).absolute(), settings.limit
    replaces = overwrite or (retry_failed and (out / REPORT).is_file())
    if limit is None:
        if os.path.realpath(out) == os.path.realpath(data):
            raise InputError(f"--out {out} is the dataset itself; give another directory")
        check_replaceable(out, replaces)
    count = min(len(source), limit or len(source))
    exported = (
        Triplets(triplets, script.triplet, overwrite=overwrite or retry_failed)
        if triplets
        else None
    )
    asked = {
        "model": settings.model,
        "dialogue": dataclasses.asdict(script),
        "max_tokens": settings.max_tokens,
        "image_side": settings.image_side,
    }
    folder = out.with_name(out.name + ".recaption")
    with Journal(
        folder, asked, turns=len(script.turns), retry_failed=retry_failed, overwrite=overwrite
    ) as journal:
        before = journal.totals.requests

        async def ask() -> int | None:
            async with server:
                pacer = Pacer(
                    rate=settings.rate and settings.rate / 60,
                    tokens=settings.tokens_per_minute and settings.tokens_per_minute / 60,
                    max_wait=settings.max_wait,
                )
                seed = json.dumps(asked, sort_keys=True)
                asking = Asking(source, script, journal, server, pacer, settings, seed)
                with progress.bar(count, "recaption", "record") as bar:
                    await asking.run(count, bar)
                return asking.signal

        stopped = asyncio.run(ask())
        asking_seconds = time.monotonic() - start
        if stopped is not None:
            raise StoppedError(
                stopped,
                f"{counted(journal.totals.requests, 'request')} saved in {journal.path}; run the"
                " same command to resume",
            )
        report = {
            "source": str(data),
            "model": settings.model,
            "endpoint": settings.endpoint,
            "dialogue": settings.dialogue.name,
            "records": count,
            "recaptioned": 0,
            "reasons": {},
            "examples": {},
            **_spent(journal.totals, settings),
            "seconds": 0.0,
            "requests_per_second": round((journal.totals.requests - before) / asking_seconds, 2),
            "journal": str(journal.path),
        }
        with contextlib.ExitStack() as stack:
            dataset = (
                stack.enter_context(SameShards(out, source.lengths, overwrite=replaces))
                if limit is None
                else None
            )
            triplet_writer = stack.enter_context(exported.writing()) if exported else None
            summary = _write(source, count, journal, dataset, triplet_writer)
            report |= {
                "recaptioned": summary.recaptioned,
                "reasons": dict(sorted(summary.reasons.items())),
                "examples": dict(sorted(summary.examples.items())),
                "seconds": round(time.monotonic() - start, 2),
            }
            place = (dataset.staging if dataset else folder) / REPORT
            with naming(place):
                place.write_bytes(json_bytes(report))
            if not summary.recaptioned:
                raise InputError(
                    f"no record of {data} got a new caption: {_reasons(summary)}; see all reasons"
                    f" in {journal.path}"
                )
    return report


def _write(
    source: RecordSource,
    count: int,
    journal: Journal,
    dataset: SameShards | None,
    triplets: Triplets | None,
) -> Summary:
    """Write the dataset in the order of the records; return what became of each."""
    summary = Summary()
    with progress.bar(count, "write", "record") as bar:
        for index in range(count):
            record = source[index]
            outcome = journal.result(identify(record))
            summary.add(record, outcome)
            caption = outcome.text if isinstance(outcome, Answer) else ""
            if dataset:
                dataset.write({**record, "recaption": caption})
            if triplets and caption:
                triplets.write(record, caption)
            bar.update()
    return summary


def _spent(totals: Totals, settings: RecaptionSettings) -> dict[str, Any]:
    price_in, price_out = settings.price_in, settings.price_out
    cost = (
        None
        if price_in is None
        else (totals.prompt_tokens * price_in + totals.completion_tokens * price_out) / 1e6
    )
    tokens = {
        "prompt": totals.prompt_tokens,
        "completion": totals.completion_tokens,
        "unmeasured": totals.unmeasured,
    }
    return {
        "requests": totals.requests,
        "retries": totals.retries,
        "tokens": tokens,
        "cost": None if cost is None else round(cost, 6),
    }


def _reasons(summary: Summary) -> str:
    first = next(iter(summary.examples.values()), [""])[0]
    return (
        f"{', '.join(f'{n} × {reason}' for reason, n in summary.reasons.most_common())} (such as"
        f" {first})"
    )
