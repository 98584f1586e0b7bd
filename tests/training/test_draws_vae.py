"""Test the random draws of an autoencoder's run, and the effect of its recipe's fields.

The real program runs with a network that costs nothing.
"""

from typing import NamedTuple

import hollow_networks as hn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_draws import new_each_time, normal

from cv3jax.training import autoencoder
from cv3jax.training.autoencoder import AutoencoderStage, vae_program
from cv3jax.training.state import state_creator
from cv3jax.weights import lpips

UPDATES = 4
KL, PERCEPTUAL, LR, LENGTH, EMA, SEED = 0.3, 0.7, 0.01, 8, 0.05, 3
DEVIATION = 1e-3  # of the posterior: less than pictures differ
FROZEN = {"weight": 2.0}


def perceptual(frozen, a, b):
    """Return a distance with a weight."""
    return frozen["weight"] * jnp.abs(a - b).mean((1, 2, 3))


def settings(*fields: str):
    return hn.settings(
        "scenes_vae",
        f"objective.kl_weight={KL}",
        f"objective.perceptual_weight={PERCEPTUAL}",
        f"optim.lr={LR}",
        f"optim.ema={EMA}",
        f"train.steps={LENGTH}",
        "optim.warmup=0",
        "optim.decay=linear",
        f"seed={SEED}",
        *fields,
    )


def pictures() -> dict:
    """Return pictures of one grey each, all different, so that a latent shows its row."""
    rows = np.arange(hn.BATCH)[:, None]
    colours = np.clip(rows - np.array([0, 200, 400]), 0, 255).astype(np.uint8)
    shape = (hn.BATCH, hn.SIDE, hn.SIDE, 3)
    return {"image": np.broadcast_to(colours[:, None, None], shape).copy()}


class Run(NamedTuple):
    """Hold updates of the program and the inputs of its decoder."""

    states: list
    metrics: list
    noise: np.ndarray  # [updates, B, h, w, z], of the posterior
    means: np.ndarray  # [B]
    parts: set  # rows that the network sees at a time


@pytest.fixture(scope="module")
def run() -> Run:
    given = settings()
    hn.traced.clear()
    program = vae_program(given, hn.plan_of(given), hn.hollow_vae(), perceptual)
    state = state_creator(program.init, program.tx, given.seed, program.like, None)()
    state.params["logvar"] = jnp.float32(2 * np.log(DEVIATION))
    means = np.sort(pictures()["image"][:, 0, 0].mean(-1) / 127.5 - 1)
    states, metrics, noise = [jax.tree.map(jnp.copy, state)], [], []
    for _ in range(UPDATES):
        logvar = float(state.params["logvar"])
        state, found = program.train(state, FROZEN, pictures())
        states.append(jax.tree.map(jnp.copy, state))
        metrics.append(jax.tree.map(float, found))
        z = hn.seen("vae")["z"]
        z = z[np.argsort(z.mean((1, 2, 3)))]
        noise.append((z - means[:, None, None, None]) / np.exp(logvar / 2))
    parts = {first.shape[0] for _, _, first in hn.traced}
    return Run(states, metrics, np.stack(noise), means, parts)


def test_latents_are_samples_of_the_posterior_new_each_time(run):
    normal(run.noise)
    new_each_time(run.noise)
    assert run.parts == {hn.PART}


def test_the_loss_is_of_the_recipe_s_weights(run):
    for state, found in zip(run.states, run.metrics, strict=False):
        logvar, says = (float(state.params[name]) for name in ("logvar", "says"))
        pixels = pictures()["image"] / 127.5 - 1
        kl = 0.5 * (run.means**2 + np.exp(logvar) - 1 - logvar).mean()
        distance = FROZEN["weight"] * np.abs(says - pixels).mean()
        loss = ((says - pixels) ** 2).mean() + KL * kl + PERCEPTUAL * distance
        np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)


def test_updates_have_the_recipe_s_rate_and_average(run):
    says = np.array([state.params["says"] for state in run.states], np.float64)
    ema = np.array([state.ema["says"] for state in run.states], np.float64)
    rate = LR * (1 - np.arange(UPDATES) / LENGTH)
    np.testing.assert_allclose(np.abs(np.diff(says)), rate, rtol=1e-4)
    for before, after, now in zip(ema, ema[1:], says[1:], strict=False):
        np.testing.assert_allclose(after, EMA * before + (1 - EMA) * now, rtol=1e-6)


def test_a_stage_begins_by_its_seed_and_has_the_recipe_s_distance(monkeypatch):
    given = settings("objective.perceptual=a_file", "batch.size=8", "batch.per_device=8")
    asked = []
    hn.one_device(monkeypatch)
    monkeypatch.setattr(autoencoder, "Autoencoder", hn.HollowVae)
    monkeypatch.setattr(autoencoder, "open_data", lambda data: hn.records(8))
    monkeypatch.setattr(
        lpips, "load_lpips", lambda path: (asked.append(path) or perceptual, FROZEN)
    )
    of = autoencoder.vae_program
    monkeypatch.setattr(
        autoencoder, "vae_program", lambda *args: asked.append(args[-1]) or of(*args)
    )
    stage = AutoencoderStage(given)
    assert asked == ["a_file", perceptual]
    hn.begins_by_seed(stage, SEED)
