"""Test the random draws of base and relay runs, and the effect of their recipes' fields.

The real programs run with hollow networks (hollow_networks.py), which record their inputs. The
tests check shares, ranges, differences, and loss and update by hand. A row of `RECIPES` is a
program.
"""

import dataclasses
from typing import Any, NamedTuple

import hollow_networks as hn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_draws import evenly, new_each_time, normal, share, unlike

from cv3jax.diffusion.schedule import T, blur_table
from cv3jax.models import layers
from cv3jax.training.programs import DiffusionPrograms
from cv3jax.training.state import state_creator

UPDATES = 6
DROPPED, SEED, LR, LENGTH, EMA = 0.25, 3, 0.01, 8, 0.05
LOW = 2.0
COMMON = (
    f"objective.text_drop={DROPPED}",
    f"seed={SEED}",
    f"optim.lr={LR}",
    f"optim.ema={EMA}",
    f"train.steps={LENGTH}",
    "optim.warmup=0",
    "optim.decay=linear",
    "text.dtype=bfloat16",
    "vae.dtype=bfloat16",
    "model.dtype=float32",
)
# no value is the default of what takes it; the two together have every kind
RECIPES = {
    "base": (
        "objective.prediction=v",
        "objective.weighting=min_snr",
        "objective.gamma=3.0",
        "objective.norm=l1",
        "objective.offset_noise=0.25",
        "attention=heads",
    ),
    "relay": (
        "objective.prediction=eps",
        "objective.weighting=truncated",
        "objective.norm=l2",
        "objective.offset_noise=0.5",
        "schedule.blur=sigma",
        "schedule.start=40",
        "attention=xla",
    ),
}
START = {"base": T, "relay": 40}
OFFSET = {"base": 0.25, "relay": 0.5}


class Run(NamedTuple):
    """Hold updates of a recipe's program and the inputs of its network."""

    kind: str
    steps: DiffusionPrograms
    traced: list
    states: list  # before each update and after the last
    losses: list
    t: np.ndarray  # [updates, B]
    x: np.ndarray  # noisy latents [updates, B, h, w, z], of x0 = 0 and low = 0
    other: np.ndarray  # those of the first update with another key
    pulled: np.ndarray  # those of the first update with low = LOW

    @property
    def noise(self) -> np.ndarray:
        return np.stack([x / hn.sigma_at(t) for t, x in zip(self.t, self.x, strict=True)])

    def encode(self, logvar: float, step: int = 0, key: Any = None) -> dict:
        """Return the encoded batch of a step with that log-variance of the posterior."""
        key = self.states[0].key if key is None else key
        parts, batch = hn.frozen(logvar), hn.loader_batch()
        return jax.device_get(self.steps.encode(parts, batch, key, jnp.int32(step)))


@pytest.fixture(scope="module", params=RECIPES)
def run(request) -> Run:
    kind = request.param
    settings = hn.settings(f"scenes_{kind}", *COMMON, *RECIPES[kind])
    hn.traced.clear()
    steps = hn.programs(settings)
    state = state_creator(steps.init, steps.tx, settings.seed, steps.like, None)()
    states, losses, seen = [jax.tree.map(jnp.copy, state)], [], []

    def update(state, low):
        state, metrics = steps.train(state, {}, hn.encoded(low))
        seen.append(hn.unscaled(hn.by_row(hn.seen("unet"))))
        return state, float(metrics["loss"])

    zero, low = (0.0, LOW) if kind == "relay" else (None, None)
    update(jax.tree.map(jnp.copy, state), low)
    update(dataclasses.replace(jax.tree.map(jnp.copy, state), key=jax.random.key(9)), zero)
    for _ in range(UPDATES):
        state, loss = update(state, zero)
        states.append(jax.tree.map(jnp.copy, state))
        losses.append(loss)
    (_, pulled), (_, other), *rest = seen
    t, x = (np.stack(values) for values in zip(*rest, strict=True))
    made = Run(kind, steps, [], states, losses, t, x, other, pulled)
    made.encode(0.0)  # so that all are traced
    return made._replace(traced=list(hn.traced))


def test_t_is_drawn_from_the_whole_range_of_the_stage_and_each_as_often(run):
    bins = 40 if run.kind == "relay" else 20
    evenly(run.t, np.linspace(0.5, START[run.kind] + 0.5, bins + 1))
    new_each_time(run.t)


def test_noise_is_normal_with_one_offset_an_image_and_new_each_time(run):
    noise, offset = run.noise, OFFSET[run.kind]
    of_images = noise.mean((2, 3, 4))
    normal(noise - of_images[..., None, None, None], np.sqrt(1 - 1 / 64))
    normal(of_images, np.sqrt(offset**2 + 1 / 64))
    new_each_time(noise)
    new_each_time(of_images)
    unlike(run.other, run.x[0])
    unlike(of_images, run.t)
    unlike(noise[..., 0, 0, 0], run.t)


