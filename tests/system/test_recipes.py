"""The recipes load in each of their variants, and say which there are."""

import pytest

from cv3jax import recipes
from cv3jax.configs import common
from data_pipeline.io.errors import InputError

LONG = ("scenes_vae", "scenes_base", "scenes_relay")
# what may differ between a recipe and its `:long`: how it is trained, not what is trained
HOW = (
    "batch.",
    "data.threads",
    "data.workers",
    "optim.lr",
    "optim.warmup",
    "optim.ema",
    "train.",
    "model.dtype",
    "attention",
    "sample.steps",
    "sample.guidance",
)


@pytest.mark.parametrize("variant", ["", ":tiny"])
@pytest.mark.parametrize("name", recipes.recipes())
def test_every_recipe_loads(name, variant):
    assert recipes.load(name + variant, []).stage


@pytest.mark.parametrize("name", LONG)
def test_long_trains_the_same_model_for_longer(name):
    short, long = recipes.load(name, []), recipes.load(f"{name}:long", [])
    assert all(
        field.startswith(HOW)
        for field in recipes.differences(recipes.to_json(short), recipes.to_json(long))
    )
    assert long.train.steps * long.batch.size >= 20 * short.train.steps * short.batch.size
    assert long.optim.warmup < long.train.steps
    assert long.model.dtype == ("float32" if name == "scenes_vae" else "bfloat16")
    assert recipes.load(f"{name}:long", ["--config.train.steps=7"]).train.steps == 7


@pytest.mark.parametrize("name", recipes.recipes())
def test_an_unknown_variant_names_those_there_are(name):
    there = "tiny and long" if name in LONG else "only tiny" if name == "base_256" else ".*tiny"
    with pytest.raises(InputError, match=f"unknown variant 'lang'; there is {there}"):
        recipes.load(f"{name}:lang", [])


def test_only_the_asked_variant_is_made():
    c = common.vae_config()
    assert common.select(c, "", other=lambda c: 1 / 0) is c
    assert common.select(c, "other", other=lambda c: c.stage) == "vae"
