"""Test identities of diffusion, denoiser and losses, in float64 against NumPy.

test_math_sampler.py tests the sampler, test_grids.py the grids.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax import diffusion
from cv3jax.diffusion import sampler
from cv3jax.diffusion.denoiser import guided, make_denoiser, null, preconditioning
from cv3jax.diffusion.losses import (
    NORMS,
    WEIGHTINGS,
    Objective,
    autoencoder_loss,
    denoising_loss,
    diffusion_loss,
    draw_t_and_noise,
    weight,
)
from cv3jax.diffusion.schedule import (
    ddpm_sigma,
    make_schedule,
)

SHAPE = (6, 4, 4, 2)
SIGMA = np.array([0.03, 0.5, 1.0, 3.0, 14.6])


def normal(seed, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def condition(batch=SHAPE[0]):
    return {"text": normal(10, (batch, 3, 5)), "vector": normal(11, (batch, 7))}


def test_diffuse_is_equation_5():
    schedule, t = make_schedule("linear", 500), np.array([0, 1, 2, 300, 501, 1000])
    x0, low, noise = normal(0), normal(1), normal(2)
    b, s = (
        np.asarray(table, np.float64)[t][:, None, None, None]
        for table in (schedule.blur, schedule.sigma)
    )
    xt = schedule.diffuse(x0, low, noise, t)
    np.testing.assert_allclose(xt, (1 - b) * x0 + b * low + s * noise, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(xt[0], x0[0])


def test_eps_and_v_are_one_denoiser():
    """The two networks are exact conversions of one another, in float64."""
    with jax.enable_x64(True):
        x, epsilon = np.random.default_rng(0).normal(size=(2, 5, 8))
        (skip, out, c_in), (v_skip, v_out, v_in) = (
            preconditioning(jnp.asarray(SIGMA), kind) for kind in ("eps", "v")
        )
        np.testing.assert_array_equal(c_in, v_in)
        x0 = skip[:, None] * x + out[:, None] * epsilon
        # v of x0 and ε in the variance-preserving frame, α = c_in and α σ: v = α ε - α σ x0
        v = c_in[:, None] * epsilon - (SIGMA * c_in)[:, None] * x0
        np.testing.assert_allclose(
            v_skip[:, None] * x + v_out[:, None] * v, x0, rtol=1e-12, atol=1e-12
        )
    with pytest.raises(ValueError, match="prediction must be one of eps, v, not 'x0'"):
        preconditioning(jnp.ones(1), "x0")


def test_the_denoiser_shows_the_network_index_t_minus_one_and_scaled_input():
    seen = {}

    def network(params, x, index, cond):
        seen.update(params=params, x=x, index=index, cond=cond)
        return normal(3)

    x, t, cond = normal(0), np.array([1, 2, 30, 400, 999, 1000]), condition()
    sigma = ddpm_sigma()[t][:, None, None, None]
    x0 = make_denoiser(network, jnp.asarray(ddpm_sigma()), "eps")("params", x, t, cond)
    np.testing.assert_array_equal(seen["index"], t - 1)
    np.testing.assert_allclose(seen["x"], x / np.sqrt(1 + sigma**2), rtol=1e-6)
    assert seen["params"] == "params"
    assert seen["cond"] is cond
    np.testing.assert_allclose(x0, x - sigma * normal(3), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("eps", 1 / SIGMA**2),
        ("v", 1 + 1 / SIGMA**2),
        ("min_snr", np.minimum(1 / SIGMA**2, 5)),
        ("truncated", np.maximum(1 / SIGMA**2, 1)),
        ("root_snr", 1 / SIGMA),
    ],
)
def test_weights(kind, wanted):
    np.testing.assert_allclose(weight(jnp.asarray(SIGMA, jnp.float32), kind), wanted, rtol=1e-6)


def test_every_row_of_the_tables_has_its_name_among_those_that_settings_allow():
    assert tuple(WEIGHTINGS) == diffusion.WEIGHTINGS
    assert tuple(sampler.FORMS) == diffusion.FORMS


def test_weights_gamma_and_unknown_kind():
    assert weight(jnp.asarray(0.1), "min_snr", gamma=3.0) == 3.0
    with pytest.raises(
        ValueError, match="weighting must be one of eps, v, min_snr, truncated, root_snr, not 'snr'"
    ):
        weight(jnp.ones(1), "snr")


def toy(params, x, t, cond):
    """Return a denoiser that is linear in its text and also reads t and the vector."""
    scale = cond["text"].sum((1, 2)) + 0.1 * cond["vector"].sum(1) + 0.01 * t
    return params * x * scale[:, None, None, None]


def test_guidance():
    x, t, cond = normal(0), np.arange(1, 7), condition()
    plain, empty = toy(0.7, x, t, cond), toy(0.7, x, t, null(cond))
    np.testing.assert_array_equal(null(cond)["vector"], cond["vector"])
    assert not null(cond)["text"].any()
    assert cond["text"].any()
    np.testing.assert_allclose(guided(toy, 1.0)(0.7, x, t, cond), plain, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(guided(toy, 0.0)(0.7, x, t, cond), empty, rtol=1e-5, atol=1e-5)
    w = np.linspace(1, 10, 6)[:, None, None, None]
    np.testing.assert_allclose(
        guided(toy, w.ravel())(0.7, x, t, cond), (1 - w) * empty + w * plain, rtol=1e-4, atol=1e-4
    )


def test_draw():
    keys = jax.random.split(jax.random.key(0), 4000)
    t, noise = draw_t_and_noise(keys, (2, 2, 1), 7, Objective())
    assert set(np.asarray(t)) == set(range(1, 8))
    assert np.bincount(t, minlength=8)[1:].min() > 450  # 571 expected
    assert abs(noise.std() - 1) < 0.02
    t_again, shifted = draw_t_and_noise(keys, (2, 2, 1), 7, Objective(offset_noise=0.5))
    np.testing.assert_array_equal(t, t_again)
    offset = np.asarray(shifted - noise).reshape(4000, -1)
    assert np.ptp(offset, axis=1).max() < 1e-6  # one scalar a sample
    assert abs(offset[:, 0].std() - 0.5) < 0.03
    assert abs(np.corrcoef(offset[:, 0], np.asarray(noise)[:, 0, 0, 0])[0, 1]) < 0.06


@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("blur", ["none", "linear"])
def test_a_perfect_denoiser_has_no_loss(blur, norm):
    x0, low = normal(0), normal(1)
    loss = diffusion_loss(
        lambda params, *_: params,
        make_schedule(blur, 500),
        Objective(norm=norm, offset_noise=0.1),
        t_max=500,
    )
    batch = {"x0": x0, "cond": condition()} | ({"low": low} if blur == "linear" else {})
    keys = jax.random.split(jax.random.key(0), len(x0))
    assert loss(x0, None, batch, keys)[0] == 0
    assert loss(x0 + 0.1, None, batch, keys)[0] > 0


def test_the_released_weight_makes_it_the_error_in_epsilon():
    """1/σ² |x̂0 - x0|² = |F - ε|² for base diffusion, in float64."""
    with jax.enable_x64(True):
        x0, noise, output = np.random.default_rng(0).normal(size=(3, *SHAPE))
        t = np.array([1, 2, 30, 400, 999, 1000])
        schedule = make_schedule()
        denoise = make_denoiser(
            lambda params, *_: params, schedule.sigma.astype(jnp.float64), "eps"
        )
        batch = {"x0": x0, "cond": condition()}
        losses = denoising_loss(Objective("eps"), denoise, schedule, output, batch, t, noise)
        np.testing.assert_allclose(losses, ((output - noise) ** 2).mean((1, 2, 3)), rtol=1e-6)


def test_the_training_loss_is_the_mean_over_drawn_samples():
    x0, low, cond, keys = (
        normal(0),
        normal(1),
        condition(),
        jax.random.split(jax.random.key(3), SHAPE[0]),
    )
    schedule = make_schedule("exp", 300)
    objective = Objective("min_snr", gamma=2.0, norm="l1", offset_noise=0.05)
    loss, metrics = diffusion_loss(toy, schedule, objective, t_max=300)(
        0.3, None, {"x0": x0, "low": low, "cond": cond}, keys
    )
    t, noise = draw_t_and_noise(keys, SHAPE[1:], 300, objective)
    sigma = np.asarray(schedule.sigma)[t]
    error = np.asarray(toy(0.3, schedule.diffuse(x0, low, noise, t), t, cond)) - x0
    np.testing.assert_allclose(
        loss, (np.minimum(1 / sigma**2, 2) * np.abs(error).mean((1, 2, 3))).mean(), rtol=1e-5
    )
    assert metrics == {}
    with pytest.raises(ValueError, match=r"norm must be one of l1, l2, .*, not 'l3'"):
        Objective(norm="l3")
    with pytest.raises(ValueError, match=r"weighting must be one of .*, not 'snr'"):
        Objective(weighting="snr")


def test_autoencoder_loss():
    pixels, out, mean, logvar = (normal(seed, (2, 4, 4, 3)) for seed in range(4))

    def reconstruct(params, pixels, key):
        return out, mean, logvar

    def distance(frozen, a, b):
        return frozen * np.ones(2)

    loss, metrics = autoencoder_loss(reconstruct, distance, kl_weight=0.1, perceptual_weight=0.5)(
        None, 3.0, {"pixels": pixels}, None
    )
    error = (out - pixels).astype(np.float64)
    kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).mean()
    np.testing.assert_allclose(loss, (error**2).mean() + 0.1 * kl + 0.5 * 3.0, rtol=1e-5)
    np.testing.assert_allclose(metrics["psnr"], 10 * np.log10(4 / (error**2).mean()), rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-5)
