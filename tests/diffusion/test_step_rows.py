"""Test that a row of a mixed batch takes the steps that `sample_steps` takes with it alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax.diffusion import sampler
from cv3jax.diffusion.sampler import Point, RowStep
from cv3jax.diffusion.schedule import Grid, base_grid, relay_grid

SHAPE = (4, 6, 2)
WEIGHT = np.linspace(0.5, 1.5, 5)  # of the rows, which a prediction may know as it knows a guidance


def predict_with(weight):
    def predict(x, t):
        return jnp.sin(x) * jnp.asarray(weight, jnp.float32)[:, None, None, None] + (
            t[:, None, None, None] / 1000
        )

    return predict


def grids(relay: bool) -> list[Grid]:
    if not relay:
        return [base_grid(steps) for steps in (1, 2, 4, 7, 20)]
    return [
        relay_grid(1, 40),
        relay_grid(4, 500),
        relay_grid(3, 500, strength=0.4),
        relay_grid(6, 200, "sigma"),
        relay_grid(9, 999),
    ]


@pytest.mark.parametrize("form", ["released", "paper"])
@pytest.mark.parametrize("relay", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_each_row_of_a_mixture_gets_what_it_gets_alone(form, relay, seed):
    draws = np.random.default_rng(seed)
    rows = [grids(relay)[number] for number in draws.permutation(5)]
    etas = draws.choice([0.0, 0.3, 1.0], 5)
    keys = jax.vmap(jax.random.key)(jnp.asarray(draws.integers(0, 2**32, 5, np.uint32)))
    noise, low = jnp.asarray(draws.normal(size=(2, 5, *SHAPE)), jnp.float32)
    states, lows, wanted = [], [], []
    for row, grid in enumerate(rows):
        own = low[row : row + 1] if relay else None
        state = sampler.first_state(sampler.start(grid, noise[row : row + 1], own), own)
        whole = sampler.sample_steps(
            predict_with(WEIGHT[row : row + 1]),
            grid,
            state,
            own,
            (jnp.int32(0), jnp.int32(grid.steps)),
            keys=keys[row : row + 1],
            eta=float(etas[row]),
            form=form,
        )
        states.append(state), lows.append(own), wanted.append(whole[0][0])
    # in each turn some rows take a step, beside others at other steps of other grids
    done = [0] * 5
    while any(done[row] < grid.steps for row, grid in enumerate(rows)):
        ready = [row for row in range(5) if done[row] < rows[row].steps]
        chosen = draws.permutation(ready)[: draws.integers(1, len(ready) + 1)]
        state = tuple(jnp.concatenate([states[row][part] for row in chosen]) for part in (0, 1))
        beside = jnp.concatenate([lows[row] for row in chosen]) if relay else None
        taken = row_step([(rows[row], done[row]) for row in chosen], keys[chosen], etas[chosen])
        after, x0 = sampler.step_rows(predict_with(WEIGHT[chosen]), state, beside, taken, form)
        expected = predict_with(WEIGHT[chosen])(state[0], taken.point.t)
        np.testing.assert_array_equal(x0, expected)
        for place, row in enumerate(chosen):
            states[row] = tuple(part[place : place + 1] for part in after)
            done[row] += 1
    for row in range(5):
        np.testing.assert_allclose(states[row][0][0], wanted[row], rtol=2e-5, atol=2e-5)


def row_step(places, keys, eta) -> RowStep:
    """Return the step at number n of a grid, for each (grid, n)."""
    ends = [
        np.stack([np.asarray(getattr(grid, field))[n + end] for grid, n in places])
        for field in ("t", "sigma", "blur")
        for end in (0, 1)
    ]
    numbers = jnp.asarray([n for _, n in places], jnp.int32)
    return RowStep(Point(*map(jnp.asarray, ends)), numbers, keys, jnp.asarray(eta, jnp.float32))


def test_an_unknown_form_is_refused():
    x = jnp.zeros((1, *SHAPE))
    step = row_step([(base_grid(2), 0)], jax.vmap(jax.random.key)(jnp.zeros(1, jnp.uint32)), [0.0])
    with pytest.raises(ValueError, match="form must be one of released, paper"):
        sampler.step_rows(predict_with([1.0]), (x, x), None, step, "papr")
