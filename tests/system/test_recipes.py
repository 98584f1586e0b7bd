"""Test that the recipes load in each of their variants and name them."""

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
    more = "start200" if name == "distill_relay" else "long"
    plain = not (name.startswith("scenes_") or name == "distill_relay") or "lora" in name
    there = "tiny$" if plain else f"tiny or {more}"
    with pytest.raises(InputError, match=f"unknown variant 'lang'; give {there}"):
        recipes.load(f"{name}:lang", [])


@pytest.mark.parametrize("name", recipes.recipes())
def test_a_recipe_has_one_line_of_description_and_names_its_variants(name):
    line = recipes.summary(name)
    assert 20 < len(line) < 97
    assert line.endswith(".")
    long = "scenes" in name and "lora" not in name
    others = ("long",) if long else ("start200",) if name == "distill_relay" else ()
    assert recipes.variants(name) == ("tiny", *others)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim.lrr=1", "scenes_base has no field 'optim.lrr'; the nearest one is 'optim.lr' ("),
        ("lr=1", "--config.lr: scenes_base has no field 'lr'; the nearest one is 'optim.lr' ("),
        ("optm.lr=3", "no field 'optm.lr'; the nearest one is 'optim.lr' ("),
        ("optim.lr.x=3", "no field 'optim.lr.x'; the nearest one is 'optim.lr' ("),
        (
            "minside=3",
            "the nearest one is 'data.min_side' (`cv3jax config scenes_base` prints them",
        ),
        ("batch_size=3", "the nearest one is 'batch.size' ("),
        ("optim=3", "--config.optim=3: optim is a section; set one of its fields, such as"),
        ("optim.lr=fast", "--config.optim.lr=fast: must be of type float"),
        ("optim.lr", "--config.optim.lr=: must be of type float"),
        ("train.steps=1e3", "--config.train.steps=1e3: must be of type int"),
        ("data.min_side=no", "--config.data.min_side=no: must be of type int"),
    ],
)
def test_a_field_that_cannot_be_set_is_refused_with_what_would_be_right(override, said):
    with pytest.raises(InputError) as e:
        recipes.load("scenes_base", ["--config.train.keep=3", f"--config.{override}"])
    assert said in str(e.value)


def test_the_recipes_of_adapters_are_those_with_their_section():
    sections = {name for name in recipes.recipes() if "lora" in recipes.load(name, [])}
    assert {*recipes.adapters()} == sections
    assert "scenes_lora_relay" in sections


def test_what_sets_no_field_is_refused():
    with pytest.raises(InputError, match=r"unknown argument --workdirr=1; see --help"):
        recipes.load("scenes_base", ["--config.optim.lr=1", "--workdirr=1"])


def test_a_source_has_the_recipe_s_own_values_of_what_was_changed():
    given = ["--config.optim.lr=1", "--config.data.zoom=(2.0,2.0)", "--config.seed=0"]
    source = recipes.source("scenes_base:long", recipes.load("scenes_base:long", given))
    assert source == ("scenes_base:long", {"optim.lr": 5e-3, "data.zoom": [1.0, 1.0]})


def test_only_the_asked_variant_is_made():
    c = common.vae_config()
    assert common.select(c, "", other=lambda c: 1 / 0) is c
    assert common.select(c, "other", other=lambda c: c.stage) == "vae"
