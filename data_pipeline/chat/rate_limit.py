"""The rate of requests: steady, and below both the user's limit and what the server's 429s show.

A run begins slowly and doubles its rate each second, up to --rate and --tokens-per-minute, or until
a 429 comes. A 429 stops all requests for its Retry-After and lowers the rate. From there the rate
follows CUBIC (RFC 9438): it rises quickly to just below the rate at which the 429 came, has a
plateau there, and then rises faster and faster. The plateau lasts at least 20 times the pause of a
429.

The arithmetic is separate from waiting, so that tests can run it on a simulated clock.
"""

import asyncio
import math
import time

FIRST = 20.0  # requests per second at the beginning
# share of the user's limit: a server counts arrivals, which are less regular than departures
MARGIN = 0.98
SLACK = 0.05  # seconds of unused rate that may be used later: what timers and a busy machine lose
DEFAULT_PAUSE = 1.0  # seconds after a 429 without Retry-After; and the least time between two cuts
MAX_WAIT = 300.0  # seconds; the longest pause that a server gets where no flag says another
# After a 429, the limit is between the throughput since the last one, pauses included, and the
# rate. The new rate is the mean of the two, and the plateau is the mean of the new and the old
# rate. Chosen by simulating token buckets of 0.1 to 60 seconds' worth: more than 90 % of their
# limit within a minute, where Retry-After is 1 s.
DEEPEST, SHALLOWEST = 0.6, 0.97  # the smallest and the largest share of the rate after a cut
PLATEAU = 30.0  # seconds
LEAST_SWING = 0.05  # half a minute after the plateau the rate is at least this share above it
SLOWEST = 1.0  # requests per second; a server that takes fewer has its Retry-After


class Pace:
    """The time at which the next request may be sent.

    Times are seconds of one clock. `rate` is requests and `tokens` is tokens per second; None:
    unlimited. `max_wait`: the longest pause that a server gets, in seconds.
    """

    def __init__(
        self,
        now: float,
        *,
        rate: float | None = None,
        tokens: float | None = None,
        max_wait: float = MAX_WAIT,
    ):
        """Start at the time `now`."""
        self.max_wait = max_wait
        self.most, self.tokens = (rate or math.inf) * MARGIN, (tokens or math.inf) * MARGIN
        self.paused_until = now
        self._free = self._tokens_free = now
        self._began = now  # when `_admitted` began to count
        self._admitted = 0
        self._cut_at: float | None = None  # 429s for requests sent before it are not news
        # the rate right after the last cut, and that of the plateau
        self._base = self._peak = FIRST
        self._plateau = PLATEAU

    def rate(self, now: float) -> float:
        """Return the requests per second at this moment."""
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
        """Return the time from which the next request may be sent."""
        return max(self._free, self._tokens_free, self.paused_until)

    def take(self, now: float, tokens: float) -> None:
        """Note that a request goes out that is expected to use `tokens` tokens."""
        self._free = max(self._free, self.paused_until, now - SLACK) + 1 / self.rate(now)
        self._tokens_free = max(self._tokens_free, now - SLACK) + tokens / self.tokens

    def correct(self, tokens: float) -> None:
        """Note that this many more tokens were used than `take` expected; negative: fewer."""
        self._tokens_free += tokens / self.tokens

    def admitted(self) -> None:
        """Note a response other than a 429."""
        self._admitted += 1

    def limited(self, now: float, sent: float, pause: float | None) -> None:
        """Note a 429 for a request sent at `sent`; pause: seconds of its Retry-After."""
        pause = min(self.max_wait, DEFAULT_PAUSE if pause is None else pause)
        if self._cut_at is None or sent > self._cut_at + DEFAULT_PAUSE:
            self._cut(now, pause)
        self.paused_until = max(self.paused_until, now + pause)

    def hold(self, now: float, pause: float) -> None:
        """Note that the server asked for a pause with a 503: no request is sent until then.

        The rate does not change.
        """
        self.paused_until = max(self.paused_until, now + min(self.max_wait, pause))

    def _cut(self, now: float, pause: float) -> None:
        rate = self.rate(now)
        seen = self._admitted / max(now - self._began, 1e-3)
        self._base = max(SLOWEST, DEEPEST * rate, min((seen + rate) / 2, SHALLOWEST * rate))
        self._peak = max(self._base, (self._base + rate) / 2)
        self._plateau = max(PLATEAU, 20 * pause)
        self._cut_at, self._began, self._admitted = now, now, 0


class Pacer:
    """`Pace` for many tasks of one event loop, which it admits in the order of their arrival."""

    def __init__(
        self, *, rate: float | None = None, tokens: float | None = None, max_wait: float = MAX_WAIT
    ):
        """Start with the limits, per second, and the longest pause in seconds."""
        self.pace = Pace(time.monotonic(), rate=rate, tokens=tokens, max_wait=max_wait)
        self._turn = asyncio.Lock()

    async def wait(self, tokens: float) -> float:
        """Return, when a request of about `tokens` tokens may be sent, that time."""
        async with self._turn:
            # check again after each sleep, because a 429 may have come meanwhile
            while (seconds := self.pace.free_at() - time.monotonic()) > 0:
                await asyncio.sleep(seconds)
            self.pace.take(now := time.monotonic(), tokens)
            return now