def test_latents_drift_to_low_as_the_recipe_s_blur_says(run):
    """Two values of low, with all else equal, show by how much."""
    drift = blur_table("sigma", 40)[run.t[0]] * LOW if run.kind == "relay" else np.zeros(hn.BATCH)
    assert drift.any() == (run.kind == "relay")
    expected = np.broadcast_to(drift[:, None, None, None], run.pulled.shape)
    np.testing.assert_allclose(run.pulled - run.x[0], expected, atol=2e-6 * 14.6)


def test_the_loss_by_hand(run):
    """The network predicts a constant, so its error and weight are known."""
    for state, t, x, loss in zip(run.states, run.t, run.x, run.losses, strict=False):
        sigma, says = hn.sigma_at(t), float(state.params["says"])
        if run.kind == "base":
            error = np.abs(x / (1 + sigma**2) - sigma / np.sqrt(1 + sigma**2) * says)
            weight = np.minimum(1 / sigma**2, 3.0)
        else:
            error, weight = (x - sigma * says) ** 2, np.maximum(1 / sigma**2, 1.0)
        np.testing.assert_allclose(loss, (weight * error).mean(), rtol=1e-4)


def test_updates_have_the_recipe_s_rate_and_average(run):
    """Adam without memory moves by the rate, up or down."""
    says = np.array([state.params["says"] for state in run.states], np.float64)
    ema = np.array([state.ema["says"] for state in run.states], np.float64)
    rate = LR * (1 - np.arange(UPDATES) / LENGTH)
    np.testing.assert_allclose(np.abs(np.diff(says)), rate, rtol=1e-4)
    assert ema[0] == says[0]
    for before, after, now in zip(ema, ema[1:], says[1:], strict=False):
        np.testing.assert_allclose(after, EMA * before + (1 - EMA) * now, rtol=1e-6)


def test_text_is_dropped_as_often_as_the_recipe_says_and_from_others_each_time(run):
    texts = np.stack([run.encode(0.0, step)["cond"]["text"] for step in range(UPDATES)])
    rows = np.arange(1, hn.BATCH + 1)[:, None, None]
    dropped = ~texts.any((2, 3))
    whole = np.where(dropped[..., None, None], 0, np.broadcast_to(rows, texts.shape))
    np.testing.assert_array_equal(texts, whole)  # all of it or none
    share(dropped, DROPPED)
    new_each_time(dropped)
    other = run.encode(0.0, key=jax.random.key(9))["cond"]["text"]
    unlike(~other.any((1, 2)), dropped[0])


def test_latents_are_samples_of_the_posterior_new_each_time_and_of_the_recipe_s_scale(run):
    deviation, names = 0.5, ("x0", "low") if run.kind == "relay" else ("x0",)
    logvar, exact = 2 * np.log(deviation), run.encode(-60.0)
    colours = hn.loader_batch()["image"][:, 0, 0].mean(-1) / 127.5 - 1
    noise = {}
    for name in names:
        # a picture of one colour is that colour at half its size too
        means = np.broadcast_to(colours[:, None, None, None], exact[name].shape)
        np.testing.assert_allclose(exact[name], hn.SCALE * means, atol=1e-5)
        sampled = np.stack([run.encode(logvar, step)[name] for step in range(UPDATES)])
        noise[name] = (sampled - exact[name]) / hn.SCALE
        normal(noise[name], deviation)
        new_each_time(noise[name])
        other = run.encode(logvar, key=jax.random.key(9))[name] - exact[name]
        unlike(other, noise[name][0])
    assert (run.encode(0.0).keys() == {"x0", "cond", "low"}) == (run.kind == "relay")
    # no draw is another one's: of the same update, what the step adds is not what encode added
    texts = np.stack([run.encode(0.0, step)["cond"]["text"] for step in range(UPDATES)])
    dropped = texts.any((2, 3))
    for values in noise.values():
        unlike(values, run.noise)
        unlike(values[..., 0, 0, 0], dropped)
        unlike(values[..., 0, 0, 0], run.t)
    unlike(dropped, run.noise.mean((2, 3, 4)))
    unlike(dropped, run.t)
    if run.kind == "relay":
        unlike(noise["x0"], noise["low"])


def test_networks_are_as_the_recipe_says_and_see_a_microbatch_at_a_time(run):
    networks = {}
    for name, network, first in run.traced:
        networks[name] = network
        assert first.shape[0] == hn.PART
    settings = hn.settings(f"scenes_{run.kind}", *COMMON, *RECIPES[run.kind])
    unet = networks["unet"]
    for field, value in settings.model.items():
        assert getattr(unet, field) == value, field
    assert unet.out_channels == hn.Z
    assert [networks[name].dtype for name in ("vae", "t5")] == ["bfloat16"] * 2
    assert run.steps.frozen["t5"]["kernel"].dtype == jnp.bfloat16
    # of a hollow network nothing is attended: what it would be by
    assert (unet.attend is layers.attend) == (run.kind == "relay")
    assert run.steps.batch["image"].shape == (hn.BATCH, hn.SIDE, hn.SIDE, 3)
    assert run.steps.batch["tokens"].shape == (hn.BATCH, hn.TEXT.length)
