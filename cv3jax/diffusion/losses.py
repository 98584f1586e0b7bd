"""What training minimises: the denoising loss of both stages, and the autoencoder's loss."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cv3jax.diffusion import HUBER_SCHEDULES, TIMESTEPS
from cv3jax.diffusion.denoiser import Denoise, Params, preconditioning
from cv3jax.diffusion.schedule import Schedule, T, per_sample

# the factor on the squared x0 error: (σ, γ of min-SNR) → factor; add a row for a new weighting
WEIGHTINGS: dict[str, Callable[[jax.Array, float], jax.Array]] = {
    "eps": lambda sigma, gamma: 1.0 / sigma**2,  # the released weighting
    "v": lambda sigma, gamma: 1.0 + 1.0 / sigma**2,
    "min_snr": lambda sigma, gamma: jnp.minimum(1.0 / sigma**2, gamma),
    "truncated": lambda sigma, gamma: jnp.maximum(1.0 / sigma**2, 1.0),
    "root_snr": lambda sigma, gamma: 1.0 / sigma,
}
# (error, threshold c) → the distance of each value from x0. The last two are quadratic below c and
# linear above: twice Huber's loss, which is l2 at small errors, and the form of it that is smooth
# everywhere, 2c(√(e² + c²) - c), written without a difference of nearly equal numbers.
NORMS: dict[str, Callable[[jax.Array, jax.Array | float], jax.Array]] = {
    "l1": lambda error, c: jnp.abs(error),
    "l2": lambda error, c: error**2,
    "huber": lambda error, c: jnp.where(
        jnp.abs(error) <= c, error**2, c * (2.0 * jnp.abs(error) - c)
    ),
    "pseudo_huber": lambda error, c: 2.0 * c * error**2 / (jnp.sqrt(error**2 + c**2) + c),
}
WITH_THRESHOLD = ("huber", "pseudo_huber")


@dataclasses.dataclass(frozen=True)
class Objective:
    """What the denoising loss of a stage measures.

    `weighting`: the factor by noise level, see `weight`; min_snr uses `gamma`. `norm`: of the x0
    error, by its name in NORMS (l2 is squared). `offset_noise`: the standard deviation of the
    scalar that is added to each sample's noise. `huber_c`, `huber_schedule`, `prediction`: the
    threshold of the Huber norms, see `huber_threshold`. `timesteps`, `timestep_mean`,
    `timestep_spread`: how t is drawn, see `draw_t`.

    Raises:
        ValueError: there is no such weighting, norm, schedule or way to draw t.
    """

    weighting: str = "eps"
    gamma: float = 5.0
    norm: str = "l2"
    offset_noise: float = 0.0
    prediction: str = "eps"
    huber_c: float = 0.1
    huber_schedule: str = "constant"
    timesteps: str = "uniform"
    timestep_mean: float = 0.0
    timestep_spread: float = 1.0

    def __post_init__(self):
        """Raise ValueError on an unknown weighting, norm, schedule or way to draw t."""
        if self.weighting not in WEIGHTINGS:
            names = ", ".join(WEIGHTINGS)
            raise ValueError(f"weighting must be one of {names}, not {self.weighting!r}")
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, not {self.norm!r}")
        if self.huber_schedule not in HUBER_SCHEDULES:
            names = ", ".join(HUBER_SCHEDULES)
            raise ValueError(f"huber_schedule must be one of {names}, not {self.huber_schedule!r}")
        if self.timesteps not in TIMESTEPS:
            names = ", ".join(TIMESTEPS)
            raise ValueError(f"timesteps must be one of {names}, not {self.timesteps!r}")


def weight(sigma: jax.Array, kind: str, gamma: float = 5.0) -> jax.Array:
    """Return the factor on the squared x0 error at σ, by the weighting's name in WEIGHTINGS.

    Raises ValueError on another name.
    """
    if kind not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, not {kind!r}")
    return WEIGHTINGS[kind](sigma, gamma)


def huber_threshold(objective: Objective, sigma: jax.Array, t: jax.Array) -> jax.Array:
    """Return the threshold c of the Huber norms [B], in units of x0, at σ [B] and t int [B].

    `huber_c` is in units of what the network predicts, whose error is that of x0 over |c_out|. So
    weighting "eps" with prediction eps, and "v" with v, are Huber's loss of the prediction. The
    schedules are those of arXiv 2403.16728: constant; exponential, huber_c^((t - 1)/T), which falls
    from 1 to huber_c; and snr, (1 - huber_c)/(1 + σ)² + huber_c.
    """
    c = jnp.full(sigma.shape, objective.huber_c, sigma.dtype)
    if objective.huber_schedule == "exponential":
        c = c ** ((t - 1) / T)
    elif objective.huber_schedule == "snr":
        c = (1.0 - c) / (1.0 + sigma) ** 2 + c
    return c * jnp.abs(preconditioning(sigma, objective.prediction)[1])


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
    cond, and for a relay stage low [B, H, W, C]; noise [B, H, W, C]; t int [B] in 1..T. A mask
    [B, H, W, 1] in the batch multiplies each value's distance; the mean is over all values.
    """
    x0, low = batch["x0"], batch.get("low", batch["x0"])
    error = denoise(params, schedule.diffuse(x0, low, noise, t), t, batch["cond"]) - x0
    factor = weight(schedule.sigma[t], objective.weighting, objective.gamma)
    threshold: float | jax.Array = 0.0
    if objective.norm in WITH_THRESHOLD:
        threshold = per_sample(huber_threshold(objective, schedule.sigma[t], t), error)
    distance = NORMS[objective.norm](error, threshold)
    if "mask" in batch:
        distance = distance * batch["mask"]
    return factor * distance.mean(axis=(1, 2, 3))


