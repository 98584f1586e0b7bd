"""Sending a request until its result is final: with a rate, retries and growing pauses."""

import asyncio
import contextlib
import hashlib
import random
import time
from collections.abc import Iterator
from typing import Any

from data_pipeline.chat.answers import RETRYABLE, Answer, Failure
from data_pipeline.chat.endpoint import Endpoint, Reply
from data_pipeline.chat.rate_limit import Pacer
from data_pipeline.io.progress import say

MAX_BACKOFF = 60.0  # seconds
MOST_LIMITED = 30  # the most 429s after which one request is sent again


class Sender:
    """What many tasks of one event loop send requests with.

    Args:
        endpoint: the server.
        pacer: the rate.
        retries: how often a request is sent again after an error that may not recur. 429s do not
            count.
        backoff: seconds before the first retry; it doubles from one to the next, times a random
            factor of 0.5 to 1.5.
        expected: tokens of a request, prompt and answer, until the first answer says.
    """

    def __init__(
        self, endpoint: Endpoint, pacer: Pacer, *, retries: int, backoff: float, expected: float
    ):
        """Store the parts."""
        self.endpoint, self.pacer, self.retries, self.backoff = endpoint, pacer, retries, backoff
        self.stopping = False  # set to send nothing more; requests in flight may end
        self.under_way: set[asyncio.Task | None] = set()  # tasks that wait for a response
        self._expected = expected  # the measured mean after the first answer
        self._told = False  # that the server asks for longer pauses than it gets
        self._measured = 0

    async def answer(
        self, request: dict[str, Any], name: str, *, last: bool
    ) -> tuple[Answer | Failure | None, int]:
        """Return (the final result of a request, how often it was sent).

        The result is None where `stopping` was set before there was one. name: a text that is this
        request's own, from which its Idempotency-Key and its random pauses are derived. last: as
        for `answers.read_answer`.

        Raises:
            InputError: the key, the model or the address is wrong.
            StoppedByServerError: no credit is left.
        """
        identity = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        chance = random.Random(identity)
        sent_before = failed = limited = 0
        while not self.stopping:
            expected = self._expected
            sent = await self.pacer.wait(expected)
            with self._being_under_way():
                reply = await self.endpoint.ask(request, identity=identity, last=last)
            sent_before += 1
            self._learn(reply, sent, expected)
            outcome = reply.outcome
            if reply.status == 429:
                limited += 1
                settled = limited > MOST_LIMITED
            else:
                failed += 1
                settled = (
                    isinstance(outcome, Answer)
                    or outcome.reason not in RETRYABLE
                    or failed > self.retries
                )
            if settled:
                return outcome, sent_before
            if reply.status != 429:  # after a 429 the pacer makes all requests wait
                pause = min(MAX_BACKOFF, self.backoff * 2 ** (failed - 1))
                await asyncio.sleep(pause * chance.uniform(0.5, 1.5))
        return None, sent_before

    def _learn(self, reply: Reply, sent: float, expected: float) -> None:
        """Adapt the rate to a response."""
        now, pace = time.monotonic(), self.pacer.pace
        if reply.pause is not None and reply.pause > pace.max_wait and not self._told:
            self._told = True
            say(
                f"cv3jax: {self.endpoint.url} asks for a pause of {reply.pause:,.0f} s; the next"
                f" request goes out after {pace.max_wait:g} s"
            )
        if reply.status == 429:
            pace.limited(now, sent, reply.pause)
        elif reply.status is not None:
            pace.admitted()
            if reply.pause is not None:
                pace.hold(now, reply.pause)
        tokens = reply.outcome.tokens
        used = float(tokens.prompt + tokens.completion) if tokens else 0.0
        if tokens:
            self._measured += 1
            self._expected += (used - self._expected) / min(self._measured, 100)
        # a response without a count has probably used as many tokens as expected
        if tokens or reply.status != 200:
            pace.correct(used - expected)

    @contextlib.contextmanager
    def _being_under_way(self) -> Iterator[None]:
        task = asyncio.current_task()
        self.under_way.add(task)
        try:
            yield
        finally:
            self.under_way.discard(task)
