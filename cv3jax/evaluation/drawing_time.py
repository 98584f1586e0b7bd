"""The time of a batch of a cascade's pictures, on this machine's devices."""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cv3jax.cascade.pipeline import load
from cv3jax.cascade.sizes import drawn_sizes
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.fingerprint import parts_fingerprint
from cv3jax.distributed.mesh import choose_mesh
from cv3jax.evaluation.drawing import FOLDER, Drawing
from cv3jax.evaluation.prompt_sets import PromptSet
from cv3jax.evaluation.timing import BATCH, Timed, timed
from cv3jax.sampling.batches import draw_batch
from cv3jax.sampling.jobs import Job, planned_tile

LIBRARIES = ("jax", "jaxlib", "flax")


def time_of(drawing: Drawing, prompts: PromptSet, out: Path) -> dict[str, Any]:
    """Return the time of a batch, which is measured once and kept in `out`.

    Pictures that are drawn in tiles are measured in these. Raises InputError as `load` does.
    """
    description = cascades.read_cascade(drawing.checkpoint)[1]
    sizes = drawn_sizes(description, drawing.size)
    given = {"base": drawing.base, "relay": drawing.relay}
    if not (drawing.relay.tile or drawing.relay.whole):
        tile = planned_tile(out / FOLDER)
        given = {name: dataclasses.replace(one, tile=tile) for name, one in given.items()}
    names = ("base", "relay") if len(sizes) > 1 else ("base",)
    chosen = [given[name].of(description.stages[name]) for name in names]
    parts = ("vae", "t5", *names)
    mesh = choose_mesh(drawing.devices.mesh, BATCH)
    count = 1 if mesh is None else mesh.size
    device = jax.devices()[0].device_kind
    described = {
        "model": drawing.checkpoint.name,
        "fingerprint": parts_fingerprint(drawing.checkpoint, parts),
        "steps": [one.steps for one in chosen],
        "guidance": [one.guidance for one in chosen],
        "dtype": description.stages["base"].model.get("dtype", "float32"),
        "size": list(sizes[-1]),
        "tile": given["relay"].tile,
        "device": device if count == 1 else f"{device} × {count}",
    }

    def ready() -> tuple[Callable, dict[str, Any]]:
        cascade = load(drawing.checkpoint, parts, mesh, drawing.devices.attention)

        def draw(texts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
            jobs = [Job(text, seed, "") for text, seed in zip(texts, seeds, strict=True)]
            return draw_batch(cascade, jobs, BATCH, size=sizes[-1], **given)

        return draw, {"versions": {name: importlib.metadata.version(name) for name in LIBRARIES}}

    return timed(out, Timed(described, prompts, drawing.seed), ready)
