"""The time of a batch of pictures, as CogView3's tables have it: four at once, and warm.

The clock runs from texts to pixels on the host: text encoder, all steps and the decoder. Loading,
compiling and writing files are not in it. The figure is the median of several batches.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cv3jax.evaluation.prompt_sets import PromptSet
from cv3jax.evaluation.protocol import digest
from data_pipeline.io import progress
from data_pipeline.io.bounded_json import ParseError, load_json
from data_pipeline.io.errors import machine_error
from data_pipeline.io.files import json_bytes, replacing
from data_pipeline.io.progress import say

FILE = "timing.json"
BATCH, WARM, REPEATS = 4, 1, 3  # pictures; batches before the clock runs; batches measured
Draw = Callable[[Sequence[str], Sequence[int]], np.ndarray]


class Timed(NamedTuple):
    """What is measured: what draws and on what, the prompts, and the seed of the first picture."""

    described: dict[str, Any]
    prompts: PromptSet
    seed: int


def timed(
    out: Path,
    what: Timed,
    ready: Callable[[], tuple[Draw, dict[str, Any]]],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Return the seconds of a batch, with what drew it; they are measured once and kept in `out`.

    ready: returns (texts and seeds → pictures, what else is recorded); it is asked where there is
    nothing to be kept.
    """
    if (kept := _kept(out / FILE, what.described)) is not None:
        return kept
    draw, more = ready()
    texts = [row.text for row in what.prompts.prompts]
    batch = [texts[i % len(texts)] for i in range(BATCH)]
    seeds, seconds = [what.seed + i for i in range(BATCH)], []
    with progress.bar(WARM + REPEATS, f"time of {BATCH} pictures", "batch") as bar:
        for number in range(WARM + REPEATS):
            begin = clock()
            draw(batch, seeds)
            if number >= WARM:
                seconds.append(clock() - begin)
            bar.update()
    found = {
        "batch": BATCH,
        "warm_up": WARM,
        "seconds": seconds,
        "median": statistics.median(seconds),
        "a_picture": statistics.median(seconds) / BATCH,
        "drawn_by": what.described,
        **more,
    }
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / FILE, durable=True) as temporary:
        temporary.write_bytes(json_bytes(found))
    say(f"{found['median']:.2f} s for {BATCH} pictures, on {what.described['device']}")
    return found


def _kept(file: Path, described: dict[str, Any]) -> dict[str, Any] | None:
    """Return the time that was measured before, or None where it was of something else."""
    try:
        value = load_json(file)
    except FileNotFoundError:
        return None
    except (OSError, ParseError) as e:
        if error := machine_error(e, file):
            raise error from e
        say(f"{file} is damaged ({e}); the time is measured again")
        return None
    same = isinstance(value, dict) and digest(value.get("drawn_by")) == digest(described)
    return value if same else None
