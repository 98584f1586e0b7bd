"""One stage as a jitted sampling function."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from cv3jax.cascade.stage_network import SamplerOptions, stage_network
from cv3jax.checkpoints.description import StageDescription
from cv3jax.diffusion import sampler
from cv3jax.diffusion.conditioning import normals
from cv3jax.diffusion.sampler import State
from cv3jax.diffusion.schedule import Grid, base_grid, relay_grid
from cv3jax.distributed.backend import announced
from cv3jax.distributed.mesh import BATCH
from data_pipeline.io.errors import InputError, counted

EVERY = 1.0  # seconds between two reports of a sampler's progress


def make_stage_sampler(stage: StageDescription, options: SamplerOptions) -> Callable:
    """Return a stage's jitted sampler.

    It is a function (params, text [B, L, C], low or None, noise [B, h, w, z], keys [B], w) →
    latents [B, h, w, z].

    A base stage starts from the noise, a relay stage from `low` and the noise. With η > 0 each
    image draws from its own key, so its pixels do not depend on the other images of its batch. w is
    the guidance weight, a scalar or [B].
    """
    grid, relay = stage_grid(stage, options.steps, options.strength), stage.kind == "relay"
    network = stage_network(stage, options)

    def run(params, text, low, noise, keys, w):
        low = low if relay else None
        x = sampler.start(grid, noise, low)
        predict = network.predictor(params, network.read_text(params, text), x, w)
        keys, eta, form = fold(keys, 1), options.eta, options.form
        return sampler.sample(predict, grid, x, low, keys=keys, eta=eta, form=form)[0]

    return jax.jit(run, out_shardings=images_sharding(options.mesh))


Progress = Callable[[str, int, int], None]  # (stage, steps done, steps)
# (stage, steps done, steps, function () → x̂0 of the last step)
Watch = Callable[[str, int, int, Callable[[], jax.Array]], None]


class StageSampler(NamedTuple):
    """A stage's sampler as a program of any number of its steps."""

    count: int
    begin: Callable  # jitted (low or None, noise) → state
    # jitted (params, what `read_text` returns, low or None, state, keys, w, (begin, end)) → state
    run: Callable
    # (params, text [B, L, C]) → its keys and values, sharded as `text_sharding`, or the text itself
    read_text: Callable = lambda params, text: text
    text_sharding: NamedSharding | None = None
    # (step, low or None, the states before and after it) → the x̂0 [B, h, w, z] that it predicted
    x0: Callable = lambda number, low, before, after: after[1]


def make_stage_steps(stage: StageDescription, options: SamplerOptions) -> StageSampler:
    """Return a stage's sampler in parts, which lets `sample_stage` report its progress.

    A state is (x [B, h, w, z], the carried mean). The x of the last state are the latents.

    Raises InputError on a number of steps that the stage has no grid for.
    """
    try:
        grid, relay = stage_grid(stage, options.steps, options.strength), stage.kind == "relay"
    except ValueError as e:
        raise InputError(
            f"{counted(options.steps, 'step')} for the {stage.kind} stage, which starts at t ="
            f" {stage.start}: give 1..{stage.start} steps"
        ) from e
    network = stage_network(stage, options)

    def begin(low, noise):
        low = low if relay else None
        return sampler.first_state(sampler.start(grid, noise, low), low)

    def run(params, text, low, state, keys, w, between):
        predict = network.predictor(params, text, state[0], w)
        low, keys = low if relay else None, fold(keys, 1)
        return sampler.sample_steps(
            predict, grid, state, low, between, keys=keys, eta=options.eta, form=options.form
        )

    def x0(number, low, before, after):
        low = low if relay else None
        return sampler.predicted(options.form, grid, number, low, before, after)

    images = images_sharding(options.mesh)
    many = jax.jit(run, out_shardings=images)
    what = f"the {stage.kind} sampler of {counted(grid.steps, 'step')}"
    begins = jax.jit(begin, out_shardings=images)
    return StageSampler(
        grid.steps, begins, announced(many, what), network.read_text, network.text_sharding, x0
    )


