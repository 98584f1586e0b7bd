"""Test what a notebook shows of pictures."""

import base64
import html
import io
import re

import numpy as np
import pytest
from PIL import Image

from cv3jax.api.result import SHOWN, Pictures
from cv3jax.cascade.upscaling import Upscaled


def pictures(size=(40, 60), prompts=("a <b>red</b> \"star\" & 'more'", "b", "b")):
    draws = np.random.default_rng(0)
    images = [Image.fromarray(draws.integers(0, 256, (*size, 3), np.uint8)) for _ in prompts]
    return Pictures(images, list(prompts), [1, 2, 3], {}, {}, {}, {"base": 1.25, "vae": 0.5})


def test_pictures_are_a_sequence():
    three = pictures()
    assert len(three) == 3
    assert list(three) == three.images == [three[0], three[1], three[2]]
    assert three[-1] is three.images[-1]
    assert repr(three).startswith("Pictures(3 of 40×60, prompts=['a <b>red</b>")
    assert repr(three).endswith("'b'], seeds=[1, 2, 3])")


def test_html_has_each_picture_and_escapes_prompts():
    three = pictures()
    page = three._repr_html_()
    assert "<b>" not in page
    assert html.escape(three.prompts[0]) in page
    assert "seed 3" in page
    assert "base 1.2 s, vae 0.5 s" in page
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    for data, image in zip(found, three, strict=True):
        shown = Image.open(io.BytesIO(base64.b64decode(data)))
        assert np.array_equal(np.asarray(shown), np.asarray(image))


def test_html_shrinks_large_pictures_and_leaves_the_result():
    large = pictures((2 * SHOWN, SHOWN), ("a",) * 3)
    data = re.search(r"base64,([^\"]+)", large._repr_html_())[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (SHOWN // 2, SHOWN)
    assert large[0].size == (SHOWN, 2 * SHOWN)


def test_png_is_a_sheet_with_a_row_for_each_prompt():
    three = pictures()
    sheet = np.asarray(Image.open(io.BytesIO(three._repr_png_())))
    places = [
        (image, row, column) for image, row, column in zip(three, (0, 1, 1), (0, 0, 1), strict=True)
    ]
    left = next(
        x for x in range(sheet.shape[1]) if np.array_equal(sheet[4:44, x : x + 60], three[0])
    )
    for image, row, column in places:
        part = sheet[4 + 44 * row : 44 + 44 * row, left + 64 * column : left + 60 + 64 * column]
        assert np.array_equal(part, np.asarray(image))


def test_where_no_directory_or_file_can_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "x.png").mkdir()
    for place in ("file", "file/below"):
        with pytest.raises(ValueError, match=r"file is a file; give a directory$"):
            pictures().save(tmp_path / place)
    enlarged = Upscaled(pictures()[0], {})
    for name, line in (
        ("", r"is a directory; give the name of a file in it, with \.png$"),
        ("x.png", r"x\.png is a directory; give the name of a file"),
        ("x.jpg", r"x\.jpg: give a name that ends with \.png$"),
        ("file/x.png", "file is a file, not a directory"),
    ):
        with pytest.raises(ValueError, match=line):
            enlarged.save(tmp_path / name)


def test_an_enlarged_picture_shows_itself():
    image = pictures()[0]
    shown = Upscaled(image, {"relay": 0.1, "result": 0.1})._repr_png_()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown))), np.asarray(image))
