"""Measure how far a distilled stage is from the full sampler.

Prompts, seeds and guidance weights are the same every time.
"""

import itertools
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.stage_network import SamplerOptions, stage_attend
from cv3jax.cascade.stage_sampler import fold, make_stage_sampler
from cv3jax.checkpoints.description import StageDescription
from cv3jax.diffusion.pixels import down2, to_pixels, up2
from cv3jax.distillation.settings import DistillSettings
from cv3jax.distributed import hosts, processes
from cv3jax.distributed.backend import waiting
from cv3jax.reports.pictures import contact_sheet
from cv3jax.training.previews import first_images, preview_prompts
from data_pipeline.io.bounded_json import parse_json
from data_pipeline.io.errors import counted, naming
from data_pipeline.io.files import replacing
from data_pipeline.loading.damaged import readable


class Bench:
    """A stage's inputs: each prompt of the recipe with each w of config.distill.w.

    Where the recipe has no prompts, captions of the data take their place. A relay starts from real
    pictures, with their captions.
    """

    def __init__(self, cascade: Cascade, settings: DistillSettings, records: Any, mesh: Any):
        """Draw the inputs.

        `cascade` encodes and decodes. `mesh` is that of the parameters that `sample` will get.
        """
        stage = settings.stage
        self._cascade, self._mesh, self._attention = cascade, mesh, stage.attention
        self._eta, self._form, self._samplers = stage.sample.eta, stage.sample.form, {}
        side, prompts, pixels = stage.data.whole_side, preview_prompts(stage, records), None
        if stage.relay:
            some = list(itertools.islice(readable(records), len(prompts)))
            prompts = [record["caption"] for record in some]
            pixels = up2(down2(to_pixels(jnp.asarray(first_images(some, side, len(some))))))
        self.weights, self.prompts = [float(w) for w in settings.w], prompts
        repeat = len(self.weights)
        keys = jax.vmap(jax.random.key)(jnp.arange(len(prompts)))
        low = None if pixels is None else cascade.encode(pixels, cascade.noise(keys, side))
        own, self.latent = fold(keys, 1), cascade.latent(side)
        text = cascade.text(prompts)
        several = jax.tree.map(
            lambda x: jnp.concatenate([x] * repeat), (text, low, cascade.noise(own, side))
        )
        self._inputs = (
            *several,
            jnp.concatenate([own] * repeat),
            jnp.asarray(np.repeat(self.weights, len(prompts)), jnp.float32),
        )

    def sample(self, stage: StageDescription, params: Any, steps: int) -> np.ndarray:
        """Return latents [weights · prompts, h, w, z] of a stage as described in cascade.json."""
        call = (json.dumps(stage.model, sort_keys=True), steps)
        if call not in self._samplers:
            attend = stage_attend(stage, self._attention, self._mesh)
            options = SamplerOptions(steps, eta=self._eta, form=self._form, attend=attend)
            self._samplers[call] = make_stage_sampler(stage, options)
        count = counted(steps, "step")
        with waiting(f"drawing the pictures that are compared, in {count}"):
            return processes.whole(self._samplers[call](params, *self._inputs))

    def distances(self, latents: np.ndarray, others: np.ndarray) -> dict[str, float]:
        """Return {w: distance}, and the mean over every w as "all".

        A distance is the root mean square difference of latents, averaged over prompts. Latents
        have a standard deviation of about 1.
        """
        each = (
            np.sqrt(np.mean((latents - others) ** 2, axis=(1, 2, 3)))
            .reshape(len(self.weights), -1)
            .mean(1)
        )
        return {
            **{f"{w:g}": float(d) for w, d in zip(self.weights, each, strict=True)},
            "all": float(each.mean()),
        }

    def picture(self, rows: dict[str, np.ndarray]) -> np.ndarray:
        """Return a contact sheet of latents, uint8 [H, W, 3].

        rows: latents by name. The sheet has one column per prompt, and for every w one row per
        name.
        """
        sheets, names = [], []
        for i, w in enumerate(self.weights):
            for name, latents in rows.items():
                count = len(self.prompts)
                sheets.append(
                    self._cascade.decode(jnp.asarray(latents[i * count : (i + 1) * count]))
                )
                names.append(f"w {w:g}: {name}")
        return contact_sheet(sheets, rows=names, columns=self.prompts)

    def at_one_weight(self, latents: np.ndarray) -> np.ndarray:
        """Return the pictures of latents at the middle one of the weights, [prompts, H, W, 3]."""
        count, middle = len(self.prompts), len(self.weights) // 2
        some = latents[middle * count : (middle + 1) * count]
        return np.asarray(self._cascade.decode(jnp.asarray(some)))


def references(
    path: Path,
    origin: dict,
    bench: Bench,
    stage: StageDescription,
    load: Callable[[], Any],
    steps: list[int],
) -> dict[int, np.ndarray]:
    """Return {steps: latents} of the undistilled stage.

    They are kept in `path`, and read from there where they were made for the same `origin`.
    `load()` returns the stage's parameters, which are held only meanwhile.
    """
    key = json.dumps([origin, steps], sort_keys=True)
    if processes.first("references", lambda: _kept(path, key) is not None):
        hosts.bring(path)
        return dict(zip(steps, _kept(path, key), strict=True))
    params = load()
    made = {n: bench.sample(stage, params, n) for n in steps}
    if processes.main():
        with replacing(path) as temporary, naming(path), temporary.open("wb") as file:
            np.savez(file, key=key, **{str(n): value for n, value in made.items()})
    processes.barrier("references")
    return made


def _kept(path: Path, key: str) -> list[np.ndarray] | None:
    """Return what `references` kept, in the order of its steps, or None.

    None means that the file was made for something else or is damaged; the references are then made
    again.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[str(n)] for n in parse_json(key)[1]] if str(file["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
