"""One stage as a jitted sampling function."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cv3jax.cascade.parts import build_model, build_on
from cv3jax.checkpoints.description import StageDescription
from cv3jax.diffusion import sampler
from cv3jax.diffusion.conditioning import make_cond, normals, square_sizes
from cv3jax.diffusion.denoiser import guided, make_denoiser
from cv3jax.diffusion.schedule import base_grid, ddpm_sigma, relay_grid
from cv3jax.distributed.mesh import BATCH
from cv3jax.kernels.attention import make_attend
from cv3jax.models.layers import Attend
from cv3jax.models.layers import attend as xla_attention
from cv3jax.models.unet import UNet
from data_pipeline.io.errors import InputError


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
    model = build_on(mesh, UNet, stage.model, attend=attend)
    relay = stage.kind == "relay"
    # cascades written before blurs were recorded have none; theirs was linear
    grid = relay_grid(steps, stage.start, stage.blur or "linear") if relay else base_grid(steps)
    plain = make_denoiser(
        lambda p, x, i, c: model.apply({"params": p}, x, i, c),
        jnp.asarray(ddpm_sigma()),
        stage.prediction,
    )

    def run(params, text, low, noise, keys, w):
        denoise = plain if unguided or model.w_dim else guided(plain, w)
        conditioned = jnp.broadcast_to(w, text.shape[:1]) if model.w_dim else None
        cond = make_cond(
            text,
            square_sizes(text.shape[0], noise.shape[1] * stage.factor),
            conditioned,
            model.w_dim,
        )
        low = low if relay else None
        x = sampler.start(grid, noise, low)
        return sampler.sample(
            lambda x, t: denoise(params, x, t, cond),
            grid,
            x,
            low,
            keys=fold(keys, 1),
            eta=eta,
            form=form,
        )[0]

    return jax.jit(run, out_shardings=images_sharding(mesh))


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
