"""Running many dialogues at once, with each answer in the journal before the next question.

When the run is stopped, by a signal or because the server accepts nothing, requests in flight may
end and are written down, because they are paid for. Everything else is dropped at once and costs
nothing.
"""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from data_pipeline.chat import answers
from data_pipeline.chat.answers import Answer, Failure
from data_pipeline.chat.endpoint import Endpoint, StoppedByServerError
from data_pipeline.chat.rate_limit import Pacer
from data_pipeline.chat.sender import Sender
from data_pipeline.io import signals
from data_pipeline.io.errors import InputError, counted
from data_pipeline.io.progress import say
from data_pipeline.recaption.data_url import data_url
from data_pipeline.recaption.dialogue import Dialogue
from data_pipeline.recaption.journal import Journal, identify
from data_pipeline.recaption.settings import RecaptionSettings
from data_pipeline.records.records import Record, RecordSource

HOPELESS = 20  # the run ends after this many records in a row without an answer, or rejected


class Asking:
    """A run over records of `source`.

    seed: the prefix of the texts from which Idempotency-Keys and random backoffs are derived.
    """

    def __init__(
        self,
        source: RecordSource,
        dialogue: Dialogue,
        journal: Journal,
        endpoint: Endpoint,
        pacer: Pacer,
        settings: RecaptionSettings,
        seed: str,
    ):
        """Store the parts of the run."""
        self.source, self.dialogue, self.journal = source, dialogue, journal
        self.endpoint, self.settings, self.seed = endpoint, settings, seed
        self.sender = Sender(
            endpoint,
            pacer,
            retries=settings.retries,
            backoff=settings.backoff,
            expected=1000.0 + settings.max_tokens,
        )
        self.signal: int | None = None  # the signal that ended the run
        self._error: Exception | None = None
        self._workers: list[asyncio.Task] = []
        self._answered = False
        self._in_a_row: dict[str, int] = {}  # failures since the last answer, by reason

    async def run(self, rows: Sequence[int], bar: tqdm) -> None:
        """Ask until all of `rows` have a caption or a reason, or a signal comes (`signal`).

        Raises:
            InputError: the server rejects the key, the model or the path, or all requests.
            StoppedByServerError: it no longer answers.
            OSError: the journal cannot be written.
        """
        if not rows:
            return
        todo = iter(rows)
        finished = asyncio.Event()
        syncing = asyncio.create_task(self._guarded(lambda: self._sync(finished)))
        self._workers = [
            asyncio.create_task(self._guarded(lambda: self._work(todo, bar)))
            for _ in range(min(self.settings.concurrency, len(rows)))
        ]
        with self._heeding_signals():
            await asyncio.wait(self._workers)
        finished.set()
        await syncing
        if self._error:
            raise self._error

    def stop(self) -> None:
        """Stop sending requests; those in flight may end."""
        self.sender.stopping = True
        for task in self._workers:
            if task not in self.sender.under_way:
                task.cancel()

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as e:  # the first error ends all workers, and `run` raises it
            self._error = self._error or e
            self.stop()

    async def _sync(self, finished: asyncio.Event) -> None:
        while not finished.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(finished.wait(), 1.0)
            await asyncio.to_thread(self.journal.sync)

    async def _work(self, todo: Iterator[int], bar: tqdm) -> None:
        while not self.sender.stopping and (index := next(todo, None)) is not None:
            record, identity, image = await asyncio.to_thread(self._prepare, index)
            if image is None:  # done in an earlier run, so it does not count for the speed
                bar.initial += 1
            elif isinstance(image, Failure):
                self.journal.write(record, identity, 0, image, 0)
            else:
                await self._dialogue(record, identity, image)
            if image is None or self.journal.ended(identity):
                bar.update()
                self._say(bar)

    def _prepare(self, index: int) -> tuple[Record, str, str | Failure | None]:
        """Return (the record, its id, its image as a data URL or why there is none).

        The image is None where the dialogue has ended before.
        """
        record = self.source[index]
        identity = identify(record)
        if self.journal.ended(identity):
            return record, identity, None
        try:
            return record, identity, data_url(record["image"], self.settings.image_side)
        except InputError as e:
            return record, identity, Failure(answers.UNREADABLE, answers.one_line(str(e)))

    async def _dialogue(self, record: Record, identity: str, image: str) -> None:
        said = self.journal.answers(identity)
        while len(said) < len(self.dialogue.turns):
            request = {
                "model": self.settings.model,
                "messages": self.dialogue.messages(image, record["caption"], said),
                **self.dialogue.settings,
            }
            if "max_completion_tokens" not in request:
                request["max_tokens"] = self.settings.max_tokens
            outcome = await self._answer(record, identity, len(said), request)
            if not isinstance(outcome, Answer):
                return
            said.append(outcome.text)

    async def _answer(
        self, record: Record, identity: str, turn: int, request: dict[str, Any]
    ) -> Answer | Failure | None:
        """Ask one question until its result is final; write it down. None where the run ends."""
        last = turn == len(self.dialogue.turns) - 1
        name = f"{self.seed} {identity} {turn}"
        # no other task runs between the answer and its line in the journal
        outcome, sent = await self.sender.answer(request, name, last=last)
        if outcome is not None:
            self._judge(outcome)
            self.journal.write(record, identity, turn, outcome, sent)
        return outcome

    def _judge(self, outcome: Answer | Failure) -> None:
        """Raise where continuing would only turn records into failures."""
        if isinstance(outcome, Answer):
            self._answered, self._in_a_row = True, {}
            return
        reason = "no answer" if outcome.reason in answers.RETRYABLE else outcome.reason
        self._in_a_row[reason] = row = self._in_a_row.get(reason, 0) + 1
        url = self.endpoint.url
        if outcome.reason == answers.UNREACHABLE and not self._answered:
            raise InputError(
                f"no connection to {url} ({outcome.detail}); check that the server runs and that"
                " --endpoint is its address"
            )
        if reason == answers.REJECTED and row >= HOPELESS:
            raise InputError(
                f"{url} rejected {row} requests in a row ({outcome.detail}); check --model,"
                " --dialogue and --max-tokens"
            )
        if reason == "no answer" and row >= max(HOPELESS, 2 * self.settings.concurrency):
            said = (
                f"{url} gave no answer to {row} records in a row ({outcome.reason}:"
                f" {outcome.detail})"
            )
            raise StoppedByServerError(
                f"{said}; run the same command with --retry-failed to ask them again and resume"
            )

    @contextlib.contextmanager
    def _heeding_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def note(number: int) -> None:  # wakes the loop, which may wait for an answer
            loop.call_soon_threadsafe(self._signalled, number)

        with signals.heeding(note, times=2):
            yield

    def _signalled(self, number: int) -> None:
        if self.signal is not None:  # a second signal drops the requests in flight, too
            for task in self._workers:
                task.cancel()
            return
        self.signal = number
        self.stop()
        paid = f"{counted(len(self.sender.under_way), 'answer')} already paid for"
        waiting = f"waiting for {paid}; a second signal ends the command without them"
        say(f"\ncv3jax: {signal.Signals(number).name}: {waiting}")

    def _say(self, bar: tqdm) -> None:
        totals = self.journal.totals
        bar.set_postfix_str(
            f"{totals.prompt_tokens + totals.completion_tokens:,} tokens", refresh=False
        )
