"""Test the schedule without signal at its end, and guidance that is rescaled: arXiv 2305.08891.

The paper's algorithms are written out in NumPy, in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax.diffusion import sampler
from cv3jax.diffusion.denoiser import Rescale, guided, make_denoiser
from cv3jax.diffusion.losses import Objective, denoising_loss
from cv3jax.diffusion.schedule import NO_SIGNAL, T, base_grid, ddpm_sigma, make_schedule

SHAPE = (6, 4, 4, 2)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def enforce_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Return the betas of Algorithm 1, as the paper prints it."""
    alphas_bar_sqrt = np.sqrt(np.cumprod(1 - betas))
    first, last = alphas_bar_sqrt[0].copy(), alphas_bar_sqrt[-1].copy()
    alphas_bar_sqrt -= last
    alphas_bar_sqrt *= first / (first - last)
    alphas_bar = alphas_bar_sqrt**2
    alphas = np.concatenate([alphas_bar[:1], alphas_bar[1:] / alphas_bar[:-1]])
    return 1 - alphas


def test_the_table_is_algorithm_1():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas_bar = np.cumprod(1 - enforce_zero_terminal_snr(betas))
    assert alphas_bar[-1] == 0
    table = ddpm_sigma(zero_snr=True)
    expected = np.sqrt((1 - alphas_bar[:-1]) / alphas_bar[:-1])
    np.testing.assert_allclose(table[1:T], expected, rtol=1e-6)
    assert table.dtype == np.float32
    assert (table[0], table[T]) == (0, NO_SIGNAL)
    np.testing.assert_allclose(table[1], ddpm_sigma()[1], rtol=1e-6)
    assert (np.diff(table) > 0).all()


def test_at_the_end_the_network_sees_noise_alone_and_learns_minus_x0():
    schedule, seen = make_schedule(zero_snr=True), []
    x0, noise, output = (drawn(*SHAPE, seed=seed).astype(np.float32) for seed in range(3))

    def network(params, x, index, cond):
        seen.append(np.asarray(x))
        return output

    denoise = make_denoiser(network, schedule.sigma, "v")
    t = jnp.full(SHAPE[0], T)
    objective = Objective("v", prediction="v")
    for picture in (x0, -3 * x0):
        batch = {"x0": picture, "cond": None}
        losses = denoising_loss(objective, denoise, schedule, None, batch, t, noise)
        # v = α ε - √(1 - α²) x0 with α = 0
        expected = ((output.astype(np.float64) + picture) ** 2).mean((1, 2, 3))
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
        np.testing.assert_array_equal(seen[-1], noise)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_sampling_starts_as_training_ends_so_the_mean_of_the_data_is_drawn(steps, eta):
    """Of data N(μ, τ²) the perfect denoiser is known; the released start knows nothing of μ."""
    mu, tau = 3.0, 0.5
    noise = drawn(2, 32, 32, 4).astype(np.float32)
    noise /= noise.std()

    def drawn_mean(zero_snr: bool) -> float:
        sigma = jnp.asarray(ddpm_sigma(zero_snr))

        def perfect(x, t):
            return mu + tau**2 / (tau**2 + sigma[t][:, None, None, None] ** 2) * (x - mu)

        grid = base_grid(steps, zero_snr=zero_snr)
        x = sampler.start(grid, jnp.asarray(noise))
        keys = jax.random.split(jax.random.key(0), 2)
        return float(sampler.sample(perfect, grid, x, keys=keys, eta=eta)[0].mean())

    assert abs(drawn_mean(True) - mu) < 0.02
    if steps == 50 and not eta:
        assert drawn_mean(False) < mu - 0.02  # too dark by what is missing of the first step


def test_any_split_and_rows_of_their_own_steps_draw_the_same():
    sigma, grid = jnp.asarray(ddpm_sigma(True)), base_grid(4, zero_snr=True)
    assert float(grid.sigma[0]) == NO_SIGNAL
    np.testing.assert_array_equal(grid.t, base_grid(4).t)

    def predict(x, t):
        return jnp.tanh(x / jnp.sqrt(1 + sigma[t][:, None, None, None] ** 2))

    noise = jnp.asarray(drawn(2, 4, 4, 2), jnp.float32)
    x, _ = sampler.sample(predict, grid, sampler.start(grid, noise))
    state = sampler.first_state(sampler.start_rows(jnp.full(2, NO_SIGNAL), noise), None)
    for n in range(4):
        point = (grid.t[n], grid.t[n + 1], grid.sigma[n], grid.sigma[n + 1], 0.0, 0.0)
        point = sampler.Point(*(jnp.full(2, value) for value in point))
        keys = jax.random.split(jax.random.key(0), 2)
        rows = sampler.RowStep(point, jnp.full(2, n), keys, jnp.zeros(2))
        state, _ = sampler.step_rows(predict, state, None, rows)
    assert np.isfinite(x).all()
    np.testing.assert_allclose(state[0], x, rtol=1e-5, atol=1e-6)


def rescale_noise_cfg(positive, negative, w, share):
    """Return the guided output of the paper's Eq. 13–16, of what the network predicts."""
    cfg = negative + w * (positive - negative)
    wide, narrow = (x.std(axis=(1, 2, 3), keepdims=True) for x in (cfg, positive))
    return share * cfg * narrow / wide + (1 - share) * cfg


@pytest.mark.parametrize("share", [0.7, 1.0])
@pytest.mark.parametrize(("prediction", "zero_snr"), [("eps", False), ("v", False), ("v", True)])
def test_rescaled_guidance_is_the_paper_s_of_what_the_network_predicts(prediction, zero_snr, share):
    table = ddpm_sigma(zero_snr).astype(np.float64)
    t = np.array([1, 2, 30, 400, 999, 1000])
    sigma = table[t][:, None, None, None]
    x = np.sqrt(1 + sigma**2) * drawn(*SHAPE)
    positive, negative = drawn(*SHAPE, seed=1), 0.3 + 2 * drawn(*SHAPE, seed=2)
    w = np.linspace(2, 9, 6)
    output = rescale_noise_cfg(positive, negative, w[:, None, None, None], share)
    if prediction == "eps":
        expected = x - sigma * output
    else:
        c = 1 / np.sqrt(1 + sigma**2)
        expected = c**2 * x - sigma * c * output
    with jax.enable_x64(True):
        outputs = jnp.asarray(np.stack([negative, positive], 1).reshape(12, *SHAPE[1:]))
        denoise = make_denoiser(lambda p, *_: outputs, jnp.asarray(table), prediction)
        by = Rescale(share, jnp.asarray(table), prediction)
        cond = {"text": jnp.ones((6, 3, 5))}
        found = guided(denoise, jnp.asarray(w), by)(None, jnp.asarray(x), jnp.asarray(t), cond)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_a_constant_prediction_is_not_rescaled():
    def denoise(params, x, t, cond):
        return x

    by = Rescale(0.7, jnp.asarray(ddpm_sigma()), "eps")
    x, cond = jnp.ones((2, 4, 4, 1)), {"text": jnp.ones((2, 3, 5))}
    np.testing.assert_array_equal(guided(denoise, 4.0, by)(None, x, jnp.array([1, 9]), cond), x)
