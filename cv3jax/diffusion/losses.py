"""What training minimises: the denoising loss of both stages, and the autoencoder's loss."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cv3jax.diffusion.denoiser import Denoise, Params
from cv3jax.diffusion.schedule import Schedule, T

# the factor on the squared x0 error: (σ, γ of min-SNR) → factor; add a row for a new weighting
WEIGHTINGS: dict[str, Callable[[jax.Array, float], jax.Array]] = {
    "eps": lambda sigma, gamma: 1.0 / sigma**2,  # the released weighting
    "v": lambda sigma, gamma: 1.0 + 1.0 / sigma**2,
    "min_snr": lambda sigma, gamma: jnp.minimum(1.0 / sigma**2, gamma),
    "truncated": lambda sigma, gamma: jnp.maximum(1.0 / sigma**2, 1.0),
    "root_snr": lambda sigma, gamma: 1.0 / sigma,
}
# error → the distance of each value from x0
NORMS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "l1": jnp.abs,
    "l2": lambda error: error**2,
}


@dataclasses.dataclass(frozen=True)
class Objective:
    """What the denoising loss of a stage measures.

    `weighting`: the factor by noise level, see `weight`; min_snr uses `gamma`. `norm`: of the x0
    error, by its name in NORMS (l2 is squared). `offset_noise`: the standard deviation of the
    scalar that is added to each sample's noise.

    Raises:
        ValueError: there is no such weighting or norm.
    """

    weighting: str = "eps"
    gamma: float = 5.0
    norm: str = "l2"
    offset_noise: float = 0.0

    def __post_init__(self):
        """Raise ValueError on an unknown weighting or norm."""
        if self.weighting not in WEIGHTINGS:
            names = ", ".join(WEIGHTINGS)
            raise ValueError(f"weighting must be one of {names}, not {self.weighting!r}")
        if self.norm not in NORMS:
            raise ValueError(f"norm must be {' or '.join(NORMS)}, not {self.norm!r}")


def weight(sigma: jax.Array, kind: str, gamma: float = 5.0) -> jax.Array:
    """Return the factor on the squared x0 error at σ, by the weighting's name in WEIGHTINGS.

    Raises ValueError on another name.
    """
    if kind not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, not {kind!r}")
    return WEIGHTINGS[kind](sigma, gamma)


def denoising_loss(
    objective: Objective,
    denoise: Denoise,
    schedule: Schedule,
    params: Params,
    batch: dict[str, Any],
    t: jax.Array,
    noise: jax.Array,
) -> jax.Array:
    """Return the loss of paper Eq. 6 per sample, float32 [B], at given t and noise.

    It is weight(σ) · mean |denoise(xt) - x0|², or |·| for l1. The batch holds x0 [B, H, W, C],
    cond, and for a relay stage low [B, H, W, C]; noise [B, H, W, C]; t int [B] in 1..T.
    """
    x0, low = batch["x0"], batch.get("low", batch["x0"])
    error = denoise(params, schedule.diffuse(x0, low, noise, t), t, batch["cond"]) - x0
    factor = weight(schedule.sigma[t], objective.weighting, objective.gamma)
    return factor * NORMS[objective.norm](error).mean(axis=(1, 2, 3))


def draw_t_and_noise(
    keys: jax.Array, shape: tuple[int, ...], t_max: int, offset_noise: float
) -> tuple[jax.Array, jax.Array]:
    """Return (t [B], noise [B, H, W, C]) for images of `shape` [H, W, C], from one key each.

    t is uniform in 1..t_max. Offset noise adds one scalar per image.
    """

    def one(key):
        key_t, key_noise, key_offset = jax.random.split(key, 3)
        noise = jax.random.normal(key_noise, shape) + offset_noise * jax.random.normal(key_offset)
        return jax.random.randint(key_t, (), 1, t_max + 1), noise

    return jax.vmap(one)(keys)


def diffusion_loss(
    denoise: Denoise, schedule: Schedule, objective: Objective, *, t_max: int = T
) -> Callable[[Params, Any, dict, jax.Array], tuple[jax.Array, dict]]:
    """Return the loss function of a base stage (t_max = T) or a relay stage (t_max = T_r).

    It is (params, frozen, batch, keys [B]) → (loss, metrics), with the batch of `denoising_loss`.
    """

    def loss_fn(params, frozen, batch, keys):
        del frozen
        t, noise = draw_t_and_noise(keys, batch["x0"].shape[1:], t_max, objective.offset_noise)
        losses = denoising_loss(objective, denoise, schedule, params, batch, t, noise)
        return losses.mean(), {}

    return loss_fn


def autoencoder_loss(
    reconstruct: Callable,
    perceptual: Callable | None = None,
    *,
    kl_weight: float,
    perceptual_weight: float = 0.0,
) -> Callable[[Params, Any, dict, jax.Array], tuple[jax.Array, dict]]:
    """Return the loss function: reconstruction + KL (+ learned perceptual distance).

    It is (params, frozen, batch, keys [B]) → (loss, metrics). The metrics are psnr in dB, kl, and
    rms of the latents.

    `reconstruct(params, pixels, keys)` → (pixels', mean, logvar). The reconstruction term is the
    mean squared error over pixels in [-1, 1]. The KL to N(0, 1) is a mean over latent values.
    `perceptual(frozen, a, b)` → [B] compares images with frozen weights, such as LPIPS; without it
    nothing is downloaded.
    """

    def loss_fn(params, frozen, batch, keys):
        pixels = batch["pixels"]
        out, mean, logvar = reconstruct(params, pixels, keys)
        squared = jnp.mean((out - pixels) ** 2)
        kl = 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1.0 - logvar)
        loss = squared + kl_weight * kl
        # pixels span 2, hence the factor 4
        metrics = {
            "psnr": 10.0 * jnp.log10(4.0 / squared),
            "kl": kl,
            "latent_rms": jnp.sqrt(jnp.mean(mean**2)),
        }
        if perceptual is not None:
            metrics["perceptual"] = perceptual(frozen, out, pixels).mean()
            loss = loss + perceptual_weight * metrics["perceptual"]
        return loss, metrics

    return loss_fn
