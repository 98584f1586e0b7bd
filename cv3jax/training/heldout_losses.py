"""The losses of held-out pictures at fixed noise levels, as a program that is spread over the mesh.

A program is a pure function of the parameters: records, noise levels and noise are the same in
every evaluation. The noise of a row depends on the row's number alone, so neither devices nor
processes change it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from cv3jax.diffusion.losses import denoising_loss, draw_t_and_noise
from cv3jax.diffusion.schedule import T
from cv3jax.distributed.fsdp import Layout
from cv3jax.distributed.partitioning import abstract, tree_sharding
from cv3jax.training.encoding import encoders, frozen_shapes
from cv3jax.training.programs import DiffusionPrograms, objective_of, t_max_of
from cv3jax.training.settings import StageSettings

LEVELS = 10
SEED = 0  # of the noise; no run's seed changes it
NUMBER = "number"  # the field of a batch with the number of each row's record


class LevelLosses(NamedTuple):
    """Losses of encoded rows at some noise levels."""

    # (a device's parameters, aside, encoded rows, keys [B]) → float32 [B, levels]
    losses: Callable
    held: Any  # the specs of `aside` inside the program


def levels(t_max: int) -> tuple[int, ...]:
    """Return the middles of LEVELS equal parts of 1..t_max; fewer where t_max is smaller."""
    count = min(LEVELS, t_max)
    return tuple(-(-t_max * (2 * k + 1) // (2 * count)) for k in range(count))


def stage_losses(
    settings: StageSettings, programs: DiffusionPrograms, layout: Layout | None = None
) -> LevelLosses:
    """Return the losses of the recipe's objective (paper Eq. 6) at `levels`.

    Their mean over the levels estimates the mean over all t, which is what training minimises.
    layout: of the UNet's parameters, where other ones are trained.
    """
    network, objective, t_max = programs.network, objective_of(settings), t_max_of(settings)
    denoise, at = network.denoiser(network.model, layout or network.layout), levels(t_max)

    def losses(params, aside, batch, keys):
        def one(level):
            own = jax.vmap(lambda key: jax.random.fold_in(key, level[0]))(keys)
            shape = batch["x0"].shape
            _, noise = draw_t_and_noise(own, shape[1:], t_max, objective)
            t = jnp.full(shape[:1], level[1])
            return denoising_loss(objective, denoise, network.schedule, params, batch, t, noise)

        return jax.lax.map(one, (jnp.arange(len(at)), jnp.asarray(at, jnp.int32))).T

    return LevelLosses(losses, P())


def held_out_program(
    settings: StageSettings, programs: DiffusionPrograms, made: LevelLosses
) -> Callable:
    """Return a jitted (params, {vae, t5}, aside, batch) → losses float32 [B, levels].

    batch: of the loader, with NUMBER int32 [B]. Captions are not dropped.
    """
    layout, mesh = programs.network.layout, programs.network.layout.mesh
    shapes = frozen_shapes(settings, programs.models)
    parts = encoders(settings, mesh, programs.models, shapes, text_drop=0.0)

    def rows(params, frozen, batch):
        encoders_params, aside = frozen
        numbers = batch.pop(NUMBER)
        keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(SEED), n))(numbers)
        # other keys than those of the noise, as in training
        apart = jax.vmap(lambda key: jax.random.fold_in(key, T))(keys)
        encoded = parts.encode(parts.whole(encoders_params), batch, apart)
        return made.losses(params, aside, encoded, keys)

    spread = layout.spread(rows, (parts.layout.held(), made.held))
    return jax.jit(
        lambda params, frozen, aside, batch: spread(params, (frozen, aside), dict(batch))
    )


def frozen_like(settings: StageSettings, programs: DiffusionPrograms) -> dict:
    """Return the frozen parts that a held-out program takes, as shapes on the mesh."""
    shapes = frozen_shapes(settings, programs.models)
    return abstract(shapes, tree_sharding(shapes, programs.network.layout.mesh))
