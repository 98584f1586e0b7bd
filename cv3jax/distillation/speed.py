"""What the speed of a round is computed from: its FLOPs and its learning rate."""

import numpy as np

from cv3jax.distillation.build import Distillation, Trained
from cv3jax.distillation.settings import RoundSettings
from cv3jax.optim.learning_rate import learning_rate
from cv3jax.training.programs import encode_args, train_args
from cv3jax.training.throughput import Speed, flops_of, grouped


def round_speed(run: Distillation, round: RoundSettings, teacher: Trained) -> Speed:
    """Return what the speed of a round is computed from."""
    one, stage = run.programs(teacher.w_dim), run.settings.stage
    flops = flops_of([(one.train, train_args(one)), (one.encode, encode_args(one))])
    rate = learning_rate(
        round.lr,
        warmup=stage.optim.warmup,
        decay=stage.optim.decay,
        steps=round.updates,
        final=stage.optim.final,
        xp=np,
    )
    rates = grouped(stage.optim, lambda done, skipped: float(rate(done)))
    return Speed(stage.batch.size, lambda batch: flops, rates)
