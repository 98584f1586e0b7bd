"""The train step of a distillation round, on a mesh.

The teacher is sharded as the student is, and is as frozen as the encoders.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cv3jax.cascade.parts import model_shapes
from cv3jax.distillation.loss import Round, drawn_loss, pair_losses, pairs
from cv3jax.distillation.settings import DistillSettings, RoundSettings
from cv3jax.distributed.fsdp import Layout
from cv3jax.distributed.partitioning import abstract, tree_sharding, tree_specs
from cv3jax.models.precision import as_computed
from cv3jax.optim.learning_rate import learning_rate
from cv3jax.training.programs import MakeStep, Network
from cv3jax.training.settings import OptimSettings, StageSettings
from cv3jax.training.stage import MeshPlan
from cv3jax.training.state import selected
from cv3jax.training.train_step import make_train_step


class Taught(NamedTuple):
    """The losses of a student and its teacher on a mesh."""

    losses: Callable  # of `pair_losses`
    shapes: Any  # of the teacher's parameters
    held: dict  # the specs of {"teacher", "round"} inside a program that is spread over the mesh


def taught_losses(
    settings: DistillSettings,
    teacher_w_dim: int,
    stage: StageSettings,
    mesh: Any,
    network: Network,
) -> Taught:
    """Return the losses of the recipe's target for a teacher of that `w_dim`."""
    model = network.model.clone(w_dim=teacher_w_dim, remat="none")
    dtype = stage.model["dtype"]
    shapes = as_computed(model_shapes(model, network.text_width), dtype)
    theirs = Layout(mesh, tree_specs(shapes, mesh), dtype)
    losses = pair_losses(
        network.denoiser(network.model, network.layout),
        network.denoiser(model, theirs),
        form=stage.sample.form,
        target=settings.target,
        w_dim=settings.w_dim,
        teacher_w_dim=teacher_w_dim,
        read_text=model.clone(gather=theirs.gather).text_kv,
    )
    return Taught(losses, shapes, {"teacher": theirs.held(), "round": P()})


def distillation_step(settings: DistillSettings, teacher_w_dim: int) -> MakeStep:
    """Return the maker of the train step for a teacher of that `w_dim`; with 0 it is guided.

    Besides state and batch the step takes {"teacher", "round"}.
    """

    def make(stage: StageSettings, plan: MeshPlan, network: Network) -> tuple[Callable, dict]:
        taught = taught_losses(settings, teacher_w_dim, stage, plan.mesh, network)
        train = make_train_step(
            drawn_loss(taught.losses),
            network.tx,
            decay=lambda frozen: frozen["round"].decay,
            accumulate=plan.accumulate,
            rate=lambda frozen, step: round_rate(stage.optim, frozen["round"], step),
            spread=lambda gradient: network.layout.spread_gradient(gradient, taught.held),
            skip=stage.train.skip,
            select=selected(stage),
        )
        everywhere = NamedSharding(plan.mesh, P())
        return train, {
            "teacher": abstract(taught.shapes, tree_sharding(taught.shapes, plan.mesh)),
            "round": jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
                round_of(settings, settings.rounds[0]),
            ),
        }

    return make


def round_rate(optim: OptimSettings, now: Round, step: jax.Array) -> jax.Array:
    """Return the learning rate of a round at `step`: its own lr and length, the recipe's decay."""
    return learning_rate(
        now.lr, warmup=now.warmup, decay=optim.decay, steps=now.updates, final=optim.final
    )(step)


def round_of(settings: DistillSettings, round: RoundSettings) -> Round:
    """Return a round as the train step takes it; all rounds of a recipe have the same shape."""
    averaged = max(settings.ema * round.updates, 1.0)  # the EMA averages over about so many updates
    return Round(
        pairs(settings.grid(2 * round.steps), settings.rounds[0].steps),
        jnp.asarray(round.w, jnp.float32),
        jnp.asarray(round.lr, jnp.float32),
        jnp.asarray(round.updates, jnp.int32),
        jnp.asarray(settings.stage.optim.warmup, jnp.int32),
        jnp.asarray(1.0 - 1.0 / averaged, jnp.float32),
    )
