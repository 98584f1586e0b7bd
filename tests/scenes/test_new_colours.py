"""Test the colour that scenes have only where it is asked for."""

import dataclasses

import numpy as np
import pytest

from data_pipeline.io.errors import InputError
from data_pipeline.records.records import open_records
from data_pipeline.scenes import grammar
from data_pipeline.scenes.dataset import SceneSettings, build
from data_pipeline.scenes.judge import judge
from data_pipeline.scenes.render import render
from data_pipeline.scenes.vision import see


def scenes(new, count=100):
    return [grammar.sample_scene(3, i, new=new) for i in range(count)]


def test_one_object_of_every_scene_has_it_and_the_rest_stays():
    for one, plain in zip(scenes("teal"), scenes(None), strict=True):
        assert [o.colour for o in one.objects].count("teal") == 1
        own = [dataclasses.replace(o, colour="") for o in one.objects]
        assert own == [dataclasses.replace(o, colour="") for o in plain.objects]
        differ = sum(a != b for a, b in zip(one.objects, plain.objects, strict=True))
        assert differ == 1
    places = {[o.colour for o in one.objects].index("teal") for one in scenes("teal")}
    assert places == {0, 1}
    shapes = {o.shape for one in scenes("teal") for o in one.objects if o.colour == "teal"}
    assert shapes == set(grammar.SHAPES)


def test_no_other_scene_has_it():
    assert not any(o.colour == "teal" for one in scenes(None, 1000) for o in one.objects)
    assert "teal" not in grammar.vocabulary()


@pytest.mark.parametrize("size", [64, 128])
def test_the_judge_knows_it_where_it_is_told(size):
    for one in scenes("teal", 40):
        text, image = grammar.caption(one), render(one, size)
        assert grammar.parse(text) == grammar.properties(one)
        assert judge(image, text, ("teal",))["all"]
        assert not judge(image, text)["all"]


def test_the_judge_takes_no_old_colour_for_it():
    for one in scenes(None, 60):
        image = render(one, 64)
        assert see(image, ("teal",)) == see(image)


def test_it_is_told_from_its_neighbours():
    teal = grammar.sample_scene(3, 0, two=0.0, textured=0.0, new="teal")
    for other in grammar.COLOURS:
        (thing,) = teal.objects
        drawn = dataclasses.replace(teal, objects=(dataclasses.replace(thing, colour=other),))
        assert not judge(render(drawn, 64), grammar.caption(teal), ("teal",))["colour"]
        assert not judge(render(teal, 64), grammar.caption(drawn), ("teal",))["colour"]


def test_a_dataset_may_have_it(tmp_path):
    settings = SceneSettings(12, 0, "train", size=64, new="teal")
    assert build(tmp_path / "teal", settings, shards=1) == 12
    captions = [record["caption"] for record in open_records(tmp_path / "teal")]
    assert all(text.count("teal") == 1 for text in captions)
    assert np.unique(captions).size == 12
    with pytest.raises(InputError, match=r"new = 'red': give one of teal"):
        SceneSettings(12, 0, "train", new="red")
