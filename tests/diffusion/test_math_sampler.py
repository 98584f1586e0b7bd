"""Test identities of the sampler, in float64 unless they are statistical."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax.diffusion import sampler
from cv3jax.diffusion.schedule import Grid, base_grid, custom_grid, mean, relay_grid

SHAPE = (2, 4, 4, 2)
BASE = base_grid(7)
RELAY = relay_grid(6, 500)
# what neither released family has: uneven t, blur that is neither k/p nor the table's
UNEVEN = custom_grid([600, 480, 90, 30, 1, 0], [1.0, 0.9, 0.4, 0.15, 0.1, 0.0])
CASES = {
    **{f"base {form}": (BASE, False, form) for form in sampler.FORMS},
    **{f"relay {form}": (RELAY, True, form) for form in sampler.FORMS},
    **{f"uneven {form}": (UNEVEN, True, form) for form in sampler.FORMS},
}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def normal(seed, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape)


def double(grid):
    return Grid(grid.t, *(jnp.asarray(values, jnp.float64) for values in (grid.sigma, grid.blur)))


@functools.partial(jax.jit, static_argnames=("predict", "eta", "form"))
def jitted(predict, grid, x, low=None, keys=None, eta=0.0, form="released"):
    return sampler.sample(predict, grid, x, low, keys=keys, eta=eta, form=form)


def keys_of(x, seed=0):
    """Return a key for each image."""
    return jax.random.split(jax.random.key(seed), len(x))


def run(predict, grid, x, low=None, **options):
    return jitted(predict, double(grid), x, low, **options)


def nonlinear(x, t):
    """Predict without any special property."""
    return jnp.tanh(x) * (1 + 0.01 * t[:, None, None, None]) - 0.3


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_a_constant_prediction_is_where_sampling_lands(case, eta):
    """So a perfect denoiser, which predicts x0 from anything, samples x0."""
    grid, relay, form = CASES[case]
    x0, low = normal(0), normal(1) if relay else None
    x = sampler.start(double(grid), normal(2), low)
    final, trajectory = run(
        lambda x, t: jnp.asarray(normal(0)), grid, x, low, form=form, eta=eta, keys=keys_of(x)
    )
    np.testing.assert_allclose(final, x0, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(final, trajectory[-1])
    assert trajectory.shape == (grid.steps, *SHAPE)


def test_a_constant_epsilon_lands_on_x0():
    """In a base stage x stays on the line x0 + σ ε for any steps."""
    x0, epsilon, grid = normal(0), normal(1), double(BASE)
    sigma_of = jnp.zeros(1001).at[grid.t].set(grid.sigma)
    final, trajectory = run(
        lambda x, t: x - sigma_of[t][:, None, None, None] * epsilon,
        BASE,
        x0 + grid.sigma[0] * epsilon,
    )
    np.testing.assert_allclose(final, x0, rtol=0, atol=1e-12)
    for x, sigma in zip(trajectory, grid.sigma[1:], strict=True):
        np.testing.assert_allclose(x, x0 + sigma * epsilon, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", [RELAY, UNEVEN], ids=["released grid", "uneven grid"])
def test_both_forms_agree_where_the_prediction_does_not_change(grid):
    low = normal(1)
    x = sampler.start(double(grid), normal(2), low)

    def constant(x, t):
        return jnp.asarray(normal(0))

    released, paper = (run(constant, grid, x, low, form=form)[1] for form in sampler.MEANS)
    np.testing.assert_allclose(released, paper, rtol=0, atol=1e-12)
    released, paper = (run(nonlinear, grid, x, low, form=form)[1] for form in sampler.MEANS)
    # the first step starts at the same mean
    np.testing.assert_allclose(released[0], paper[0], rtol=0, atol=1e-12)
    assert np.abs(released[1] - paper[1]).max() > 1e-3


def test_base_is_released_euler():
    """REFERENCE §5: x' = x + (σ' - σ)(x - D)/σ."""
    grid, x = double(BASE), normal(0)
    wanted = []
    for i in range(grid.steps):
        s, r = float(grid.sigma[i]), float(grid.sigma[i + 1])
        wanted.append((wanted[-1] if wanted else x) * 1.0)
        wanted[-1] = (
            wanted[-1]
            + (r - s) * (wanted[-1] - np.asarray(nonlinear(wanted[-1], jnp.full(2, grid.t[i])))) / s
        )
    np.testing.assert_allclose(run(nonlinear, BASE, x)[1], wanted, rtol=1e-10, atol=1e-10)


def test_relay_is_the_released_recursion():
    """REFERENCE §5: x' = r x + (1 - r + β) D - β low, β = r k/p - (k-1)/p, r = σ'/σ."""
    grid, low, p = double(RELAY), normal(1), RELAY.steps
    x = start = sampler.start(grid, normal(2), low)
    wanted = []
    for i, k in enumerate(range(p, 0, -1)):
        r = float(grid.sigma[i + 1] / grid.sigma[i])
        beta = r * k / p - (k - 1) / p
        x = r * x + (1 - r + beta) * nonlinear(x, jnp.full(2, grid.t[i])) - beta * low
        wanted.append(x)
    # blur is stored in float32
    np.testing.assert_allclose(run(nonlinear, RELAY, start, low)[1], wanted, rtol=0, atol=1e-5)


def test_the_paper_form_is_algorithm_1():
    grid, low = double(UNEVEN), normal(1)
    x = start = sampler.start(grid, normal(2), low)
    m, wanted = low, []
    for i in range(grid.steps):
        x0 = nonlinear(x, jnp.full(2, grid.t[i]))
        ratio = grid.blur[i + 1] / grid.blur[i]
        epsilon = (x - m) / grid.sigma[i]
        m = ratio * m + (1 - ratio) * x0
        x = m + grid.sigma[i + 1] * epsilon
        wanted.append(x)
    np.testing.assert_allclose(
        run(nonlinear, UNEVEN, start, low, form="paper")[1], wanted, rtol=0, atol=1e-10
    )


def test_base_is_the_relay_without_blur():
    x, low = normal(0), normal(1)
    np.testing.assert_allclose(
        run(nonlinear, BASE, x, low)[1], run(nonlinear, BASE, x)[1], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_a_step_keeps_the_variance(case, eta):
    """x_t ~ N(m_t, σ_t²) goes to x_s ~ N(m_s, σ_s²) for any η.

    Its correlation with x_t is √(1 - δ²/σ_s²).
    """
    grid, relay, form = CASES[case]
    grid = double(grid)
    n, x0, low = 200_000, 0.7, -0.4
    x, m = (
        low * relay + grid.sigma[0] * normal(2, (1, n, 1, 1)) + (0 if relay else x0),
        low if relay else x0,
    )
    _, trajectory = jitted(
        lambda x, t: jnp.full_like(x, 0.7),
        grid,
        x,
        jnp.full_like(x, low) if relay else None,
        keys=keys_of(x, 5),
        eta=eta,
        form=form,
    )
    for i, sample in enumerate(trajectory[:-1]):
        sigma_t, sigma, b = (float(v) for v in (grid.sigma[i], grid.sigma[i + 1], grid.blur[i + 1]))
        wanted = mean(x0, low, b) if relay else x0
        np.testing.assert_allclose(sample.mean(), wanted, rtol=0, atol=5 * sigma / n**0.5)
        np.testing.assert_allclose(sample.std(), sigma, rtol=5 * (2 * n) ** -0.5)
        correlation = np.corrcoef(np.ravel(x - m), np.ravel(sample - wanted))[0, 1]
        np.testing.assert_allclose(
            correlation,
            np.sqrt(1 - eta**2 * (1 - (sigma / sigma_t) ** 2)),
            rtol=0,
            atol=5 * n**-0.5,
        )
        x, m = sample, wanted


def test_noise_is_drawn_from_the_key_and_only_if_needed():
    x = normal(0)
    keys = keys_of(x)
    np.testing.assert_array_equal(run(nonlinear, BASE, x)[0], run(nonlinear, BASE, x, keys=keys)[0])
    drawn = run(nonlinear, BASE, x, keys=keys, eta=0.5)[0]
    np.testing.assert_array_equal(drawn, run(nonlinear, BASE, x, keys=keys, eta=0.5)[0])
    # whoever its neighbours are
    np.testing.assert_array_equal(drawn[:1], run(nonlinear, BASE, x[:1], keys=keys[:1], eta=0.5)[0])
    assert np.abs(drawn - run(nonlinear, BASE, x, keys=keys_of(x, 1), eta=0.5)[0]).max() > 1e-3
    with pytest.raises(ValueError, match="eta > 0 draws noise at every step: pass keys"):
        sampler.sample(nonlinear, BASE, jnp.asarray(x), eta=0.5)


def test_start():
    noise, low = normal(0), normal(1)
    sigma = np.float64(BASE.sigma[0])
    np.testing.assert_allclose(
        sampler.start(double(BASE), noise), np.sqrt(1 + sigma**2) * noise, rtol=1e-12
    )
    np.testing.assert_allclose(
        sampler.start(double(RELAY), noise, low), low + float(RELAY.sigma[0]) * noise, rtol=1e-12
    )


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match=r"form must be one of released, paper.*, not 'linear'"):
        sampler.sample(nonlinear, RELAY, jnp.zeros(SHAPE), jnp.zeros(SHAPE), form="linear")


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("case", CASES)
def test_steps_are_the_same_however_they_are_split(case, eta):
    """One program takes a range of steps; the result is that of `sample`."""
    (grid, relay, form), programs = CASES[case], []
    low, keys = normal(1) if relay else None, keys_of(normal(0))
    grid, x = double(grid), normal(2)

    @jax.jit
    def some(state, between):
        programs.append(1)
        return sampler.sample_steps(
            nonlinear, grid, state, low, between, keys=keys, eta=eta, form=form
        )

    ends = []
    for split in ([0], [0, 1, 2], [0, 4], [0, 2, 3]):
        state = sampler.first_state(x, low)
        for begin, end in itertools.pairwise([*split, grid.steps]):
            state = some(state, (begin, end))
        ends.append(state[0])
        np.testing.assert_array_equal(ends[-1], ends[0])
    whole = run(nonlinear, grid, x, low, form=form, eta=eta, keys=keys)[0]
    np.testing.assert_allclose(ends[0], whole, rtol=0, atol=1e-12)
    assert len(programs) == 1
