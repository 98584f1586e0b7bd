"""A recipe's programs on devices that need not be there: what `cv3jax compile` compiles, and what a
run's memory plan goes by.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from cv3jax.cascade.parts import build_model, model_of
from cv3jax.cascade.stage_sampler import make_stage_sampler
from cv3jax.checkpoints import cascades
from cv3jax.distillation.rounds import plans
from cv3jax.distributed.mesh import batch_sharding, batch_ways
from cv3jax.distributed.partitioning import abstract, tree_sharding
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.vae import Autoencoder
from cv3jax.training.autoencoder import vae_step
from cv3jax.training.data import batch_like
from cv3jax.training.frozen import check_sides, describe, random_facts, whole_side
from cv3jax.training.programs import diffusion_steps, encode_args, train_args
from cv3jax.training.stage import plan
from cv3jax.training.state import attend_of
from cv3jax.training.validation import check
from data_pipeline.io.errors import InputError

STEPS = ("train", "later", "encode", "sample")
# the models' defaults are the released sizes
RELEASED = {"vae": {"model": {}, "scale": 0.13025}, "t5": {"model": {}, "length": 225}}


class Program(NamedTuple):
    """A jitted function and what it is compiled for."""

    jitted: Callable
    args: tuple  # trees of ShapeDtypeStruct with shardings
    mesh: Any
    images: int  # of one execution, over all devices
    microbatches: int
    params: Any  # of the model at work, as shapes


def program(config: ConfigDict, devices: list, step: str) -> Program:
    """The `train`, `encode` or `sample` program of a recipe on `devices`.

    Of a distillation `train` is round 1's, `later` the others'.

    The frozen parts are those of config.cascade, or the released ones where it is not set.

    Raises:
        InputError: what the recipe says does not fit together or not these devices, or it has no
            such step.
    """
    check(config)
    deal = plan(config, devices)
    if config.stage == "vae":
        return _vae(config, deal, step)
    description = frozen_facts(config)
    check_sides(config, description["vae"]["model"])
    distils = "distill" in config
    if step == "later" and not distils:
        raise InputError("--step later: of a distillation recipe, its rounds after the first")
    steps = diffusion_steps(
        config,
        deal,
        description["vae"],
        description["t5"]["model"],
        description["t5"]["length"],
        teacher_w_dim=(config.model.w_dim if step == "later" else 0) if distils else None,
    )
    size, params = config.batch.size, steps.like.params
    if step == "encode":
        return Program(
            steps.encode, encode_args(steps), deal.mesh, size, deal.accumulate, steps.frozen
        )
    if step in ("train", "later"):
        return Program(steps.train, train_args(steps), deal.mesh, size, deal.accumulate, params)
    return _sample(config, deal, description, params)


def frozen_facts(config: ConfigDict) -> dict:
    """The description's vae and t5 entries of config.cascade, or of the released checkpoint."""
    facts = dict(RELEASED)
    if config.cascade:
        facts |= cascades.read_cascade(config.cascade)[1]
    if config.text.random and (
        not config.cascade or "t5" not in cascades.read_cascade(config.cascade)[1]
    ):
        facts["t5"] = {"model": random_facts(config), "length": config.text.length}
    return facts


def _vae(config: ConfigDict, deal: Any, step: str) -> Program:
    if step != "train":
        raise InputError(f"--step {step}: the vae recipe has only the step train")
    model = model_of(Autoencoder, config.model, "config.model")
    like, _, _, train = vae_step(config, deal, model, None)
    return Program(
        train,
        (like, {}, batch_like(config, deal.mesh)),
        deal.mesh,
        config.batch.size,
        deal.accumulate,
        like.params,
    )


def _sample(config: ConfigDict, deal: Any, description: dict, params: Any) -> Program:
    """Latents of the stage for config.batch.per_device images a device, guided, all steps."""
    stage = describe(config, description)
    if "distill" in config:  # the student, as the last round leaves it
        stage |= {"steps": plans(config)[-1].steps}
    mesh, count = deal.mesh, batch_ways(deal.mesh) * config.batch.per_device
    run = make_stage_sampler(
        stage,
        **{name: stage[name] for name in ("steps", "eta", "form")},
        unguided=stage["guidance"] == 1.0,
        mesh=mesh,
        attend=attend_of(config, mesh),
    )
    vae, t5 = (
        build_model(Autoencoder, description["vae"]["model"]),
        build_model(T5Encoder, description["t5"]["model"]),
    )
    rows, side = batch_sharding(mesh), whole_side(config) // vae.factor

    def like(*shape):
        return jax.ShapeDtypeStruct((count, *shape), jnp.float32, sharding=rows)

    noise, text = like(side, side, vae.z_channels), like(description["t5"]["length"], t5.channels)
    keys = abstract(jax.eval_shape(lambda: jax.vmap(jax.random.key)(jnp.arange(count))), rows)
    ema = abstract(params, tree_sharding(params, mesh))
    low = noise if stage["kind"] == "relay" else None
    w = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, P()))
    return Program(run, (ema, text, low, noise, keys, w), mesh, count, 1, params)
