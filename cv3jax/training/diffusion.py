"""The base and relay stages: frozen encoders, and the UNet that trains on their outputs."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cv3jax.cascade.parts import part_loader
from cv3jax.cascade.pipeline import Cascade
from cv3jax.checkpoints import cascades, newest
from cv3jax.checkpoints.description import TextDescription, VaeDescription
from cv3jax.distributed import processes
from cv3jax.distributed.batches import placer
from cv3jax.training.data import by_size, loader, of_size, open_data
from cv3jax.training.diffusion_heldout import stage_held_out
from cv3jax.training.feature_cache import Arrays, arrays, open_feature_cache, prepare_of
from cv3jax.training.fixed_pictures import stage_pictures
from cv3jax.training.frozen import describe, frozen_description, frozen_parts
from cv3jax.training.heldout import open_held_out
from cv3jax.training.heldout_losses import LevelLosses, stage_losses
from cv3jax.training.measures import HeldOut, Pictures
from cv3jax.training.memory_plan import compiled_and_announced, held
from cv3jax.training.over_time import keep_preview
from cv3jax.training.previews import base_preview, relay_preview
from cv3jax.training.programs import (
    DiffusionPrograms,
    diffusion_programs,
    encode_args,
    train_args,
)
from cv3jax.training.settings import StageSettings
from cv3jax.training.stage import mesh_plan
from cv3jax.training.state import state_creator
from cv3jax.training.throughput import flops_of
from data_pipeline.loading.bucket_sizes import Size


class DiffusionStage:
    """A base or relay run: frozen encoders, the UNet, its data, programs, previews and export.

    Raises InputError on settings that do not fit together, before anything is written to `workdir`.
    """

    def __init__(self, settings: StageSettings, workdir: Path):
        """Build the stage from its settings."""
        self._settings, self._workdir, self._mesh = settings, workdir, mesh_plan(settings)
        self._records, mesh = open_data(settings.data), self._mesh.mesh
        directory, description = frozen_description(settings)
        text = description.t5 or settings.text.description
        cache = open_feature_cache(settings, directory, description, self._records)
        self._programs = self._make_programs(description.vae, text, arrays(settings, cache))
        self.like = self._programs.like
        self.create = self._creator()
        # it should refuse what it refuses before a tokenizer is written
        loader(settings, self._records, None, mesh)
        self._held_out = open_held_out(settings)
        train = settings.train
        whole = train.preview_every or (train.eval_every and (self._held_out or train.metrics))
        needed = ("vae", "t5") if whole else tuple(self._programs.frozen)
        self._frozen = frozen_parts(
            settings, directory, description, self._records, mesh, workdir, needed
        )
        stage = describe(settings, self._frozen.description)
        self._description = self._frozen.description.with_stage(settings.stage, stage)
        self.cascade = self._about()
        self._encoders = {name: self._frozen.params[name] for name in self._programs.frozen}
        tokenize = self._frozen.tokenize if "tokens" in self._programs.batch else None
        prepare = None if cache is None else prepare_of(settings, cache)
        self.data = loader(settings, self._records, tokenize, mesh, prepare)
        self.place = placer(mesh, settings.batch.size)
        self._compiled: dict[Size, tuple[Callable, Callable]] = {}
        self._flops: dict[Size, int | None] = {}
        self._aside = self._load_aside()

    # what a stage that trains something else than the UNet's parameters has of its own

    def _make_programs(
        self, vae: VaeDescription, text: TextDescription, cached: Arrays
    ) -> DiffusionPrograms:
        return diffusion_programs(self._settings, self._mesh, vae, text, cached)

    def _creator(self) -> Callable[[], Any]:
        """Return a function () → the fresh train state, placed on the mesh."""
        settings, load = self._settings, None
        if settings.init_from:
            load = part_loader(settings.init_from, settings.init_part, settings.model)
        return state_creator(self._programs.init, self._programs.tx, settings.seed, self.like, load)

    def _load_aside(self) -> Any:
        """Return what the train step reads besides state and batch."""
        return {}

    def _losses(self) -> LevelLosses:
        return stage_losses(self._settings, self._programs)

    def _weights(self, ema: Any) -> Any:
        """Return the UNet's parameters of an EMA."""
        return ema

    def _about(self) -> dict[str, Any]:
        """Return what the checkpoints record of the run's cascade."""
        return newest.about(self._settings.stage, self._description, self._frozen.directories)

    # what the loop calls

    def compile(self) -> None:
        """Compile `encode` and `train` for every size of batch, and print the memory plan."""
        programs = self._programs
        sizes = {
            size: programs._replace(batch=of_size(programs.batch, size)) for size in self.data.sizes
        }
        pairs = [
            pair
            for one in sizes.values()
            for pair in ((one.encode, encode_args(one)), (one.train, train_args(one)))
        ]
        largest = max(sizes.values(), key=lambda one: held(one.batch))
        batches = (largest.batch, train_args(largest)[2])
        frozen = {**self._frozen.params, **self._aside}
        made = compiled_and_announced(pairs, self.like, frozen, batches)
        both = zip(made[::2], made[1::2], strict=True)
        each = (pairs[i : i + 2] for i in range(0, len(pairs), 2))
        self._flops = dict(zip(sizes, map(flops_of, each), strict=True))
        self._compiled = dict(zip(sizes, both, strict=True))

    def step(self, state: Any, batch: dict) -> tuple[Any, dict]:
        """Run the train step: (state, placed batch) → (state, metrics); the state is donated."""
        encode, train = by_size(self._compiled, batch)
        return train(state, self._aside, encode(self._encoders, batch, state.key, state.step))

    def flops(self, batch: dict) -> int | None:
        """Return the FLOPs of the update of a placed batch, encoders included, or None."""
        return by_size(self._flops, batch)

    @functools.cached_property
    def cascade_of_stage(self) -> Cascade:
        """The cascade that draws this stage; its parameters are those of no step."""
        settings, frozen = self._settings, self._frozen
        stages = {settings.stage: self._description.stages[settings.stage]}
        description = dataclasses.replace(frozen.description, stages=stages)
        return Cascade(
            description,
            dict(frozen.params),
            frozen.tokenize,
            attention=settings.attention,
            within=self._mesh.mesh,
        )

    def preview(self, directory: Path) -> Callable[[Any, int], np.ndarray]:
        """Return a function (ema, step) that writes pictures of the stage into `directory`."""
        settings, cascade = self._settings, self.cascade_of_stage
        show = relay_preview if settings.relay else base_preview

        def save(ema, step):
            now = cascade.with_params(settings.stage, self._weights(ema))
            preview = show(now, settings, self._records)
            return keep_preview(directory, step, preview) if processes.main() else preview.sheet

        return save

    def held_out(self) -> HeldOut | None:
        """Return a function: EMA → the figures of the held-out pictures, or None."""
        if self._held_out is None:
            return None
        settings, frozen = self._settings, self._frozen
        given = (self._held_out, self._losses(), self._aside)
        return stage_held_out(settings, self._programs, frozen, *given)

    def pictures(self) -> Pictures:
        """Return the fixed pictures of the stage."""
        given = (self.cascade_of_stage, self._records, self._held_out)
        made = stage_pictures(self._settings, *given)
        return made._replace(draw=lambda ema: made.draw(self._weights(ema)))

    def export(self, ema: Any, directory: Path) -> dict:
        """Write the cascade so far with this stage's EMA; existing parts are linked."""
        directory.mkdir(parents=True, exist_ok=True)
        cascades.save_part(directory / self._settings.stage, ema)
        if processes.main():
            for part, source in self._frozen.directories.items():
                cascades.carry_part(source, directory / part)
            cascades.write_cascade(directory, self._description)
        return {}