def draw_t(key: jax.Array, t_max: int, objective: Objective) -> jax.Array:
    """Return t, int32 in 1..t_max, from one key.

    Uniform; or logit-normal (arXiv 2403.03206, Eq. 19): a share of t_max is the sigmoid of a normal
    number with the mean `timestep_mean` and the deviation `timestep_spread`, and t is the index of
    the grid in which it falls, 1 + floor(share · t_max).
    """
    if objective.timesteps == "uniform":
        return jax.random.randint(key, (), 1, t_max + 1)
    normal = jax.random.normal(key)
    share = jax.nn.sigmoid(objective.timestep_mean + objective.timestep_spread * normal)
    # a share of almost 1 is rounded up to it
    return jnp.minimum(1 + (share * t_max).astype(jnp.int32), t_max)


def draw_t_and_noise(
    keys: jax.Array, shape: tuple[int, ...], t_max: int, objective: Objective
) -> tuple[jax.Array, jax.Array]:
    """Return (t [B], noise [B, H, W, C]) for images of `shape` [H, W, C], from one key each.

    t is drawn by `draw_t`. Offset noise adds one scalar per image.
    """
    offset_noise = objective.offset_noise

    def one(key):
        key_t, key_noise, key_offset = jax.random.split(key, 3)
        noise = jax.random.normal(key_noise, shape) + offset_noise * jax.random.normal(key_offset)
        return draw_t(key_t, t_max, objective), noise

    return jax.vmap(one)(keys)


def diffusion_loss(
    denoise: Denoise, schedule: Schedule, objective: Objective, *, t_max: int = T
) -> Callable[[Params, Any, dict, jax.Array], tuple[jax.Array, dict]]:
    """Return the loss function of a base stage (t_max = T) or a relay stage (t_max = T_r).

    It is (params, frozen, batch, keys [B]) → (loss, metrics), with the batch of `denoising_loss`.
    """

    def loss_fn(params, frozen, batch, keys):
        del frozen
        t, noise = draw_t_and_noise(keys, batch["x0"].shape[1:], t_max, objective)
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
