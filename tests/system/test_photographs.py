"""Test build and loader against Pillow on real photographs in their usual encodings.

The photographs are scikit-learn's and scikit-image's.
"""

import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import skimage
import tiny_runs
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from cv3jax.cascade.parts import build_model, load_params
from cv3jax.checkpoints import cascades
from cv3jax.diffusion.pixels import to_pixels
from cv3jax.models.vae import Autoencoder
from cv3jax.precompute import run as precomputing
from data_pipeline.cli import main
from data_pipeline.images.decode import decode_rgb, encode_png, open_image
from data_pipeline.loading.crops import fit
from data_pipeline.loading.loader import make_loader
from data_pipeline.loading.settings import CropSettings, LoaderSettings
from data_pipeline.records.feature_cache import open_cache
from data_pipeline.records.records import open_records

SIDE = 64
ENCODINGS = {
    "jpg": {"format": "JPEG", "quality": 92},
    "png": {"format": "PNG"},
    "webp": {"format": "WEBP", "quality": 90},
}


@pytest.fixture(scope="module")
def photographs():
    """Return RGB photographs of at most 320 pixels by name."""
    folder = Path(skimage.__file__).parent / "data"
    names = ("astronaut", "chelsea", "coffee", "motorcycle_left", "ihc")
    found = {name: Image.open(folder / f"{name}.png").convert("RGB") for name in names}
    found |= {
        Path(n).stem: Image.fromarray(i)
        for n, i in zip(load_sample_images().filenames, load_sample_images().images, strict=True)
    }
    for image in found.values():
        image.thumbnail((320, 320))
    assert len(found) == 7
    return found


def encoded(image, suffix, **options):
    out = io.BytesIO()
    image.save(out, **{**ENCODINGS[suffix], **options})
    return out.getvalue()


def decoded(data):
    return np.asarray(decode_rgb(open_image(data)), np.int16)


def pillow(data):
    """Return Pillow's pixels: upright, transparency on white, RGB.

    Pillow clips 16-bit grey, so it is scaled to 8 bits here.
    """
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode == "I;16":
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.has_transparency_data:
        own = image.convert("RGBA")
        image = Image.new("RGBA", own.size, "white")
        image.alpha_composite(own)
    return np.asarray(image.convert("RGB"), np.int16)


@pytest.mark.parametrize("suffix", ENCODINGS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, suffix, photographs):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = photographs["chelsea"]
    data = encoded(image, suffix, exif=exif)
    assert np.array_equal(decoded(data), pillow(data))
    turned = orientation >= 5
    assert decoded(data).shape[:2] == (
        (image.width, image.height) if turned else (image.height, image.width)
    )
    plain = decoded(encoded(image, suffix))
    assert np.array_equal(decoded(data), plain) == (orientation == 1)


def test_cmyk(photographs):
    for image in photographs.values():
        data = encoded(image.convert("CMYK"), "jpg")
        assert Image.open(io.BytesIO(data)).mode == "CMYK"
        assert np.array_equal(decoded(data), pillow(data))
        assert np.abs(decoded(data) - np.asarray(image)).mean() < 8


def test_sixteen_bits(photographs):
    """Pillow clips 16-bit grey to 255; scaled down it is the 8-bit picture."""
    for image in photographs.values():
        grey = image.convert("L")
        data = encoded(Image.fromarray(np.asarray(grey, np.uint16) * 257), "png")
        assert Image.open(io.BytesIO(data)).mode == "I;16"
        assert np.array_equal(decoded(data), pillow(encoded(grey, "png")))


