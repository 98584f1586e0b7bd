"""Test what is said of odd pictures: duplicates, near ones, tiny ones, and transparent ones."""

import numpy as np
import pytest
from picture_folders import picture, put
from PIL import Image

from cv3jax.lora.picture_checks import is_transparent
from cv3jax.lora.picture_settings import PictureSettings
from cv3jax.lora.pictures import Prior, Seen, records_of

SEEN = Seen(64)


def said(folder, workdir, capsys, seen=SEEN, prior=None) -> list[str]:
    """Return the lines about odd pictures, without the name of the command."""
    capsys.readouterr()
    records_of(folder, workdir, PictureSettings(caption_from="folder"), seen, prior)
    lines = capsys.readouterr().err.splitlines()
    return [line.removeprefix("cv3jax: ") for line in lines if " pictures are " in line]


def test_nothing_is_said_of_pictures_that_are_fine(tmp_path, capsys):
    for i in range(6):
        put(tmp_path / "in" / f"{i}.png", i)
    assert said(tmp_path / "in", tmp_path / "w", capsys) == []


def test_duplicates_are_counted_and_the_first_named(tmp_path, capsys):
    first = put(tmp_path / "in" / "a.png", 1)
    for name in "bcdef":
        (tmp_path / "in" / f"{name}.png").write_bytes(first.read_bytes())
    assert said(tmp_path / "in", tmp_path / "w", capsys) == [
        "5 of 6 pictures are the same file as an earlier one: b.png and a.png, c.png and a.png,"
        " d.png and a.png, …"
    ]


def test_near_duplicates_are_told_from_other_pictures(tmp_path, capsys):
    for i in range(4):
        put(tmp_path / "in" / f"{i}.png", i, side=128)
    put(tmp_path / "in" / "again.jpg", 2, side=128, quality=70)
    large = Image.fromarray(picture(3, 128)).resize((256, 256), Image.Resampling.BICUBIC)
    large.crop((4, 2, 254, 256)).save(tmp_path / "in" / "cropped.png")
    assert said(tmp_path / "in", tmp_path / "w", capsys) == [
        "2 of 6 pictures are nearly the same picture as an earlier one: again.jpg and 2.png,"
        " cropped.png and 3.png"
    ]


def test_tiny_pictures_are_enlarged_or_left_out(tmp_path, capsys):
    put(tmp_path / "in" / "a.png", 1)
    Image.fromarray(picture(2)[:40]).save(tmp_path / "in" / "b.png")
    Image.fromarray(picture(3)[:, :20]).save(tmp_path / "in" / "c.png")
    lines = said(tmp_path / "in", tmp_path / "w", capsys, Seen(64, 30))
    assert lines == [  # of the third the loader says that it is left out
        "1 of 3 pictures are smaller than 64 pixels on the shorter side, and are enlarged: b.png is"
        " 64×40",
    ]
    assert len(said(tmp_path / "in", tmp_path / "v", capsys, Seen(40))) == 1


def test_transparent_pictures_are_those_with_such_pixels(tmp_path, capsys):
    def rgba(name, alpha, seed):
        pixels = np.dstack([picture(seed), alpha])
        Image.fromarray(pixels, "RGBA").save(tmp_path / "in" / name)

    (tmp_path / "in").mkdir()
    whole = np.full((64, 64), 255, np.uint8)
    half = whole.copy()
    half[:3] = 254
    rgba("opaque.png", whole, 1)
    rgba("clear.png", half, 2)
    put(tmp_path / "in" / "plain.png", 3)
    assert said(tmp_path / "in", tmp_path / "w", capsys) == [
        "1 of 3 pictures are transparent in parts, which training sees on white: clear.png"
    ]
    assert said(tmp_path / "in", tmp_path / "v", capsys, Seen(64, masked=True)) == [
        "1 of 3 pictures are transparent in parts, which are not learned: clear.png"
    ]
    assert not is_transparent((tmp_path / "in" / "opaque.png").read_bytes())


def test_class_pictures_are_not_checked(tmp_path, capsys):
    put(tmp_path / "in" / "a.png", 1)
    drawn = put(tmp_path / "drawn" / "0.png", 2, side=16)
    (tmp_path / "drawn" / "1.png").write_bytes(drawn.read_bytes())
    prior = Prior(tmp_path / "drawn", "a thing", 9)
    assert said(tmp_path / "in", tmp_path / "w", capsys, prior=prior) == []


@pytest.mark.parametrize("name", ["a\x1b[2Jb.png", "a\nb.png"])
def test_names_cannot_steer_the_terminal(name, tmp_path, capsys):
    for other in ("z.png", name):
        put(tmp_path / "in" / other, 1)
    (line,) = said(tmp_path / "in", tmp_path / "w", capsys)
    assert "\x1b" not in line
    assert repr(name)[1:-1] in line
