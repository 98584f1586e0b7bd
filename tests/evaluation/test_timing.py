"""Test the time of a batch: what the clock is around, what is kept, and what is recorded."""

import dataclasses
import json

import numpy as np
import pytest
import scored

from cv3jax.evaluation import timing


class Clock:
    """A clock that stands still but for what is drawn; each batch takes longer than the last."""

    def __init__(self):
        self.now, self.batches = 0.0, []

    def __call__(self) -> float:
        return self.now

    def draw(self, texts, seeds) -> np.ndarray:
        self.batches.append((list(texts), list(seeds)))
        self.now += {1: 100.0, 2: 8.0, 3: 2.0, 4: 4.0}[len(self.batches)]
        return np.zeros((len(texts), 1, 1, 3), np.uint8)


@pytest.fixture
def what():
    described = {"model": "it", "device": "a chip", "size": [8, 8]}
    prompts = dataclasses.replace(scored.PROMPTS, prompts=scored.PROMPTS.prompts[:3])
    return timing.Timed(described, prompts, 7)


def test_it_is_the_median_of_batches_after_a_warm_one(what, tmp_path, capsys):
    clock = Clock()
    found = timing.timed(tmp_path, what, lambda: (clock.draw, {"versions": {}}), clock)
    assert found["seconds"] == [8.0, 2.0, 4.0]  # without the first, which compiles
    assert (found["median"], found["a_picture"]) == (4.0, 1.0)
    a, b, c = scored.TEXTS[:3]
    assert clock.batches == [([a, b, c, a], [7, 8, 9, 10])] * 4
    assert found["drawn_by"] == what.described
    assert json.loads((tmp_path / timing.FILE).read_text()) == found
    assert "4.00 s for 4 pictures, on a chip" in capsys.readouterr().err


def test_it_is_measured_once_for_the_same_drawing(what, tmp_path):
    first = timing.timed(tmp_path, what, lambda: (Clock().draw, {}))

    def refuse():
        raise AssertionError("it is measured again")

    assert timing.timed(tmp_path, what, refuse) == first
    other = what._replace(described={**what.described, "device": "another chip"})
    again = timing.timed(tmp_path, other, lambda: (Clock().draw, {}))
    assert again["drawn_by"]["device"] == "another chip"
    (tmp_path / timing.FILE).write_text("{")
    clock = Clock()
    timing.timed(tmp_path, what, lambda: (clock.draw, {}), clock)
    assert len(clock.batches) == 4
