"""Test the metrics of a run's evaluations."""

import numpy as np
import pytest

from cv3jax.evaluation.scorers import open_scorers
from data_pipeline.io.errors import InputError
from data_pipeline.scenes import grammar
from data_pipeline.scenes.judge import PROPERTIES, judge
from data_pipeline.scenes.render import render

SCENES = [grammar.sample_scene(5, i, split="heldout", textured=0.0) for i in range(4)]
CAPTIONS = [grammar.caption(scene) for scene in SCENES]


def no_reference() -> np.ndarray:
    raise AssertionError("the judge compares with no pictures")


def test_the_judge_s_figures_are_the_shares_that_are_right():
    (judged,) = open_scorers(("judge",), None, no_reference)
    assert (judged.name, judged.better) == ("judge", "higher")
    images = np.stack([render(scene, 64) for scene in SCENES])
    names = {f"judge.{name}" for name in (*PROPERTIES, "all")}
    assert judged.score(images, CAPTIONS) == dict.fromkeys(names, 1.0)
    images[0] = 0  # a black picture
    wrong = judge(images[0], CAPTIONS[0])
    assert judged.score(images, CAPTIONS) == {
        name: 1.0 if wrong[name.removeprefix("judge.")] else 0.75 for name in names
    }
    assert judged.score(images, CAPTIONS)["judge.all"] == 0.75


def test_textures_are_judged_in_larger_pictures():
    (judged,) = open_scorers(("judge",), None, no_reference)
    images = np.stack([render(scene, 128) for scene in SCENES])
    assert judged.score(images, CAPTIONS)["judge.detail"] == 1.0


def test_other_captions_and_unknown_metrics_are_refused():
    (judged,) = open_scorers(("judge",), None, no_reference)
    with pytest.raises(
        InputError, match=r"eval_metrics = judge: .*; give other prompts or another"
    ):
        judged.score(np.zeros((1, 64, 64, 3), np.uint8), ["a lighthouse at dusk"])
    with pytest.raises(InputError, match="there is no metric beauty"):
        open_scorers(("judge", "beauty"), None, no_reference)
