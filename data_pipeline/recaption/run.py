"""A record dataset → the same with new captions, from its checks to its report."""

import asyncio
import collections
import contextlib
import dataclasses
import json
import signal
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipeline.io.errors import InputError, naming
from data_pipeline.recaption.answers import Answer, Failure
from data_pipeline.recaption.dialogue import DEFAULT, load_dialogue
from data_pipeline.recaption.endpoint import Endpoint
from data_pipeline.recaption.journal import Journal, Totals, identify
from data_pipeline.recaption.output import REPORT, SameShards
from data_pipeline.recaption.rate_limit import Pacer
from data_pipeline.recaption.scheduler import Asking
from data_pipeline.recaption.triplets import Triplets
from data_pipeline.records.array_records import check_replaceable
from data_pipeline.records.records import Record, RecordSource, open_records

_EXAMPLES = 20  # of each reason, in the report


class StoppedError(Exception):
    """SIGTERM or Ctrl-C ended a run, whose answers are in the journal.

    `signal` is the number by which.
    """

    def __init__(self, number: int, message: str):
        super().__init__(f"{signal.Signals(number).name}: {message}")
        self.signal = number


@dataclasses.dataclass
class Summary:
    """Of the records: how many have a new caption, and why the others have none."""

    recaptioned: int = 0
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, record: Record, outcome: Answer | Failure) -> None:
        if isinstance(outcome, Answer):
            self.recaptioned += 1
            return
        self.reasons[outcome.reason] += 1
        if len(lines := self.examples.setdefault(outcome.reason, [])) < _EXAMPLES:
            lines.append(f"{record['key']}: {outcome.detail}" if outcome.detail else record["key"])


