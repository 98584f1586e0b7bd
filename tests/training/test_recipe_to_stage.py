"""Test what a stage passes on from its recipe.

It passes fields to the loader, to cached examples, to the encoders, to the first state and to the
steps.
"""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import hollow_networks as hn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_draws import unlike

from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.training import data, diffusion, frozen
from cv3jax.training.diffusion import DiffusionStage
from cv3jax.training.feature_cache import prepare_of
from cv3jax.training.frozen import Frozen, random_text
from data_pipeline.loading.crops import crop
from data_pipeline.loading.settings import CropSettings, LoaderSettings

SEED = 3
# no value is the default of what takes it
VIEW = (
    "data.zoom=(1.25,2.5)",
    "data.zoom_levels=3",
    "data.crop_grid=2",
    "data.random_crop=False",
    "data.flip=True",
    "data.recaption=0.35",
)
CROP = CropSettings(
    zoom=(1.25, 2.5),
    zoom_levels=3,
    crop_grid=2,
    random_crop=False,
    flip=True,
    recaption_prob=0.35,
)
RELAY = ("objective.text_drop=0.5", f"seed={SEED}", "init_from=somewhere", "init_part=base")


def test_the_loader_has_what_the_recipe_says(monkeypatch):
    given = hn.settings(
        "scenes_base",
        *VIEW,
        f"seed={SEED}",
        "batch.size=24",
        "batch.per_device=24",
        "data.threads=3",
        "data.workers=2",
        "data.buckets=16x16,16x32",
        "data.min_side=12",
        "data.max_damaged=7",
        "data.shuffle=windows:5",
    )
    asked = []
    monkeypatch.setattr(data, "make_loader", lambda *args, **more: asked.append((args, more)))
    data.loader(given, "records", "tokenize", hn.plan_of(given).mesh, "prepare")
    (((records, settings), more),) = asked
    assert records == "records"
    assert more == {"tokenize": "tokenize", "prepare": "prepare", "rows": list(range(24))}
    assert settings == LoaderSettings(
        batch_size=24,
        image_size=hn.SIDE,
        seed=SEED,
        crop=CROP,
        num_threads=3,
        num_workers=2,
        niceness=data.BEHIND,  # on a CPU
        buckets=((16, 16), (16, 32)),
        min_side=12,
        max_damaged=7,
        window=5,
    )
    everything = {field.name for field in dataclasses.fields(settings)}
    named = everything - {"prefetch", "shuffle", "num_epochs", "drop_remainder"}  # no recipe's
    plain = LoaderSettings(batch_size=1, image_size=8, seed=0)
    assert [name for name in named if getattr(settings, name) == getattr(plain, name)] == []


def test_a_feature_cache_s_examples_are_as_the_recipe_says():
    given = hn.settings("scenes_base", *VIEW)
    latents = {"shape": [4, 4, 4], "dtype": "float32", "low": True}
    text = {"shape": [2, 8], "dtype": "float32"}
    both, pixels = (
        prepare_of(given, SimpleNamespace(identity={"latents": of, "text": text}))
        for of in (latents, None)
    )
    assert both.recaption_prob == pixels.recaption_prob == 0.35
    assert both.latents == ("mean", "dev")  # a base has no use for low
    assert both.image is None
    assert (pixels.image.func, pixels.image.keywords) == (
        crop,
        {"settings": CROP, "several": False},
    )


def test_a_random_text_encoder_is_of_the_recipe_s_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "T5Encoder", hn.HollowT5)
    # no draws, and seconds to import
    monkeypatch.setattr(frozen, "train_tokenizer", lambda _, folder, *sizes: folder.mkdir())
    monkeypatch.setattr(frozen, "load_tokenizer", lambda *args: hn.tokens)

    def made(seed):
        given = hn.settings("scenes_base", f"seed={seed}")
        params, _ = random_text(given, hn.records(4), hn.plan_of(given).mesh, tmp_path)
        return np.asarray(params["kernel"])

    first, again, other = (made(seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.fixture
def relay(monkeypatch, tmp_path) -> DiffusionStage:
    """Return a relay's stage of hollow networks with parameters of 5."""
    description = CascadeDescription(vae=hn.VAE, t5=hn.TEXT)
    parts = Frozen(description, hn.frozen(), hn.tokens, {})
    hn.hollow(monkeypatch)
    hn.one_device(monkeypatch)
    monkeypatch.setattr(diffusion, "open_data", lambda data: hn.records(8))
    monkeypatch.setattr(diffusion, "frozen_description", lambda given: (Path("x"), description))
    monkeypatch.setattr(diffusion, "frozen_parts", lambda *args: parts)

    def part_loader(path, part, model):
        def load(shapes, shardings):
            return {"says": jnp.float32({("somewhere", "base"): 5.0}[path, part])}

        return load

    monkeypatch.setattr(diffusion, "part_loader", part_loader)
    stage = DiffusionStage(hn.settings("scenes_relay", *RELAY), tmp_path)
    stage.compile()
    return stage


def test_a_stage_begins_by_its_seed_and_draws_anew_at_each_step(relay):
    """`Stage.step` is called, as in the loop.

    The encoders' draws show in the UNet's inputs: dropped text as zeros, and latents as the only
    other change.
    """
    hn.begins_by_seed(relay, SEED)
    assert float(relay.create().params["says"]) == 5.0
    batch = relay.place(hn.loader_batch())

    def after(step, key=None):
        state = relay.create()
        state = dataclasses.replace(
            state, step=state.step + step, key=state.key if key is None else key
        )
        hn.shown.clear()
        relay.step(state, batch)
        return ~hn.seen("unet")["cond"]["text"].any((1, 2))

    dropped = [after(0), after(1), after(2), after(0, jax.random.key(9))]
    np.testing.assert_array_equal(dropped[0], after(0))
    for i, ours in enumerate(dropped):
        assert abs(ours.mean() - 0.5) < 5 * np.sqrt(0.25 / hn.BATCH)
        for theirs in dropped[:i]:
            unlike(ours, theirs)
