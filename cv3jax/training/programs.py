"""The two jitted programs of a base or relay run, `encode` and `train`, from the recipe, a mesh and
the frozen parts' descriptions.

Nothing here needs data, weights or devices that are there: a run calls the programs, `cv3jax
compile` only compiles them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from cv3jax.cascade.parts import build_model, model_of, model_shapes, unet_init
from cv3jax.diffusion.conditioning import stage_batch
from cv3jax.diffusion.denoiser import make_denoiser
from cv3jax.diffusion.losses import diffusion_loss
from cv3jax.diffusion.schedule import T, base_grid, make_schedule, relay_grid
from cv3jax.distillation.programs import Side, distillation_step
from cv3jax.distributed.batches import placement
from cv3jax.distributed.fsdp import Layout
from cv3jax.distributed.mesh import batch_sharding
from cv3jax.distributed.partitioning import abstract, context_problem, tree_sharding, tree_specs
from cv3jax.models.precision import as_computed
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from cv3jax.training.data import batch_like, bucket_sizes
from cv3jax.training.feature_cache import Arrays
from cv3jax.training.stage import Deal
from cv3jax.training.state import attend_of, make_tx, state_shapes
from cv3jax.training.train_step import image_keys, make_train_step, microbatches
from data_pipeline.io.errors import InputError


class DiffusionSteps(NamedTuple):
    """What a run calls, and the shapes and shardings it calls it with."""

    init: Callable[[jax.Array], Any]  # key → parameters
    tx: Any
    like: Any  # the train state
    # vae and t5, as `encode` takes them; neither where a companion dataset has what it would make
    frozen: dict
    batch: dict  # of the loader
    encode: Callable  # (frozen parts, batch, key, step) → encoded batch
    aside: dict  # what `train` is told besides: nothing, or of a distillation its teacher and round
    train: Callable  # (state, aside, encoded batch) → (state, metrics); the state is donated


def diffusion_steps(
    config: ConfigDict,
    deal: Deal,
    vae_facts: dict,
    t5_facts: dict,
    length: int,
    cached: Arrays | None = None,
    *,
    teacher_w_dim: int | None = None,
) -> DiffusionSteps:
    """The programs for autoencoder and text encoder as described (`cascade.json`'s vae entry, t5
    sizes, tokens a caption).

    cached: what batches hold of a companion dataset (`cached.arrays`). teacher_w_dim: `model.w_dim`
    of the teacher of a distillation, 0 of one that is guided; None: there is no teacher.

    Raises:
        InputError: an unknown objective, blur or optimizer, or sizes that do not make a model.
    """
    mesh, relay, o = deal.mesh, config.schedule.blur != "none", config.objective
    vae = build_model(Autoencoder, {**vae_facts["model"], "dtype": config.vae.dtype})
    t5 = build_model(T5Encoder, {**t5_facts, "dtype": config.text.dtype})
    model = model_of(UNet, config.model, "config.model", out_channels=vae.z_channels)
    for height in {config.data.image_size, *(height for height, _ in bucket_sizes(config))}:
        if problem := context_problem(mesh, height // vae.factor, len(config.model.channel_mult)):
            raise InputError(f"config.mesh: {problem}")
    init, tx = unet_init(model, t5.channels), make_tx(config)
    like = state_shapes(init, tx, config.seed, mesh)

    def denoiser(of, layout):
        local = of.clone(
            gather=layout.gather, constrain=layout.constrain, attend=attend_of(config, mesh)
        )
        return make_denoiser(
            lambda p, x, i, c: local.apply({"params": layout.whole(p, UNet.gathers)}, x, i, c),
            schedule.sigma,
            o.prediction,
        )

    layout, aside = Layout(mesh, tree_specs(like.params, mesh), config.model.dtype), {}
    try:
        schedule = stage_schedule(config)
        denoise = denoiser(model, layout)
        if teacher_w_dim is not None:
            teacher = model.clone(w_dim=teacher_w_dim, remat="none")
            shapes = as_computed(model_shapes(teacher, t5.channels), config.model.dtype)
            theirs = Layout(mesh, tree_specs(shapes, mesh), config.model.dtype)
            train, aside = distillation_step(
                config,
                deal,
                tx,
                Side(denoise, layout),
                Side(denoiser(teacher, theirs), theirs),
                abstract(shapes, tree_sharding(shapes, mesh)),
                teacher_w_dim,
            )
        else:
            loss = diffusion_loss(
                denoise,
                schedule,
                t_max=config.schedule.start if relay else T,
                weighting=o.weighting,
                gamma=o.gamma,
                norm=o.norm,
                offset_noise=o.offset_noise,
            )
            train = make_train_step(
                loss,
                tx,
                decay=config.optim.ema,
                accumulate=deal.accumulate,
                spread=layout.spread_gradient,
            )
    except ValueError as e:
        raise InputError(f"config.objective: {e}") from e

    cached = cached or {}
    shapes = {} if "mean" in cached else {"vae": model_shapes(vae)}
    shapes |= {} if "text" in cached else {"t5": as_computed(model_shapes(t5), config.text.dtype)}
    frozen = abstract(shapes, tree_sharding(shapes, mesh))
    encode = make_encode(config, deal, vae, t5, vae_facts["scale"], shapes)
    return DiffusionSteps(
        init,
        tx,
        like,
        frozen,
        cached_like(config, mesh, length, cached),
        jax.jit(encode, out_shardings=batch_sharding(mesh)),
        aside,
        jax.jit(train, donate_argnums=0, out_shardings=(placement(like), None)),
    )


def cached_like(config: ConfigDict, mesh: Any, length: int, cached: Arrays) -> dict:
    """`build.batch_like`, with what a companion dataset has in place of images, tokens or both."""
    gone = {"image"} if "mean" in cached else set()
    gone |= {"tokens"} if "text" in cached else set()
    kept = {
        name: like for name, like in batch_like(config, mesh, length).items() if name not in gone
    }
    rows = batch_sharding(mesh)
    return kept | {
        name: jax.ShapeDtypeStruct((config.batch.size, *shape), dtype, sharding=rows)
        for name, (shape, dtype) in cached.items()
    }


def encode_args(steps: DiffusionSteps) -> tuple:
    """What `steps.encode` is called with, as shapes."""
    return steps.frozen, steps.batch, steps.like.key, steps.like.step


def train_args(steps: DiffusionSteps) -> tuple:
    """What `steps.train` is called with, as shapes."""
    encoded = jax.eval_shape(steps.encode, *encode_args(steps))
    rows = batch_sharding(steps.like.step.sharding.mesh)
    return steps.like, steps.aside, abstract(encoded, rows)


def make_encode(
    config: ConfigDict, deal: Deal, vae: Autoencoder, t5: T5Encoder, scale: float, shapes: dict
) -> Callable:
    """encode(frozen parts, loader batch, key, step) → what `diffusion_loss` takes, each device on
    its own rows.

    shapes: of the frozen parts. One that is not among them is not asked: the batch has what it
    would make.
    """
    relay = config.schedule.blur != "none"
    both = Layout(deal.mesh, tree_specs(shapes, deal.mesh), None)
    layouts = {
        name: Layout(deal.mesh, both.specs[name], {"vae": vae, "t5": t5}[name].dtype)
        for name in shapes
    }
    later = {"t5": T5Encoder.gathers}  # which parameters the model makes whole itself
    t5 = t5.clone(gather=layouts["t5"].gather) if "t5" in layouts else t5

    def rows(params, _, batch):
        whole = {
            name: layout.whole(params[name], later.get(name, lambda path: False))
            for name, layout in layouts.items()
        }

        def one(part):
            return stage_batch(
                *part,
                encode_image=lambda x: vae.apply({"params": whole["vae"]}, x, method="encode"),
                encode_text=lambda tokens: t5.apply({"params": whole["t5"]}, tokens),
                scale=scale,
                relay=relay,
                text_drop=config.objective.text_drop,
            )

        # one microbatch at a time, so that the encoders' activations are bounded by the same figure
        # as the UNet's
        out = jax.lax.map(one, microbatches(batch, deal.accumulate))
        return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), out)

    def encode(params, batch, key, step):
        # not those of the step itself
        keys = image_keys(jax.random.fold_in(jax.random.fold_in(key, step), T), config.batch.size)
        return both.spread(rows)(params, {}, (batch, keys))

    return encode


def stage_schedule(config: ConfigDict):
    """The training table of config.schedule.

    Raises InputError on an unknown blur, a start out of range, or too many steps from it.
    """
    blur, start = config.schedule.blur, config.schedule.start
    try:
        schedule = make_schedule(blur, start)
    except ValueError as e:
        raise InputError(f"config.schedule: {e}") from e
    try:
        _ = (
            base_grid(config.sample.steps)
            if blur == "none"
            else relay_grid(config.sample.steps, start)
        )
    except ValueError as e:
        most = (
            "1..1000"
            if blur == "none"
            else f"at least 1, and few enough for start = {start} to have a point for each"
        )
        raise InputError(f"config.sample.steps = {config.sample.steps}: must be {most}") from e
    return schedule
