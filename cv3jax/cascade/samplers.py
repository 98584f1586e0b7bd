"""The samplers of a cascade's stages, each made once for the settings that it is called with."""

import copy
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cv3jax.cascade.limits import untrained
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.stage_network import sampler_options
from cv3jax.cascade.stage_sampler import StageSampler, make_stage_steps
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.models.layers import Attend
from data_pipeline.io.errors import InputError


class StageSamplers:
    """The samplers by stage and settings; `attend` is the attention of each stage."""

    def __init__(
        self, description: CascadeDescription, mesh: Mesh | None, attend: dict[str, Attend]
    ):
        """Keep what samplers are made of; none is made yet."""
        self._description, self._mesh, self._attend = description, mesh, attend
        self._made: dict[tuple, StageSampler] = {}
        self._stepping = True

    def without_steps(self) -> "StageSamplers":
        """Return these samplers, which compile the programs of their steps and take none."""
        other = copy.copy(self)
        other._stepping = False
        return other

    def of(self, name: str, settings: SamplerSettings) -> tuple[StageSampler, np.ndarray]:
        """Return (the sampler of stage `name`, its guidance weight w, a scalar or [B]).

        Raises InputError on steps, guidance or a strength that the stage was not trained for.
        """
        stage = self._description.stages[name]
        chosen = settings.of(stage)
        if problem := untrained(name, stage, chosen.steps, chosen.guidance, chosen.strength):
            raise InputError(problem)
        w = np.asarray(chosen.guidance, np.float32)
        unguided = bool(np.all(w == 1.0))
        options = sampler_options(chosen, unguided, self._mesh, self._attend[name])
        call = (name, options)
        if call not in self._made:
            self._made[call] = make_stage_steps(stage, options)
        made = self._made[call]
        return made if self._stepping else _idle(made), w


def _idle(sampler: StageSampler) -> StageSampler:
    """Return a sampler whose only step is none."""

    def run(*args: Any) -> Any:
        return sampler.run(*args[:-1], (jnp.int32(0), jnp.int32(0)))

    return sampler._replace(count=1, run=run)
