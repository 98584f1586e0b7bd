"""From a network F to the denoiser x̂0 = denoise(params, x, t, cond).

No other module knows whether F predicts ε or v.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cv3jax.diffusion import PREDICTIONS
from cv3jax.diffusion.schedule import per_sample
from cv3jax.models.transformer import interleave, take_turns

Params = Any
# {text [B, L, C], vector, ...}; in place of the text there may be its keys and values, a pytree
Cond = dict[str, Any]
Denoise = Callable[[Params, jax.Array, jax.Array, Cond], jax.Array]


def preconditioning(sigma: jax.Array, prediction: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (c_skip, c_out, c_in) such that x̂0 = c_skip x + c_out F(c_in x).

    For ε this is x - σF, for v it is x/(1+σ²) - σ/√(1+σ²) F. Raises ValueError on another
    prediction.
    """
    c_in = 1.0 / jnp.sqrt(1.0 + sigma**2)
    if prediction == "eps":
        return jnp.ones_like(sigma), -sigma, c_in
    if prediction == "v":
        return c_in**2, -sigma * c_in, c_in
    raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}, not {prediction!r}")


def make_denoiser(apply: Callable, sigma: jax.Array, prediction: str) -> Denoise:
    """Return the denoiser x [B, H, W, C], t int [B] → x̂0 float32 [B, H, W, C].

    `apply(params, x, index, cond)` is F, and sigma is the table [T + 1]. t is in 1..T, and the
    network sees the index t - 1.
    """

    def denoise(params, x, t, cond):
        c_skip, c_out, c_in = (per_sample(c, x) for c in preconditioning(sigma[t], prediction))
        return c_skip * x + c_out * apply(params, c_in * x, t - 1, cond)

    return denoise


def null(cond: Cond) -> Cond:
    """Return the unconditional twin: the text zeroed, the size vector kept (REFERENCE §1)."""
    return {**cond, "text": jnp.zeros_like(cond["text"])}


class Rescale(NamedTuple):
    """How much guidance is rescaled, and what the network predicts at which σ."""

    share: float  # φ of arXiv 2305.08891; 0: not at all
    sigma: jax.Array  # the table [T + 1]
    prediction: str


def rescaled(
    by: Rescale, x: jax.Array, t: jax.Array, with_text: jax.Array, guided: jax.Array
) -> jax.Array:
    """Return the guided x̂0 with a smaller deviation of the prediction (arXiv 2305.08891 §3.4).

    with_text, guided: x̂0 [B, H, W, C] of x at t. The paper rescales what the network predicts. That
    is (x̂0 - c_skip x)/c_out, and c_out cancels in the ratio of two deviations.
    """
    kept = per_sample(preconditioning(by.sigma[t], by.prediction)[0], x) * x

    def deviation(x0: jax.Array) -> jax.Array:
        return jnp.std(x0 - kept, axis=(1, 2, 3), keepdims=True)

    wide = deviation(guided)
    ratio = jnp.where(wide > 0.0, deviation(with_text) / jnp.where(wide > 0.0, wide, 1.0), 1.0)
    return kept + (by.share * ratio + 1.0 - by.share) * (guided - kept)


def guided(denoise: Denoise, w: float | jax.Array, rescale: Rescale | None = None) -> Denoise:
    """Return the denoiser with classifier-free guidance on x̂0: null + w (cond - null).

    It calls the network once, on a doubled batch: the even rows are without the text, the odd rows
    with it. Keys and values in place of a text stay as they are, those of the odd rows, because the
    network needs none for rows without text. w is a scalar or [B]; at w = 1 the result is that of
    `denoise`. rescale: see `rescaled`.
    """

    def denoise_guided(params, x, t, cond):
        if isinstance(cond["text"], dict):
            rest = {name: value for name, value in cond.items() if name != "text"}
            doubled = {**jax.tree.map(interleave, rest, rest), "text": cond["text"]}
        else:
            doubled = jax.tree.map(interleave, null(cond), cond)
        both = denoise(params, interleave(x, x), interleave(t, t), doubled)
        without, with_text = take_turns(both)
        out = without + per_sample(jnp.asarray(w), without) * (with_text - without)
        return out if rescale is None else rescaled(rescale, x, t, with_text, out)

    return denoise_guided
