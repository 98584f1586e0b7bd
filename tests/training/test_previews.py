"""Test the prompts of previews: the recipe's, or captions of the data."""

import numpy as np
import pytest

from cv3jax import recipes
from cv3jax.training.parsing import parse_stage
from cv3jax.training.previews import preview_prompts
from data_pipeline.images.decode import encode_png
from data_pipeline.records.records import RecordWriter, make_record, open_records


@pytest.fixture
def records(tmp_path):
    image = encode_png(np.zeros((8, 8, 3), np.uint8))
    with RecordWriter(tmp_path / "d", shards=1) as writer:
        for i in range(6):
            writer.write(make_record(image, f"my own picture {i}", key=str(i)))
    return open_records(tmp_path / "d")


def of(recipe, *fields):
    return parse_stage(recipes.load(recipe, [f"--config.{field}" for field in fields]))


@pytest.mark.parametrize("recipe", ["scenes_base", "scenes_relay"])
def test_recipes_for_pictures_of_one_s_own_draw_their_captions_now_and_then(recipe, records):
    settings = of(recipe)
    assert preview_prompts(settings, records) == [f"my own picture {i}" for i in range(4)]
    assert 0 < settings.train.preview_every < settings.train.steps
    assert of("scenes_vae").train.preview_every > 0


def test_a_recipe_s_prompts_come_first(records):
    assert preview_prompts(of("base_256"), records)[1] == "a lighthouse on a cliff at dusk"
    assert preview_prompts(of("scenes_base", "sample.prompts=('a','b')"), records) == ["a", "b"]
