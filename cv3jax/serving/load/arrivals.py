"""Load for a server: which requests come when, and what their answers say together.

Requests arrive as a Poisson process that does not wait for answers (an open loop), as those of many
independent users do. A latency begins when a request should have been sent, so that a client that
is late counts as waiting.
"""

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from cv3jax.cascade.sizes import Size, parse_size
from cv3jax.serving.http.fields import written
from data_pipeline.io.errors import InputError

PERCENTILES = (50, 95, 99)
DEFAULT = "default"  # the steps of the checkpoint
_FORM = (
    "give KIND:SHARE,... where KIND is STEPS or STEPS@SIZE, such as 4+1:3,20+10:1 or"
    " default@128x64:1 (height first)"
)


class Kind(NamedTuple):
    """Requests that are alike. `share` is their part of all, `steps` those of base and relay."""

    name: str
    share: float = 1.0
    steps: tuple[int, ...] | None = None  # None: the checkpoint's
    size: Size | None = None  # None: the server's first one

    def body(self, prompt: str, seed: int) -> dict[str, Any]:
        """Return the JSON that asks for a picture of this kind."""
        asked: dict[str, Any] = {"prompt": prompt, "seed": seed}
        if self.steps is not None:
            asked["steps"] = list(self.steps) if len(self.steps) > 1 else self.steps[0]
        return asked if self.size is None else {**asked, "size": written(self.size)}


class Arrival(NamedTuple):
    """A request, and the seconds after the start at which it is sent."""

    at: float
    kind: Kind
    body: dict[str, Any]


class Outcome(NamedTuple):
    """What came of a request; seconds are since the start of the load."""

    kind: str
    due: float  # when it should have been sent
    sent: float
    over: float
    error: str | None = None  # a status with a code, or what broke the connection

    @property
    def latency(self) -> float:
        """The seconds from when it should have been sent to the end of its answer."""
        return self.over - self.due


def parse_mix(text: str, flag: str = "--mix") -> list[Kind]:
    """Return the kinds that a flag such as `4+1:3,20+10@128:1` names. Raises InputError."""
    kinds = []
    for word in text.split(","):
        name, _, share = word.strip().rpartition(":")
        steps, _, size = name.partition("@")
        try:
            weight = float(share)
            counts = None if steps == DEFAULT else tuple(int(one) for one in steps.split("+"))
        except ValueError:
            raise InputError(f"{flag} {word}: {_FORM}") from None
        if not (math.isfinite(weight) and weight > 0):
            raise InputError(f"{flag} {word}: the share has to be above 0")
        if counts is not None and not (len(counts) <= 2 and all(1 <= n <= 1000 for n in counts)):
            raise InputError(f"{flag} {word}: give one or two numbers of steps in 1..1000")
        kinds.append(Kind(name, weight, counts, parse_size(size, flag) if size else None))
    if len({kind.name for kind in kinds}) != len(kinds):
        raise InputError(f"{flag} {text}: a kind is named twice")
    return kinds


def prompts() -> Iterator[str]:
    """Yield captions of the packaged scenes' form; the first 1,000 and more differ."""
    things = [
        f"a {size} {colour} {shape}"
        for shape in ("circle", "square", "star", "triangle")
        for colour in ("red", "green", "blue", "yellow", "purple")
        for size in ("small", "large")
    ]
    pairs = list(itertools.permutations(things, 2))
    random.Random(0).shuffle(pairs)
    for left, right in itertools.cycle(pairs):
        yield f"{left} on the left and {right} on the right, black background"


def arrivals(kinds: Sequence[Kind], rate: float | None, count: int, seed: int = 0) -> list[Arrival]:
    """Return `count` requests of a mixture, in the order of their arrival.

    rate: requests a second of a Poisson process; None: all at 0. The same seed makes the same
    requests.
    """
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1.0, count)
    shares = np.array([kind.share for kind in kinds])
    chosen = rng.choice(len(kinds), count, p=shares / shares.sum())
    times = np.zeros(count) if rate is None else np.cumsum(gaps) / rate
    made = zip(times.tolist(), chosen.tolist(), prompts(), range(count), strict=False)
    return [
        Arrival(at, kinds[which], kinds[which].body(prompt, seed + number))
        for at, which, prompt, number in made
    ]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of the values that at least `percent` of them do not exceed."""
    return float(np.quantile(np.asarray(values), percent / 100, method="inverted_cdf"))


def latencies(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Return the count, mean and percentiles of the answered requests by kind, and of all."""
    groups: dict[str, list[float]] = {}
    for one in outcomes:
        if one.error is None:
            groups.setdefault(one.kind, []).append(one.latency)
    shown = dict(sorted(groups.items()))
    if len(shown) > 1:
        shown["all"] = [value for values in groups.values() for value in values]
    return {
        name: {
            "count": len(values),
            "mean": float(np.mean(values)),
            **{f"p{percent}": percentile(values, percent) for percent in PERCENTILES},
        }
        for name, values in shown.items()
    }


def steady(outcomes: Sequence[Outcome], clients: int) -> tuple[int, float]:
    """Return (pictures, seconds) while `clients` requests were always under way.

    It begins when as many answers as clients have come, and ends when the last request is sent.
    Raises InputError where that is no time at all.
    """
    over = sorted(one.over for one in outcomes if one.error is None)
    last = max((one.sent for one in outcomes), default=0.0)
    if len(over) < clients or last <= (first := over[clients - 1]):
        raise InputError(
            f"{len(over)} answers for {clients} requests at a time are too few to measure"
            " saturation; give at least three times as many requests as run at a time"
        )
    return sum(first < each <= last for each in over), last - first


def summary(outcomes: Sequence[Outcome], clients: int | None) -> dict[str, Any]:
    """Return the figures of a load.

    clients: how many requests were always under way, or None where they came at a rate.
    """
    errors = Counter(one.error for one in outcomes if one.error is not None)
    answered = len(outcomes) - sum(errors.values())
    seconds = whole = max((one.over for one in outcomes), default=0.0)
    pictures = answered
    if clients is not None:
        pictures, seconds = steady(outcomes, clients)
    return {
        "requests": len(outcomes),
        "answered": answered,
        "refused": sum(n for error, n in errors.items() if error.startswith("429")),
        "errors": dict(sorted(errors.items())),
        "measured_seconds": seconds,
        "pictures_per_second": pictures / seconds if seconds else 0.0,
        # from the start to the last answer, when fewer and fewer requests are under way; of a
        # mixture, the slow kinds are among the last
        "whole_per_second": answered / whole if whole else 0.0,
        "latency": latencies(outcomes),
        "late_seconds": max((one.sent - one.due for one in outcomes), default=0.0),
    }
