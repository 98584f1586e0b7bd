"""Test the sheet of previews over time: which steps, prompts and pictures are where."""

import numpy as np
import pytest
from PIL import Image

from cv3jax.reports.pictures import contact_sheet
from cv3jax.training.over_time import (
    MOST_ROWS,
    ROWS,
    SHEET,
    Preview,
    evenly,
    keep_preview,
    name_of,
    over_time,
)

PROMPTS = ("a red kite", "a blue kite over a wide green field")
SHOWN = np.zeros((5, 7, 3), np.uint8)


def drawn(step, side=128):
    """Return two plain pictures, whose colours say the step."""
    return np.stack([np.full((side, side, 3), (step, column, 90), np.uint8) for column in (0, 1)])


def preview(step, prompts=PROMPTS, side=128, wanted=None):
    return Preview(SHOWN, drawn(step, side), prompts, wanted)


def read(path):
    return np.asarray(Image.open(path))


def cells(sheet):
    """Return [(step, column)] of the plain pictures of a sheet, row by row, from their middles."""
    pixels = sheet[(sheet[:, :, 2] == 90) & (sheet[:, :, 1] < 2)]  # labels are grey
    seen = dict.fromkeys(tuple(int(v) for v in pixel[:2]) for pixel in pixels)
    return list(seen)


def test_the_sheet_has_a_row_a_step_and_a_column_a_prompt(tmp_path):
    for step in (10, 20, 30):
        assert keep_preview(tmp_path, step, preview(step)) is SHOWN
        assert np.array_equal(read(tmp_path / name_of(step)), SHOWN)
    sheet = read(tmp_path / SHEET)
    assert cells(sheet) == [(10, 0), (10, 1), (20, 0), (20, 1), (30, 0), (30, 1)]
    names = ("step 10", "step 20", "step 30")
    wanted = contact_sheet([drawn(step) for step in (10, 20, 30)], rows=names, columns=PROMPTS)
    assert np.array_equal(sheet, wanted)


def test_steps_after_the_present_one_are_of_an_earlier_attempt(tmp_path):
    for step in (10, 20, 30, 20):
        keep_preview(tmp_path, step, preview(step))
    assert cells(read(tmp_path / SHEET)) == [(10, 0), (10, 1), (20, 0), (20, 1)]


def test_other_prompts_and_other_sizes_are_on_sheets_of_their_own(tmp_path):
    keep_preview(tmp_path, 10, preview(10))
    keep_preview(tmp_path, 20, preview(20, ("another", "prompt")))
    assert cells(read(tmp_path / SHEET)) == [(20, 0), (20, 1)]
    keep_preview(tmp_path, 30, preview(30, side=160))
    assert cells(read(tmp_path / SHEET)) == [(30, 0), (30, 1)]
    keep_preview(tmp_path, 40, preview(40))
    assert cells(read(tmp_path / SHEET)) == [(10, 0), (10, 1), (40, 0), (40, 1)]


def test_what_they_should_be_comes_last(tmp_path):
    wanted = drawn(250)
    keep_preview(tmp_path, 10, preview(10, wanted=wanted))
    keep_preview(tmp_path, 20, preview(20, wanted=wanted))
    rows = [step for step, column in cells(read(tmp_path / SHEET)) if column == 0]
    assert rows == [10, 20, 250]


def test_of_many_steps_some_are_shown_the_first_and_the_last_among_them(tmp_path):
    for step in range(1, 31):
        keep_preview(tmp_path, step, preview(step))
    steps = [step for step, column in cells(read(tmp_path / SHEET)) if column == 0]
    assert len(steps) == MOST_ROWS
    assert (steps[0], steps[-1]) == (1, 30)
    assert steps == sorted(steps)


@pytest.mark.parametrize("count", [1, 2, 11, 12, 13, 500])
def test_evenly(count):
    some = evenly(range(count), MOST_ROWS)
    assert len(some) == len(set(some)) == min(count, MOST_ROWS)
    assert some[0] == 0
    assert some[-1] == count - 1
    gaps = np.diff(some)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("side", "shown"), [(16, 128), (48, 144), (128, 128), (200, 200), (512, 256)]
)
def test_pictures_have_a_size_at_which_labels_can_be_read(side, shown, tmp_path):
    keep_preview(tmp_path, 1, preview(1, side=side))
    sheet = read(tmp_path / SHEET)
    assert ((sheet[:, :, 2] == 90) & (sheet[:, :, 1] < 2)).sum() == 2 * shown**2


def test_a_damaged_row_is_left_out_and_said(tmp_path, capsys):
    keep_preview(tmp_path, 10, preview(10))
    (place,) = (tmp_path / ROWS).iterdir()
    (place / name_of(10)).write_bytes(b"no picture")
    Image.fromarray(SHOWN).save(place / name_of(15))
    keep_preview(tmp_path, 20, preview(20))
    assert cells(read(tmp_path / SHEET)) == [(20, 0), (20, 1)]
    said = capsys.readouterr().err
    assert f"{place / name_of(10)} is left out of {SHEET} (not a readable" in said
    assert f"{place / name_of(15)} is left out of {SHEET} (it has 7×5 pixels)" in said


def test_other_files_are_no_rows(tmp_path):
    keep_preview(tmp_path, 10, preview(10))
    (place,) = (tmp_path / ROWS).iterdir()
    (place / "step_1.png").write_bytes(b"")
    (place / ".step_0000005.png.tmp").write_bytes(b"")
    assert cells(over_time(place, 10, preview(10))) == [(10, 0), (10, 1)]
