"""Make a small tree of parameters with names of a UNet's, and settings of its optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax import recipes
from cv3jax.training.optim_settings import OptimSettings
from cv3jax.training.parsing import parse_stage

SHAPES = {
    "down_0_0": {"conv": {"kernel": (3, 3, 4, 6), "bias": (6,)}},
    "mid_0_transformer": {"blocks": {"ff_in": {"kernel": (2, 6, 8)}, "norm": {"scale": (2, 6)}}},
    "time_in": {"kernel": (5, 6)},
}


def drawn(seed: int) -> dict[str, Any]:
    """Return normal values of SHAPES."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def optim(*fields: str) -> OptimSettings:
    """Return the settings of a recipe's optimizer, with a short clip and no warm-up."""
    given = ("optim.lr=0.1", "optim.warmup=0", "optim.clip=0.5", *fields)
    return parse_stage(recipes.load("scenes_base:tiny", [f"--config.{one}" for one in given])).optim
