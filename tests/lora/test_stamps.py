"""Test the example of the stamps: which pictures it takes, and how it puts them on a square."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from picture_folders import picture
from PIL import Image

from data_pipeline.io.errors import InputError

SCRIPT = Path(__file__).parents[2] / "examples" / "stamps" / "collect.py"


@pytest.fixture
def collect():
    spec = importlib.util.spec_from_file_location("collect", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stamps(tmp_path):
    """Return a folder like the package's: a wide stamp, a transparent one, and what is left out."""
    folder = tmp_path / "stamps" / "animals"
    folder.mkdir(parents=True)
    Image.fromarray(picture(1, 200)[:50]).save(folder / "snake.png")
    (folder / "snake.txt").write_text("A snake.\nde.utf8=Eine Schlange.\n")
    clear = np.dstack([picture(2), np.zeros((64, 64), np.uint8)])
    Image.fromarray(clear, "RGBA").save(folder / "ghost.png")
    (folder / "ghost.txt").write_text("A ghost.\n")
    Image.fromarray(picture(3)).save(folder / "snake_mirror.png")
    (folder / "owl.svg").write_text("<svg/>")
    (folder / "snake.svg").write_text("<svg/>")
    (folder / "snake.ogg").write_bytes(b"")
    return tmp_path / "stamps"


def test_captioned_pictures_are_put_whole_on_white_squares(collect, stamps, tmp_path, capsys):
    collect.main(["--stamps", str(stamps), "--out", str(tmp_path / "out"), "--size", "128"])
    said = capsys.readouterr()
    assert said.out == f"2 stamps with captions in {tmp_path / 'out'}\n"
    assert "left out 1: an SVG alone" in said.err
    assert "left out 1: a picture without a caption" in said.err
    made = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert made == {f"animals/{n}.{kind}" for n in ("snake", "ghost") for kind in ("png", "txt")}
    assert (tmp_path / "out" / "animals" / "snake.txt").read_text() == "A snake.\n"

    snake = np.asarray(Image.open(tmp_path / "out" / "animals" / "snake.png"))
    assert snake.shape == (128, 128, 3)  # 200 wide: reduced to 118, with margins
    rows, columns = np.nonzero((snake < 255).any(-1))
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (118, 30)
    ghost = np.asarray(Image.open(tmp_path / "out" / "animals" / "ghost.png"))
    assert ghost.shape == (70, 70, 3)  # 64, not enlarged
    assert (ghost == 255).all()


def test_what_is_missing_is_said(collect, stamps, tmp_path):
    with pytest.raises(InputError, match="apt-get install tuxpaint-stamps-default"):
        collect.main(["--stamps", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match=r"--size 32: give 64\.\.4096"):
        collect.main(["--stamps", str(stamps), "--out", str(tmp_path / "out"), "--size", "32"])
    (stamps / "animals" / "snake.png").write_bytes(b"none")
    with pytest.raises(InputError, match=r"snake\.png cannot be read"):
        collect.main(["--stamps", str(stamps), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("A red apple.", "red apple"),
        ("an owl", "owl"),
        ("The Earth. Our planet!", "Earth. Our planet!"),
        ("Another tombstone.", "Another tombstone"),
        ("A.", "A"),
    ],
)
def test_a_plain_caption_is_like_a_name(collect, caption, said):
    assert collect.plain(caption) == said
