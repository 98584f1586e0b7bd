"""The evaluations of a round: its loss on held-out pictures, and scores of fixed pictures."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cv3jax.cascade.pipeline import Cascade
from cv3jax.checkpoints.description import StageDescription
from cv3jax.distillation.build import Distillation, Trained
from cv3jax.distillation.loss import draw_pairs
from cv3jax.distillation.programs import taught_losses
from cv3jax.distillation.settings import DistillSettings, RoundSettings
from cv3jax.training.assessing import Assess, make_assess
from cv3jax.training.diffusion_heldout import held_out_batches, held_out_losses, lower
from cv3jax.training.fixed_pictures import stage_pictures
from cv3jax.training.heldout import open_held_out
from cv3jax.training.heldout_losses import LEVELS, LevelLosses
from cv3jax.training.measures import HeldOut, Pictures
from cv3jax.training.programs import DiffusionPrograms
from cv3jax.training.scoring import OpenScorers


class RoundEvaluations:
    """What the evaluations of all rounds share: records, and a program for each kind of teacher."""

    def __init__(self, work: Distillation, open_scorers: OpenScorers | None):
        """Read the held-out records. Raises InputError as `open_held_out` does."""
        self._work, self._open, stage = work, open_scorers, work.stage
        self._records = open_held_out(stage)
        self._batches = None
        if self._records is not None:
            programs = work.programs(work.teacher.w_dim)
            self._batches = held_out_batches(stage, programs, work.frozen, self._records)

        @functools.cache
        def losses(w_dim: int) -> Callable:
            programs = work.programs(w_dim)
            made = round_losses(work.settings, w_dim, programs)
            return held_out_losses(work.stage, programs, work.frozen, made)

        self._losses = losses

    def of_round(
        self, round: RoundSettings, teacher: Trained, described: StageDescription, aside: dict
    ) -> Assess | None:
        """Return what the evaluations of a round measure, or None.

        described: its student. aside: {"teacher": parameters, "round"}, as the train step takes it.
        Raises InputError as `make_assess` does.
        """
        stage = self._work.settings.of_round(round.number).stage
        if not stage.train.eval_every:
            return None
        held_out = None
        if self._batches is not None:
            at, of = level_times(self._work.settings, round), self._losses(teacher.w_dim)
            held_out = HeldOut(lower(at), lambda ema: of(ema, aside, self._batches, at))
        pictures = self._pictures(described) if stage.train.metrics else None
        return make_assess(stage, held_out, pictures, self._open)

    def _pictures(self, described: StageDescription) -> Pictures:
        """Return the fixed pictures of a student: by its own steps and guidance weight."""
        frozen, stage = self._work.frozen, self._work.stage
        mesh = self._work.mesh.mesh
        cascade = Cascade(
            dataclasses.replace(frozen.description, stages={stage.stage: described}),
            dict(frozen.params),
            frozen.tokenize,
            attention=stage.attention,
            within=mesh,
        )
        return stage_pictures(stage, cascade, self._work.records, self._records)


def level_count(settings: DistillSettings) -> int:
    """Return the number of noise levels of the program, which all rounds of a kind share."""
    return min(LEVELS, settings.rounds[0].steps)


def level_times(settings: DistillSettings, round: RoundSettings) -> list[int]:
    """Return t of each level of a round: the beginnings of evenly spaced steps of its student."""
    levels, t = level_count(settings), settings.grid(2 * round.steps).t
    return [int(t[2 * (round.steps * (2 * k + 1) // (2 * levels))]) for k in range(levels)]


def round_losses(
    settings: DistillSettings, teacher_w_dim: int, programs: DiffusionPrograms
) -> LevelLosses:
    """Return the losses of a round's own objective, each level at one pair of teacher steps.

    Guidance weights and noise of a row are drawn once and for all, as in training.
    """
    network, levels = programs.network, level_count(settings)
    mesh = network.layout.mesh
    taught = taught_losses(settings, teacher_w_dim, settings.stage, mesh, network)

    def losses(params: Any, aside: dict, batch: dict, keys: jax.Array) -> jax.Array:
        now, shape = aside["round"], batch["x0"].shape

        def one(level):
            own = jax.vmap(lambda key: jax.random.fold_in(key, level))(keys)
            _, w, noise = draw_pairs(own, shape[1:], now.pairs.count, now.w)
            pair = jnp.full(shape[:1], now.pairs.count * (2 * level + 1) // (2 * levels))
            return taught.losses(params, aside, batch, (pair, w, noise))[0]

        return jax.lax.map(one, jnp.arange(levels)).T

    return LevelLosses(losses, taught.held)
