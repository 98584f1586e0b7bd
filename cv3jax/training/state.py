"""The train state: its optimizer, shapes, shardings and creation."""

from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from cv3jax.distributed.backend import jit_once
from cv3jax.distributed.batches import placement
from cv3jax.distributed.partitioning import abstract, tree_sharding
from cv3jax.kernels.attention import make_attend
from cv3jax.optim import learning_rate, optimizers
from cv3jax.training.train_step import create_state
from data_pipeline.io.errors import InputError, first_line


def make_tx(config: ConfigDict) -> Any:
    """The optimizer of config.optim.

    Raises InputError on an unknown kind, decay or type of moments.
    """
    o = config.optim
    try:
        rate: Any = 1.0  # of a distillation, whose rounds have their own among their arguments
        if "distill" not in config:
            rate = learning_rate.learning_rate(
                o.lr, warmup=o.warmup, decay=o.decay, steps=config.train.steps, final=o.final
            )
        settings = optimizers.OptimizerSettings(
            o.kind,
            weight_decay=o.weight_decay,
            clip=o.clip,
            b1=o.b1,
            b2=o.b2,
            momentum=o.momentum,
            moments=o.moments,
        )
    except ValueError as e:
        raise InputError(f"config.optim: {e}") from e
    return optimizers.make_optimizer(settings, rate)


def attend_of(config: ConfigDict, mesh: Any) -> Callable:
    """The models' `attend` by config.attention.

    Raises InputError on one that these devices or this model do not allow.
    """
    platform = mesh.devices.flat[0].platform
    try:
        return make_attend(
            config.attention,
            platform,
            mesh,
            head_dim=config.model.head_dim,
            dtype=config.model.dtype,
        )
    except ValueError as e:
        raise InputError(f"config.attention: {e}") from e


def state_shapes(init: Callable, tx: Any, seed: int, mesh: Any) -> Any:
    """The train state's shapes with shardings.

    Raises:
        InputError: config.model's sizes do not make a model.
    """
    try:
        shape = jax.eval_shape(lambda key: create_state(init, tx, key), jax.random.key(seed))
    except (ValueError, TypeError, ArithmeticError, LookupError, AssertionError) as e:
        hint = (
            "channels × channel_mult must divide by groups and head_dim, and depth have one entry a"
            " stage"
        )
        raise InputError(
            f"config.model does not make a model ({first_line(e, 240)}): {hint}"
        ) from e
    return abstract(shape, tree_sharding(shape, mesh))


def state_creator(
    init: Callable, tx: Any, seed: int, like: Any, load: Callable[[Any, Any], Any] | None
) -> Callable[[], Any]:
    """() → the placed state.

    `load(shapes, shardings)` → the parameters to start from, instead of `init`'s.
    """

    def create():
        shardings = placement(like)
        params = None if load is None else load(like.params, shardings.params)
        return jit_once(lambda key, params: create_state(init, tx, key, params), shardings)(
            jax.random.key(seed), params
        )

    return create
