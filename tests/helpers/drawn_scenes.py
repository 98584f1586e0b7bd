"""Draw scenes for tests of the judge: drawn ones, changed pairs, and shapes."""

import dataclasses

import numpy as np

from data_pipeline.scenes import grammar
from data_pipeline.scenes.grammar import Object, Scene, sample_scene

PLAIN = Object("large", "red", None, "circle", None, "in the center", 0.5, 0.5, 0.2)


def scene(i):
    return sample_scene(
        77, i, split=grammar.SPLITS[i % 2], textured=(0.0, 0.5, 1.0)[i % 3], relational=0.3
    )


def pair(**kwargs):
    """Return a scene of a red circle on the left and a small blue square on the right.

    Keywords change the left one.
    """
    left = dataclasses.replace(PLAIN, position="on the left", cx=0.25, **kwargs)
    return Scene(
        "white",
        "pair",
        (left, Object("small", "blue", None, "square", None, "on the right", 0.75, 0.5, 0.15)),
    )


def square(x, y):
    return np.maximum(np.abs(x), np.abs(y)) < 0.84
