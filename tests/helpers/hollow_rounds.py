"""Run distillations without the parts that take seconds.

An update adds 1 to the EMA, and distances are given by the test. All else is real.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax.distillation import build as building
from cv3jax.distillation import run as distilling
from cv3jax.distillation.evaluation import Bench

SHEET = np.zeros((8, 8, 3), np.uint8)


class Seen(NamedTuple):
    """Hold what a hollow run did, in the order of its updates."""

    updates: list  # (round, update)
    states: dict  # round → the state that its first update was given
    images: dict  # round → the first batch's images
    teachers: dict  # round → the parameters that teach it


def hollow(
    patch: pytest.MonkeyPatch, distances: dict[int, list[float]], then=lambda plan, step: None
) -> Seen:
    """Make later runs hollow.

    `distances` are those of a student of so many steps, at its start and later. `then` is called
    after each update.
    """
    seen, asked = Seen([], {}, {}, {}), {steps: list(values) for steps, values in distances.items()}

    class HollowBench(Bench):
        def __init__(self, work):
            self.weights, self.prompts, self.latent = (
                [float(w) for w in work.settings.w],
                ["one"],
                (4, 4, 4),
            )

        def sample(self, stage, params, steps):
            rows = len(self.weights)
            return np.full(
                (rows, *self.latent),
                asked[steps].pop(0) if stage.distilled and steps in asked else 0.0,
                np.float32,
            )

        def picture(self, rows):
            return SHEET

        def at_one_weight(self, latents):
            return SHEET[None]

    def round_step(work, plan, teacher, params):
        seen.teachers[plan.number] = jax.tree.map(np.asarray, params)

        @jax.jit
        def update(state):
            metrics = dict.fromkeys(("loss", "grad_norm", "param_norm"), state.step * 1.0)
            return (
                dataclasses.replace(
                    state, step=state.step + 1, ema=jax.tree.map(lambda x: x + 1.0, state.ema)
                ),
                metrics,
            )

        def step(state, batch):
            with jax.transfer_guard("allow"):
                now = int(state.step) + 1
                if now == 1:
                    seen.states[plan.number] = jax.tree.map(jnp.copy, state)
                    seen.images[plan.number] = np.asarray(batch["image"])
            seen.updates.append((plan.number, now))
            out = update(state)
            then(plan, now)
            return out

        return step

    patch.setattr(distilling, "make_bench", HollowBench)
    patch.setattr(distilling, "parity", lambda *_: 0.0)
    patch.setattr(building, "round_step", round_step)
    return seen
