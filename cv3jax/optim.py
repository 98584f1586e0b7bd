"""The optimizer: adamw or muon, learning-rate warm-up and decay, clipping of the global gradient norm."""

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from cv3jax.sharding import STACKED

OPTIMIZERS = ("adamw", "muon")
DECAYS = ("constant", "linear", "cosine")


def learning_rate(lr: float, *, warmup: int, decay: str, steps: int, final: float = 0.0) -> optax.Schedule:
    """0 → lr over `warmup` steps, then constant, or down to lr · final at `steps` linearly or by a cosine."""
    if decay not in DECAYS:
        raise ValueError(f"decay must be one of {', '.join(DECAYS)}, not {decay!r}")
    rest = max(steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(lr),
        "linear": optax.linear_schedule(lr, lr * final, rest),
        "cosine": optax.cosine_decay_schedule(lr, rest, alpha=final),
    }[decay]
    return optax.join_schedules([optax.linear_schedule(0.0, lr, warmup), after], [warmup]) if warmup else after


def muon_dimensions(params) -> dict:
    """Which axes of each parameter muon treats as one matrix; None (adam) for vectors.

    Dense [in, out]; convolution [h, w, in, out], whose rows are h·w·in; a leading layer axis is a batch of matrices.
    """

    def axes(path, value):
        stacked = any(getattr(key, "key", None) in STACKED for key in path)
        rank = value.ndim - stacked
        if rank < 2:
            return None
        return MuonDimensionNumbers(tuple(range(stacked, value.ndim - 1)), value.ndim - 1)

    return jax.tree.map_with_path(axes, params)


def make_optimizer(
    kind: str, lr: optax.Schedule, *, weight_decay: float = 0.0, clip: float = 1.0, b1: float = 0.9, b2: float = 0.99, eps: float = 1e-8,
    momentum: float = 0.95, adam_lr: optax.Schedule | None = None,
) -> optax.GradientTransformation:  # fmt: skip
    """adamw (b1, b2, eps) or muon (momentum; adam with b1, b2 for vectors). Gradients are clipped to the global norm `clip` first.

    muon's updates are scaled to the RMS adamw's would have (0.2 √max(fan in, fan out)), so that one learning rate fits both.
    """
    if kind == "adamw":
        optimizer = optax.adamw(lr, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    elif kind == "muon":
        optimizer = muon(
            lr, beta=momentum, eps=eps, weight_decay=weight_decay, adam_b1=b1, adam_b2=b2, adam_learning_rate=adam_lr or lr,
            muon_weight_dimension_numbers=muon_dimensions, consistent_rms=0.2,
        )  # fmt: skip
    else:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {kind!r}")
    return optax.chain(optax.clip_by_global_norm(clip), optimizer)