def recaption(
    data: str | Path,
    out: str | Path,
    *,
    endpoint: str,
    model: str,
    key: str | None = None,
    dialogue: Path = DEFAULT,
    concurrency: int = 32,
    rate: float | None = None,
    tokens_per_minute: float | None = None,
    timeout: float = 120.0,
    retries: int = 5,
    backoff: float = 0.5,
    max_tokens: int = 400,
    image_side: int = 1024,
    prices: tuple[float, float] | None = None,
    limit: int | None = None,
    triplets: Path | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Asks a vision model for a new caption of every record, and writes the dataset again with
    `recaption` filled in.

    Images, old captions, order and shards stay. Every answer is in `out`.recaption/journal.jsonl
    before the next question is asked, so after a kill the same call goes on; `out` appears when
    every record has a new caption or a reason why it has none.

    Args:
        endpoint, key, timeout: see `Endpoint`.
        model, max_tokens, image_side, retries, backoff, concurrency: see `Asking`.
        dialogue: a template, see dialogue.py.
        rate, tokens_per_minute: the most requests and tokens a minute; None: what the server takes.
        prices: of a million tokens in the prompt and in the answer, in any currency.
        limit: only so many records, the first ones, are asked, and no dataset is written.
        triplets: a JSON file of ⟨image, old, new⟩, see triplets.py.
        retry_failed: asks again where the server had failed; the dataset of an earlier run is
            replaced.
        overwrite: replaces a dataset at `out`, and moves aside a journal of another model or
            dialogue.

    Returns:
        The report, also written to `out`/recaption_report.json, or with `limit` to `out`.recaption:
            {"source", "model", "endpoint", "dialogue", "records", "recaptioned", "reasons":
            {reason: n}, "examples": {reason: ["key: detail", …]}, "requests", "retries", "tokens":
            {"prompt", "completion", "unmeasured"}, "cost": None or a number, "seconds",
            "requests_per_second"}. Requests, tokens and cost are of all runs that the journal
            knows, seconds of this one.

    Raises:
        InputError: something given is unusable, the server does not accept us, or no record got a
            caption.
        StoppedError: a signal came.
        StoppedByServerError, OSError: the server is gone or wants payment; the disk is full.
    """
    start = time.monotonic()
    script = load_dialogue(dialogue)
    server = Endpoint(endpoint, key=key, timeout=timeout, connections=concurrency)
    source, out = open_records(data), Path(out).absolute()
    if limit is None:
        if out.resolve() == Path(data).resolve():
            raise InputError(f"--out {out} is the dataset itself; give another directory")
        check_replaceable(out, overwrite or (retry_failed and (out / REPORT).is_file()))
    count = min(len(source), limit or len(source))
    exported = (
        Triplets(triplets, script.triplet, overwrite=overwrite or retry_failed)
        if triplets
        else None
    )
    asked = {
        "model": model,
        "dialogue": dataclasses.asdict(script),
        "max_tokens": max_tokens,
        "image_side": image_side,
    }
    folder = out.with_name(out.name + ".recaption")
    with Journal(
        folder, asked, turns=len(script.turns), retry_failed=retry_failed, overwrite=overwrite
    ) as journal:
        before = journal.totals.requests

        async def ask() -> int | None:
            async with server:
                pacer = Pacer(
                    rate=rate and rate / 60, tokens=tokens_per_minute and tokens_per_minute / 60
                )
                asking = Asking(
                    source,
                    script,
                    journal,
                    server,
                    pacer,
                    model=model,
                    max_tokens=max_tokens,
                    side=image_side,
                    retries=retries,
                    backoff=backoff,
                    concurrency=concurrency,
                    seed=json.dumps(asked, sort_keys=True),
                )
                with tqdm(total=count, desc="recaption", unit=" records", mininterval=0.5) as bar:
                    await asking.run(count, bar)
                return asking.signal

        stopped = asyncio.run(ask())
        asking_seconds = time.monotonic() - start
        if stopped is not None:
            raise StoppedError(
                stopped,
                f"{journal.totals.requests:,} requests are in {journal.path}; the same command"
                " goes on",
            )
        report = {
            "source": str(data),
            "model": model,
            "endpoint": endpoint,
            "dialogue": dialogue.name,
            "records": count,
            "recaptioned": 0,
            "reasons": {},
            "examples": {},
            **_spent(journal.totals, prices),
            "seconds": 0.0,
            "requests_per_second": round((journal.totals.requests - before) / asking_seconds, 2),
            "journal": str(journal.path),
        }
        with contextlib.ExitStack() as stack:
            dataset = (
                stack.enter_context(SameShards(out, source.lengths)) if limit is None else None
            )
            triplet_writer = stack.enter_context(exported) if exported else None
            summary = _write(source, count, journal, dataset, triplet_writer)
            report |= {
                "recaptioned": summary.recaptioned,
                "reasons": dict(sorted(summary.reasons.items())),
                "examples": dict(sorted(summary.examples.items())),
                "seconds": round(time.monotonic() - start, 2),
            }
            place = (dataset.staging if dataset else folder) / REPORT
            with naming(place):
                place.write_text(
                    json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
                )
            if not summary.recaptioned:
                raise InputError(
                    f"no record of {data} got a new caption: {_reasons(summary)}; {journal.path}"
                    " has them all"
                )
    return report


def _write(
    source: RecordSource,
    count: int,
    journal: Journal,
    dataset: SameShards | None,
    triplets: Triplets | None,
) -> Summary:
    """The second pass, in the order of the records: what became of each."""
    summary = Summary()
    for index in tqdm(range(count), desc="write", unit=" records", mininterval=0.5):
        record = source[index]
        outcome = journal.result(identify(record))
        summary.add(record, outcome)
        caption = outcome.text if isinstance(outcome, Answer) else ""
        if dataset:
            dataset.write({**record, "recaption": caption})
        if triplets and caption:
            triplets.write(record, caption)
    return summary


def _spent(totals: Totals, prices: tuple[float, float] | None) -> dict[str, Any]:
    cost = (
        None
        if prices is None
        else (totals.prompt_tokens * prices[0] + totals.completion_tokens * prices[1]) / 1e6
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
