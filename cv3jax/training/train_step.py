"""The train state, and the one train step that all objectives share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cv3jax.optim import power_ema, selection
from cv3jax.training.skipping import NOTHING, Skip, chosen, fresh_norms, judge

# (params, frozen, batch, keys [B]) → (loss, metrics)
LossFn = Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, dict]]


@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that training changes.

    It is built inside a jitted init: built outside, `ema` would alias `params`, and donation would
    fail. As a tree it has `norms` and `posthoc` only where there are some; without them it is
    that of every checkpoint.
    """

    step: jax.Array  # int32, updates done, including skipped ones
    # typed PRNG key; step n draws from fold_in(key, n), so a resumed run repeats nothing
    key: jax.Array
    params: Any  # float32
    ema: Any  # float32, like params
    opt_state: Any
    norms: Any = None  # `fresh_norms`, where spikes are skipped
    # σ_rel → average, float32 like params, where other averages are made afterwards
    posthoc: Any = None


_WHOLE = ("step", "key", "params", "ema", "opt_state")  # what every state has


def _flatten(state: TrainState) -> tuple[list, tuple[str, ...]]:
    names = tuple(field.name for field in dataclasses.fields(TrainState))
    names = tuple(name for name in names if name in _WHOLE or getattr(state, name) is not None)
    return [(jax.tree_util.GetAttrKey(name), getattr(state, name)) for name in names], names


jax.tree_util.register_pytree_with_keys(
    TrainState,
    _flatten,
    lambda names, children: TrainState(**dict(zip(names, children, strict=True))),
)


def create_state(
    init: Callable[[jax.Array], Any],
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    params: Any = None,
    norms: bool = False,
    posthoc: bool = False,
) -> TrainState:
    """Return a fresh state, whose parameters are `params` (another run's EMA) or `init(key)`.

    norms: whether spikes will be skipped. posthoc: whether power-function averages are kept.
    """
    key_init, key_run = jax.random.split(key)
    params = init(key_init) if params is None else params
    ema = jax.tree.map(jnp.copy, params)
    state = TrainState(jnp.zeros((), jnp.int32), key_run, params, ema, optimizer.init(params))
    if posthoc:
        averages = {f"{width:.2f}": jax.tree.map(jnp.copy, params) for width in power_ema.WIDTHS}
        state = dataclasses.replace(state, posthoc=averages)
    return dataclasses.replace(state, norms=fresh_norms()) if norms else state


def as_stored(state: TrainState) -> TrainState:
    """Return the state as checkpoints hold it, whether spikes are skipped or not."""
    return dataclasses.replace(state, norms=None)


def norms_of(state: TrainState) -> dict[str, float] | None:
    """Return the state's norms as plain numbers, which a checkpoint keeps beside it, or None."""
    if state.norms is None:
        return None
    return {name: value.item() for name, value in jax.device_get(state.norms).items()}


def from_stored(state: TrainState, like: TrainState, norms: dict | None) -> TrainState:
    """Return a stored state with its `norms`, or with fresh ones, where `like` has some."""
    if like.norms is None:
        return state
    norms = jax.tree.map(lambda x, of: jnp.asarray(x, of.dtype), norms or fresh_norms(), like.norms)
    return dataclasses.replace(
        state, norms=jax.device_put(norms, jax.tree.map(lambda x: x.sharding, like.norms))
    )


@dataclasses.dataclass(frozen=True)
class Selected:
    """What a step does with parameters apart: those that are frozen, and norms by module.

    frozen: patterns of `selection.fits`, as the optimizer has them. norms: whether the metrics have
    `selection.module_norms`.
    """

    frozen: tuple[str, ...] = ()
    norms: bool = False

    def of_trained(self, loss_fn: LossFn) -> LossFn:
        """Return a loss whose gradients of frozen parameters are 0, and are not computed."""
        if not self.frozen:
            return loss_fn

        def loss(params, frozen, batch, keys):
            still = jax.tree.map(
                lambda x, held: jax.lax.stop_gradient(x) if held else x,
                params,
                selection.frozen(self.frozen, params),
            )
            return loss_fn(still, frozen, batch, keys)

        return loss

    def kept(self, new: Any, old: Any) -> Any:
        """Return the tree `new`, with the frozen leaves of `old`, bit for bit."""
        if not self.frozen:
            return new
        held = selection.frozen(self.frozen, old)
        return jax.tree.map(lambda a, b, held: b if held else a, new, old, held)


