"""The frozen encoders of a base or relay stage, as a program that is spread over the mesh."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from cv3jax.cascade.parts import model_shapes
from cv3jax.diffusion.conditioning import stage_batch
from cv3jax.diffusion.schedule import T
from cv3jax.distributed.fsdp import Layout
from cv3jax.distributed.partitioning import tree_specs
from cv3jax.models.precision import as_computed
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.vae import Autoencoder
from cv3jax.training.settings import StageSettings
from cv3jax.training.stage import MeshPlan
from cv3jax.training.train_step import image_keys, microbatches


class Models(NamedTuple):
    """The frozen models of a stage, and the factor of its latents."""

    vae: Autoencoder
    t5: T5Encoder
    scale: float


def frozen_shapes(settings: StageSettings, models: Models) -> dict:
    """Return the shapes of the frozen parts, in the types in which they are kept."""
    t5 = as_computed(model_shapes(models.t5), settings.text.dtype)
    return {"vae": model_shapes(models.vae), "t5": t5}


class Encoders(NamedTuple):
    """The frozen parts inside a program that is spread over the mesh."""

    layout: Layout  # of all of their parameters
    whole: Callable[[dict], dict]  # a device's parameters → gathered ones
    # (gathered parameters, loader batch, keys [B]) → the batch of `diffusion_loss`
    encode: Callable


def encoders(
    settings: StageSettings,
    mesh: Any,
    models: Models,
    shapes: dict,
    text_drop: float,
) -> Encoders:
    """Return the encoders of a stage. shapes: of the parts that a batch does not have instead."""
    both, (vae, t5, scale) = Layout(mesh, tree_specs(shapes, mesh), None), models
    layouts = {
        name: Layout(mesh, both.specs[name], {"vae": vae, "t5": t5}[name].dtype) for name in shapes
    }
    later = {"t5": T5Encoder.gathers}  # the parameters that the model gathers itself
    t5 = t5.clone(gather=layouts["t5"].gather) if "t5" in layouts else t5

    def whole(params):
        return {
            name: layout.whole(params[name], later.get(name, lambda path: False))
            for name, layout in layouts.items()
        }

    def encode(whole, batch, keys):
        return stage_batch(
            batch,
            keys,
            encode_image=lambda x: vae.apply({"params": whole["vae"]}, x, method="encode"),
            encode_text=lambda tokens: t5.apply({"params": whole["t5"]}, tokens),
            scale=scale,
            relay=settings.relay,
            text_drop=text_drop,
        )

    return Encoders(both, whole, encode)


def make_encode(settings: StageSettings, plan: MeshPlan, models: Models, shapes: dict) -> Callable:
    """Return encode(frozen parts, loader batch, key, step) → the batch of `diffusion_loss`.

    Each device encodes its own rows. shapes: of the frozen parts. A part that is not among them is
    not used, because the batch has its results.
    """
    parts = encoders(settings, plan.mesh, models, shapes, text_drop=settings.objective.text_drop)

    def rows(params, _, batch):
        whole = parts.whole(params)
        # one microbatch at a time, so that the same figure bounds the activations of the encoders
        # and of the UNet
        out = jax.lax.map(
            lambda part: parts.encode(whole, *part), microbatches(batch, plan.accumulate)
        )
        return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), out)

    def encode(params, batch, key, step):
        # other keys than those of the step itself
        keys = image_keys(jax.random.fold_in(jax.random.fold_in(key, step), T), settings.batch.size)
        return parts.layout.spread(rows)(params, {}, (batch, keys))

    return encode
