"""From a recipe to the pieces the training loop takes: data, models, state, the compiled step, previews and the export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cv3jax import optim
from cv3jax.cascade import build_model
from cv3jax.sharding import batch_sharding, batch_ways, make_mesh, tree_sharding
from cv3jax.state import create_state
from data_pipeline.errors import InputError
from data_pipeline.loader import make_loader
from data_pipeline.records import RecordSource, open_records


class Stage(NamedTuple):
    """What `train_loop` needs of a stage, whichever it is."""

    create: Callable[[], Any]  # → the placed train state
    data: Any  # the loader's iterator
    place: Callable[[dict], Any]  # a numpy batch → global arrays
    step: Callable[[Any, Any], tuple[Any, dict]]  # (state, batch) → (state, metrics)
    preview: Callable[[Path], Callable | None]  # directory → preview(ema, step), or None
    export: Callable[[Any, Path], dict]  # (ema, cascade directory) → figures


class Plan(NamedTuple):
    """The mesh and how a global batch is dealt over it."""

    mesh: Any
    accumulate: int  # microbatches an update
    host_batch: int  # images this process loads


def plan(config: ConfigDict) -> Plan:
    """Mesh and accumulation: global batch / (ways the batch is split × images per device per microbatch).

    Raises:
        InputError: the mesh does not fit the devices, or the batch does not divide over it.
    """
    try:
        mesh = make_mesh(**config.mesh)
    except ValueError as e:
        raise InputError(f"config.mesh: {e}") from e
    ways, size = batch_ways(mesh), config.batch.size
    if size < 1 or size % ways:
        raise InputError(f"config.batch.size = {size} does not divide over the mesh's {ways} batch devices; take a multiple of {ways}")
    share = size // ways
    per_device = min(config.batch.per_device, share)
    if per_device < 1 or share % per_device:
        raise InputError(f"config.batch.per_device = {config.batch.per_device} does not divide a device's {share} of {size} images")
    if size % jax.process_count():
        raise InputError(f"config.batch.size = {size} does not divide over {jax.process_count()} hosts")
    return Plan(mesh, share // per_device, size // jax.process_count())


def open_data(config: ConfigDict) -> RecordSource:
    """The records of config.data.path. Raises InputError when unset, missing, empty or damaged."""
    if not config.data.path:
        raise InputError("config.data.path is not set; give a record directory, e.g. --config.data.path=runs/scenes")
    return open_records(config.data.path)


def loader(config: ConfigDict, records: RecordSource, host_batch: int, tokenize: Callable | None) -> Any:
    """The training iterator of this process."""
    return make_loader(
        records, batch_size=host_batch, image_size=config.data.image_size, tokenize=tokenize, seed=config.seed,
        shard_index=jax.process_index(), shard_count=jax.process_count(), num_threads=config.data.threads, zoom=tuple(config.data.zoom),
        random_crop=config.data.random_crop, flip=config.data.flip, recaption_prob=config.data.get("recaption", 0.0),
    )  # fmt: skip


def placer(mesh: Any) -> Callable[[dict], Any]:
    """This process's rows of a batch → arrays over the whole mesh."""
    rows = batch_sharding(mesh)
    return lambda batch: jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, np.ascontiguousarray(x)), batch)


def make_tx(config: ConfigDict) -> Any:
    """The optimizer of config.optim. Raises InputError on an unknown kind or decay."""
    o = config.optim
    try:
        rate = optim.learning_rate(o.lr, warmup=o.warmup, decay=o.decay, steps=config.train.steps, final=o.final)
        return optim.make_optimizer(o.kind, rate, weight_decay=o.weight_decay, clip=o.clip, b1=o.b1, b2=o.b2)
    except ValueError as e:
        raise InputError(f"config.optim: {e}") from e


def state_creator(init: Callable, tx: Any, seed: int, mesh: Any, load: Callable[[Any], Any] | None) -> tuple[Callable[[], Any], Any]:
    """(() → the placed state, its shardings). `load(shardings)` → the parameters to start from, instead of `init`'s."""
    shape = jax.eval_shape(lambda key: create_state(init, tx, key), jax.random.key(seed))
    shardings = tree_sharding(shape, mesh)

    def create():
        key = jax.random.key(seed)
        if load is None:
            return jax.jit(lambda key: create_state(init, tx, key), out_shardings=shardings)(key)
        params = load(shardings.params)
        return jax.jit(lambda key, params: create_state(init, tx, key, params), out_shardings=shardings)(key, params)

    return create, shardings


def model_of(cls: type, section: ConfigDict, where: str, **extra: Any) -> Any:
    """A model from a config section; InputError names the section."""
    try:
        return build_model(cls, dict(section), **extra)
    except InputError as e:
        raise InputError(f"{where}: {e}") from e


def build(config: ConfigDict, workdir: Path) -> Stage:
    """The pieces of the stage `config` describes. Raises InputError as its parts do, before anything is written to `workdir`."""
    from cv3jax.build_diffusion import build_diffusion
    from cv3jax.build_vae import build_vae

    if config.stage not in ("vae", "base", "relay"):
        raise InputError(f"config.stage = {config.stage!r}: one of vae, base, relay")
    return build_vae(config) if config.stage == "vae" else build_diffusion(config, workdir)
