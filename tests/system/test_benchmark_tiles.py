"""Test the figures of the benchmark of tiles: its borders, its seam score and its bars."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from cv3jax.diffusion.tiles import place


@pytest.fixture
def tiles(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("tiles")


def test_borders_are_where_tiles_begin_and_end_inside_the_picture(tiles):
    rows, columns = tiles.borders(place(8, 12, 8, 2), 8)
    assert rows == []  # one tile is as high as the picture
    assert columns == [32, 64]
    rows, columns = tiles.borders(place(32, 32, 16, 4), 8)
    assert rows == columns == [64, 128, 192]


def test_a_step_at_a_border_is_a_seam(tiles):
    plain = np.repeat(np.add.outer(np.arange(64.0), np.arange(96))[None, :, :, None], 3, -1)
    at = ([], [32, 64])
    assert tiles.seams(plain, at, 8) == pytest.approx(1)
    stepped = plain.copy()
    stepped[:, :, 32:] += 3
    assert tiles.seams(stepped, at, 8) > 2
    stepped = plain.copy()
    stepped[:, :, 40:] += 3  # a step elsewhere is none
    assert tiles.seams(stepped, at, 8) < 1


def test_figures_beyond_their_bars_are_named(tiles):
    right = {"whole": 0.9, "tiled": 0.9, "difference": 0.0, "error": 0.02}
    found = {"right": {"count": right}, "seams": {"whole": 1.0, "tiled": 1.04, "ratio": 1.04}}
    assert tiles.missed(found) == []
    found["seams"] = {"whole": 0.5, "tiled": 0.54, "ratio": 1.08}
    assert [line.partition(":")[0] for line in tiles.missed(found)] == ["seam score, ratio"]
    found["seams"] = {"whole": 1.05, "tiled": 1.06, "ratio": 1.01}
    found["right"]["count"] = {**right, "tiled": 0.85, "difference": -0.05}
    assert [line.partition(" ")[0] for line in tiles.missed(found)] == ["count:", "seam"]
