"""Test the rate limiter on a simulated clock.

The tests check how near it comes to a limit that is given or has to be found, and its reaction to a
429.
"""

import heapq
import math

import pytest

from data_pipeline.chat.rate_limit import MARGIN, Pace


def simulated(limit, burst, *, seconds, given=None, pause=1.0, latency=0.02, workers=32):
    """Simulate a server with a token bucket, `workers` clients and one Pace.

    They have a clock of their own. Returns (admitted requests, 429s).
    """
    pace, level, last, now, admitted, limited = Pace(0.0, rate=given), burst, 0.0, 0.0, 0, 0
    idle, replies = [0.0] * workers, []
    while now < seconds:
        now = max(now, heapq.heappop(idle), pace.free_at())
        while replies and replies[0][0] <= now:
            at, sent, taken = heapq.heappop(replies)
            pace.admitted() if taken else pace.limited(at, sent, pause)
        now = max(now, pace.free_at())
        pace.take(now, 0)
        level, last = min(burst, level + (now - last) * limit), now
        taken = level >= 1
        level -= taken
        admitted, limited = admitted + taken, limited + (not taken)
        heapq.heappush(replies, (now + latency, now, taken))
        heapq.heappush(idle, now + latency)
    return admitted, limited


@pytest.mark.parametrize("limit", [5.0, 100.0])
@pytest.mark.parametrize("burst", [0.1, 1.0, 60.0])
@pytest.mark.parametrize("given", [None, 1.0, 1.5])
def test_the_pace_comes_within_a_tenth_of_any_limit(limit, burst, given):
    seconds, burst = 60.0, max(2.0, burst * limit)
    admitted, limited = simulated(limit, burst, seconds=seconds, given=given and given * limit)
    possible = limit * seconds + (min(burst, 0.5 * limit * seconds) if given != 1.0 else 0.0)
    assert admitted > 0.9 * possible
    assert limited < 0.05 * admitted
    if given == 1.0:
        assert limited == 0


def test_a_429_stops_everyone_and_cuts_once():
    pace = Pace(0.0, rate=50.0)
    assert pace.rate(10.0) == 50.0 * MARGIN
    for _ in range(100):
        pace.take(10.0, 0)
    pace.limited(10.0, 9.99, 3.0)
    assert pace.free_at() >= 13.0
    after = pace.rate(13.0)
    assert 0.6 * 49 <= after < 49
    pace.limited(10.1, 9.995, 5.0)  # of a request that was sent before the cut
    assert pace.rate(13.0) == after
    assert pace.free_at() >= 15.1
    pace.limited(16.0, 15.5, math.inf)
    assert pace.free_at() <= 16.0 + 300
    assert pace.rate(16.0 + 300) < after
    pace.hold(400.0, 2.0)
    assert pace.free_at() == 402.0


def test_tokens_are_paced_by_what_requests_really_took():
    pace = Pace(0.0, tokens=1000.0)
    for _ in range(4):
        now = pace.free_at()
        pace.take(now, 490.0)
    assert pace.free_at() == pytest.approx(4 * 0.5, abs=0.06)
    pace.correct(980.0)
    assert pace.free_at() == pytest.approx(4 * 0.5 + 1, abs=0.06)
