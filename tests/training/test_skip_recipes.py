"""Test that `train.skip_*` reaches the steps of every kind of stage.

The networks cost nothing.
"""

import dataclasses

import hollow_networks as hn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax.distillation.programs import distillation_step, round_of
from cv3jax.training.autoencoder import vae_program
from cv3jax.training.state import state_creator

SIZE = ("batch.size=8", "batch.per_device=8")
ROUNDS = ("distill.rounds=((1,20,0.02,2.0,3.0),)", "distill.w=(2.5,)", "model.w_dim=16")


def base(*fields: str):
    """Return (the programs, the settings, what `train` takes beside the state)."""
    given = hn.settings("scenes_base", *fields)
    return hn.programs(given), given, ({}, hn.encoded())


def vae(*fields: str):
    given = hn.settings("scenes_vae", *SIZE, *fields)
    program = vae_program(given, hn.plan_of(given), hn.hollow_vae(), None)
    return program, given, ({}, {"image": np.zeros((8, hn.SIDE, hn.SIDE, 3), np.uint8)})


def distilled(*fields: str):
    given = hn.settings("scenes_distill_base", *ROUNDS, *fields)
    round = round_of(given, given.rounds[0])
    teacher = {"teacher": {"says": jnp.float32(2.0)}, "round": round}
    return (
        hn.programs(given.stage, distillation_step(given, 0)),
        given.stage,
        (teacher, hn.encoded()),
    )


@pytest.mark.parametrize("made", [base, vae, distilled], ids=["base", "vae", "distilled"])
@pytest.mark.parametrize("spike", [0.0, 3.0], ids=["no spikes", "spikes"])
def test_a_step_skips_what_its_recipe_says(made, spike):
    program, given, beside = made("train.skip_nonfinite=2", f"train.skip_spike={spike}")
    state = state_creator(program.init, program.tx, given.seed, program.like, None)()
    assert (state.norms is not None) == (spike > 0)
    for bad in (False, True):
        if bad:
            params = jax.tree.map(lambda x: x * jnp.nan, state.params)
            state = dataclasses.replace(state, params=params)
        state, metrics = program.train(state, *beside)
        assert metrics["skipped"] == bad
    assert all(np.isfinite(x) for x in jax.tree.leaves(state.ema))


@pytest.mark.parametrize("made", [base, vae, distilled], ids=["base", "vae", "distilled"])
def test_a_recipe_that_says_nothing_skips_nothing(made):
    program, given, beside = made()
    state = state_creator(program.init, program.tx, given.seed, program.like, None)()
    assert "skipped" not in program.train(state, *beside)[1]
