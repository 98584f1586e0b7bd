"""Make a recipe's programs for devices that need not exist.

`cv3jax compile` compiles them, and a run's memory plan is made from them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cv3jax.cascade.coders import decoder
from cv3jax.cascade.limits import wrong_tile
from cv3jax.cascade.parts import build_model, build_on, computed_shapes, model_of, unet_init
from cv3jax.cascade.sizes import Size, as_size, stage_multiple
from cv3jax.cascade.stage_network import SamplerOptions
from cv3jax.cascade.stage_sampler import images_sharding, make_stage_sampler
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import (
    CascadeDescription,
    StageDescription,
    TextDescription,
    VaeDescription,
)
from cv3jax.distillation.programs import distillation_step
from cv3jax.distillation.settings import DistillSettings
from cv3jax.distributed.mesh import batch_sharding, batch_ways
from cv3jax.distributed.partitioning import abstract, tree_sharding
from cv3jax.lora.programs import init_of as lora_init
from cv3jax.lora.programs import lora_step
from cv3jax.lora.settings import LoraSettings
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.vae import Autoencoder
from cv3jax.training.autoencoder import vae_program
from cv3jax.training.data import batch_like
from cv3jax.training.frozen import check_sides, describe
from cv3jax.training.programs import diffusion_programs, diffusion_step, encode_args, train_args
from cv3jax.training.settings import StageSettings
from cv3jax.training.stage import MeshPlan, mesh_plan
from cv3jax.training.state import attend_of
from data_pipeline.io.errors import InputError

STEPS = ("train", "later", "encode", "sample", "decode")
# the defaults of the models are the released sizes
RELEASED = CascadeDescription(VaeDescription({}, 0.13025), TextDescription({}, 225))


class Drawn(NamedTuple):
    """Which pictures `sample` and `decode` make, where they are not those of the recipe."""

    size: Size | None = None  # one picture per device of that size
    tile: int = 0  # side in pixels of the tiles in which larger pictures are predicted; 0: whole


class Program(NamedTuple):
    """A jitted function and what it is compiled for."""

    jitted: Callable
    args: tuple  # trees of ShapeDtypeStruct with shardings
    mesh: Any
    images: int  # in one execution, over all devices
    microbatches: int
    params: Any  # of the model that the program runs, as shapes
    # name → what the command keeps on the devices meanwhile without handing it to the program, as
    # shapes
    beside: Mapping[str, Any] = MappingProxyType({})


def program(
    settings: StageSettings | DistillSettings | LoraSettings,
    devices: list,
    step: str,
    pictures: Drawn | None = None,
) -> Program:
    """Return the program of one of STEPS of a recipe on `devices`.

    For a distillation, `train` is the program of round 1, and `later` that of the other rounds. For
    an adapter, `train` has the frozen base as an argument, and pictures are drawn merged.

    The frozen parts are those of config.cascade, or the released ones where it is not set.
    pictures: of the programs `sample` and `decode`.

    Raises:
        InputError: the recipe contradicts itself or does not fit these devices, or it has no such
            step.
    """
    distilled = settings if isinstance(settings, DistillSettings) else None
    adapter = settings if isinstance(settings, LoraSettings) else None
    stage = settings if isinstance(settings, StageSettings) else settings.stage
    plan = mesh_plan(stage, devices)
    if stage.stage == "vae":
        return _vae(stage, plan, step)
    description = encoders_of(stage)
    check_sides(stage, description.vae)
    make_step, init_of = diffusion_step, unet_init
    if adapter is not None:
        make_step, init_of = lora_step(adapter), lora_init(adapter)
    if distilled is not None:
        make_step = distillation_step(distilled, distilled.w_dim if step == "later" else 0)
    elif step == "later":
        raise InputError(
            "--step later: only a distillation recipe has rounds after the first; give --step train"
        )
    programs = diffusion_programs(
        stage,
        plan,
        description.vae,
        description.t5,
        make_step=make_step,
        init_of=init_of,
    )
    size, params = stage.batch.size, programs.like.params
    if adapter is not None:
        params = programs.aside["base"]
    if step == "encode":
        args, shapes = encode_args(programs), programs.frozen
        stays = {"train state": programs.like, **programs.aside, "batch": programs.batch}
        return Program(programs.encode, args, plan.mesh, size, plan.accumulate, shapes, stays)
    if step in ("train", "later"):
        args = train_args(programs)
        params = {"base": params, "adapter": programs.like.params} if adapter else params
        stays = {**programs.frozen, "next batch": programs.batch}
        return Program(programs.train, args, plan.mesh, size, plan.accumulate, params, stays)
    # for a distillation, the student of the last round
    steps = stage.sample.steps if distilled is None else distilled.rounds[-1].steps
    drawn = dataclasses.replace(describe(stage, description), steps=steps)
    make = _decode if step == "decode" else _sample
    return make(stage, plan, description, drawn, params, pictures or Drawn())


def encoders_of(settings: StageSettings) -> CascadeDescription:
    """Return the description of config.cascade, completed by the encoders that it lacks.

    These are the encoders of the released checkpoint, or a random text encoder where the recipe
    asks for one.
    """
    found = CascadeDescription()
    if settings.cascade:
        _, found = cascades.read_cascade(settings.cascade)
    text = settings.text.description if settings.text.random else RELEASED.t5
    return dataclasses.replace(found, vae=found.vae or RELEASED.vae, t5=found.t5 or text)


def _vae(settings: StageSettings, plan: MeshPlan, step: str) -> Program:
    if step != "train":
        raise InputError(f"--step {step}: a vae recipe has the step train only; give --step train")
    model = model_of(Autoencoder, settings.model, "config.model")
    made = vae_program(settings, plan, model, None)
    batch = batch_like(settings, plan.mesh)
    args, params = (made.like, {}, batch), made.like.params
    size = settings.batch.size
    stays = {"next batch": batch}
    return Program(made.train, args, plan.mesh, size, plan.accumulate, params, stays)


def _sample(
    settings: StageSettings,
    plan: MeshPlan,
    description: CascadeDescription,
    stage: StageDescription,
    params: Any,
    pictures: Drawn,
) -> Program:
    """Return the program that samples a stage's latents, guided and in all steps.

    It makes config.batch.per_device images per device, or one of a size that is given.

    Raises InputError on a size or a tile that the UNet cannot halve.
    """
    mesh, (count, latent) = plan.mesh, _latents(settings, plan, stage, pictures)
    options = SamplerOptions(
        steps=stage.steps,
        eta=stage.eta,
        form=stage.form,
        tile=pictures.tile,
        unguided=stage.guidance == 1.0,
        mesh=mesh,
        attend=attend_of(settings, mesh),
    )
    run = make_stage_sampler(stage, options)
    vae, t5 = (
        build_model(Autoencoder, description.vae.model),
        build_model(T5Encoder, description.t5.model),
    )
    rows = batch_sharding(mesh)

    def like(*shape):
        return jax.ShapeDtypeStruct((count, *shape), jnp.float32, sharding=rows)

    noise, text = like(*latent, vae.z_channels), like(description.t5.length, t5.channels)
    keys = abstract(jax.eval_shape(lambda: jax.vmap(jax.random.key)(jnp.arange(count))), rows)
    ema = abstract(params, tree_sharding(params, mesh))
    low = noise if stage.kind == "relay" else None
    w = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, P()))
    stays = _rest(settings.stage, description, mesh)
    return Program(run, (ema, text, low, noise, keys, w), mesh, count, 1, params, stays)


def _decode(
    settings: StageSettings,
    plan: MeshPlan,
    description: CascadeDescription,
    stage: StageDescription,
    params: Any,
    pictures: Drawn,
) -> Program:
    """Return the program that decodes what `_sample` makes, with the same errors."""
    mesh, (count, latent) = plan.mesh, _latents(settings, plan, stage, pictures)
    vae = build_on(mesh, Autoencoder, description.vae.model)
    tile = pictures.tile if pictures.tile < vae.factor * max(latent) else 0
    run = decoder(vae, description.vae.measured, mesh, tile or None)
    shapes = (count, *latent, vae.z_channels)
    latents = jax.ShapeDtypeStruct(shapes, jnp.float32, sharding=images_sharding(mesh))
    stays = {"stage": abstract(params, tree_sharding(params, mesh))}
    stays |= _rest(settings.stage, description, mesh)
    ours = stays.pop("vae")
    return Program(run, (ours, latents), mesh, count, 1, ours, stays)


def _latents(
    settings: StageSettings, plan: MeshPlan, stage: StageDescription, pictures: Drawn
) -> tuple[int, Size]:
    """Return (how many pictures there are, the height and width of their latents).

    Raises InputError on a size or a tile that the UNet cannot halve.
    """
    size, multiple = pictures.size, stage_multiple(stage)
    if size is not None and not size.is_multiple(multiple):
        raise InputError(f"--size {size}: height and width must be multiples of {multiple}")
    if pictures.tile and (problem := wrong_tile(stage, pictures.tile)):
        raise InputError(f"--{problem}")
    count = batch_ways(plan.mesh) * (1 if size else settings.batch.per_device)
    return count, (size or as_size(settings.data.whole_side)).divided(stage.factor)


def _rest(stage: str, description: CascadeDescription, mesh: Any) -> dict:
    """Return {part: parameters} of the cascade's parts but `stage`, sharded as `load` does."""
    parts = ["vae", "t5", *(name for name in description.stages if name != stage)]
    shapes = {part: computed_shapes(description, part) for part in parts}
    return abstract(shapes, tree_sharding(shapes, mesh))
