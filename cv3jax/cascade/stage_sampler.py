"""One stage as a jitted sampling function."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from cv3jax.cascade.parts import build_model, build_on
from cv3jax.checkpoints.description import StageDescription
from cv3jax.diffusion import sampler
from cv3jax.diffusion.conditioning import make_cond, normals, square_sizes
from cv3jax.diffusion.denoiser import guided, make_denoiser
from cv3jax.diffusion.schedule import Grid, base_grid, ddpm_sigma, relay_grid
from cv3jax.distributed.backend import announced
from cv3jax.distributed.mesh import BATCH
from cv3jax.kernels.attention import make_attend
from cv3jax.models.layers import Attend
from cv3jax.models.layers import attend as xla_attention
from cv3jax.models.unet import UNet
from data_pipeline.io.errors import InputError, counted

EVERY = 1.0  # seconds between two reports of a sampler's progress


def stage_attend(stage: StageDescription, attention: str, mesh: Mesh) -> Attend:
    """Return a stage's attention by name, for the devices of `mesh`.

    Raises InputError where the devices or the stage's heads do not allow it.
    """
    model = build_model(UNet, stage.model)
    try:
        return make_attend(
            attention,
            mesh.devices.flat[0].platform,
            mesh,
            head_dim=model.head_dim,
            dtype=model.dtype,
        )
    except ValueError as e:
        raise InputError(str(e)) from e


def make_stage_sampler(
    stage: StageDescription,
    *,
    steps: int,
    unguided: bool = False,
    eta: float = 0.0,
    form: str = "released",
    mesh: Mesh | None = None,
    attend: Attend = xla_attention,
) -> Callable:
    """Return a stage's jitted sampler.

    It is a function (params, text [B, L, C], low or None, noise [B, h, w, z], keys [B], w) →
    latents [B, h, w, z].

    A base stage starts from the noise, a relay stage from `low` and the noise. With η > 0 each
    image draws from its own key, so its pixels do not depend on the other images of its batch. w is
    the guidance weight, a scalar or [B]. A guidance-conditioned (distilled) model takes it as an
    input; others are guided by it. `unguided` halves their work where w is 1.
    """
    grid, relay = stage_grid(stage, steps), stage.kind == "relay"
    predictor = _predictor(stage, unguided, mesh, attend)

    def run(params, text, low, noise, keys, w):
        low = low if relay else None
        x = sampler.start(grid, noise, low)
        predict = predictor(params, text, noise.shape[1], w)
        return sampler.sample(predict, grid, x, low, keys=fold(keys, 1), eta=eta, form=form)[0]

    return jax.jit(run, out_shardings=images_sharding(mesh))


Progress = Callable[[str, int, int], None]  # (stage, steps done, steps)


class StageSampler(NamedTuple):
    """A stage's sampler as a program of any number of its steps."""

    count: int
    begin: Callable  # jitted (low or None, noise) → state
    # jitted (params, text, low or None, state, keys, w, (begin, end)) → state
    run: Callable


def make_stage_steps(
    stage: StageDescription,
    *,
    steps: int,
    unguided: bool = False,
    eta: float = 0.0,
    form: str = "released",
    mesh: Mesh | None = None,
    attend: Attend = xla_attention,
) -> StageSampler:
    """Return a stage's sampler in parts, which lets `sample_stage` report its progress.

    The arguments are those of `make_stage_sampler`. A state is (x [B, h, w, z], the carried mean).
    The x of the last state are the latents.

    Raises InputError on a number of steps that the stage has no grid for.
    """
    try:
        grid, relay = stage_grid(stage, steps), stage.kind == "relay"
    except ValueError as e:
        raise InputError(
            f"{counted(steps, 'step')} for the {stage.kind} stage, which starts at t ="
            f" {stage.start}: give 1..{stage.start} steps"
        ) from e
    predictor = _predictor(stage, unguided, mesh, attend)

    def begin(low, noise):
        low = low if relay else None
        return sampler.first_state(sampler.start(grid, noise, low), low)

    def run(params, text, low, state, keys, w, between):
        predict = predictor(params, text, state[0].shape[1], w)
        low, keys = low if relay else None, fold(keys, 1)
        return sampler.sample_steps(
            predict, grid, state, low, between, keys=keys, eta=eta, form=form
        )

    images = images_sharding(mesh)
    many = jax.jit(run, out_shardings=images)
    what = f"the {stage.kind} sampler of {counted(grid.steps, 'step')}"
    return StageSampler(grid.steps, jax.jit(begin, out_shardings=images), announced(many, what))


