"""From a recipe to the pieces the training loop takes: data, models, state, the compiled step,
previews and the export.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cv3jax import tracing
from cv3jax.diffusion.denoiser import PREDICTIONS
from cv3jax.diffusion.losses import WEIGHTINGS
from cv3jax.diffusion.sampler import FORMS
from cv3jax.distributed.backend import jit_once
from cv3jax.distributed.batches import own_rows, placement
from cv3jax.distributed.mesh import batch_sharding, batch_ways, make_mesh
from cv3jax.distributed.partitioning import abstract, tree_sharding
from cv3jax.kernels.attention import make_attend
from cv3jax.models.layers import REMATS
from cv3jax.optim import learning_rate, optimizers
from cv3jax.state import create_state
from data_pipeline import buckets
from data_pipeline.io.errors import InputError, first_line
from data_pipeline.loader import Loader, Prepare, make_loader
from data_pipeline.mixture import Mixture, open_datasets
from data_pipeline.records import RecordSource


class Stage(NamedTuple):
    """What `train_loop` needs of a stage, whichever it is."""

    create: Callable[[], Any]  # → the placed train state
    like: Any  # its shapes and shardings, for restoring it instead
    data: Any  # the loader's iterator
    place: Callable[[dict], Any]  # a numpy batch → global arrays
    step: Callable[[Any, Any], tuple[Any, dict]]  # (state, batch) → (state, metrics)
    preview: Callable[[Path], Callable | None]  # directory → preview(ema, step), or None
    export: Callable[[Any, Path], dict]  # (ema, cascade directory) → figures


def fits(parse: Callable[[Any], Any], value: Any) -> bool:
    """Whether `parse` takes it."""
    try:
        parse(value)
    except ValueError:
        return False
    return True


# field, what it must be, in words; fields a recipe lacks are passed over
RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("seed", lambda v: 0 <= v < 2**31, f"0..{2**31 - 1}"),
    ("train.steps", lambda v: v >= 1, "at least 1"),
    ("train.log_every", lambda v: v >= 0, "0 (only at the end) or more"),
    ("train.save_every", lambda v: v >= 0, "0 (only at the end) or more"),
    ("train.preview_every", lambda v: v >= 0, "0 (only at the end) or more"),
    ("train.keep", lambda v: v >= 1, "at least 1"),
    (
        "profile.steps",
        lambda v: fits(tracing.steps_of, v),
        "first and last step to trace, such as 10:15, or empty",
    ),
    ("optim.lr", lambda v: 0 < v < np.inf, "a positive number"),
    ("optim.warmup", lambda v: v >= 0, "0 or more"),
    ("optim.final", lambda v: 0 <= v <= 1, "0..1, a share of lr"),
    ("optim.weight_decay", lambda v: 0 <= v < np.inf, "0 or more"),
    ("optim.clip", lambda v: v > 0, "a positive number"),
    ("optim.b1", lambda v: 0 <= v < 1, "0..1, without 1"),
    ("optim.b2", lambda v: 0 <= v < 1, "0..1, without 1"),
    ("optim.momentum", lambda v: 0 <= v < 1, "0..1, without 1"),
    ("optim.ema", lambda v: 0 <= v < 1, "0..1, without 1"),
    ("model.channels", lambda v: v >= 1, "at least 1"),
    ("model.dtype", lambda v: v in ("float32", "bfloat16"), "float32 or bfloat16"),
    ("model.remat", lambda v: v in REMATS, f"one of {', '.join(REMATS)}"),
    ("vae.dtype", lambda v: v in ("float32", "bfloat16"), "float32 or bfloat16"),
    ("text.vocab", lambda v: v >= 1, "at least 1"),
    ("text.dtype", lambda v: v in ("float32", "bfloat16"), "float32 or bfloat16"),
    (
        "model.channel_mult",
        lambda v: len(v) > 0 and min(v) >= 1,
        "one factor or more, each at least 1",
    ),
    (
        "data.zoom",
        lambda v: (
            len(v) == 2 and all(isinstance(x, (int, float)) for x in v) and 1 <= v[0] <= v[1] <= 8
        ),
        "two numbers, 1 <= low <= high <= 8",
    ),
    ("data.recaption", lambda v: 0 <= v <= 1, "a probability, 0..1"),
    ("data.threads", lambda v: v >= 0, "0 (none beside the training's own) or more"),
    ("data.workers", lambda v: v >= 0, "0 (threads alone) or more processes"),
    ("data.max_damaged", lambda v: v >= 0, "0 or more"),
    ("objective.prediction", lambda v: v in PREDICTIONS, f"one of {', '.join(PREDICTIONS)}"),
    ("objective.weighting", lambda v: v in WEIGHTINGS, f"one of {', '.join(WEIGHTINGS)}"),
    ("objective.gamma", lambda v: v > 0, "a positive number"),
    ("objective.text_drop", lambda v: 0 <= v <= 1, "a probability, 0..1"),
    ("objective.offset_noise", lambda v: v >= 0, "0 or more"),
    ("objective.kl_weight", lambda v: v >= 0, "0 or more"),
    ("objective.perceptual_weight", lambda v: v >= 0, "0 or more"),
    ("sample.guidance", lambda v: 0 <= v < np.inf, "0 or more"),
    ("sample.eta", lambda v: 0 <= v <= 1, "0..1"),
    ("sample.form", lambda v: v in FORMS, f"one of {', '.join(FORMS)}"),
    (
        "sample.prompts",
        lambda v: len(v) > 0 and all(isinstance(p, str) for p in v),
        "one prompt or more, for the previews",
    ),
)


class Deal(NamedTuple):
    """The mesh and how a global batch is dealt over it."""

    mesh: Any
    accumulate: int  # microbatches an update


def plan(config: ConfigDict, devices: list | None = None) -> Deal:
    """Mesh and accumulation: global batch / (ways the batch is split × images per device per
    microbatch). Default: all devices.

    Raises:
        InputError: the mesh does not fit the devices, or the batch does not divide over it.
    """
    try:
        mesh = make_mesh(**config.mesh, devices=devices)
    except ValueError as e:
        raise InputError(f"config.mesh: {e}") from e
    if mesh.shape["tensor"] > 1 and mesh.shape["context"] > 1:
        raise InputError(
            "config.mesh: tensor and context are both above 1; take one of them (docs/decisions.md,"
            " Mesh)"
        )
    ways, size = batch_ways(mesh), config.batch.size
    if size < 1 or size % ways:
        raise InputError(
            f"config.batch.size = {size} does not divide over the mesh's {ways} batch devices; take"
            f" a multiple of {ways}"
        )
    share = size // ways
    per_device = min(config.batch.per_device, share)
    if per_device < 1 or share % per_device:
        raise InputError(
            f"config.batch.per_device = {config.batch.per_device} does not divide a device's"
            f" {share} of {size} images"
        )
    return Deal(mesh, share // per_device)


def open_data(config: ConfigDict) -> RecordSource | Mixture:
    """The records of config.data.path. Raises InputError when unset, missing, empty or damaged."""
    if not config.data.path:
        raise InputError(
            "config.data.path is not set; give a record directory, e.g."
            " --config.data.path=runs/scenes"
        )
    try:
        records = open_datasets(config.data.path)
    except InputError as e:
        raise InputError(f"config.data.path: {e}") from e
    if config.data.get("cache") and (isinstance(records, Mixture) or config.data.get("buckets")):
        raise InputError(
            "config.data.cache is the companion of one dataset, of one size: no mixture, no"
            " config.data.buckets"
        )
    return records


def bucket_sizes(config: ConfigDict) -> tuple[buckets.Size, ...]:
    """Those of config.data.buckets; none where it is not set.

    Raises InputError on a list that cannot be.
    """
    try:
        return buckets.parse(config.data.get("buckets") or "", config.data.image_size)
    except InputError as e:
        raise InputError(f"config.data.buckets: {e}") from e


def loader(
    config: ConfigDict,
    records: RecordSource | Mixture,
    tokenize: Callable | None,
    mesh: Any,
    prepare: Prepare | None = None,
) -> Loader:
    """The training iterator, of this process's rows of each batch.

    `prepare` stands for decoding and cropping.
    """
    return make_loader(
        records,
        batch_size=config.batch.size,
        rows=own_rows(mesh, config.batch.size),
        image_size=config.data.image_size,
        tokenize=tokenize,
        seed=config.seed,
        num_threads=config.data.threads,
        num_workers=config.data.get("workers", 0),
        buckets=bucket_sizes(config),
        max_damaged=config.data.get("max_damaged", 0),
        zoom=tuple(config.data.zoom),
        zoom_levels=config.data.zoom_levels,
        crop_grid=config.data.crop_grid,
        random_crop=config.data.random_crop,
        flip=config.data.flip,
        recaption_prob=config.data.get("recaption", 0.0),
        prepare=prepare,
    )


def batch_like(config: ConfigDict, mesh: Any, length: int | None = None) -> dict:
    """A batch of the loader on the mesh, as shapes; `length` tokens a caption, None without
    captions.
    """
    size, side = config.batch.size, config.data.image_size
    shapes = {"image": ((size, side, side, 3), np.uint8), "sizes": ((size, 6), np.int32)}
    shapes |= {} if length is None else {"tokens": ((size, length), np.int32)}
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
        for name, (shape, dtype) in shapes.items()
    }


def of_size(batch: dict, size: buckets.Size) -> dict:
    """`batch_like` with images of (height, width)."""
    if "image" not in batch:
        return batch
    image = batch["image"]
    return {
        **batch,
        "image": jax.ShapeDtypeStruct(
            (image.shape[0], *size, 3), image.dtype, sharding=image.sharding
        ),
    }


def by_size(programs: dict[buckets.Size, Any], batch: dict) -> Any:
    """The programs for a batch's images. Where batches have none, there is but one size."""
    return (
        programs[batch["image"].shape[1:3]] if "image" in batch else next(iter(programs.values()))
    )


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
        return optimizers.make_optimizer(
            o.kind,
            rate,
            weight_decay=o.weight_decay,
            clip=o.clip,
            b1=o.b1,
            b2=o.b2,
            momentum=o.momentum,
            moments=o.moments,
        )
    except ValueError as e:
        raise InputError(f"config.optim: {e}") from e


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


def check(config: ConfigDict) -> None:
    """Raise InputError on a figure that no stage could run with, naming the field and what would be
    right.
    """
    for field, fine, right in RULES:
        section, _, name = field.rpartition(".")
        values = config.get(section, {}) if section else config
        if name in values and not fine(values[name]):
            raise InputError(f"config.{field} = {values[name]}: must be {right}")


def build(config: ConfigDict, workdir: Path) -> Stage:
    """The pieces of the stage `config` describes.

    Raises InputError as its parts do, before anything is written to `workdir`.
    """
    from cv3jax.build_diffusion import build_diffusion
    from cv3jax.build_vae import build_vae

    check(config)
    if config.stage not in ("vae", "base", "relay"):
        raise InputError(f"config.stage = {config.stage!r}: one of vae, base, relay")
    return build_vae(config) if config.stage == "vae" else build_diffusion(config, workdir)
