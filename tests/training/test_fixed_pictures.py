"""Test which pictures evaluations draw, and what is made of them."""

import dataclasses
from types import SimpleNamespace

import hollow_networks as hn
import jax
import numpy as np
import pytest

from cv3jax.evaluation.scorers import Scorer
from cv3jax.training.assessing import identity, make_assess
from cv3jax.training.fixed_pictures import AT_ONCE, fixed_prompts, stage_pictures
from cv3jax.training.measures import HeldOut, Pictures
from data_pipeline.io.errors import InputError
from data_pipeline.scenes import grammar

RECORDS = hn.records(9)


class Painter:
    """Stand for a cascade: a picture's pixels are its seed, its prompt and the EMA."""

    def __init__(self):
        self.calls, self.ema = [], 0

    def with_params(self, stage, ema):
        self.ema = ema
        return self

    def text(self, prompts):
        return prompts

    def noise(self, keys, side):
        return keys

    def encode(self, pixels, noise):
        return np.asarray(pixels)[:, 0, 0, 0]

    def stage(self, name, text, keys, noise, low):
        self.calls.append((name, len(text)))
        return [np.asarray(jax.random.key_data(keys)), text, low]

    def decode(self, latents):
        seeds, text, low = latents
        images = np.zeros((len(text), hn.SIDE, hn.SIDE, 3), np.uint8)
        images[:, 0, 0, 0] = seeds[:, -1] % 256
        images[:, 0, 0, 1] = [int(prompt) for prompt in text]
        images[:, 0, 0, 2] = self.ema
        images[:, 0, 1, 0] = 0 if low is None else np.rint(127.5 * (low + 1))
        return images


def drawn(recipe: str, count: int, held_out=None, *fields: str) -> np.ndarray:
    """Return the first four values of each of `count` pictures."""
    settings, painter = hn.settings(recipe, f"train.eval_pictures={count}", *fields), Painter()
    pictures = stage_pictures(settings, painter, RECORDS, held_out)
    images = pictures.draw(7)
    assert {rows for _, rows in painter.calls} == {AT_ONCE}  # one program for all
    assert len(pictures.prompts) == len(images)
    return images[:, 0, :2].reshape(len(images), 6)[:, :4].astype(int)


def test_picture_i_has_seed_i_and_caption_i_however_many_there_are():
    five = drawn("scenes_base", 5, RECORDS[2:])
    np.testing.assert_array_equal(five[:, 0], range(5))
    np.testing.assert_array_equal(five[:, 1], range(2, 7))
    assert set(five[:, 2]) == {7}
    np.testing.assert_array_equal(drawn("scenes_base", 3, RECORDS[2:]), five[:3])


def test_a_relay_begins_with_held_out_pictures_and_their_captions():
    made = drawn("scenes_relay", 5, RECORDS[3:])
    np.testing.assert_array_equal(made[:, 1], range(3, 8))
    np.testing.assert_array_equal(made[:, 3], made[:, 1])  # of one value: that of its record
    assert len(set(made[:, 0])) == 5
    np.testing.assert_array_equal(drawn("scenes_relay", 2)[:, 1], (0, 1))  # those trained on


def test_prompts_are_of_a_file_of_scenes_or_of_the_data(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("one\ntwo\nthree\n")

    def prompts(given, held_out=None):
        fields = ("train.eval_pictures=2", f"train.eval_prompts={given}")
        return fixed_prompts(hn.settings("scenes_base", *fields), RECORDS, held_out)

    assert prompts(file) == ["one", "two"]
    assert prompts("") == ["0", "1"]
    assert prompts("", RECORDS[5:]) == ["5", "6"]
    scenes = [grammar.parse(caption) for caption in prompts("scenes")]
    assert len(scenes) == 2
    for scene in scenes:
        pairs = {(one["colour"], one["shape"]) for one in scene["objects"]}
        assert pairs & set(grammar.HELD_OUT)
    file.write_text("one\n\ntwo\n")
    with pytest.raises(InputError) as e:
        prompts(file)
    said = f"config.train.eval_prompts = {file} line 2 is blank; give a prompt on every line"
    assert str(e.value) == said
    with pytest.raises(
        InputError, match=r"eval_prompts = .*: a relay enlarges pictures of the data"
    ):
        drawn("scenes_relay", 2, None, f"train.eval_prompts={file}")


PICTURES = Pictures(["a", "b"], 8, lambda ema: np.full((2, 8, 8, 3), ema, np.uint8), lambda: None)
HELD = HeldOut({"heldout/loss": "lower"}, lambda ema: {"heldout/loss": ema / 2})
METRIC = "train.eval_metrics=shade"


def shade(names, weights, reference):
    """Open a metric that is the mean value of the pictures."""
    assert names == ("shade",)
    return [Scorer("shade", "lower", lambda images, prompts: {"shade": images.mean()})]


def test_an_evaluation_has_the_figures_of_both(tmp_path):
    settings = hn.settings("scenes_base", METRIC)
    assess = make_assess(settings, HELD, PICTURES, shade)
    assert assess.figures(6) == {"heldout/loss": 3.0, "pictures/shade": 6.0}
    assert assess.better == {"heldout/loss": "lower", "pictures/shade": "lower"}
    assert make_assess(settings, None, None, None) is None
    assert make_assess(settings, HELD, None, None).figures(6) == {"heldout/loss": 3.0}


def test_what_cannot_be_measured_or_chosen_by_is_refused_before_the_first_step():
    settings = hn.settings("scenes_base", METRIC)
    with pytest.raises(InputError, match="eval_metrics = shade: this program has no metrics"):
        make_assess(settings, HELD, PICTURES, None)
    train = dataclasses.replace(settings.train, best="pictures/shade.all", eval_every=2)
    with pytest.raises(InputError) as e:
        make_assess(dataclasses.replace(settings, train=train), HELD, PICTURES, shade)
    known = "must be one of heldout/loss, pictures/shade"
    assert str(e.value) == f"config.train.best = pictures/shade.all: {known}"


def test_figures_are_compared_only_where_they_are_of_the_same_things():
    def of(*fields, prompts=("a",)):
        settings = hn.settings("scenes_base", *fields)
        return identity(settings, SimpleNamespace(prompts=list(prompts)))

    same = of()
    assert of("data.threads=7", "train.steps=99", "optim.lr=1.0", "seed=5") == same
    assert of("train.eval_every=7", "train.keep=4", "train.log_every=7") == same
    for fields in (
        ("objective.weighting=eps",),
        (METRIC,),
        ("sample.steps=3",),
        ("data.flip=True",),
    ):
        assert of(*fields) != same
    assert of(prompts=("b",)) != same
    settings = hn.settings("scenes_base", METRIC)

    def assessed(protocol):
        scorer = Scorer("shade", "lower", lambda images, prompts: {"shade": 1.0}, protocol)
        return make_assess(settings, HELD, PICTURES, lambda *_: [scorer]).of

    assert assessed("of weights") == assessed("of weights") != assessed("of other weights")
