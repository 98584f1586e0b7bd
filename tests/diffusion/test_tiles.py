"""Prediction in tiles: placement, weights, and what the blended prediction equals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cv3jax.diffusion import tiles


@st.composite
def layouts(draw):
    tile = draw(st.integers(1, 24))
    return (
        draw(st.integers(1, 70)),
        draw(st.integers(1, 70)),
        tile,
        draw(st.integers(0, tile - 1)),
    )


@settings(deadline=None)
@given(layouts())
def test_tiles_cover_the_latent_evenly_and_their_weights_sum_to_one(layout):
    height, width, tile, overlap = layout
    placed = tiles.place(*layout)
    total = np.zeros((height, width))
    for (top, left), down, across in zip(placed.corners, *placed.weights, strict=True):
        assert top + len(down) <= height
        assert left + len(across) <= width
        total[top : top + len(down), left : left + len(across)] += np.outer(down, across)
    np.testing.assert_allclose(total, 1, atol=1e-5)
    for axis, side in enumerate((height, width)):
        starts = np.unique(placed.corners[:, axis])
        steps = np.diff(starts)
        assert (starts[0], starts[-1] + min(tile, side)) == (0, side)
        assert (steps <= tile - overlap).all()
        if side > tile:
            # no tile more than it takes, and none nearer to its neighbour than a position
            assert len(starts) - 1 < (side - overlap) / (tile - overlap)
            assert steps.max() - steps.min() <= 1


def test_neighbouring_weights_change_smoothly():
    placed = tiles.place(8, 64, 24, 8)
    line = np.zeros((placed.count, 64))
    for row, ((_, left), across) in enumerate(zip(placed.corners, placed.weights[1], strict=True)):
        line[row, left : left + 24] = across
    # from 0 to 1 over the overlap of 4 positions more than asked for, without a jump
    assert np.abs(np.diff(line, axis=1)).max() < 0.2
    assert np.isclose(line, 1.0).any(axis=1).all()


def test_a_prediction_of_single_positions_is_that_of_the_whole():
    x = jax.random.normal(jax.random.key(0), (2, 20, 31, 3))
    scale = jnp.arange(1.0, 3.0)[:, None, None, None]  # the rows differ

    def predict(x, corners):
        y = corners[:, :1] + jnp.arange(x.shape[1])
        return scale * x**2 + y[:, :, None, None]  # a corner of another tile would show

    whole = predict(x, jnp.zeros((2, 2), jnp.int32))
    made = tiles.blended(predict, x, tiles.place(20, 31, 8, 3))
    np.testing.assert_allclose(made, whole, rtol=1e-5, atol=1e-5)


def test_one_tile_is_the_whole_to_the_bit():
    x = jax.random.normal(jax.random.key(0), (2, 9, 12, 3))
    placed = tiles.place(9, 12, 12, 4)
    assert placed.count == 1
    np.testing.assert_array_equal(tiles.blended(lambda x, _: jnp.sin(x), x, placed), jnp.sin(x))


def test_copies_of_a_picture_share_its_tiles():
    """Each row predicts other tiles, and all rows get the whole prediction."""
    x = jnp.tile(jax.random.normal(jax.random.key(0), (1, 20, 31, 3)), (3, 1, 1, 1))
    placed, rows = tiles.place(20, 31, 8, 3), []

    def predict(x, corners):
        jax.debug.callback(lambda corners: rows.append(np.asarray(corners)), corners)
        return x**2 + (corners[:, :1] + jnp.arange(x.shape[1]))[:, :, None, None]

    made = tiles.shared(predict, x, placed)
    jax.effects_barrier()
    whole = x**2 + jnp.arange(20)[:, None, None]
    np.testing.assert_allclose(made, whole, rtol=1e-5, atol=1e-5)
    assert {len(corners) for corners in rows} == {3}
    assert len(rows) == -(-placed.count // 3)
    asked = {tuple(corner) for corners in rows for corner in corners}
    assert asked == {tuple(corner) for corner in placed.corners}


def test_an_overlap_that_leaves_no_step_is_refused():
    with pytest.raises(ValueError, match=r"overlap by 0\.\.7 positions, not 8"):
        tiles.place(20, 20, 8, 8)
