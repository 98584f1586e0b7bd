"""Test the schedule's tables and the sampling grids.

The tests check the released points, their limits and order, and refused arguments.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cv3jax.diffusion import sampler
from cv3jax.diffusion.schedule import (
    T,
    base_grid,
    blur_table,
    custom_grid,
    ddpm_sigma,
    make_schedule,
    relay_grid,
    released_points,
)


def test_base_grid_is_the_released_one_for_every_number_of_steps():
    """The indices are linspace(999, 0, n, endpoint=False).astype(int).

    Where 999 k/n is whole, linspace may round to just below it; the grid is exact there.
    """
    steps_that_differ = 0
    for n in range(1, T + 1):
        released = np.linspace(T - 1, 0, n, endpoint=False).astype(int)
        missing = np.array(released_points(n, T)[:-1]) - 1 - released
        k = np.arange(n, 0, -1)
        whole = (T - 1) * k % n == 0
        assert not missing[~whole].any()
        assert set(missing[whole]) <= {0, 1}
        steps_that_differ += missing.any()
    # 99, 185, 198, 213, …: none that the release uses
    assert steps_that_differ == 34
    np.testing.assert_array_equal(base_grid(50).t, released_points(50, T))


@pytest.mark.parametrize(
    ("n", "p"), [(24, 12), (20, 10), (5, 1), (10, 2), (8, 4), (50, 25), (40, 8), (1000, 500)]
)
def test_relay_grid_is_the_end_of_a_base_grid(n, p):
    grid = relay_grid(p, T * p // n)
    for ours, base in ((grid.t, base_grid(n).t), (grid.sigma, base_grid(n).sigma)):
        np.testing.assert_array_equal(ours, np.asarray(base)[n - p :])
    np.testing.assert_allclose(grid.blur, np.arange(p, -1, -1) / p, rtol=1e-7)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, T), st.integers(1, T), st.sampled_from(["linear", "sigma", "exp"]))
def test_a_grid_decreases_from_its_start_to_zero(start, steps, blur):
    if steps > start:  # more steps than indices: two points would coincide
        with pytest.raises(ValueError, match="must decrease strictly"):
            relay_grid(steps, start, blur)
        return
    grid = relay_grid(steps, start, blur)
    assert np.asarray(grid.blur)[0] == 1  # sampling begins at low
    assert (grid.steps, np.asarray(grid.t)[0]) == (steps, start)
    for values in map(np.asarray, (grid.t, grid.sigma, grid.blur)):
        assert np.all(np.diff(values) < 0)
        assert values[-1] == 0
    assert not np.any(base_grid(steps).blur)


@pytest.mark.parametrize(("steps", "start"), [(12, 500), (10, 500), (7, 200), (1, 1)])
@pytest.mark.parametrize("blur", ["linear", "sigma", "exp"])
def test_strength_one_is_the_whole_grid_to_the_bit(blur, steps, start):
    points = released_points(steps, start)
    table = [k / steps for k in range(steps, -1, -1)]
    whole = custom_grid(points, table if blur == "linear" else blur_table(blur, start)[points])
    grid = relay_grid(steps, start, blur, strength=1.0)
    for ours, theirs in ((grid.t, whole.t), (grid.sigma, whole.sigma), (grid.blur, whole.blur)):
        np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(20, T),
    st.integers(1, 20),
    st.floats(0.01, 1.0),
    st.sampled_from(["linear", "sigma", "exp"]),
)
def test_a_smaller_strength_starts_lower_on_the_same_schedule(start, steps, strength, blur):
    first = max(round(strength * start), 1)
    steps = min(steps, first)
    grid = relay_grid(steps, start, blur, strength=strength)
    t = np.asarray(grid.t)
    np.testing.assert_array_equal(t, released_points(steps, first))
    np.testing.assert_array_equal(grid.sigma, ddpm_sigma()[t])
    # the released linear grid has k/p, up to a point of the table and a thousandth off it
    off = np.abs(np.asarray(grid.blur) - blur_table(blur, start)[t]).max()
    assert off <= (1.5 / start + 2e-3 if blur == "linear" else 0)
    assert np.all(np.diff(grid.blur) < 0)


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01, float("nan"), float("inf")])
def test_a_strength_that_cannot_be_is_refused(strength):
    with pytest.raises(ValueError, match="strength must be above 0 and at most 1"):
        relay_grid(4, 500, strength=strength)


@pytest.mark.parametrize(("steps", "start"), [(10, 500), (7, 200), (250, 1000), (1, 1)])
@pytest.mark.parametrize("blur", ["sigma", "exp"])
def test_a_relay_is_sampled_with_the_blur_it_was_trained_with(blur, steps, start):
    grid = relay_grid(steps, start, blur)
    table = make_schedule(blur, start)
    np.testing.assert_array_equal(grid.blur, np.asarray(table.blur)[np.asarray(grid.t)])
    np.testing.assert_array_equal(grid.t, relay_grid(steps, start).t)
    np.testing.assert_array_equal(grid.sigma, relay_grid(steps, start).sigma)


@pytest.mark.parametrize("blur", ["linear", "sigma", "exp"])
def test_a_perfect_denoiser_draws_detail_of_the_data_s_deviation(blur):
    """Detail d = x0 - low is normal with deviation s.

    With x_t = low + (1 - b) d + σ ε, E[d | x_t] is (1 - b) s² / ((1 - b)² s² + σ²) of x_t - low.
    All of it is linear, so one start is enough.
    """
    s, start, steps = 0.8, 500, 250
    table = make_schedule(blur, start)
    kept, sigma = 1.0 - np.asarray(table.blur, np.float64), np.asarray(table.sigma, np.float64)
    share = kept * s**2 / (kept**2 * s**2 + sigma**2)
    share[0] = 1.0
    low = jnp.zeros((1, 1, 1, 1))
    grid = relay_grid(steps, start, blur)
    drawn, _ = sampler.sample(
        lambda x, t: jnp.asarray(share)[t][:, None, None, None] * x,
        grid,
        sampler.start(grid, jnp.ones_like(low), low),
        low,
    )
    assert float(drawn[0, 0, 0, 0]) == pytest.approx(s, rel=0.03)


@pytest.mark.parametrize("t", [[5, 3], [3, 5, 0], [5, 5, 0], [T + 1, 0], [0], []])
def test_a_custom_grid_must_decrease_to_zero(t):
    with pytest.raises(ValueError, match="must decrease strictly from at most 1000 to 0"):
        custom_grid(t)


def test_a_custom_grid_takes_sigma_from_the_table():
    grid = custom_grid([700, 20, 0], [1.0, 0.5, 0.0])
    np.testing.assert_array_equal(grid.sigma, ddpm_sigma()[[700, 20, 0]])
    np.testing.assert_array_equal(grid.blur, [1.0, 0.5, 0.0])
    assert not custom_grid([700, 0]).blur.any()
    with pytest.raises(ValueError, match="3 points needs 3 blurs, not 2"):
        custom_grid([700, 20, 0], [1.0, 0.0])


def test_grids_name_what_is_out_of_range():
    with pytest.raises(ValueError, match=r"start must be in 1\.\.1000, not 1001"):
        relay_grid(4, T + 1)
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        base_grid(0)


@pytest.mark.parametrize("start", [1, 150, 500, T])
@pytest.mark.parametrize("kind", ["linear", "sigma", "exp"])
def test_blur_rises_from_zero_to_one_at_the_start(kind, start):
    blur = blur_table(kind, start)
    assert blur.shape == (T + 1,)
    assert np.all(np.diff(blur) >= 0)
    assert blur[0] == 0
    assert np.all(blur[start + 1 :] == 1)
    if start > 1:
        assert blur[1] < 0.1
        assert blur[start] > 0.99
    if kind == "linear":
        assert blur[1] == 0
        np.testing.assert_allclose(np.diff(blur[1 : start + 1]), 1 / start, rtol=1e-4)
    else:  # no shift: these reach 1 at the start itself
        assert blur[start] == 1


def test_blur_none_is_zero_and_others_are_refused():
    assert not make_schedule().blur.any()
    with pytest.raises(
        ValueError, match="blur must be one of none, linear, sigma, exp, not 'cosine'"
    ):
        blur_table("cosine", 500)
    with pytest.raises(ValueError, match=r"relay start must be in 1\.\.1000, not 0"):
        blur_table("linear", 0)
    with pytest.raises(ValueError, match="the blur of a relay must not be none"):
        relay_grid(4, 500, "none")
    with pytest.raises(ValueError, match="blur must be one of"):
        relay_grid(4, 500, "cosine")
