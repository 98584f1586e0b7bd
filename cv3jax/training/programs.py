"""The two jitted programs of a base or relay run: `encode` and `train`.

They are made from the recipe, a mesh and the descriptions of the frozen parts. They need no data,
no weights and no existing devices: a run calls them, and `cv3jax compile` only compiles them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from cv3jax.cascade.parts import build_model, model_of, unet_init
from cv3jax.checkpoints.description import TextDescription, VaeDescription
from cv3jax.diffusion.denoiser import Denoise, make_denoiser
from cv3jax.diffusion.losses import Objective, diffusion_loss
from cv3jax.diffusion.schedule import Schedule, T, base_grid, make_schedule, relay_grid
from cv3jax.distributed.batches import placement
from cv3jax.distributed.fsdp import Layout
from cv3jax.distributed.mesh import batch_sharding
from cv3jax.distributed.partitioning import abstract, context_problem, tree_sharding, tree_specs
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from cv3jax.training.data import batch_like
from cv3jax.training.encoding import Models, frozen_shapes, make_encode
from cv3jax.training.feature_cache import Arrays
from cv3jax.training.settings import StageSettings
from cv3jax.training.stage import MeshPlan
from cv3jax.training.state import attend_of, make_tx, selected, state_shapes
from cv3jax.training.train_step import LossFn, make_train_step
from data_pipeline.io.errors import InputError


class Network(NamedTuple):
    """The UNet of a stage, and what a train step is made of."""

    model: UNet
    text_width: int
    layout: Layout  # of what is trained, by default its parameters
    tx: Any
    denoiser: Callable[[UNet, Layout], Denoise]  # a UNet on this mesh as a denoiser
    schedule: Schedule


class DiffusionPrograms(NamedTuple):
    """What a run calls, and the shapes and shardings of the arguments."""

    init: Callable[[jax.Array], Any]  # key → what is trained
    tx: Any
    like: Any  # the train state
    # vae and t5, as `encode` takes them; without those whose results a feature cache has
    frozen: dict
    batch: dict  # of the loader
    encode: Callable  # (frozen parts, batch, key, step) → encoded batch
    aside: dict  # the other argument of `train`: {}, or what `make_step` returns
    train: Callable  # (state, aside, encoded batch) → (state, metrics); the state is donated
    network: Network
    models: Models


# (UNet, width of text features) → (key → what is trained)
InitOf = Callable[[UNet, int], Callable[[jax.Array], Any]]
# (settings, mesh plan, network) → (the train step, its argument besides state and batch)
MakeStep = Callable[[StageSettings, MeshPlan, Network], tuple[Callable, dict]]


def diffusion_step(
    settings: StageSettings, plan: MeshPlan, network: Network
) -> tuple[Callable, dict]:
    """Return the train step of the recipe's objective (paper Eq. 6)."""
    train = make_train_step(
        stage_loss(settings, network, network.layout),
        network.tx,
        decay=settings.optim.ema,
        accumulate=plan.accumulate,
        spread=network.layout.spread_gradient,
        skip=settings.train.skip,
        select=selected(settings),
    )
    return train, {}


def stage_loss(settings: StageSettings, network: Network, layout: Layout) -> LossFn:
    """Return the loss of the recipe's objective. layout: of all parameters of the UNet."""
    return diffusion_loss(
        network.denoiser(network.model, layout),
        network.schedule,
        objective_of(settings),
        t_max=t_max_of(settings),
    )


def objective_of(settings: StageSettings) -> Objective:
    """Return what config.objective measures. Raises ValueError on an unknown name."""
    o = settings.objective
    fields = {field.name: getattr(o, field.name) for field in dataclasses.fields(Objective)}
    return Objective(**fields)


def t_max_of(settings: StageSettings) -> int:
    """Return the largest t that a stage is trained at: T, or a relay's start."""
    return settings.schedule.start if settings.relay else T