def sample_stage(
    sampler: StageSampler,
    params: Any,
    text: jax.Array,
    low: jax.Array | None,
    noise: jax.Array,
    keys: jax.Array,
    w: jax.Array,
    tell: Callable[[int, int], None] | None,
) -> jax.Array:
    """Return the latents [B, h, w, z] that a sampler makes of the noise.

    tell(steps done, steps) is called about every second, after as many steps as fit into one, and
    at the end. Without it all steps are one call, which nothing waits for.
    """
    state, done, number = sampler.begin(low, noise), 0, sampler.count if tell is None else 1
    if isinstance(text.sharding, SingleDeviceSharding):
        # tied to the device like the state after some steps; else those were another program
        state = jax.device_put(state, text.sharding)
    while done < sampler.count:
        began, end = time.monotonic(), min(done + number, sampler.count)
        between = (jnp.int32(done), jnp.int32(end))
        state, done = sampler.run(params, text, low, state, keys, w, between), end
        if tell is not None:
            jax.block_until_ready(state)
            tell(done, sampler.count)
            number = max(1, int(number * EVERY / max(time.monotonic() - began, 1e-3)))
    return state[0]


def stage_grid(stage: StageDescription, steps: int) -> Grid:
    """Return the grid of so many steps of a stage. Raises ValueError where it has none."""
    if stage.kind != "relay":
        return base_grid(steps)
    # cascades written before blurs were recorded have none; theirs was linear
    return relay_grid(steps, stage.start, stage.blur or "linear")


def _predictor(
    stage: StageDescription, unguided: bool, mesh: Mesh | None, attend: Attend
) -> Callable[..., sampler.Predict]:
    """Return a function (params, text, the latents' height, w) → the stage's `Predict`."""
    model = build_on(mesh, UNet, stage.model, attend=attend)
    plain = make_denoiser(
        lambda p, x, i, c: model.apply({"params": p}, x, i, c),
        jnp.asarray(ddpm_sigma()),
        stage.prediction,
    )

    def predictor(params, text, height, w):
        denoise = plain if unguided or model.w_dim else guided(plain, w)
        conditioned = jnp.broadcast_to(w, text.shape[:1]) if model.w_dim else None
        sizes = square_sizes(text.shape[0], height * stage.factor)
        cond = make_cond(text, sizes, conditioned, model.w_dim)
        return lambda x, t: denoise(params, x, t, cond)

    return predictor


def images_sharding(mesh: Mesh | None) -> NamedSharding | None:
    """Return the sharding of latents and pictures [B, H, ...] on a mesh, or None without one.

    Rows are sharded over data and fsdp, the height over context.
    """
    return None if mesh is None else NamedSharding(mesh, P(BATCH, "context"))


def check_rows(mesh: Mesh, rows: int) -> None:
    """Raise InputError where pictures or latents of so many rows do not divide over context."""
    if rows % (ways := mesh.shape["context"]):
        raise InputError(
            f"mesh context={ways}: latents of {rows} rows do not divide over {ways} devices; give a"
            " smaller context"
        )


draw_noise = jax.jit(normals, static_argnums=1)


def fold(keys: jax.Array, number: int) -> jax.Array:
    """Fold `number` into each of the keys."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
