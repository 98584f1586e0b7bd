"""Test that x̂0 can be read from the states before and after a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax.diffusion import sampler
from cv3jax.diffusion.schedule import base_grid, relay_grid


@pytest.mark.parametrize("form", ["released", "paper"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_relays_prediction_is_read_from_its_states(form, strength, eta):
    check(relay_grid(4, 500, strength=strength), form, eta, relay=True)


@pytest.mark.parametrize("form", ["released", "paper"])
def test_a_bases_prediction_is_read_from_its_states(form):
    check(base_grid(4), form, 0.5, relay=False)


def check(grid, form, eta, *, relay):
    noise, low = jax.random.normal(jax.random.key(0), (2, 2, 3, 5, 1))
    low = low if relay else None
    keys = jax.vmap(jax.random.key)(jnp.arange(2))

    def predict(x, t):
        return jnp.sin(x) + t[:, None, None, None] / 1000

    state = sampler.first_state(sampler.start(grid, noise, low), low)
    for number in range(grid.steps):
        before = state
        between = (jnp.int32(number), jnp.int32(number + 1))
        state = sampler.sample_steps(
            predict, grid, before, low, between, keys=keys, eta=eta, form=form
        )
        expected = predict(before[0], jnp.full(2, grid.t[number]))
        found = sampler.predicted(form, grid, number, low, before, state)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state[0], expected, rtol=1e-4, atol=1e-4)  # the last is the result
