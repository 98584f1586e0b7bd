"""Test the comparison of samplers.

The pictures are those of `generate`, equal samplers have equal figures, and the times add up.
"""

import numpy as np
import pytest
import tiny_runs

from cv3jax.cascade.pipeline import load
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.evaluation import distilled_scenes
from cv3jax.evaluation.distilled_scenes import (
    PARTS,
    Sampler,
    compared,
    per_image,
    sample,
    with_rounds,
)
from cv3jax.evaluation.image_metrics import image_distance
from cv3jax.evaluation.scenes import BATCH

W = (3.0, 2.0)
PROMPTS = [
    "a large red circle in the center, white background",
    "a small blue ring on the left, black background",
]
COUNT = 4


@pytest.fixture(scope="module")
def cascade():
    """Return a cascade whose "distilled" stages are its own."""
    place = tiny_runs.trained("relay").workdir
    return with_rounds(load(place), {(2, 1): (place, place)})


@pytest.fixture(scope="module")
def assessed(cascade):
    """Return (samplers, figures, shown pictures).

    The full sampler is there twice, once with stages named as distilled; the third takes fewer
    steps.
    """
    ways = {
        "full": Sampler(("base", "relay"), (2, 1), W),
        "twin": Sampler(("base_2", "relay_1"), (2, 1), W),
        "fewer": Sampler(("base", "relay"), (1, 1), W),
    }
    return ways, *distilled_scenes.assess_distilled(cascade, ways, count=COUNT, seed=3)


def test_a_sampler_s_pictures_are_those_of_generate(cascade):
    images, seconds = sample(
        cascade, Sampler(("base", "relay"), (2, 1), W), PROMPTS, np.array([7, 9])
    )
    made = cascade.generate(
        PROMPTS, [7, 9], base=SamplerSettings(2, W[0]), relay=SamplerSettings(1, W[1])
    )
    assert np.abs(images.astype(int) - made["relay"]).max() <= 1
    assert set(seconds) == {*PARTS, "rest"}
    assert min(seconds.values()) > 0


def test_the_same_sampler_has_the_same_figures(assessed):
    _, figures, shown = assessed
    full, twin, fewer = figures["distilled"].values()
    assert full["image_distance"] == twin["image_distance"] == 0.0
    assert full["all"] == twin["all"]
    assert full["se"] == twin["se"] == 0.0
    assert full["steps"] == [2, 1]
    assert full["guidance"] == list(W)
    assert fewer["image_distance"] > 0
    rows = shown["rows"]
    np.testing.assert_array_equal(rows["full"], rows["twin"])
    # all of them are shown
    assert fewer["image_distance"] == pytest.approx(image_distance(rows["fewer"], rows["full"]))
    assert rows["full"].shape == (COUNT, 64, 64, 3)
    assert len(set(shown["prompts"])) == COUNT


def test_seconds_add_up(assessed):
    _, figures, _ = assessed
    single = figures["single_stage"]
    assert (single["side"], single["steps"], single["guidance"], single["batch"]) == (
        64,
        2,
        W[0],
        BATCH,
    )
    for row, parts in (
        *((row, PARTS) for row in figures["distilled"].values()),
        (single, ("text", "base", "vae")),
    ):
        seconds = row["seconds"]
        assert tuple(seconds) == (*parts, "total")
        assert min(seconds.values()) > 0
        assert sum(seconds[part] for part in parts) <= seconds["total"]


def test_seconds_are_medians_over_batches_of_one_image():
    laps = [{"text": 1.0, "base": b, "vae": 2.0, "rest": 3.0} for b in (10.0, 1000.0, 20.0)]
    assert per_image(laps) == pytest.approx(
        {"text": 1 / BATCH, "base": 20 / BATCH, "vae": 2 / BATCH, "total": 26 / BATCH}
    )


def test_image_distance_is_the_mean_over_images():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    other = black.copy()
    other[0], other[1, :2] = 51, 255
    assert image_distance(other, black) == pytest.approx((0.2 + np.sqrt(0.5)) / 2)


def test_the_judged_pictures_count(assessed, cascade, monkeypatch):
    """The share is computed from the judge's verdicts on each caption.

    Its error is that of differences in pairs.
    """
    ways, figures, shown = assessed
    full = {image.tobytes() for image in shown["rows"]["full"]}
    first = shown["prompts"][0]
    monkeypatch.setattr(
        distilled_scenes,
        "judge",
        lambda image, caption: {"all": image.tobytes() in full or caption == first},
    )
    again, _ = distilled_scenes.assess_distilled(cascade, ways, count=COUNT, seed=3)
    assert [row["all"] for row in again["distilled"].values()] == [1.0, 1.0, 0.25]
    assert again["distilled"]["fewer"]["se"] == pytest.approx(np.std([0, 1, 1, 1], ddof=1) / 2)
    assert [row["image_distance"] for row in again["distilled"].values()] == [
        row["image_distance"] for row in figures["distilled"].values()
    ]


def test_what_is_compared(cascade):
    ways = compared(cascade, (20, 10), [(8, 2), (4, 1)])
    assert list(ways) == [
        "full",
        "undistilled_8_2",
        "undistilled_4_1",
        "distilled_8_2",
        "distilled_4_1",
        "undistilled_4_1_w1",
        "distilled_4_1_w1",
    ]
    w = tuple(cascade.description.stages[stage].guidance for stage in ("base", "relay"))
    assert ways["full"] == (("base", "relay"), (20, 10), w)
    assert ways["distilled_8_2"] == (("base_8", "relay_2"), (8, 2), w)
    assert ways["undistilled_4_1"] == (("base", "relay"), (4, 1), w)
    assert ways["distilled_4_1_w1"] == (("base_4", "relay_1"), (4, 1), (1.0, 1.0))
