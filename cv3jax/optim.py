"""The optimizer: adamw or muon, learning-rate warm-up and decay, clipping of the global gradient norm."""

import jax
import optax

from cv3jax.muon import matrix_shape, scale_by_muon

OPTIMIZERS = ("adamw", "muon")
DECAYS = ("constant", "linear", "cosine")
EMBEDDINGS = ("embed", "time_in", "time_out", "size_in", "size_out", "w_proj")  # wide, shallow and cheap to train by adam


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


def muon_labels(params) -> dict:
    """Which optimizer takes each parameter: muon the matrices between hidden states, adam vectors and (as is usual) embeddings."""

    def label(path, value):
        names = [getattr(key, "key", None) for key in path]
        vector = value.size == matrix_shape(path, value)[0] * value.shape[-1]
        return "adam" if vector or any(name in EMBEDDINGS for name in names) else "muon"

    return jax.tree.map_with_path(label, params)


def make_optimizer(
    kind: str, lr: optax.Schedule, *, weight_decay: float = 0.0, clip: float = 1.0, b1: float = 0.9, b2: float = 0.99, eps: float = 1e-8,
) -> optax.GradientTransformation:  # fmt: skip
    """adamw (b1, b2, eps) or muon (adam for vectors and embeddings). Gradients are clipped to the global norm `clip` first."""
    if kind == "adamw":
        optimizer = optax.adamw(lr, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    elif kind == "muon":
        parts = {"muon": optax.chain(scale_by_muon(), optax.add_decayed_weights(weight_decay)), "adam": optax.scale_by_adam(b1, b2, eps)}
        optimizer = optax.chain(optax.partition(parts, muon_labels), optax.scale_by_learning_rate(lr))
    else:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {kind!r}")
    return optax.chain(optax.clip_by_global_norm(clip), optimizer)
