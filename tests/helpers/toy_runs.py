"""Run the real training loop on a linear map, in about a second."""

import dataclasses
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cv3jax.distributed.partitioning import abstract
from cv3jax.optim import optimizers
from cv3jax.training.loop import Cadence, Work, train_loop
from cv3jax.training.skipping import NOTHING
from cv3jax.training.train_step import TrainState, create_state, make_train_step

CADENCE = Cadence(steps=8, log=2, save=2, preview=0, keep=5)


def squares(params, frozen, batch, keys):
    """Return a loss without randomness: a linear map to what `frozen` maps to."""
    return jnp.mean((batch @ params["w"] - batch @ frozen) ** 2), {}


def numbers():
    """Return an endless iterator of float32 [8, 2], in place of a loader."""
    data = grain.MapDataset.range(64).map(lambda i: np.array([np.sin(i), np.cos(i)], np.float32))
    return iter(
        data.repeat(None)
        .batch(8)
        .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    )


def toy(
    workdir: Path,
    *,
    lr=0.1,
    data=None,
    place=jax.device_put,
    wrap=lambda step: step,
    before=lambda step: None,
    cadence=CADENCE,
    width=1,
) -> TrainState:
    """Run `train_loop` on the toy.

    `wrap` changes its jitted step, `before(step)` is called before each step, `width` is that of
    its matrix.
    """
    work, state = toy_work(lr=lr, width=width, skip=cadence.skip, posthoc=cadence.posthoc > 0)
    step = wrap(work.step)

    def watched(state, batch):
        with jax.transfer_guard("allow"):
            before(int(state.step) + 1)
        return step(state, batch)

    work = dataclasses.replace(work, step=watched, data=data or work.data, place=place)
    return train_loop(work, workdir, state, cadence, {})[0]


def toy_work(*, lr=0.1, width=1, skip=NOTHING, posthoc=False) -> tuple[Work, TrainState]:
    """Return (what the loop trains, its first state)."""
    tx = optimizers.make_optimizer(
        optimizers.OptimizerSettings("adamw"), optax.constant_schedule(lr)
    )
    state = create_state(
        lambda key: {"w": jnp.ones((2, width)) + jnp.sin(jnp.arange(width)) / 10},
        tx,
        jax.random.key(0),
        norms=skip.spike > 0,
        posthoc=posthoc,
    )
    step = make_train_step(squares, tx, decay=0.9, skip=skip)
    jitted, frozen = jax.jit(step, donate_argnums=0), jnp.array([[2.0], [-1.0]])
    like = abstract(state, jax.tree.map(lambda x: x.sharding, state))

    def train(state, batch):
        return jitted(state, frozen, batch)

    return Work("toy", like, numbers(), jax.device_put, train), state
