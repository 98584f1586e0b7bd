"""Make a round of a small student and its teacher in float64: batch, keys and loss."""

import jax
import jax.numpy as jnp
from distillation_cases import STAGES, B, double, network, normal

from cv3jax.distillation.loss import (
    Round,
    distillation_loss,
    pairs,
)

W_DIM = 8
RANGE = (2.0, 9.0)

TEACHER = {"scale": 0.8, "shift": 0.7}
STUDENT = {"scale": 0.9, "shift": 0.2}


def a_round(grid, rows=None, w=RANGE, **options):
    settled = {"lr": 1e-3, "updates": 100, "warmup": 10, "decay": 0.99} | options
    return Round(
        pairs(double(grid), rows),
        jnp.asarray(w),
        *(jnp.asarray(settled[name]) for name in ("lr", "updates", "warmup", "decay")),
    )


def a_batch(relay):
    cond = {"text": normal(10, (B, 5, 3)), "size": normal(11, (B, 7))}
    return {"x0": normal(12), "cond": cond} | ({"low": normal(13)} if relay else {})


def keys(seed=0, n=B):
    return jax.random.split(jax.random.key(seed), n)


def loss_of(
    stage,
    student=network,
    teacher=network,
    *,
    teacher_w_dim=0,
    w=RANGE,
    target="landing",
    rows=None,
    params=STUDENT,
):
    grid, form = STAGES[stage]
    loss = distillation_loss(
        student, teacher, form=form, target=target, w_dim=W_DIM, teacher_w_dim=teacher_w_dim
    )
    return loss(
        params,
        {"teacher": TEACHER, "round": a_round(grid, rows, w)},
        a_batch(stage != "base"),
        keys(),
    )
