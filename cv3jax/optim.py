"""The optimizer: adamw or muon, learning-rate warm-up and decay, clipping of the global gradient norm."""

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from cv3jax.sharding import STACKED

OPTIMIZERS = ("adamw", "muon")
DECAYS = ("constant", "linear", "cosine")
EMBEDDINGS = ("embed", "time_in", "time_out", "size_in", "size_out", "w_proj")  # wide, shallow and cheap to train by adam
# Four iterations after AOL scaling are as orthogonal as five without, a fifth cheaper (arXiv 2512.04632). Given one by one,
# optax scans over them, which compiles several times faster than its unrolled loop.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


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

    Dense [in, out]; convolution [h, w, in, out], whose rows are h·w·in; a leading layer axis is a batch of matrices. The
    embeddings go to adam, as is usual: they are not matrices between hidden states.
    """

    def axes(path, value):
        names = [getattr(key, "key", None) for key in path]
        stacked = any(name in STACKED for name in names)
        if value.ndim - stacked < 2 or any(name in EMBEDDINGS for name in names):
            return None
        return MuonDimensionNumbers(tuple(range(stacked, value.ndim - 1)), value.ndim - 1)

    return jax.tree.map_with_path(axes, params)


def make_optimizer(
    kind: str, lr: optax.Schedule, *, weight_decay: float = 0.0, clip: float = 1.0, b1: float = 0.9, b2: float = 0.99, eps: float = 1e-8,
) -> optax.GradientTransformation:  # fmt: skip
    """adamw (b1, b2, eps) or muon (adamw's for vectors). Gradients are clipped to the global norm `clip` first.

    muon's updates are scaled to the RMS adamw's would have (0.2 √max(fan in, fan out)), so that one learning rate fits both.
    """
    if kind == "adamw":
        optimizer = optax.adamw(lr, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    elif kind == "muon":
        optimizer = muon(
            lr, eps=eps, weight_decay=weight_decay, adam_b1=b1, adam_b2=b2,
            muon_weight_dimension_numbers=muon_dimensions, consistent_rms=0.2,
            preconditioning="aol", ns_coeffs=(NEWTON_SCHULZ,) * 4,
        )  # fmt: skip
    else:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {kind!r}")
    return optax.chain(optax.clip_by_global_norm(clip), optimizer)