def sample_stage(
    sampler: StageSampler,
    params: Any,
    text: jax.Array,
    low: jax.Array | None,
    noise: jax.Array,
    keys: jax.Array,
    w: jax.Array,
    tell: Callable[[int, int], None] | None,
) -> jax.Array:
    """Return the latents [B, h, w, z] that a sampler makes of the noise.

    tell(steps done, steps) is called about every second, after as many steps as fit into one, and
    at the end. Without it all steps are one call, which nothing waits for.
    """
    state, read = _begun(sampler, params, text, low, noise)
    done, number = 0, sampler.count if tell is None else 1
    while done < sampler.count:
        began, end = time.monotonic(), min(done + number, sampler.count)
        between = (jnp.int32(done), jnp.int32(end))
        state = _tied(sampler.run(params, read, low, state, keys, w, between), text)
        done = end
        if tell is not None:
            jax.block_until_ready(state)
            tell(done, sampler.count)
            number = max(1, int(number * EVERY / max(time.monotonic() - began, 1e-3)))
    return state[0]


def watch_stage(
    sampler: StageSampler,
    params: Any,
    text: jax.Array,
    low: jax.Array | None,
    noise: jax.Array,
    keys: jax.Array,
    w: jax.Array,
    watch: Callable[[int, int, Callable[[], jax.Array]], None],
) -> jax.Array:
    """Return the latents of `sample_stage`, one step at a time, to the bit.

    watch(steps done, steps, x0) is called after each step. x0() is the x̂0 [B, h, w, z] that the
    step predicted. What `watch` raises ends the sampling.
    """
    state, read = _begun(sampler, params, text, low, noise)
    for number in range(sampler.count):
        between = (jnp.int32(number), jnp.int32(number + 1))
        before = state
        state = _tied(sampler.run(params, read, low, state, keys, w, between), text)
        jax.block_until_ready(state)
        predicted = functools.partial(sampler.x0, number, low, before, state)
        watch(number + 1, sampler.count, predicted)
    return state[0]


def _begun(
    sampler: StageSampler, params: Any, text: jax.Array, low: jax.Array | None, noise: jax.Array
) -> tuple[State, Any]:
    """Return (the first state, the text as the network reads it)."""
    return _tied(sampler.begin(low, noise), text), sampler.read_text(params, text)


def _tied(state: State, text: jax.Array) -> State:
    """Return a state as all steps take it; a state of another kind would be another program.

    On one device it is tied to the device, and forgets the mesh of the attention that made it.
    """
    alone = isinstance(text.sharding, SingleDeviceSharding)
    return jax.device_put(state, text.sharding) if alone else state


def stage_grid(
    stage: StageDescription, steps: int, strength: float = 1.0, *, array: Callable = jnp.asarray
) -> Grid:
    """Return the grid of so many steps of a stage. Raises ValueError where it has none.

    strength: a relay starts at that share of T_r, with that share of the steps. array: as for
    `custom_grid`.
    """
    if stage.kind != "relay":
        return base_grid(steps, zero_snr=stage.zero_snr, array=array)
    # cascades written before blurs were recorded have none; theirs was linear
    taken = max(round(steps * strength), 1)
    blur = stage.blur or "linear"
    return relay_grid(taken, stage.start, blur, strength=strength, array=array)


def images_sharding(mesh: Mesh | None) -> NamedSharding | None:
    """Return the sharding of latents and pictures [B, H, ...] on a mesh, or None without one.

    Rows are sharded over data and fsdp, the height over context.
    """
    return None if mesh is None else NamedSharding(mesh, P(BATCH, "context"))


def check_rows(mesh: Mesh, rows: int) -> None:
    """Raise InputError where pictures or latents of so many rows do not divide over context."""
    if rows % (ways := mesh.shape["context"]):
        raise InputError(
            f"mesh context={ways}: latents of {rows} rows do not divide over {ways} devices; give a"
            " smaller context"
        )


draw_noise = jax.jit(normals, static_argnums=1)


@jax.jit
def keys_of(seeds: jax.Array) -> jax.Array:
    """Return the keys [B] of seeds, uint32 [B]."""
    return jax.vmap(jax.random.key)(seeds)


@jax.jit
def fold(keys: jax.Array, number: int) -> jax.Array:
    """Fold `number` into each of the keys."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
