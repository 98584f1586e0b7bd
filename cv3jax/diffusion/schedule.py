"""Noise and blur over time, and the grids that samplers run on.

This is the one place where the theory of the package is written down.

The index t runs over 0..T, T = 1000. t = 0 is clean data, and t = k + 1 is the released code's
index k. Relay diffusion (paper §3.2) drifts the clean latent x0 towards the low-resolution latent
`low` (the paper's z_L) while noise is added:

    mean(x0, low, b)  = (1 - b) x0 + b low                      F in the paper, Eq. 4
    diffuse           = mean(x0, low, blur[t]) + sigma[t] ε     forward process, Eq. 5
    denoise(x, t, c)  → x̂0                                      denoiser.py, which alone knows ε, v
    loss              = weight(σ) · mean |denoise(xt) - x0|²    losses.py, Eq. 6

Base diffusion is the case blur = 0. A sampler (sampler.py) runs on a grid, a list of (t, sigma,
blur) from its start down to (0, 0, 0). The released relay grid pairs the table's sigma with the
blur k/p, so the grid of a linear blur differs from the training table. The grids of other blurs
follow the table.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.diffusion import BLURS
from cv3jax.diffusion.points import T, check_points, released_points

# σ where a table has no signal at all, in place of infinity: x0 is less than the rounding of
# x0 + σ ε, and σ² is still a float32
NO_SIGNAL = 2.0**40


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Schedule:
    """Noise and blur at index t in 0..T, where t = 0 is clean data. Base diffusion has blur = 0."""

    sigma: jax.Array  # float32 [T + 1], sigma[0] = 0, increasing
    blur: jax.Array  # float32 [T + 1] in [0, 1], non-decreasing

    def diffuse(self, x0: jax.Array, low: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
        """Return x0 drifted towards the low-resolution latent, plus noise (paper Eq. 5).

        All are [B, H, W, C]; t is int [B] in 0..T.
        """
        return mean(x0, low, per_sample(self.blur[t], x0)) + per_sample(self.sigma[t], x0) * noise


def ddpm_sigma(zero_snr: bool = False) -> np.ndarray:
    """Return the released noise table, float32 [T + 1].

    It is 0, then √((1 - ᾱ)/ᾱ) of betas that are linear in √β from 0.00085 to 0.012. zero_snr: √ᾱ is
    shifted and scaled so that it is the same at 1 and 0 at T (arXiv 2305.08891, Algorithm 1); there
    σ is NO_SIGNAL.
    """
    betas = np.linspace(0.00085**0.5, 0.012**0.5, T, dtype=np.float64) ** 2
    alphas_cumprod = np.cumprod(1.0 - betas)
    if zero_snr:
        root = np.sqrt(alphas_cumprod)
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        sigma = np.sqrt(1.0 - root[:-1] ** 2) / root[:-1]
        return np.array([0.0, *sigma, NO_SIGNAL], np.float32)
    variance = ((1.0 - alphas_cumprod) / alphas_cumprod).astype(np.float32)
    return np.concatenate([np.zeros(1, np.float32), np.sqrt(variance)])


def blur_table(kind: str, start: int) -> np.ndarray:
    """Return how far x0 has drifted towards `low` at each t, float32 [T + 1].

    It is 1 from the relay's start T_r = `start` on. "none" is base diffusion. "linear" is (t -
    1)/T_r and "sigma" is σ[t]/σ[T_r]: REFERENCE's index k = t - 1 over the start. "exp" is (1 -
    exp(-sin(π t / 2 T_r)⁴)) / (1 - e⁻¹), which the released loss evaluates at k + 1 = t. Raises
    ValueError on another kind, or a start outside 1..T.
    """
    if kind not in BLURS:
        raise ValueError(f"blur must be one of {', '.join(BLURS)}, not {kind!r}")
    if kind == "none":
        return np.zeros(T + 1, np.float32)
    if not 1 <= start <= T:
        raise ValueError(f"relay start must be in 1..{T}, not {start}")
    t = np.arange(T + 1, dtype=np.float64)
    if kind == "linear":
        blur = (t - 1) / start
    elif kind == "sigma":
        sigma = ddpm_sigma().astype(np.float64)
        blur = sigma / sigma[start]
    else:
        blur = (1 - np.exp(-(np.sin(np.minimum(t / start, 1) * np.pi / 2) ** 4))) / (1 - np.exp(-1))
    blur[0] = 0.0
    return np.clip(blur, 0.0, 1.0).astype(np.float32)


def make_schedule(blur: str = "none", start: int = T, *, zero_snr: bool = False) -> Schedule:
    """Return the training table of a base stage (`blur="none"`) or of a relay stage.

    The relay stage starts at T_r = `start`. zero_snr: as for `ddpm_sigma`.
    """
    return Schedule(jnp.asarray(ddpm_sigma(zero_snr)), jnp.asarray(blur_table(blur, start)))


def per_sample(value: jax.Array, like: jax.Array) -> jax.Array:
    """Reshape [B] to [B, 1, 1, 1], to multiply `like` [B, H, W, C]; scalars stay scalars."""
    return (
        jnp.reshape(value, jnp.shape(value) + (1,) * (like.ndim - jnp.ndim(value)))
        if jnp.ndim(value)
        else value
    )


def mean(x0: jax.Array, low: jax.Array, b: jax.Array) -> jax.Array:
    """Return the blend (1 - b) x0 + b low (F in paper Eq. 4)."""
    return (1.0 - b) * x0 + b * low


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Grid:
    """The points a sampler visits, from its start down to (0, 0, 0): n steps have n + 1 points."""

    t: jax.Array  # int32 [n + 1], decreasing
    sigma: jax.Array  # float32 [n + 1]
    blur: jax.Array  # float32 [n + 1]

    @property
    def steps(self) -> int:
        """The number of steps."""
        return self.t.shape[0] - 1


def base_grid(steps: int, *, zero_snr: bool = False, array: Callable = jnp.asarray) -> Grid:
    """Return the released base grid of `steps` steps: from T, with blur 0.

    zero_snr: of a stage that was trained so. array: as for `custom_grid`.
    """
    grid = custom_grid(released_points(steps, T), array=array)
    if not zero_snr:
        return grid
    return dataclasses.replace(grid, sigma=array(ddpm_sigma(True)[np.asarray(grid.t)]))


def relay_grid(
    steps: int,
    start: int,
    blur: str = "linear",
    *,
    strength: float = 1.0,
    array: Callable = jnp.asarray,
) -> Grid:
    """Return the relay grid of p = `steps` steps from T_r = `start`, for a stage with that blur.

    strength: in (0, 1]; a smaller one starts at strength · T_r, where less of the picture is noise,
    with the blur that the schedule has there.

    "linear" has the released k/p, k = p..0: the released (24, 12) is p = 12 from 500, and (5, 1) is
    p = 1 from 200. Other kinds have the training table's blur at the same points: with k/p a
    perfect denoiser would draw detail with another variance than the data's. array: as for
    `custom_grid`.

    Raises ValueError where two points would coincide, on a strength outside (0, 1], on an unknown
    blur, and on "none", with which there is no relay.
    """
    if not 0.0 < strength <= 1.0:
        raise ValueError(f"strength must be above 0 and at most 1, not {strength}")
    points = released_points(steps, max(round(strength * start), 1))
    if blur == "none":
        raise ValueError("the blur of a relay must not be none")
    if blur == "linear":
        table = [strength * k / steps for k in range(steps, -1, -1)]
    else:
        table = blur_table(blur, start)[points].tolist()
    return custom_grid(points, table, array=array)


def custom_grid(
    t: list[int], blur: list[float] | None = None, *, array: Callable = jnp.asarray
) -> Grid:
    """Return a grid with any decreasing t from 1..T down to 0, and the table's sigma.

    blur: one value per point; None for 0. array: makes the grid's arrays; with `np.asarray` they
    stay on the host, and nothing is compiled for their length.

    Raises ValueError when t does not decrease strictly, or blur has another length.
    """
    check_points(t)
    points = np.asarray(t, np.int32)
    table = np.zeros(len(points)) if blur is None else np.asarray(blur)
    if len(table) != len(points):
        raise ValueError(
            f"a grid of {len(points)} points needs {len(points)} blurs, not {len(table)}"
        )
    return Grid(array(points), array(ddpm_sigma()[points]), array(table, np.float32))
