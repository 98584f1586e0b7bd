"""Test the metrics of a run's evaluations."""

import numpy as np
import pytest

from cv3jax.evaluation import scorers
from cv3jax.evaluation.metrics.base import PictureMetric, SetMetric
from cv3jax.evaluation.metrics.scenes_judge import open_judge
from cv3jax.evaluation.protocol import digest, metric_protocol
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
    assert judged.protocol == digest(metric_protocol("judge", open_judge({}).protocol))
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


def test_other_captions_unknown_metrics_and_missing_weights_are_refused(tmp_path):
    (judged,) = open_scorers(("judge",), None, no_reference)
    with pytest.raises(InputError, match=r"train.eval_metrics: .*; give other prompts or metrics"):
        judged.score(np.zeros((1, 64, 64, 3), np.uint8), ["a lighthouse at dusk"])
    with pytest.raises(InputError, match=r"train.eval_metrics, .*: there is no metric 'beauty'"):
        open_scorers(("judge", "beauty"), None, no_reference)
    with pytest.raises(InputError, match=r"train.eval_weights: the metric clip"):
        open_scorers(("clip",), None, no_reference)


IMAGES = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (10, 20, 40)])


def opened(monkeypatch, metric, reference=no_reference) -> scorers.Scorer:
    monkeypatch.setattr(scorers, "open_metric", lambda name, weights: metric)
    (scorer,) = open_scorers((metric.name,), None, reference)
    return scorer


def test_a_metric_s_columns_are_means_over_the_pictures_that_it_measures(monkeypatch):
    def score(images, prompts):
        assert [image.size for image in images] == [(8, 8)] * 3
        values = np.array([image.getpixel((0, 0))[0] for image in images], float)
        return {"x": np.where(np.array(prompts) == "none", np.nan, values), "y": values * np.nan}

    made = opened(monkeypatch, PictureMetric("x", "lower", {}, score))
    found = made.score(IMAGES, ["a", "none", "b"])
    assert (made.better, found["x"]) == ("lower", 25.0)
    assert np.isnan(found["y"])


def test_metrics_of_one_network_share_its_features(monkeypatch):
    made, asked = [], []

    def features(images):
        made.append(len(images))
        return np.array([[image.getpixel((0, 0))[0]] for image in images], float)

    def opened(name, weights):
        protocol = {"features": "one" if name != "c" else "other", "weights": {}}
        return SetMetric(
            name, "lower", protocol, features, lambda a, b: {name: abs(a.mean() - b.mean())}
        )

    def reference():
        asked.append(1)
        return IMAGES[:2]

    monkeypatch.setattr(scorers, "open_metric", opened)
    found = open_scorers(("a", "b", "c"), None, reference)
    assert (made, asked) == ([2, 2], [1])  # of the reference, by two networks
    for images in (IMAGES, IMAGES + np.uint8(1)):
        made.clear()
        mean = images[:, 0, 0, 0].mean() - 15
        assert [one.score(images, [""] * 3)[one.name] for one in found] == [mean] * 3
        assert made == [3, 3]


def test_a_metric_of_sets_compares_with_the_held_out_pictures(monkeypatch):
    def features(images):
        return np.array([[image.getpixel((0, 0))[0]] for image in images], float)

    def figures(drawn, reference):
        return {"far": abs(drawn.mean() - reference.mean())}

    metric = SetMetric("far", "lower", {}, features, figures, least=3)
    made = opened(monkeypatch, metric, lambda: IMAGES + np.uint8(5))
    assert made.score(IMAGES, [""] * 3) == {"far": 5.0}
    assert made.score(IMAGES[2:], [""]) == {"far": pytest.approx(40 - 85 / 3)}
    with pytest.raises(
        InputError, match="far takes at least 3 held-out pictures, not 2; give more"
    ):
        opened(monkeypatch, metric, lambda: IMAGES[:2])
