"""Provide grids, arrays, a denoiser and sampler steps for the mathematics of distillation.

All of them are in float64.
"""

import jax.numpy as jnp
import numpy as np

from cv3jax.diffusion import sampler
from cv3jax.diffusion.schedule import Grid, base_grid, per_sample, relay_grid

B, SHAPE = 6, (6, 4, 4, 2)
STAGES = {
    "base": (base_grid(8), "released"),
    "relay": (relay_grid(8, 500), "released"),
    "relay paper": (relay_grid(8, 500), "paper"),
}


def normal(seed, shape=SHAPE):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def double(grid):
    return Grid(grid.t, *(jnp.asarray(values, jnp.float64) for values in (grid.sigma, grid.blur)))


def land(form, predictions, x, m, low, sigma, blur):
    """Return (x, carried mean) at the last of the points [B, n + 1].

    The sampler's own steps take the n given x̂0.
    """
    for i, x0 in enumerate(predictions):
        s_t, s_s, b_t, b_s = (
            per_sample(v, x) for v in (sigma[:, i], sigma[:, i + 1], blur[:, i], blur[:, i + 1])
        )
        m_t, m = sampler.means(form, x0, low, m, b_t, b_s)
        x = sampler.step(x, m_t, m, s_t, s_s, 0.0, jnp.zeros_like(x))
    return x, m


def network(params, x, t, cond):
    """Return a denoiser without any special property, guidance-conditioned or not."""
    text = cond["text"].mean((1, 2))[:, None, None, None]
    hidden = params["scale"] * jnp.tanh(x) * (1 + 1e-3 * per_sample(t, x)) + params["shift"] * text
    return hidden + (0.1 * cond["w"].sum(-1)[:, None, None, None] if "w" in cond else 0.0)
