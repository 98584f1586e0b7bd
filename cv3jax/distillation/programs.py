"""The train step of a distillation round, on a mesh: the teacher lies in shards like the student's,
and is as frozen as the encoders.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from cv3jax.diffusion.denoiser import Denoise
from cv3jax.distillation.loss import Round, distillation_loss, pairs
from cv3jax.distillation.rounds import Plan, grid_of, plans
from cv3jax.distributed.fsdp import Layout
from cv3jax.optim import learning_rate
from cv3jax.training.stage import Deal
from cv3jax.training.train_step import make_train_step


class Side(NamedTuple):
    """The student or the teacher: its denoiser inside the step, and how its parameters lie."""

    denoise: Denoise
    layout: Layout


def distillation_step(
    config: ConfigDict,
    deal: Deal,
    tx: Any,
    student: Side,
    teacher: Side,
    shapes: Any,
    teacher_w_dim: int,
) -> tuple[Callable, dict]:
    """(the train step, what it is told beside state and batch, as shapes): {"teacher", "round"}.
    shapes: the teacher's, placed.
    """
    loss = distillation_loss(
        student.denoise,
        teacher.denoise,
        form=config.sample.form,
        target=config.distill.target,
        w_dim=config.model.w_dim,
        teacher_w_dim=teacher_w_dim,
    )

    def rate(frozen: dict, step: jax.Array) -> jax.Array:
        now, o = frozen["round"], config.optim
        return learning_rate.learning_rate(
            now.lr, warmup=now.warmup, decay=o.decay, steps=now.updates, final=o.final
        )(step)

    lies = {"teacher": teacher.layout.held(), "round": P()}
    train = make_train_step(
        loss,
        tx,
        decay=lambda frozen: frozen["round"].decay,
        accumulate=deal.accumulate,
        rate=rate,
        spread=lambda gradient: student.layout.spread_gradient(gradient, lies),
    )
    everywhere = NamedSharding(deal.mesh, P())
    like = round_of(config, plans(config)[0])
    return train, {
        "teacher": shapes,
        "round": jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), like
        ),
    }


def round_of(config: ConfigDict, plan: Plan) -> Round:
    """A round as the train step takes it; all rounds of a recipe are alike in shape."""
    averaged = max(config.distill.ema * plan.updates, 1.0)  # over about so many updates
    return Round(
        pairs(grid_of(config, 2 * plan.steps), plans(config)[0].steps),
        jnp.asarray(plan.w, jnp.float32),
        jnp.asarray(plan.lr, jnp.float32),
        jnp.asarray(plan.updates, jnp.int32),
        jnp.asarray(config.optim.warmup, jnp.int32),
        jnp.asarray(1.0 - 1.0 / averaged, jnp.float32),
    )
