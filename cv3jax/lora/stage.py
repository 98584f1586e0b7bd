"""The stage of an adapter: what the loop calls, on a frozen base."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cv3jax.cascade.parts import part_loader
from cv3jax.checkpoints.description import TextDescription, VaeDescription
from cv3jax.checkpoints.fingerprint import parts_fingerprint
from cv3jax.distributed import processes
from cv3jax.distributed.backend import jit_once, waiting
from cv3jax.distributed.batches import placement
from cv3jax.lora import export
from cv3jax.lora.base import base_stage, field_of
from cv3jax.lora.held import as_held
from cv3jax.lora.programs import (
    computed_like,
    constants_of,
    fresh,
    init_of,
    lora_losses,
    lora_step,
)
from cv3jax.lora.settings import LoraSettings
from cv3jax.models.adapters import joined
from cv3jax.training.diffusion import DiffusionStage
from cv3jax.training.feature_cache import Arrays
from cv3jax.training.heldout_losses import LevelLosses
from cv3jax.training.over_time import has_row
from cv3jax.training.previews import preview_captions
from cv3jax.training.programs import DiffusionPrograms, diffusion_programs
from cv3jax.training.train_step import create_state


class LoraStage(DiffusionStage):
    """A run that trains adapters of a base or relay stage.

    Pictures are drawn with the EMA beside the base, so that no second copy of it is held. Raises
    InputError on settings that do not fit together or do not fit the base.
    """

    def __init__(self, settings: LoraSettings, workdir: Path):
        """Build the stage from its settings."""
        self._lora = settings
        base_stage(settings)
        super().__init__(settings.stage, workdir)
        self._constants = constants_of(settings, self._programs.aside["base"])

    def _make_programs(
        self, vae: VaeDescription, text: TextDescription, cached: Arrays
    ) -> DiffusionPrograms:
        step, init = lora_step(self._lora), init_of(self._lora)
        given = (self._settings, self._mesh, vae, text, cached)
        return diffusion_programs(*given, make_step=step, init_of=init)

    def _load_aside(self) -> Any:
        settings, held = self._lora, self._programs.aside["base"]
        load = part_loader(settings.base, settings.part, self._settings.model, field_of(settings))
        with waiting(f"loading the {settings.part} of {settings.base}"):
            like = computed_like(settings, self._programs.network)
            return {"base": as_held(load(like, placement(like)), held)}

    def _creator(self) -> Callable[[], Any]:
        def create():
            programs, norms = self._programs, self.like.norms is not None

            def make(key, base):
                return create_state(
                    lambda key: fresh(self._lora, base, key), programs.tx, key, None, norms
                )

            with waiting("making the train state"):
                key = jax.random.key(self._settings.seed)
                made = jit_once(make, placement(self.like))
                return jax.block_until_ready(made(key, self._aside["base"]))

        return create

    def _losses(self) -> LevelLosses:
        return lora_losses(self._lora, self._programs)

    def _weights(self, ema: Any) -> Any:
        return joined(self._aside["base"], ema, self._constants)

    def _about(self) -> dict[str, Any]:
        return {**super()._about(), "adapter": str(self._lora.base)}

    def before(self, directory: Path) -> Callable[[Any], np.ndarray | None]:
        """Return a function that draws the stage as it was before, as the preview of step 0.

        It is given the EMA of a fresh adapter, or None, and returns the preview, or None where
        `directory` has that of the same captions.
        """
        show = self.preview(directory)
        captions = preview_captions(self._settings, self._records)
        side = self._settings.data.whole_side

        def draw(ema: Any) -> np.ndarray | None:
            if processes.first("before", lambda: has_row(directory, 0, captions, side)):
                return None
            return show(self.create().ema if ema is None else ema, 0)

        return draw

    def export(self, ema: Any, directory: Path) -> dict:
        """Write the adapter with this EMA. Returns how many layers it has."""
        directory.mkdir(parents=True, exist_ok=True)
        base = parts_fingerprint(self._lora.base, (self._lora.part,))
        stage = self._description.stages[self._settings.stage]
        adapter = export.adapter_of(self._lora, ema, stage, base)
        if processes.main():
            export.write(directory / export.FILE, adapter)
        return {"layers": len(adapter.layers)}
