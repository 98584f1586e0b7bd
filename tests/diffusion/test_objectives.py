"""Test the objectives of fine-tuning against the formulas of their papers, in float64.

Each formula is written out in NumPy, in terms of what the network predicts, as the papers have it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax.diffusion.denoiser import make_denoiser
from cv3jax.diffusion.losses import Objective, denoising_loss, draw_t, draw_t_and_noise
from cv3jax.diffusion.schedule import T, make_schedule

SHAPE = (6, 4, 4, 2)
INDEX = np.array([1, 2, 30, 400, 999, 1000])
SPREADS = 5.0  # standard errors


def alphas_cumprod() -> np.ndarray:
    """Return ᾱ of the released betas, float64 [T], by the definition of DDPM."""
    betas = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000) ** 2
    return np.cumprod(1 - betas)


def case(prediction: str):
    """Return (ᾱ at INDEX, x0, noise, the network's output, what it should have been)."""
    alpha_bar = alphas_cumprod()[INDEX - 1][:, None, None, None]
    x0, noise, output = np.random.default_rng(0).normal(size=(3, *SHAPE))
    velocity = np.sqrt(alpha_bar) * noise - np.sqrt(1 - alpha_bar) * x0
    return alpha_bar, x0, noise, output, {"eps": noise, "v": velocity}[prediction]


def our_losses(objective: Objective, x0, noise, output, **more) -> np.ndarray:
    """Return the losses of a network that says `output`, in float64."""
    with jax.enable_x64(True):
        schedule = jax.tree.map(lambda x: x.astype(jnp.float64), make_schedule())
        denoise = make_denoiser(lambda params, *_: params, schedule.sigma, objective.prediction)
        batch = {"x0": jnp.asarray(x0), "cond": None, **more}
        args = (batch, jnp.asarray(INDEX), jnp.asarray(noise))
        return np.asarray(denoising_loss(objective, denoise, schedule, jnp.asarray(output), *args))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_min_snr_is_hang_s_weight_of_each_prediction(prediction, gamma):
    """2303.09556 §3.4: min(SNR, γ) for x0, over SNR for ε, over SNR + 1 for v."""
    alpha_bar, x0, noise, output, wanted = case(prediction)
    snr = (alpha_bar / (1 - alpha_bar))[:, 0, 0, 0]
    over = {"eps": snr, "v": snr + 1}[prediction]
    expected = np.minimum(snr, gamma) / over * ((output - wanted) ** 2).mean((1, 2, 3))
    objective = Objective("min_snr", gamma=gamma, prediction=prediction)
    # the table of σ is float32
    np.testing.assert_allclose(our_losses(objective, x0, noise, output), expected, rtol=1e-6)
    # of both predictions it is the same weight of the x0 error
    alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    xt = alpha * x0 + sigma * noise
    x0_hat = {"eps": (xt - sigma * output) / alpha, "v": alpha * xt - sigma * output}[prediction]
    of_x0 = np.minimum(snr, gamma) * ((x0_hat - x0) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(expected, of_x0, rtol=1e-9)


def published_threshold(schedule: str, c: float) -> np.ndarray:
    """Return the threshold of 2403.16728 at INDEX, [B, 1, 1, 1]; its timestep k is t - 1."""
    timestep, alpha_bar = INDEX - 1, alphas_cumprod()[INDEX - 1]
    sigma = np.sqrt((1 - alpha_bar) / alpha_bar)
    return {
        "constant": np.full(len(INDEX), c),
        "exponential": np.exp(-(-np.log(c) / 1000) * timestep),
        "snr": (1 - c) / (1 + sigma) ** 2 + c,
    }[schedule][:, None, None, None]


@pytest.mark.parametrize("schedule", ["constant", "exponential", "snr"])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_huber_norms_are_the_published_ones_of_the_prediction(prediction, schedule):
    """The weighting that is named like the prediction makes them its own loss."""
    _, x0, noise, output, wanted = case(prediction)
    d, c = output - wanted, published_threshold(schedule, 0.2)
    expected = {
        "pseudo_huber": 2 * c * (np.sqrt(d**2 + c**2) - c),
        # Huber (1964) has ½d² and c(|d| - ½c)
        "huber": 2 * np.where(np.abs(d) <= c, d**2 / 2, c * (np.abs(d) - c / 2)),
    }
    for norm, values in expected.items():
        objective = Objective(
            prediction, norm=norm, prediction=prediction, huber_c=0.2, huber_schedule=schedule
        )
        losses = our_losses(objective, x0, noise, output)
        np.testing.assert_allclose(losses, values.mean((1, 2, 3)), rtol=1e-6, err_msg=norm)


@pytest.mark.parametrize("norm", ["huber", "pseudo_huber"])
def test_the_huber_norms_are_l2_far_below_the_threshold_and_linear_far_above(norm):
    _, x0, noise, output, _ = case("eps")

    def losses(c, scale=1.0, norm=norm):
        near = noise + scale * (output - noise)
        return our_losses(Objective(norm=norm, huber_c=c), x0, noise, near)

    np.testing.assert_allclose(losses(1e4), losses(1.0, norm="l2"), rtol=1e-6)
    np.testing.assert_allclose(losses(1e-6, 20.0), 20 * losses(1e-6), rtol=1e-4)


def test_a_mask_multiplies_each_position_s_loss():
    _, x0, noise, output, wanted = case("eps")
    mask = np.random.default_rng(1).uniform(size=(*SHAPE[:3], 1))
    losses = our_losses(Objective(), x0, noise, output, mask=mask)
    np.testing.assert_allclose(losses, (mask * (output - wanted) ** 2).mean((1, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize(
    ("mean", "spread", "t_max"), [(0.0, 1.0, 1000), (0.5, 0.6, 1000), (-1.0, 2.0, 40)]
)
def test_logit_normal_t_have_its_distribution_on_the_grid(mean, spread, t_max):
    """2403.03206 Eq. 19: the logit of t/T is normal, so P(t <= k) = Φ((logit(k/T) - m)/s)."""
    objective = Objective(
        timesteps="logit_normal", timestep_mean=mean, timestep_spread=spread, offset_noise=0.3
    )
    keys = jax.random.split(jax.random.key(0), 40_000)
    t, noise = draw_t_and_noise(keys, (1, 1, 1), t_max, objective)
    uniform, same = draw_t_and_noise(keys, (1, 1, 1), t_max, Objective(offset_noise=0.3))
    assert t.dtype == uniform.dtype
    np.testing.assert_array_equal(noise, same)
    t = np.asarray(t)
    assert t.min() >= 1
    assert t.max() <= t_max
    for k in np.unique(np.linspace(1, t_max - 1, 25).astype(int)):
        share = k / t_max
        expected = 0.5 * (1 + math.erf((np.log(share / (1 - share)) - mean) / spread / 2**0.5))
        error = math.sqrt(expected * (1 - expected) / len(t)) + 1e-6
        assert abs((t <= k).mean() - expected) < SPREADS * error, k


def test_a_share_that_rounds_to_1_is_still_on_the_grid():
    objective = Objective(timesteps="logit_normal", timestep_mean=10.0, timestep_spread=10.0)
    keys = jax.random.split(jax.random.key(1), 4000)
    t = np.asarray(jax.vmap(lambda key: draw_t(key, T, objective))(keys))
    assert (t == T).mean() > 0.5
    assert t.max() == T


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"huber_schedule": "linear"}, "huber_schedule must be one of constant, exponential, snr"),
        ({"timesteps": "cosmap"}, "timesteps must be one of uniform, logit_normal, not 'cosmap'"),
    ],
)
def test_unknown_names_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Objective(**fields)
