"""Test folders of pictures: order, number and damage, and that no trace of a model is left."""

import io
import json

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cv3jax.evaluation.people.pictures import pair_of, read_folder
from data_pipeline.io.errors import InputError


def save(path, side=16, seed=0, **options):
    path.parent.mkdir(exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(image).save(path, **options)
    return image


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        save(tmp_path / "model" / f"{i}.png", seed=i)
    return tmp_path / "model"


def index(folder, files, prompts):
    rows = [
        json.dumps({"file": f, "prompt": p, "seed": 0}) for f, p in zip(files, prompts, strict=True)
    ]
    (folder / "index.jsonl").write_text("\n".join(rows) + "\n")


def test_files_are_in_the_order_of_their_names(folder):
    assert [[p.path.name for p in each] for each in read_folder("--a", folder, ["x", "y"])] == [
        ["0.png", "1.png"],
        ["2.png", "3.png"],
    ]


def test_an_index_says_the_order(folder):
    index(folder, ["3.png", "1.png"], ["x", "y"])
    assert [each[0].path.name for each in read_folder("--a", folder, ["x", "y"])] == [
        "3.png",
        "1.png",
    ]


@pytest.mark.parametrize(
    ("prepare", "prompts", "said"),
    [
        (lambda f: None, ["x", "y", "z"], "has 4 pictures for 3 prompts"),
        (lambda f: None, ["x"] * 5, "has 4 pictures for 5 prompts"),
        (lambda f: (f / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40)), ["x"], "1.png"),
        (lambda f: (f / "1.png").write_bytes((f / "0.png").read_bytes()[:-300]), ["x"], "1.png"),
        (lambda f: index(f, ["0.png"], ["x"]), ["y"], "line 1 is of 'x'"),
        (lambda f: index(f, ["../0.png"], ["x"]), ["x"], "a file of another folder"),
        (lambda f: (f / "index.jsonl").write_text("{"), ["x"], "index.jsonl is damaged"),
        (lambda f: index(f, ["9.png"], ["x"]), ["x"], "9.png: No such file"),
        (lambda f: (f / "plan.json").write_text("{}"), ["x"], "not all drawn"),
        (lambda f: save(f / "contact_sheet.png"), ["x", "y"], "contact_sheet.png is one of them"),
    ],
)
def test_bad_folders_are_one_line(folder, prepare, prompts, said):
    prepare(folder)
    with pytest.raises(InputError, match=said) as e:
        read_folder("--a", folder, prompts)
    assert "\n" not in str(e.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        read_folder("--b", tmp_path / "none", ["x"])


def test_a_pair_differs_in_what_it_shows_alone(tmp_path):
    about = PngImagePlugin.PngInfo()
    about.add_text("parameters", "model_a, seed 3")
    large = save(tmp_path / "a" / "0.png", 64, pnginfo=about, icc_profile=b"", dpi=(300, 300))
    Image.new("RGB", (32, 32), "red").save(tmp_path / "b_0.jpg", exif=b"Exif\0\0model_b")
    (tmp_path / "b").mkdir()
    (tmp_path / "b_0.jpg").rename(tmp_path / "b" / "0.jpg")
    first, second = (read_folder("--x", tmp_path / m, ["x"])[0][0] for m in "ab")
    made = pair_of(first, second)
    assert len(made[0]) == len(made[1])
    opened = [Image.open(io.BytesIO(data)) for data in made]
    for data, image in zip(made, opened, strict=True):
        image.load()
        assert (image.format, image.size, image.mode) == ("PNG", (64, 64), "RGB")
        assert image.info == {}
        assert b"model" not in data
        kinds = [kind for kind in (b"tEXt", b"iTXt", b"eXIf", b"pHYs", b"iCCP") if kind in data]
        assert kinds == []
    assert (np.asarray(opened[0]) == large).all()  # not a pixel is changed
    assert made == pair_of(first, second)
    assert pair_of(second, first) == made[::-1]


def test_a_picture_of_another_shape_keeps_its_own(tmp_path):
    for name, size in (("a", (60, 20)), ("b", (40, 40))):
        (tmp_path / name).mkdir()
        Image.new("RGB", size, "red").save(tmp_path / name / "0.png")
    pair = [read_folder("--x", tmp_path / m, ["x"])[0][0] for m in "ab"]
    shown = [np.asarray(Image.open(io.BytesIO(data))) for data in pair_of(*pair)]
    assert [each.shape for each in shown] == [(40, 60, 3)] * 2
    red = [(each == (255, 0, 0)).all(-1) for each in shown]
    assert red[0][10:30].all()
    assert red[0].sum() == 20 * 60
    assert red[1][:, 10:50].all()
    assert red[1].sum() == 40 * 40


def test_a_file_that_changed_is_not_shown(tmp_path):
    save(tmp_path / "a" / "0.png")
    (picture,) = read_folder("--a", tmp_path / "a", ["x"])[0]
    save(tmp_path / "a" / "0.png", seed=5)
    with pytest.raises(InputError, match="changed while it was judged"):
        pair_of(picture, picture)
