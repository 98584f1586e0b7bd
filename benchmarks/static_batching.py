"""Draw as servers without continuous batching do: whole batches, each from its start to its end."""

import asyncio
import queue
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.sampling.batches import draw_batch
from cv3jax.sampling.inputs import Prompt
from cv3jax.sampling.jobs import Job, Jobs, Target, make
from cv3jax.serving.load.arrivals import Arrival
from data_pipeline.io.progress import bar

Steps = tuple[int, ...] | None


def drawing(cascade: Cascade, jobs: list[Job], batch: int, steps: Steps = None) -> np.ndarray:
    """Return the pictures of up to `batch` jobs, uint8 [N, H, W, 3], as `cv3jax sample` draws them.

    They are drawn in the program of `batch` rows. steps: of base and relay, or None for the
    cascade's.
    """
    base, relay = (SamplerSettings(n) for n in ((steps[0], steps[-1]) if steps else (None, None)))
    return draw_batch(cascade, jobs, batch, size=None, base=base, relay=relay)


def sample_prompts(cascade: Cascade, load: Sequence[Arrival], batch: int) -> float:
    """Return the seconds in which `cv3jax sample --prompts` draws and saves these pictures.

    This is what it does after it has loaded the cascade, and after the program is compiled.
    """
    prompts = [Prompt(one.body["prompt"], one.body["seed"]) for one in load]
    jobs = Jobs(prompts, 1, 0)
    with tempfile.TemporaryDirectory() as folder, bar(len(load), "sample", "picture") as shown:
        out, place = Path(folder), Path(folder) / "place"
        place.mkdir()
        began = time.perf_counter()
        made = make(
            jobs,
            list(range(len(jobs))),
            batch,
            lambda some: drawing(cascade, some, batch),
            Target(out, place),
            lambda: None,
            shown,
        )
        took = time.perf_counter() - began
    if made != len(load):
        raise RuntimeError(f"{made} of {len(load)} pictures were made")
    return took


class StaticBatches:
    """A queue in front of `Cascade.generate`.

    A batch holds requests with the same steps as the oldest one. When the batch before is done, it
    begins as soon as it is full, or `delay` seconds after its oldest request came. Its requests are
    answered when all of it is drawn. There is neither HTTP nor a PNG, which a server would add.
    """

    def __init__(self, cascade: Cascade, batch: int, delay: float):
        """Start the thread that draws."""
        self._cascade, self._batch, self._delay = cascade, batch, delay
        self._came: queue.Queue = queue.Queue()
        self._waiting: list[tuple[float, dict[str, Any], asyncio.Future]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    async def draw(self, body: dict[str, Any]) -> str | None:
        """Return when the picture that a body asks for is drawn."""
        done = asyncio.get_running_loop().create_future()
        self._came.put((time.monotonic(), body, done))
        return await done

    def close(self) -> None:
        """End the thread."""
        self._came.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            jobs = [Job(body["prompt"], body["seed"], "") for _, body, _ in batch]
            error = None
            try:
                drawing(self._cascade, jobs, self._batch, steps_of(batch[0][1]))
            except Exception as e:  # said as the outcome of each of its requests
                error = f"{type(e).__name__}: {e}"
            for _, _, done in batch:
                done.get_loop().call_soon_threadsafe(done.set_result, error)

    def _next(self) -> list | None:
        """Wait for a batch, and return it; None after `close`."""
        while True:
            if self._waiting:
                like = steps_of(self._waiting[0][1])
                same = [one for one in self._waiting if steps_of(one[1]) == like]
                left = self._waiting[0][0] + self._delay - time.monotonic()
                if len(same) >= self._batch or left <= 0:
                    taken = same[: self._batch]
                    chosen = {id(one) for one in taken}
                    self._waiting = [one for one in self._waiting if id(one) not in chosen]
                    return taken
            try:
                came = self._came.get(timeout=left if self._waiting else None)
            except queue.Empty:
                continue
            if came is None:
                return None
            self._waiting.append(came)
            # whatever came while the last batch was drawn
            while not self._came.empty() and (more := self._came.get()) is not None:
                self._waiting.append(more)


def steps_of(body: dict[str, Any]) -> Steps:
    """Return the steps that a request's body asks for, or None."""
    steps = body.get("steps")
    return steps if steps is None else tuple(steps) if isinstance(steps, list) else (steps,)
