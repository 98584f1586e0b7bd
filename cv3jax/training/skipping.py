"""Skip updates that are not finite, or whose gradient is far longer than those before.

A skipped update leaves parameters, EMA and optimizer as they were, and is counted. The next batch
is another one, so a single bad batch costs only itself.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from data_pipeline.io.progress import say

WARM = 50  # updates before any gradient counts as long, because the first ones are long
WINDOW = 100  # updates over which the mean of the gradient's norm reaches back, about


@dataclasses.dataclass(frozen=True)
class Skip:
    """Which updates are skipped.

    most: how many in a row may be skipped before the run ends; 0: none is skipped. spike: the
    factor over the mean gradient norm from which a gradient is too long; 0: no limit.
    """

    most: int = 0
    spike: float = 0.0


NOTHING = Skip()


def fresh_norms() -> dict[str, jax.Array]:
    """Return what is known of gradient norms before the first: float32 mean, int32 count."""
    return {"mean": jnp.zeros((), jnp.float32), "count": jnp.zeros((), jnp.int32)}


def judge(
    skip: Skip, norms: dict | None, loss: jax.Array, grad_norm: jax.Array
) -> tuple[jax.Array, dict | None]:
    """Return (whether an update of this loss and gradient is done, the norms with its own).

    norms: as `fresh_norms`; None where no gradient is too long. A gradient that is too long counts
    as the longest allowed one. If it were left out, a run whose gradients have become longer for
    good would skip for ever.
    """
    fine = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    if norms is None:
        return fine, None
    mean, count = norms["mean"], norms["count"]
    most = jnp.where(count < WARM, jnp.inf, skip.spike * mean)
    share = jnp.maximum(1.0 / (count + 1.0), 1.0 / WINDOW)
    new = mean + share * (jnp.minimum(grad_norm, most) - mean)
    after = {"mean": jnp.where(fine, new, mean), "count": count + fine.astype(jnp.int32)}
    return fine & (grad_norm <= most), after


def chosen(fine: jax.Array, new: Any, old: Any) -> Any:
    """Return the tree `new` where the update is fine, else `old`."""
    return jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, old)


class Skips:
    """The skipped updates of a run: all of them, and the last ones in a row.

    most: how many there may be in a row. known: `to_json` of the sitting before.
    """

    def __init__(self, most: int, known: dict[str, int] | None = None):
        """Start from the counts of the sitting before."""
        self._most = most
        self._known = {"all": 0, "row": 0, **(known or {})}

    def to_json(self) -> dict[str, int]:
        """Return what a checkpoint keeps of it."""
        return dict(self._known)

    def line(self) -> dict[str, int]:
        """Return what a line of metrics has of it; {} where none may be skipped."""
        return {"skipped": self._known["all"]} if self._most else {}

    def count(self, step: int, values: dict[str, float], shown: bool) -> str | None:
        """Count the update `step` with these metrics, and print it where it was skipped.

        Returns what is wrong where it is one too many in a row, else None.
        """
        if not values.get("skipped"):
            self._known["row"] = 0
            return None
        self._known = {name: number + 1 for name, number in self._known.items()}
        why = not_finite(values) or f"grad_norm {values['grad_norm']:.3g} is a spike"
        if self._known["row"] > self._most:
            row = f"{self._known['row']} updates in a row were skipped"
            return f"{why}, and {row}; config.train.skip_nonfinite = {self._most} allows no more"
        if shown:
            say(f"cv3jax: step {step}: {why}; the update is skipped")
        return None


def not_finite(values: dict[str, float]) -> str:
    """Return which metrics are not finite and must be, in words; "" where none is."""
    names = ("loss", "grad_norm", "param_norm")
    return ", ".join(
        f"{name} is {values[name]}" for name in names if not math.isfinite(values[name])
    )
