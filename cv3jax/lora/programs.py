"""The train step of an adapter, on a mesh: the base is an argument, sharded as always and frozen.

What is trained, and what state, EMA and moments have, are the adapters alone, in float32.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cv3jax.cascade.parts import model_shapes
from cv3jax.distributed.fsdp import Layout
from cv3jax.distributed.partitioning import abstract, tree_sharding, tree_specs
from cv3jax.lora.held import held_like, held_specs
from cv3jax.lora.settings import LoraSettings
from cv3jax.lora.targets import chosen
from cv3jax.models import adapters
from cv3jax.models.precision import as_computed
from cv3jax.models.unet import UNet
from cv3jax.training.heldout_losses import LevelLosses, stage_losses
from cv3jax.training.programs import DiffusionPrograms, InitOf, MakeStep, Network, stage_loss
from cv3jax.training.settings import StageSettings
from cv3jax.training.stage import MeshPlan
from cv3jax.training.state import selected
from cv3jax.training.train_step import make_train_step

DROPOUT = 0x10DA  # folded into an image's key; noise and text have other keys


class Parts(NamedTuple):
    """The frozen parameters of an adapted UNet, and where all of its parameters are on a mesh."""

    shapes: Any  # of the base, as it computes
    constants: Any  # leaves of the adapters that are not trained
    base: Layout  # of the base as it is held
    layout: Layout  # of the base with the adapters beside it


def paths_of(settings: LoraSettings, shapes: Any) -> tuple[str, ...]:
    """Return the paths of the matrices that get an adapter.

    Raises InputError where config.lora.targets names none.
    """
    return chosen(settings.targets, adapters.kernels(shapes))


def constants_of(settings: LoraSettings, shapes: Any) -> Any:
    """Return the leaves of the adapters that are not trained."""
    return adapters.constants(shapes, paths_of(settings, shapes), settings.scale)


def init_of(settings: LoraSettings) -> InitOf:
    """Return the maker of fresh adapters, which needs no weights of the base.

    With DoRA the magnitudes it makes are 0; `fresh` has those of a base.
    """

    def of(model: UNet, text_width: int) -> Callable[[jax.Array], Any]:
        shapes = model_shapes(model, text_width)
        return lambda key: fresh(
            settings, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), key
        )

    return of


def fresh(settings: LoraSettings, base: Any, key: jax.Array) -> Any:
    """Return fresh adapters of a base."""
    paths = paths_of(settings, base)
    return adapters.fresh(base, paths, settings.rank, key, dora=settings.dora)


def parts_of(settings: LoraSettings, network: Network) -> Parts:
    """Return the parts of an adapted network on its mesh."""
    mesh, dtype = network.layout.mesh, settings.stage.model["dtype"]
    shapes = as_computed(model_shapes(network.model, network.text_width), dtype)
    constants = constants_of(settings, shapes)
    trained = init_of(settings)(network.model, network.text_width)
    adapter = jax.eval_shape(trained, jax.random.key(0))
    all_shapes = adapters.joined(shapes, adapter, abstract(constants))
    specs = tree_specs(shapes, mesh), tree_specs(all_shapes, mesh)
    base, both = (Layout(mesh, held_specs(settings.base_dtype, one), dtype) for one in specs)
    return Parts(shapes, constants, base, both)


def computed_like(settings: LoraSettings, network: Network) -> Any:
    """Return the shapes and shardings of the base in the type in which it computes."""
    shapes = parts_of(settings, network).shapes
    return abstract(shapes, tree_sharding(shapes, network.layout.mesh))


def lora_step(settings: LoraSettings) -> MakeStep:
    """Return the maker of an adapter's train step. Besides state and batch it takes {"base"}."""

    def make(stage: StageSettings, plan: MeshPlan, network: Network) -> tuple[Callable, dict]:
        parts = parts_of(settings, network)
        of_all = stage_loss(stage, network, parts.layout)

        def loss(params, frozen, batch, keys):
            own = jax.vmap(lambda key: jax.random.fold_in(key, DROPOUT))(keys)
            with adapters.adapting(adapters.Dropout(settings.dropout, own)):
                return of_all(together(parts, frozen, params), {}, batch, keys)

        train = make_train_step(
            loss,
            network.tx,
            decay=stage.optim.ema,
            accumulate=plan.accumulate,
            spread=lambda gradient: network.layout.spread_gradient(gradient, held(parts)),
            skip=stage.train.skip,
            select=selected(stage),
        )
        like = held_like(settings.base_dtype, parts.shapes, parts.base.specs, plan.mesh)
        return train, {"base": like}

    return make


def lora_losses(settings: LoraSettings, programs: DiffusionPrograms) -> LevelLosses:
    """Return the held-out losses of adapters; besides them they take {"base"}."""
    parts = parts_of(settings, programs.network)
    of_all = stage_losses(settings.stage, programs, parts.layout)

    def losses(params, aside, batch, keys):
        with adapters.adapting():
            return of_all.losses(together(parts, aside, params), {}, batch, keys)

    return LevelLosses(losses, held(parts))


def together(parts: Parts, frozen: dict, params: Any) -> Any:
    """Return the base with the adapters beside its kernels, as a device holds them."""
    return adapters.joined(frozen["base"], params, parts.constants)


def held(parts: Parts) -> dict:
    """Return the specs of {"base"} inside a program that is spread over the mesh."""
    return {"base": parts.base.held()}