ALL = Selected()


def ema_decay(decay: float, step: jax.Array) -> jax.Array:
    """Return min(decay, (1 + step)/(10 + step)): `decay`, but no longer than the run so far."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def averaged(state: TrainState, params: Any, select: Selected = ALL) -> Any:
    """Return the power-function averages after the next update, or None where none are kept."""
    if state.posthoc is None:
        return None
    gammas = [power_ema.exponent(width) for width in power_ema.WIDTHS]
    now = state.step.astype(jnp.float32) + 1.0
    new = {}
    for (name, old), gamma in zip(sorted(state.posthoc.items()), gammas, strict=True):
        share = power_ema.new_share(now, gamma, jnp)
        new[name] = select.kept(optax.incremental_update(params, old, share), old)
    return new


def microbatches(batch: Any, count: int) -> Any:
    """Split leaves [B, ...] into [count, B/count, ...].

    Rows are distributed so that a batch that is sharded over devices stays where it is.
    """
    return jax.tree.map(
        lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1), batch
    )


def image_keys(key: jax.Array, count: int) -> jax.Array:
    """Return one key per image of a batch.

    Noise depends on an image's row, so neither devices nor microbatches change it.
    """
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(count))


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    decay: float | Callable[[Any], jax.Array],
    accumulate: int = 1,
    spread: Callable[[Callable], Callable] = lambda gradient: gradient,
    rate: Callable[[Any, jax.Array], jax.Array] | None = None,
    skip: Skip = NOTHING,
    select: Selected = ALL,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict]]:
    """Return step(state, frozen, batch) → (state, metrics).

    Jit it with the state donated; `frozen` (encoders, teacher) is never donated.

    `accumulate` > 1 averages gradients over that many microbatches in one scan. `spread` turns a
    function of rows (params, frozen, (batch, keys)) → (gradients, metrics) into that of the whole
    batch, over a mesh. Where `frozen` sets the pace, `decay(frozen)` is the EMA's, and
    `rate(frozen, step)` multiplies the updates. The metrics are loss, grad_norm, param_norm (after
    the update) and the loss's own, float32 scalars. Where `skip` skips any, `skipped` is 1 for
    skipped updates; otherwise the step is compiled without it. Parameters that `select` freezes
    stay, and so does their average.
    """
    gradient = jax.value_and_grad(select.of_trained(loss_fn), has_aux=True)

    def one(params, frozen, part):
        (loss, metrics), grads = gradient(params, frozen, *part)
        return grads, {"loss": loss, **metrics}

    def accumulated(params, frozen, rows):
        if accumulate == 1:
            return one(params, frozen, rows)
        parts = microbatches(rows, accumulate)
        shape = jax.eval_shape(one, params, frozen, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
        total, _ = jax.lax.scan(
            lambda sums, part: (jax.tree.map(jnp.add, sums, one(params, frozen, part)), None),
            zeros,
            parts,
        )
        return jax.tree.map(lambda x: x / accumulate, total)

    def train_step(state, frozen, batch):
        keys = image_keys(
            jax.random.fold_in(state.key, state.step), jax.tree.leaves(batch)[0].shape[0]
        )
        grads, metrics = spread(accumulated)(state.params, frozen, (batch, keys))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        if rate is not None:
            updates = optax.tree.scale(rate(frozen, state.step), updates)
        params = select.kept(optax.apply_updates(state.params, updates), state.params)
        limit = decay(frozen) if callable(decay) else decay
        ema = optax.incremental_update(params, state.ema, 1.0 - ema_decay(limit, state.step))
        ema = select.kept(ema, state.ema)
        norms, metrics["grad_norm"] = state.norms, optax.tree.norm(grads)
        if select.norms:
            metrics |= selection.module_norms(grads)
        if skip.most:
            # decided before the update is computed, so that two states need not be held
            fine, norms = judge(skip, norms, metrics["loss"], metrics["grad_norm"])
            params = chosen(fine, params, state.params)
            ema = chosen(fine, ema, state.ema)
            opt_state = chosen(fine, opt_state, state.opt_state)
            metrics["skipped"] = 1.0 - fine.astype(jnp.float32)
        metrics["param_norm"] = optax.tree.norm(params)
        posthoc = averaged(state, params, select)
        return TrainState(
            state.step + 1, state.key, params, ema, opt_state, norms, posthoc
        ), metrics

    return train_step
