"""How fast requests may go: a steady pace below what the user allows and what the server's 429s
show.

A run begins slowly and doubles its pace each second, up to what --rate and --tokens-per-minute say,
or until a 429 comes. That stops everyone for its Retry-After and lowers the pace. From there it
follows CUBIC (RFC 9438): quickly back to below where the 429 came, a plateau there, then faster and
faster beyond. The plateau lasts at least 20 of the pauses that a 429 costs.

The arithmetic is apart from waiting, so that tests run it on a clock of their own.
"""

import asyncio
import math
import time

FIRST = 20.0  # requests a second to begin with
# of the rate that was told: a server counts arrivals, which are less regular than departures
MARGIN = 0.98
SLACK = 0.05  # seconds of unused pace that may be caught up: what timers and a busy machine lose
DEFAULT_PAUSE = 1.0  # seconds, after a 429 that names none; and between two cuts, at least
MAX_PAUSE = 300.0  # of what a server can ask for
# After a 429 the limit lies between what came through since the last one, pauses included, and the
# pace. The new pace begins in the middle of the two, and the plateau is in the middle of that and
# the old pace. Chosen by simulating token buckets of 0.1 to 60 seconds' worth: more than 90 % of
# their limit within a minute, where Retry-After is 1 s.
DEEPEST, SHALLOWEST = 0.6, 0.97  # what a cut leaves of the pace, at least and at most
PLATEAU = 30.0  # seconds
LEAST_SWING = 0.05  # of the plateau: half a minute after it the pace is at least so much above it
SLOWEST = 1.0  # requests a second; a server that takes fewer has its Retry-After


class Pace:
    """When the next request may be sent.

    Times are seconds of one clock; `rate` requests and `tokens` tokens a second, None: any.
    """

    def __init__(self, now: float, *, rate: float | None = None, tokens: float | None = None):
        self.most, self.tokens = (rate or math.inf) * MARGIN, (tokens or math.inf) * MARGIN
        self.paused_until = now
        self._free = self._tokens_free = now
        self._began = now  # of what `_admitted` counts
        self._admitted = 0
        self._cut_at: float | None = None  # requests sent before it tell nothing new
        # the pace right after the last cut, and that of the plateau
        self._base = self._peak = FIRST
        self._plateau = PLATEAU

    def rate(self, now: float) -> float:
        """Requests a second at this moment."""
        since = max(0.0, now - self.paused_until)
        if self._cut_at is None:
            return min(self.most, FIRST * 2 ** min(since, 60.0))
        beyond = since / self._plateau - 1
        swing = self._peak - self._base
        return min(
            self.most,
            self._peak
            + (max(swing, LEAST_SWING * self._peak) if beyond > 0 else swing) * beyond**3,
        )

    def free_at(self) -> float:
        """The time from which the next request may be sent."""
        return max(self._free, self._tokens_free, self.paused_until)

    def take(self, now: float, tokens: float) -> None:
        """A request goes out that is expected to take so many tokens."""
        self._free = max(self._free, self.paused_until, now - SLACK) + 1 / self.rate(now)
        self._tokens_free = max(self._tokens_free, now - SLACK) + tokens / self.tokens

    def correct(self, tokens: float) -> None:
        """So many more tokens were used than `take` was told (or fewer)."""
        self._tokens_free += tokens / self.tokens

    def admitted(self) -> None:
        """A response came that is no 429."""
        self._admitted += 1

    def limited(self, now: float, sent: float, pause: float | None) -> None:
        """A 429 came for a request sent at `sent`; `pause`: seconds of its Retry-After."""
        pause = min(MAX_PAUSE, DEFAULT_PAUSE if pause is None else pause)
        if self._cut_at is None or sent > self._cut_at + DEFAULT_PAUSE:
            self._cut(now, pause)
        self.paused_until = max(self.paused_until, now + pause)

    def hold(self, now: float, pause: float) -> None:
        """The server asked for a pause, with a 503: nobody sends until then, and the pace stays."""
        self.paused_until = max(self.paused_until, now + min(MAX_PAUSE, pause))

    def _cut(self, now: float, pause: float) -> None:
        rate = self.rate(now)
        seen = self._admitted / max(now - self._began, 1e-3)
        self._base = max(SLOWEST, DEEPEST * rate, min((seen + rate) / 2, SHALLOWEST * rate))
        self._peak = max(self._base, (self._base + rate) / 2)
        self._plateau = max(PLATEAU, 20 * pause)
        self._cut_at, self._began, self._admitted = now, now, 0


class Pacer:
    """`Pace` for many tasks of one event loop: they are let through in the order in which they
    came.
    """

    def __init__(self, *, rate: float | None, tokens: float | None):
        self.pace = Pace(time.monotonic(), rate=rate, tokens=tokens)
        self._turn = asyncio.Lock()

    async def wait(self, tokens: float) -> float:
        """Returns when a request of about so many tokens may be sent, with that time."""
        async with self._turn:
            # again after each sleep: a 429 may have come meanwhile
            while (seconds := self.pace.free_at() - time.monotonic()) > 0:
                await asyncio.sleep(seconds)
            self.pace.take(now := time.monotonic(), tokens)
            return now
