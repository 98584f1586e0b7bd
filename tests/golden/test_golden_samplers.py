"""Test every step of the released samplers: base and relay, guided and distilled.

`sample`'s scan runs as a Python loop here, so that one compiled network serves all grids.
test_math_sampler.py runs it as a scan.
"""

import jax
import jax.numpy as jnp
import numpy as np
from golden import WIDER, reads
from golden_models import GUIDANCE, denoiser, unet, unet_sizes

from cv3jax.diffusion import sampler
from cv3jax.diffusion.denoiser import guided
from cv3jax.diffusion.schedule import base_grid, relay_grid
from cv3jax.models.embeddings import guidance_embedding


def run(preset, grid, x, low, text, vector, distilled):
    """Return the trajectory [n, B, H, W, C] of a guided or a distilled model; w is fixed."""
    cond = {"text": text, "vector": vector}
    denoise = denoiser(preset)
    if distilled:
        cond["w"] = guidance_embedding(jnp.full(len(x), GUIDANCE), unet_sizes(preset)["w_dim"])
    else:
        denoise = guided(denoise, GUIDANCE)
    with jax.disable_jit():
        final, trajectory = sampler.sample(
            lambda x, t: denoise(unet(preset)[1], x, t, cond), grid, x, low
        )
    np.testing.assert_array_equal(final, trajectory[-1])
    return trajectory


def check(g, name, trajectory):
    g.check_nhwc(f"{name}.traj", trajectory)
    g.check_first_step(name, trajectory[0])
    g.check_nhwc(f"{name}.final", trajectory[-1])


BASE = ("euler_cfg.50", "euler_cfg.8", "euler_cfg.4", "euler_distill.8", "euler_distill.4")
RELAY = (
    "relay_cfg.24_12",
    "relay_cfg.20_10",
    "relay_cfg.5_1",
    "relay_distill.5_1",
    "relay_distill.10_2",
)


@reads("{}.*", "samp.noise", "samp.context", "samp.y", case=BASE, slow=WIDER)
def test_base(g, case):
    kind, n = case.split(".")
    grid = base_grid(int(n))
    x = sampler.start(grid, g.nhwc("samp.noise"))
    check(
        g,
        case,
        run(g.preset, grid, x, None, g["samp.context"], g["samp.y"], kind == "euler_distill"),
    )


@reads("{}.*", "samp.*", case=RELAY, slow=WIDER)
def test_relay(g, case):
    kind, steps = case.split(".")
    n, p = map(int, steps.split("_"))
    grid = relay_grid(p, 1000 * p // n)
    low = g.nhwc("samp.image")
    x = sampler.start(grid, g.nhwc("samp.noise"), low)
    check(
        g,
        case,
        run(g.preset, grid, x, low, g["samp.context"], g["samp.y"], kind == "relay_distill"),
    )
