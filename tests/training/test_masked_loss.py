"""Test that a masked loss counts what the alpha channel shows, in training and held-out."""

import types
from pathlib import Path

import hollow_networks as hn
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax.diffusion.conditioning import latent_mask
from cv3jax.training import feature_cache
from cv3jax.training.data import batch_like, crop_settings, of_size
from cv3jax.training.state import state_creator
from data_pipeline.io.errors import InputError

FIELDS = ("objective.masked=True", "objective.prediction=eps", "objective.weighting=truncated")


def masks() -> np.ndarray:
    """Return masks [B, H, W] of random blocks, and of random bytes in a few rows."""
    rng = np.random.default_rng(0)
    share = hn.SIDE // hn.FACTOR
    blocks = 255 * rng.integers(0, 2, (hn.BATCH, share, share), dtype=np.uint8)
    whole = np.kron(blocks, np.ones((hn.FACTOR, hn.FACTOR), np.uint8))
    whole[:9] = rng.integers(0, 256, (9, hn.SIDE, hn.SIDE), dtype=np.uint8)
    return whole


def wanted(masks: np.ndarray) -> np.ndarray:
    """Return the mean of each latent's pixels, float64 [B, h, w, 1]."""
    b, side, f = len(masks), hn.SIDE // hn.FACTOR, hn.FACTOR
    return (masks.astype(np.float64) / 255).reshape(b, side, f, side, f).mean((2, 4))[..., None]


@pytest.mark.parametrize("kind", ["base", "relay"])
def test_the_loss_is_the_mean_of_the_masked_errors(kind):
    settings = hn.settings(f"scenes_{kind}", *FIELDS)
    assert crop_settings(settings).alpha
    steps = hn.programs(settings)
    assert steps.batch["mask"].shape == (hn.BATCH, hn.SIDE, hn.SIDE)
    state = state_creator(steps.init, steps.tx, 0, steps.like, None)()
    says = float(state.params["says"])
    batch = {**hn.loader_batch(), "mask": masks()}
    encoded = steps.encode(hn.frozen(), batch, state.key, jnp.int32(0))
    np.testing.assert_allclose(encoded["mask"], wanted(masks()), rtol=1e-5)
    hn.forget()
    given = {**hn.encoded(0.0 if kind == "relay" else None), "mask": encoded["mask"]}
    _, metrics = steps.train(state, {}, given)
    t, x = hn.unscaled(hn.by_row(hn.seen("unet")))
    sigma = hn.sigma_at(t)
    error = np.maximum(1 / sigma**2, 1) * (x - sigma * says) ** 2
    np.testing.assert_allclose(metrics["loss"], (wanted(masks()) * error).mean(), rtol=1e-4)
    assert float(metrics["loss"]) < 0.8 * error.mean()


def test_without_the_field_there_is_no_mask():
    steps = hn.programs(hn.settings("scenes_base"))
    assert "mask" not in steps.batch


def test_cached_latents_have_no_masks(monkeypatch):
    cache = types.SimpleNamespace(identity={"view": {}, "latents": {"low": False}, "text": None})
    monkeypatch.setattr(feature_cache, "open_cache", lambda path, records: cache)
    view = ("data.random_crop=False", "data.flip=False")
    settings = hn.settings("scenes_base", *FIELDS, *view, "data.cache=runs/encoded")
    with pytest.raises(InputError, match=r"data\.cache = runs/encoded has latents and no masks"):
        feature_cache.open_feature_cache(settings, Path(), None, [])


def test_a_bucket_s_mask_has_the_bucket_s_size():
    settings = hn.settings("scenes_base", *FIELDS)
    like = of_size(batch_like(settings, hn.plan_of(settings).mesh, 2), (8, 24))
    assert like["mask"].shape == (hn.BATCH, 8, 24)
    assert like["image"].shape == (hn.BATCH, 8, 24, 3)
    assert latent_mask(jnp.full((2, 8, 24), 51, jnp.uint8), 2).shape == (2, 2, 6, 1)
