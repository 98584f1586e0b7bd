"""Averages of parameters by a power of time, and any other such average made of them afterwards.

Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models"
(arXiv:2312.02696), section 3. The average of exponent γ weighs the parameters after update τ of t
by about τ^γ. Its width is given relative to the training's length: σ_rel, the standard deviation of
that profile. Two such averages, copied some times during the training, span a space of profiles; a
profile of another width is fitted in it by least squares (their algorithm 3).

All is in float64, but for the shares that a train step computes.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

WIDTHS = (0.05, 0.10)  # σ_rel of the two averages that a run keeps


def exponent(width: float) -> float:
    """Return γ of σ_rel = (γ + 1)^½ (γ + 2)^-1 (γ + 3)^-½ (their equation 126).

    Raises ValueError for a width outside of 0..12^-½.
    """
    if not 0 < width < 12**-0.5:
        raise ValueError(f"the width must be above 0 and below {12**-0.5:.4f}, not {width}")
    t = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - t, 12.0 - t])
    return float(max(root.real for root in roots if abs(root.imag) < 1e-9))


def new_share(step: Any, gamma: float, xp: Any = np) -> Any:
    """Return 1 - (1 - 1/t)^(γ + 1), the share of the new parameters at update t = 1, 2 and so on.

    The first update has 1: the average begins with its parameters. xp: the library that computes
    it. The form is exact in float32 too, where 1 - 1/t would lose the digits of late updates.
    """
    return -xp.expm1((gamma + 1.0) * xp.log1p(-1.0 / step))


def inner(t_a: Any, gamma_a: Any, t_b: Any, gamma_b: Any) -> Any:
    """Return ∫ p_a p_b of two profiles p(τ) = (γ + 1) τ^γ / t^(γ + 1) on 0..t.

    Their equation 149. The arguments are broadcast.
    """
    t_a, gamma_a, t_b, gamma_b = map(np.float64, (t_a, gamma_a, t_b, gamma_b))
    ratio = np.minimum(t_a, t_b) / np.maximum(t_a, t_b)
    power = np.where(t_a < t_b, gamma_b, gamma_a)
    numerator = (gamma_a + 1.0) * (gamma_b + 1.0) * ratio**power
    return numerator / ((gamma_a + gamma_b + 1.0) * np.maximum(t_a, t_b))


def weights(times: Sequence[float], gammas: Sequence[float], t: float, gamma: float) -> np.ndarray:
    """Return the weight of each snapshot, float64 [N], by which their sum is nearest to a profile.

    times, gammas: of the snapshots. t, gamma: of the profile that is wanted. The weights of a
    profile that is one of the snapshots are 1 and 0.
    """
    at, of = np.asarray(times, np.float64), np.asarray(gammas, np.float64)
    products = inner(at[:, None], of[:, None], at[None], of[None])
    wanted = inner(at, of, t, gamma)
    # rows and columns by their norm, as profiles of early snapshots are far larger
    norm = np.sqrt(np.diag(products))
    scaled = products / norm[:, None] / norm[None]
    return np.linalg.lstsq(scaled, wanted / norm, rcond=1e-15)[0] / norm


def steps_of(snapshots: int, steps: int) -> list[int]:
    """Return the steps after which a run of `steps` keeps its averages, the last one included."""
    count = min(snapshots, steps)
    return [math.ceil((i + 1) * steps / count) for i in range(count)]
