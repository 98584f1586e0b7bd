"""Test distillation from 32 to 4 steps on a one-dimensional Gaussian mixture.

The best denoiser of the mixture is known in closed form.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import norm, wasserstein_distance

from cv3jax.diffusion import sampler
from cv3jax.diffusion.schedule import T, base_grid, ddpm_sigma, per_sample
from cv3jax.distillation.loss import Round, distillation_loss, pairs
from cv3jax.optim import learning_rate, optimizers
from cv3jax.training.train_step import create_state, make_train_step

MODES, SHARES, WIDTH = (-2.0, 0.0, 1.5), (0.3, 0.5, 0.2), 0.1
# 200,000 samples: every pixel is one, and the denoisers below treat each for itself
SHAPE = (2000, 10, 10, 1)
BATCHES = 10
UPDATES = 200  # of a round
W_DIM = 8  # students are guidance-conditioned, as every distilled model is; w has no effect here
# the first student's points, of which the later ones keep every second
STUDENT = np.asarray(base_grid(16).t[:-1])
NODES, REACH = 512, 4.5  # of the students' tables, over x/√(1 + σ²)

SIGMA = jnp.asarray(ddpm_sigma())


def data(seed):
    rng = np.random.default_rng(seed)
    return (rng.choice(MODES, p=SHARES, size=SHAPE) + WIDTH * rng.normal(size=SHAPE)).astype(
        np.float32
    )


def exact(params, x, t, cond):
    """Return E[x0 | x] at t, the limit of training.

    It ignores the text, so that guidance changes nothing.
    """
    noise = per_sample(SIGMA[t], x) ** 2
    variance = WIDTH**2 + noise
    odds = [
        np.log(share) - (x - mode) ** 2 / (2 * variance)
        for share, mode in zip(SHARES, MODES, strict=True)
    ]
    top = functools.reduce(jnp.maximum, odds)
    odds = [jnp.exp(o - top) for o in odds]
    return sum(o * (mode * noise + x * WIDTH**2) for o, mode in zip(odds, MODES, strict=True)) / (
        sum(odds) * variance
    )


def fresh_table():
    """Return the exact denoiser at the nodes [16, NODES, 1, 1] of the first student's points."""
    nodes = (
        jnp.linspace(-REACH, REACH, NODES)[None, :, None, None]
        * jnp.sqrt(1 + SIGMA[STUDENT] ** 2)[:, None, None, None]
    )
    return {"table": exact(None, nodes, STUDENT, None)[..., 0, 0]}


def table(params, x, t, cond):
    """Return a student's x̂0, interpolated linearly between nodes; each point has a row."""
    row = per_sample(jnp.zeros(T + 1, jnp.int32).at[STUDENT].set(jnp.arange(len(STUDENT)))[t], x)
    place = (x / jnp.sqrt(1 + per_sample(SIGMA[t], x) ** 2) + REACH) * ((NODES - 1) / (2 * REACH))
    left = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, NODES - 2)
    share = jnp.clip(place - left, 0.0, 1.0)
    return (1 - share) * params["table"][row, left] + share * params["table"][row, left + 1]


@functools.partial(jax.jit, static_argnames=("denoise", "steps"))
def sampled(denoise, steps, params, noise):
    grid = base_grid(steps)
    return sampler.sample(
        lambda x, t: denoise(params, x, t, None), grid, sampler.start(grid, noise)
    )[0]


def pace(frozen, step):
    now = frozen["round"]
    return learning_rate.learning_rate(
        now.lr, warmup=now.warmup, decay="cosine", steps=now.updates
    )(step)


TX = optimizers.make_optimizer(optimizers.OptimizerSettings("adamw"), optax.constant_schedule(1.0))


