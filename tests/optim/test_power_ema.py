"""Test power-function averages against their definition, and what is reconstructed of them."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax.optim.power_ema import WIDTHS, exponent, inner, new_share, steps_of, weights


def profile(t, gamma):
    """Return the weight of each update 1..t in an average that is computed update by update."""
    found = np.zeros(t)
    for step in range(1, t + 1):
        share = 1.0 if step == 1 else 1 - (1 - 1 / step) ** (gamma + 1)
        found *= 1 - share
        found[step - 1] = share
    return found


@pytest.mark.parametrize("width", [0.01, 0.05, 0.10, 0.2, 0.28])
def test_an_exponent_gives_its_width(width):
    gamma = exponent(width)
    assert np.sqrt(gamma + 1) / (gamma + 2) / np.sqrt(gamma + 3) == pytest.approx(width, rel=1e-9)
    of, at = profile(4000, gamma), np.arange(1, 4001) / 4000
    mean = (of * at).sum()
    assert np.sqrt((of * (at - mean) ** 2).sum()) == pytest.approx(width, rel=2e-3)


def test_the_exponents_are_the_paper_s():
    assert [round(exponent(width), 2) for width in (0.05, 0.10)] == [16.97, 6.94]
    for width in (0.0, 0.29, -1.0):
        with pytest.raises(ValueError, match="width"):
            exponent(width)


def test_shares_are_those_of_the_definition_in_float32_too():
    for step in (2, 1000, 10**6):
        exact = 1 - (1 - 1 / step) ** (16.97 + 1)
        assert new_share(step, 16.97) == pytest.approx(exact, rel=1e-9)
        ours = new_share(jnp.float32(step), 16.97, jnp)
        assert float(ours) == pytest.approx(exact, rel=1e-5)
    assert float(new_share(jnp.float32(1), 16.97, jnp)) == 1.0


@pytest.mark.parametrize(
    ("a", "b"), [((10, 3.0), (7, 5.0)), ((7, 5.0), (7, 2.0)), ((2, 6.9), (9, 17.0))]
)
def test_the_inner_product_is_the_integral(a, b):
    grid = (np.arange(200_000) + 0.5) / 200_000 * 10

    def density(t, gamma):
        return np.where(grid <= t, (gamma + 1) * grid**gamma / t ** (gamma + 1), 0.0)

    integral = (density(*a) * density(*b)).sum() * 10 / 200_000
    assert inner(*a, *b) == pytest.approx(integral, rel=1e-4)
    assert inner(*b, *a) == pytest.approx(inner(*a, *b))


def snapshots(steps, count):
    pairs = itertools.product(steps_of(count, steps), map(exponent, WIDTHS))
    return map(list, zip(*pairs, strict=True))


def test_a_profile_that_was_kept_is_found_exactly():
    times, gammas = snapshots(640, 16)
    for k in (0, 9, 31):
        found = weights(times, gammas, times[k], gammas[k])
        np.testing.assert_allclose(found, np.eye(32)[k], atol=1e-6)


@pytest.mark.parametrize(("width", "most"), [(0.06, 0.01), (0.08, 0.01), (0.15, 0.01), (0.2, 0.02)])
def test_a_reconstructed_average_is_the_one_computed_directly(width, most):
    steps = 2000
    rng = np.random.default_rng(0)
    # parameters that drift, swing and jitter
    at = np.arange(1, steps + 1)[:, None] / steps
    path = np.exp(-5 * at * rng.uniform(0.5, 2, 8)) + 0.1 * np.sin(20 * at + rng.uniform(0, 6, 8))
    path += 0.05 * rng.standard_normal((steps, 8))
    times, gammas = snapshots(steps, 32)
    kept = np.stack([profile(t, g) @ path[:t] for t, g in zip(times, gammas, strict=True)])
    made = weights(times, gammas, steps, exponent(width)) @ kept
    direct = profile(steps, exponent(width)) @ path
    error = np.linalg.norm(made - direct) / np.linalg.norm(direct)
    assert error < most
    other = profile(steps, exponent(0.05)) @ path  # another length is not as near
    assert error < np.linalg.norm(other - direct) / np.linalg.norm(direct)


def test_snapshots_are_bounded_and_end_with_the_run():
    assert steps_of(4, 10) == [3, 5, 8, 10]
    assert steps_of(32, 5) == [1, 2, 3, 4, 5]
    assert len(steps_of(32, 600_000)) == 32
