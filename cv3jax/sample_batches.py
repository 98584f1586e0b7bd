"""Batches of pictures over the devices of one process: the mesh, the size of a batch, and drawing
one.
"""

import jax
import numpy as np
from jax.sharding import Mesh

from cv3jax.cascade import Cascade
from cv3jax.sample_jobs import Job
from cv3jax.sharding import AXES, batch_ways, make_mesh
from data_pipeline.io.errors import InputError


def choose_mesh(text: str | None, count: int) -> Mesh | None:
    """The mesh of `--mesh` over this process's devices; without it, `count` pictures over as many
    of them as they fill, None for one.
    """
    devices = jax.local_devices()
    if text is None:
        return make_mesh(devices=devices[:count]) if min(len(devices), count) > 1 else None
    try:
        given = [axis.split("=") for axis in text.split(",")]
        sizes = {name: int(size) for name, size in given}
    except ValueError:
        sizes = {}
    if not sizes or len(sizes) < len(given) or not sizes.keys() <= set(AXES):
        raise InputError(
            f"--mesh {text}: give sizes of the axes {', '.join(AXES)}, e.g. data=-1,fsdp=4"
        )
    try:
        return make_mesh(**{"data": 1 if -1 in sizes.values() else -1, **sizes}, devices=devices)
    except ValueError as e:
        raise InputError(f"--mesh {text}: {e}") from e


def batch_width(batch: int, mesh: Mesh | None, count: int) -> int:
    """Images of one batch: `batch` a device, fewer where `count` pictures are fewer; the same for
    all batches, as each is a compilation.
    """
    ways = 1 if mesh is None else batch_ways(mesh)
    return min(batch, -(-count // ways)) * ways


def draw(
    cascade: Cascade,
    jobs: list[Job],
    width: int,
    images: np.ndarray | None = None,
    noise: dict[str, np.ndarray] | None = None,
    **options: dict | int | None,
) -> np.ndarray:
    """Pictures of up to `width` jobs, uint8 [N, side, side, 3].

    The batch is filled up with its last one.

    images, noise: of these jobs. `options`: as of `Cascade.generate`.
    """
    rows = np.minimum(np.arange(width), len(jobs) - 1)
    made = cascade.generate(
        [jobs[row].prompt for row in rows],
        [jobs[row].seed for row in rows],
        images=None if images is None else images[rows],
        noise=None if noise is None else {name: value[rows] for name, value in noise.items()},
        final=True,
        **options,
    )
    return made.get("relay", made["base"])[: len(jobs)]
