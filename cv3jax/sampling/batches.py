"""Batches of pictures over the devices of one process.

Here are the mesh, the size of a batch, drawing one, and showing how far its stages are.
"""

import time

import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size
from cv3jax.cascade.stage_sampler import Progress
from cv3jax.distributed.mesh import batch_ways
from cv3jax.sampling.jobs import Job


def batch_width(batch: int, mesh: Mesh | None, count: int) -> int:
    """Return the number of images in a batch: `batch` per device, or fewer for few pictures.

    All batches have the same number, because each number is a compilation.
    """
    ways = 1 if mesh is None else batch_ways(mesh)
    return min(batch, -(-count // ways)) * ways


def steps_on(bar: tqdm) -> Progress:
    """Return what shows on a bar of pictures how many steps of a stage are done, with an ETA.

    The ETA comes from the steps after the first report, which may have waited for a compilation.
    """
    first = (0.0, 0)  # (time, steps done) of that report

    def tell(stage: str, done: int, count: int) -> None:
        nonlocal first
        now, left = time.monotonic(), ""
        if done <= first[1] or not first[1]:
            first = (now, done)
        elif done < count:
            pace = (now - first[0]) / (done - first[1])
            left = f", {tqdm.format_interval(pace * (count - done))} left"
        bar.set_postfix_str(f"{stage} step {done}/{count}{left}", refresh=False)
        bar.update(0)  # shown when the bar is due

    return tell


def draw_batch(
    cascade: Cascade,
    jobs: list[Job],
    width: int,
    images: np.ndarray | None = None,
    noise: dict[str, np.ndarray] | None = None,
    *,
    size: Size | None,
    base: SamplerSettings,
    relay: SamplerSettings,
) -> np.ndarray:
    """Return the pictures of up to `width` jobs, uint8 [N, H, W, 3].

    The batch is filled up with its last job. images, noise: of these jobs. size, base, relay: as
    for `Cascade.generate`.
    """
    rows = np.minimum(np.arange(width), len(jobs) - 1)
    made = cascade.generate(
        [jobs[row].text for row in rows],
        [jobs[row].seed for row in rows],
        images=None if images is None else images[rows],
        noise=None if noise is None else {name: value[rows] for name, value in noise.items()},
        size=size,
        base=base,
        relay=relay,
        final=True,
    )
    return made.get("relay", made["base"])[: len(jobs)]
