"""Learning rates: warm-up, then constant or a decay."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from cv3jax.optim import DECAYS


def learning_rate(
    lr: float | jax.Array,
    *,
    warmup: int | jax.Array,
    decay: str,
    steps: int | jax.Array,
    final: float = 0.0,
    xp: Any = jnp,
) -> optax.Schedule:
    """Return a schedule: 0 → lr over `warmup` steps, then constant or decaying.

    The decay goes down to lr · final at `steps`, linearly or by a cosine. xp: the library
    that computes it; with numpy, a log can have it without a device. Raises ValueError on another
    decay.
    """
    if decay not in DECAYS:
        raise ValueError(f"decay must be one of {', '.join(DECAYS)}, not {decay!r}")

    def at(step):
        share = xp.clip((step - warmup) / xp.maximum(steps - warmup, 1), 0.0, 1.0)
        left = {
            "constant": 1.0,
            "linear": 1.0 - share,
            "cosine": 0.5 * (1.0 + xp.cos(xp.pi * share)),
        }[decay]
        after = left if decay == "constant" else final + (1.0 - final) * left
        return lr * xp.where(step < warmup, step / xp.maximum(warmup, 1), after)

    return at
