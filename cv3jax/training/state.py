"""The train state: its optimizer, shapes, shardings and creation."""

from collections.abc import Callable
from typing import Any

import jax

from cv3jax.distributed.backend import jit_once, waiting
from cv3jax.distributed.batches import placement
from cv3jax.distributed.partitioning import abstract, tree_sharding
from cv3jax.kernels.attention import make_attend
from cv3jax.optim import learning_rate, optimizers, selection
from cv3jax.training.settings import OptimSettings, StageSettings
from cv3jax.training.train_step import Selected, create_state
from data_pipeline.io.errors import InputError, first_line


def make_tx(optim: OptimSettings, steps: int | None) -> Any:
    """Return the optimizer of config.optim, for a run of so many steps.

    Without a learning rate its updates have rate 1, and the train step multiplies them by its own.
    Its `init` raises InputError where a pattern of optim.freeze or optim.rates fits no parameter.
    """
    rate: Any = 1.0
    if optim.lr is not None:
        rate = learning_rate.learning_rate(
            optim.lr,
            warmup=optim.warmup,
            decay=optim.decay,
            steps=steps,
            final=optim.final,
        )
    settings = optimizers.OptimizerSettings(
        optim.kind,
        weight_decay=optim.weight_decay,
        clip=optim.clip,
        b1=optim.b1,
        b2=optim.b2,
        momentum=optim.momentum,
        moments=optim.moments,
        turns=optim.turns,
        renew=optim.renew,
    )
    inner = optimizers.make_optimizer(settings, rate)
    return selection.scaled(optim.factors, selection.without(optim.frozen, inner))


def selected(settings: StageSettings) -> Selected:
    """Return what the train step does with some parameters apart."""
    return Selected(settings.optim.frozen, settings.train.module_norms)


def attend_of(settings: StageSettings, mesh: Any) -> Callable:
    """Return the models' `attend` of config.attention.

    Raises InputError where these devices or this model do not allow it.
    """
    platform = mesh.devices.flat[0].platform
    try:
        return make_attend(
            settings.attention,
            platform,
            mesh,
            head_dim=settings.model["head_dim"],
            dtype=settings.model["dtype"],
        )
    except ValueError as e:
        raise InputError(f"config.attention: {e}") from e


def state_shapes(init: Callable, tx: Any, settings: StageSettings, mesh: Any) -> Any:
    """Return the train state's shapes with shardings, as the recipe needs it.

    Raises:
        InputError: config.model's sizes do not make a model.
    """
    try:
        key = jax.random.key(settings.seed)
        norms, posthoc = settings.train.skip.spike > 0, settings.optim.posthoc > 0
        shape = jax.eval_shape(
            lambda key: create_state(init, tx, key, norms=norms, posthoc=posthoc), key
        )
    except (ValueError, TypeError, ArithmeticError, LookupError, AssertionError) as e:
        hint = (
            "each of channels × channel_mult must be a multiple of groups and of head_dim, and"
            " depth must have one entry per resolution"
        )
        raise InputError(
            f"config.model does not make a model ({first_line(e, 240)}): {hint}"
        ) from e
    return abstract(shape, tree_sharding(shape, mesh))


def state_creator(
    init: Callable, tx: Any, seed: int, like: Any, load: Callable[[Any, Any], Any] | None
) -> Callable[[], Any]:
    """Return a function () → the placed state.

    `load(shapes, shardings)` → the parameters to start from, instead of `init`'s.
    """

    def create():
        shardings = placement(like)
        more = (like.norms is not None, like.posthoc is not None)
        fresh = jit_once(lambda key, given: create_state(init, tx, key, given, *more), shardings)
        with waiting("making the train state"):
            params = None if load is None else load(like.params, shardings.params)
            return jax.block_until_ready(fresh(jax.random.key(seed), params))

    return create
