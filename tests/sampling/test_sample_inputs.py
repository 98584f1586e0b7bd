"""Test noise and pictures given as files: unsuitable ones are refused before sampling."""

import zipfile
from pathlib import Path

import golden_models
import numpy as np
import pytest
from PIL import Image

from cv3jax.cascade import pipeline
from cv3jax.cascade.sizes import as_size
from cv3jax.sampling import few
from cv3jax.sampling.inputs import read_images, read_noise
from data_pipeline.io.errors import InputError

SHAPES = {"low": (2, 8, 8, 4), "relay": (2, 8, 8, 4)}
RNG = np.random.default_rng(0)


def arrays(**changes) -> dict[str, np.ndarray]:
    return {
        name: RNG.standard_normal(shape, np.float32) for name, shape in SHAPES.items()
    } | changes


def test_noise_comes_as_it_is_in_float32(tmp_path):
    given = arrays()
    np.savez_compressed(
        tmp_path / "n.npz", **{name: value.astype(np.float64) for name, value in given.items()}
    )
    for name, value in read_noise(tmp_path / "n.npz", SHAPES).items():
        np.testing.assert_array_equal(value, given[name], strict=True)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"base": np.zeros(1)},
            r"holds base, low, relay; it takes low \[2, 8, 8, 4\], relay \[2, 8, 8, 4\]",
        ),
        ({"low": np.zeros((1, 8, 8, 4))}, r"low is float64 \[1, 8, 8, 4\]; it takes"),
        ({"low": np.zeros((2, 8, 8, 4), np.int32)}, r"low is int32 \[2, 8, 8, 4\]; it takes"),
        ({"low": np.full((2, 8, 8, 4), np.nan)}, r"low has values that are not finite"),
        ({"low": np.full((2, 8, 8, 4), 1e300)}, r"low has values that are not finite"),
        ({"low": np.array([{}], object)}, r"low is object \[1\]; it takes"),
    ],
)
def test_noise_that_does_not_fit(change, line, tmp_path):
    np.savez(tmp_path / "n.npz", **arrays(**change))
    with np.errstate(over="ignore"), pytest.raises(InputError, match=line):
        read_noise(tmp_path / "n.npz", SHAPES)


@pytest.mark.parametrize(
    "kind", ["text", "members of text", "a vast shape", "a damaged member", "none", "a directory"]
)
def test_noise_that_is_none(kind, tmp_path):
    path = tmp_path / "n.npz"
    if kind == "text":
        path.write_text("noise")
    elif kind == "members of text":
        with zipfile.ZipFile(path, "w") as file:
            for name in SHAPES:
                file.writestr(f"{name}.npy", b"hello")
    elif kind == "a vast shape":
        header = str({"descr": "<f4", "fortran_order": False, "shape": (10**15,)}).ljust(117) + "\n"
        with zipfile.ZipFile(path, "w") as file:
            for name in SHAPES:
                file.writestr(
                    f"{name}.npy",
                    b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode(),
                )
    elif kind == "a damaged member":
        np.savez_compressed(path, **arrays())
        data = bytearray(path.read_bytes())
        data[200:260] = bytes(60)
        path.write_bytes(data)
    elif kind == "a directory":
        path.mkdir()
    with pytest.raises(InputError, match=r"--noise .*n\.npz"):
        read_noise(path, SHAPES)


def picture(path: Path, width: int, height: int) -> Path:
    Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return path


def test_pictures_need_not_be_square(tmp_path):
    path = picture(tmp_path / "a.png", 32, 48)
    assert read_images([path], 16).shape == (1, 48, 32, 3)


def test_one_picture_for_all_prompts_is_read_once(tmp_path):
    path = picture(tmp_path / "a.png", 32, 32)
    images = read_images([path, path], 16)
    assert images.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(images[0], np.asarray(Image.open(path)))
    np.testing.assert_array_equal(images[1], images[0])


@pytest.mark.parametrize(
    ("sizes", "line"),
    [
        (
            [(32, 40)],
            r"a0\.png is 40×32 \(height×width\); give a picture whose sides are multiples of 16, at"
            r" most 4096; cv3jax upscale takes any size",
        ),
        ([(40, 40)], r"a0\.png is 40×40 \(height×width\); give a picture whose sides"),
        ([(4112, 4112)], r"a0\.png is 4112×4112 \(height×width\); give a picture whose sides"),
        ([(32, 32), (64, 48)], r"a1\.png is 48×64, but the first is 32×32; give pictures"),
    ],
)
def test_pictures_that_do_not_fit(sizes, line, tmp_path):
    paths = [picture(tmp_path / f"a{i}.png", *size) for i, size in enumerate(sizes)]
    with pytest.raises(InputError, match=line):
        read_images(paths, 16)


def test_files_that_are_no_pictures(tmp_path):
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(InputError, match=r"--image .*text\.png: not a readable PNG, JPEG, WebP"):
        read_images([tmp_path / "text.png"], 16)
    with pytest.raises(InputError, match=r"--image .*none\.png: No such file"):
        read_images([tmp_path / "none.png"], 16)


@pytest.fixture(scope="module")
def loaded():
    return pipeline.load(golden_models.converted("micro"))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"image": 2}, r"2 --image for 3 --prompt; give one for each prompt, or one for all"),
        ({"image": 1, "size": 32}, r"size 32×32: a picture of 32×32 becomes 64×64, 128×128, 256×"),
        ({"image": 1, "size": 96}, r"size 96×96: a picture of 32×32 becomes 64×64, 128×128, 256×"),
        (
            {"size": 128, "noise": "n.npz"},
            r"--noise n\.npz: its arrays are for one relay pass, but --size 128×128 takes 2",
        ),
        (
            {"without": "relay", "image": 1},
            r"has no relay stage, only vae, t5, base; give a checkpoint",
        ),
        ({"without": "base"}, r"has no base stage, only vae, t5, relay; give a checkpoint"),
    ],
)
def test_arguments_that_contradict_the_checkpoint(given, line, loaded, tmp_path, monkeypatch):
    images = [picture(tmp_path / f"{i}.png", 32, 32) for i in range(given.get("image", 0))] or None
    if without := given.get("without"):
        monkeypatch.delitem(loaded.description.stages, without)
        monkeypatch.delitem(loaded.params, without)
    noise = Path(given["noise"]) if "noise" in given else None
    request = few.Request(
        ["x"] * 3,
        1,
        0,
        {},
        {},
        size=given.get("size") and as_size(given["size"]),
        images=images,
        noise=noise,
    )
    with pytest.raises(InputError, match=line):
        few.read_files(loaded, Path("c"), request)