@pytest.mark.parametrize("suffix", ["png", "webp"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_is_laid_on_white(mode, suffix, photographs):
    image = photographs["coffee"].convert("L" if mode == "LA" else "RGB")
    ramp = Image.linear_gradient("L").resize(image.size)
    image.putalpha(ramp)
    if mode == "PA":  # a palette with one transparent colour
        image = image.convert("RGB").quantize(16)
        image.info["transparency"] = 3
    elif mode == "LA" and suffix == "webp":
        image = image.convert("RGBA")
    data = encoded(image, suffix, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    own = Image.open(io.BytesIO(data)).convert("RGBA")
    expected = Image.new("RGBA", own.size, "white")
    expected.alpha_composite(own)
    assert np.array_equal(decoded(data), np.asarray(expected.convert("RGB")))
    if mode == "RGBA":
        assert (decoded(data)[0] > 250).all()  # where the ramp is at 0


@pytest.fixture(scope="module")
def built(photographs, tmp_path_factory):
    """Build a dataset of each photograph in one encoding, captioned by its name.

    Some are turned by a tag or have another mode.
    """
    root = tmp_path_factory.mktemp("photographs")
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {}
    for number, (name, image) in enumerate(photographs.items()):
        suffix = list(ENCODINGS)[number % 3]
        options = {"exif": exif} if number % 2 else {}
        if name == "motorcycle_left":
            image = image.convert("CMYK")
        elif name == "ihc":
            image = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
        elif name == "coffee":
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        files[name] = encoded(image, suffix, **options)
        (root / f"{name}.{suffix}").write_bytes(files[name])
        (root / f"{name}.txt").write_text(f"a photograph, {name}")
    main(["build", "--input", str(root), "--out", str(root / "D")])
    return root / "D", files


def test_they_go_through_the_build_as_they_are(built):
    modes = {name: Image.open(io.BytesIO(data)).mode for name, data in built[1].items()}
    assert {"RGB", "CMYK", "I;16", "RGBA"} == set(modes.values())
    records = {record["key"]: record for record in open_records(built[0])}
    assert {key: record["image"] for key, record in records.items()} == built[1]
    assert all((r["height"], r["width"]) == pillow(r["image"]).shape[:2] for r in records.values())
    assert json.loads((built[0] / "report.json").read_text())["dropped"] == {}


def test_they_come_out_of_the_loader_as_pillow_sees_them(built):
    batch = next(
        make_loader(
            built[0],
            LoaderSettings(
                batch_size=7,
                image_size=SIDE,
                seed=0,
                crop=CropSettings(random_crop=False),
                shuffle=False,
            ),
        )
    )
    for image, sizes, record in zip(
        batch["image"], batch["sizes"], open_records(built[0]), strict=True
    ):
        whole = Image.fromarray(pillow(record["image"]).astype(np.uint8))
        assert list(sizes[:2]) == [whole.height, whole.width]
        scale, (top, left) = SIDE / min(whole.size), sizes[2:4]
        resized = whole.resize(
            [max(SIDE, round(side * scale)) for side in whole.size], Image.Resampling.LANCZOS
        )
        expected = np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)), np.int16)
        difference = np.abs(image.astype(np.int16) - expected)
        # a JPEG of at least twice the size is decoded at half of it or less: another filter
        if record["image"].startswith(b"\xff\xd8"):
            assert difference.mean() < 4
        else:
            assert difference.max() <= 2


def test_they_are_encoded_as_the_loader_crops_them(built, tmp_path):
    """The stored posterior is the autoencoder's of Pillow's pixels, upright and RGB.

    The file's encoding does not matter.
    """
    cascade = tiny_runs.trained("base").workdir
    config = tiny_runs.config("base", f"data.path={built[0]}", f"cascade={cascade}", "init_from=")
    precomputing.run(config, tmp_path / "E", latents="float32", text=None, batch=7)
    directory, description = cascades.read_cascade(cascade)
    params, _ = load_params(directory, description, ("vae",))
    vae, records = build_model(Autoencoder, description.vae.model), open_records(built[0])
    images = []
    for record in records:
        # a JPEG that is decoded at half its size is filtered otherwise than by Pillow
        data = record["image"]
        images.append(
            fit(
                data if data.startswith(b"\xff\xd8") else encode_png(pillow(data).astype(np.uint8)),
                32,
            )[0]
        )
    mean, _ = jax.jit(lambda p, x: vae.apply({"params": p}, to_pixels(x), method="encode"))(
        params["vae"], np.stack(images)
    )
    for one, record, expected in zip(
        open_cache(tmp_path / "E", records), records, mean, strict=True
    ):
        np.testing.assert_allclose(one["latents"]["mean"], expected, rtol=1e-3, atol=1e-4)
        assert list(one["sizes"][:2]) == list(pillow(record["image"]).shape[:2])