def diffusion_programs(
    settings: StageSettings,
    plan: MeshPlan,
    autoencoder: VaeDescription,
    text: TextDescription,
    cached: Arrays | None = None,
    *,
    make_step: MakeStep = diffusion_step,
    init_of: InitOf = unet_init,
) -> DiffusionPrograms:
    """Return the programs for the described autoencoder and text encoder.

    cached: what batches hold of a feature cache (`feature_cache.arrays`). make_step: makes the
    train step, where it is not the recipe's own objective. init_of: makes what is trained, where
    that is not the UNet's parameters.

    Raises:
        InputError: an unknown objective, blur or optimizer, or sizes that do not make a model.
    """
    mesh, data = plan.mesh, settings.data
    vae = build_model(Autoencoder, {**autoencoder.model, "dtype": settings.vae.dtype})
    t5 = build_model(T5Encoder, {**text.model, "dtype": settings.text.dtype})
    model = model_of(UNet, settings.model, "config.model", out_channels=vae.z_channels)
    for height in {data.image_size, *(height for height, _ in data.sizes)}:
        halvings = len(settings.model["channel_mult"])
        if problem := context_problem(mesh, height // vae.factor, halvings):
            raise InputError(f"config.mesh: {problem}")
    init = init_of(model, t5.channels)
    tx = make_tx(settings.optim, settings.train.steps)
    like = state_shapes(init, tx, settings, mesh)
    schedule = stage_schedule(settings)

    def denoiser(of: UNet, layout: Layout) -> Denoise:
        local = of.clone(
            gather=layout.gather, constrain=layout.constrain, attend=attend_of(settings, mesh)
        )
        return make_denoiser(
            lambda p, x, i, c: local.apply({"params": layout.whole(p, UNet.gathers)}, x, i, c),
            schedule.sigma,
            settings.objective.prediction,
        )

    layout = Layout(mesh, tree_specs(like.params, mesh), settings.model["dtype"])
    network = Network(model, t5.channels, layout, tx, denoiser, schedule)
    try:
        train, aside = make_step(settings, plan, network)
    except ValueError as e:
        raise InputError(f"config.objective: {e}") from e

    cached, models = cached or {}, Models(vae, t5, autoencoder.measured)
    gone = {name for name, array in {"vae": "mean", "t5": "text"}.items() if array in cached}
    shapes = {name: x for name, x in frozen_shapes(settings, models).items() if name not in gone}
    frozen = abstract(shapes, tree_sharding(shapes, mesh))
    encode = make_encode(settings, plan, models, shapes)
    return DiffusionPrograms(
        init,
        tx,
        like,
        frozen,
        cached_like(settings, mesh, text.length, cached),
        jax.jit(encode, out_shardings=batch_sharding(mesh)),
        aside,
        jax.jit(train, donate_argnums=0, out_shardings=(placement(like), None)),
        network,
        models,
    )


def cached_like(settings: StageSettings, mesh: Any, length: int, cached: Arrays) -> dict:
    """Return `data.batch_like` with a feature cache's arrays in place of images, tokens or both."""
    gone = {"image"} if "mean" in cached else set()
    gone |= {"tokens"} if "text" in cached else set()
    kept = {
        name: like for name, like in batch_like(settings, mesh, length).items() if name not in gone
    }
    rows = batch_sharding(mesh)
    return kept | {
        name: jax.ShapeDtypeStruct((settings.batch.size, *shape), dtype, sharding=rows)
        for name, (shape, dtype) in cached.items()
    }


def encode_args(steps: DiffusionPrograms) -> tuple:
    """Return the arguments of `steps.encode`, as shapes."""
    return steps.frozen, steps.batch, steps.like.key, steps.like.step


def train_args(steps: DiffusionPrograms) -> tuple:
    """Return the arguments of `steps.train`, as shapes."""
    encoded = jax.eval_shape(steps.encode, *encode_args(steps))
    rows = batch_sharding(steps.like.step.sharding.mesh)
    return steps.like, steps.aside, abstract(encoded, rows)


def stage_schedule(settings: StageSettings) -> Schedule:
    """Return the training table of config.schedule.

    Raises InputError on an unknown blur, a start out of range, or too many steps.
    """
    blur, start, steps = settings.schedule.blur, settings.schedule.start, settings.sample.steps
    try:
        schedule = make_schedule(blur, start, zero_snr=settings.schedule.zero_snr)
    except ValueError as e:
        raise InputError(f"config.schedule: {e}") from e
    try:
        _ = relay_grid(steps, start, blur) if settings.relay else base_grid(steps)
    except ValueError as e:
        most = start if settings.relay else 1000
        raise InputError(f"config.sample.steps = {steps}: must be 1..{most}") from e
    return schedule
