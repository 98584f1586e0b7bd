"""Test embeddings, noise table, grids and denoiser against the released PyTorch code."""

import jax.numpy as jnp
import numpy as np
from golden import reads
from golden_models import denoiser, unet

from cv3jax.diffusion.denoiser import preconditioning
from cv3jax.diffusion.losses import weight
from cv3jax.diffusion.schedule import base_grid, ddpm_sigma
from cv3jax.models.embeddings import guidance_embedding, timestep_embedding


@reads("temb.*")
def test_timestep_embedding(g):
    for dim in (32, 64, 256, 320):
        g.check(f"temb.{dim}", timestep_embedding(g["temb.t"], dim))


@reads("cte.*")
def test_size_embedding(g):
    g.check("cte.out", timestep_embedding(g["cte.in"], 256).reshape(-1, 512))


@reads("gse.*")
def test_guidance_embedding(g):
    for dim in (512, 256, 7):
        ours = guidance_embedding(g["gse.w"], dim)
        g.check(f"gse.{dim}", ours)
        g.check(f"gse.{dim}.exact_f64", ours)


@reads("sched.*", "denoiser.sigmas")
def test_noise_table(g):
    sigma = ddpm_sigma()[1:]
    g.check("denoiser.sigmas", sigma)
    g.check("sched.alphas_cumprod_f64", 1 / (1 + sigma.astype(np.float64) ** 2))


@reads("sigmas.{}", "sigmas.{}.timesteps", case=("50", "24", "20", "10", "8", "5", "4"))
def test_base_grid(g, case):
    grid = base_grid(int(case))
    g.check(f"sigmas.{case}", grid.sigma)
    g.check(f"sigmas.{case}.timesteps", grid.t[-2::-1] - 1)  # stored ascending


@reads("sigmas.1000")
def test_base_grid_of_every_index(g):
    g.check("sigmas.1000", base_grid(1000).sigma)


@reads("den.*")
def test_denoiser(g):
    sigma = g["den.sigma"]
    table = ddpm_sigma()
    # the released code snaps any σ to its table; ours starts from t
    t = np.abs(sigma[:, None] - table[1:]).argmin(axis=1) + 1
    g.check("den.c_noise_idx", t - 1)
    g.check("den.sigma_quantized", table[t])
    cond = {"text": g["den.context"], "vector": g["den.y"]}
    g.check_nhwc("den.out", denoiser(g.preset)(unet(g.preset)[1], g.nhwc("den.x"), t, cond))
    for name, ours in zip(
        ("c_skip", "c_out", "c_in"), preconditioning(jnp.asarray(sigma), "eps"), strict=True
    ):
        g.check(f"den.{name}", ours)
    g.check("den.c_noise", sigma)  # the released scaling hands σ on; the index is the denoiser's
    g.check("den.w", weight(jnp.asarray(sigma), "eps"))