@functools.partial(jax.jit, static_argnames="first")
def distilled(frozen, pool, key, params, first):
    """Return the EMA at the end of a round and the losses of its updates."""
    # the first teacher is guided, the later ones are guidance-conditioned
    teacher, teacher_w_dim = (exact, 0) if first else (table, W_DIM)
    loss = distillation_loss(table, teacher, w_dim=W_DIM, teacher_w_dim=teacher_w_dim)
    step = make_train_step(loss, TX, decay=lambda frozen: frozen["round"].decay, rate=pace)

    def update(state, i):
        x0 = pool[i % BATCHES]
        state, metrics = step(
            state, frozen, {"x0": x0, "cond": {"text": jnp.zeros((len(x0), 1, 1))}}
        )
        return state, metrics["loss"]

    state, losses = jax.lax.scan(update, create_state(None, TX, key, params), jnp.arange(UPDATES))
    return state.ema, losses


@pytest.fixture(scope="module")
def students():
    """Return {steps: (parameters of the student, losses of its round)}.

    Each round starts from the EMA of the one before.
    """
    pool = jnp.asarray(data(0)).reshape(BATCHES, -1, *SHAPE[1:])
    teacher, params, students = {}, fresh_table(), {}
    for n, steps in enumerate((16, 8, 4)):
        now = Round(
            pairs=pairs(base_grid(2 * steps), rows=16),
            w=jnp.array([4.0, 9.0]),
            lr=jnp.array(0.05),
            updates=jnp.array(UPDATES),
            warmup=jnp.array(10),
            decay=jnp.array(0.9),
        )
        params, losses = distilled(
            {"teacher": teacher, "round": now}, pool, jax.random.key(n), params, n == 0
        )
        students[steps], teacher = (params, losses), params
    return students


@pytest.fixture(scope="module")
def undistilled():
    """Return {steps: samples by the exact denoiser}."""
    return {steps: np.ravel(sampled(exact, steps, {}, noise())) for steps in (32, 16, 8, 4)}


def noise():
    return jnp.asarray(np.random.default_rng(1).normal(size=SHAPE), jnp.float32)


def distance(samples):
    """Return the Wasserstein-1 distance to the data's quantiles.

    200,000 drawn samples of the data would be at a distance of 0.003 to 0.005.
    """
    counts = [round(share * samples.size) for share in SHARES]
    quantiles = [
        mode + WIDTH * norm.ppf((np.arange(n) + 0.5) / n)
        for mode, n in zip(MODES, counts, strict=True)
    ]
    return wasserstein_distance(np.concatenate(quantiles), np.ravel(samples))


def test_few_steps_of_the_exact_denoiser_are_bad(undistilled):
    """Otherwise distillation could gain nothing.

    W1 of 32, 16, 8 and 4 steps is 0.057, 0.079, 0.119 and 0.281.
    """
    assert distance(data(1)) < 0.005  # what 200,000 samples can tell
    w1 = {steps: distance(samples) for steps, samples in undistilled.items()}
    print({steps: round(float(value), 4) for steps, value in w1.items()})
    assert w1[32] == pytest.approx(0.056, rel=0.1)
    assert w1[4] == pytest.approx(0.281, rel=0.1)
    assert w1[32] < w1[16] < w1[8] < w1[4]
    assert 4.5 < w1[4] / w1[32] < 7


@pytest.mark.parametrize("steps", [16, 8, 4])
def test_distilled_steps_are_as_good_as_32(steps, students, undistilled):
    """W1 of 16, 8 and 4 distilled steps is 0.057, 0.058 and 0.058."""
    samples = np.ravel(sampled(table, steps, students[steps][0], noise()))
    wanted, without = undistilled[32], undistilled[steps]
    print(steps, round(distance(samples), 4))
    assert distance(samples) < 1.5 * distance(wanted)
    # and for the right reason: each sample goes where the 32 steps bring it, which no distance
    # between distributions shows
    assert np.abs(samples - wanted).mean() < 0.1 * np.abs(without - wanted).mean()


def test_a_round_lowers_its_loss(students):
    for steps, (_, losses) in students.items():
        assert np.mean(losses[-10:]) < 0.1 * losses[0], steps


def test_later_rounds_share_a_compilation(students):
    """There are two programs: the guided teacher's round, and all others for any pairs."""
    assert distilled._cache_size() == 2
