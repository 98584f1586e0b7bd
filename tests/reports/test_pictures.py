"""Test contact sheets."""

import numpy as np
import pytest

from cv3jax.reports.pictures import GAP, contact_sheet

CAPTION = (
    "a small yellow cross with a thin black outline to the left of a small blue square with a thin"
    " white outline, grey background"
)


@pytest.mark.parametrize("side", [32, 64, 128])
@pytest.mark.parametrize("text", ["base", CAPTION, CAPTION * 2])
def test_a_label_stays_beside_its_own_row(text, side):
    rows = 3
    white = np.full((2, side, side, 3), 255, np.uint8)
    sheet = contact_sheet([white] * rows, rows=[text] * rows)
    left = sheet.shape[1] - 2 * (side + GAP) - GAP
    ink = (sheet < 128).any(axis=-1)
    assert not ink[:, left:].any()  # nor over a picture
    alone = contact_sheet([white], rows=[text])
    height = side + GAP
    for row in range(rows):
        np.testing.assert_array_equal(sheet[row * height : (row + 1) * height], alone[:height])
    assert ink.any()


@pytest.mark.parametrize("side", [32, 64, 128])
def test_a_caption_stays_above_its_own_column(side):
    white = np.full((2, side, side, 3), 255, np.uint8)
    sheet = contact_sheet([white], columns=[CAPTION, ""])
    pitch = (sheet.shape[1] - GAP) // 2
    ink = (sheet < 128).any(axis=-1)
    assert ink[:, : GAP + pitch].any()
    assert not ink[:, GAP + pitch :].any()
    assert pitch >= side + GAP
    np.testing.assert_array_equal(
        contact_sheet([white], columns=["", CAPTION])[:, GAP + pitch :], sheet[:, GAP : GAP + pitch]
    )
