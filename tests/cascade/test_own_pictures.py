"""Test how a user's picture is fitted to the relay, and what becomes of it afterwards."""

import io

import numpy as np
import pytest
from odd_images import exif, rgb_profile, saved
from PIL import Image

from cv3jax.cascade.own_pictures import MAX_GIVEN, fitted, layers_of, low_frequencies, restored
from cv3jax.cascade.upscaling import Enlarging
from cv3jax.checkpoints import cascades
from data_pipeline.images.decode import decode_layers, open_image
from data_pipeline.io.errors import InputError

SCENES = cascades.read_cascade("scenes_teacher")[1]
STEP = 8  # pixels whose multiples the relay of scenes takes


def ramp(height, width):
    """Return a smooth picture uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    parts = (255 * y / max(height - 1, 1), 255 * x / max(width - 1, 1), 128 + 64 * np.sin(x / 9))
    return np.stack(parts, -1).round().astype(np.uint8)


def enlarged(layers, factor):
    """Return what a perfect relay makes: the padded picture enlarged."""
    height, width = layers.colours.shape[:2]
    image = Image.fromarray(layers.colours)
    return np.asarray(image.resize((factor * width, factor * height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("size", [(1, 1), (8, 16), (37, 51), (389, 517)])
@pytest.mark.parametrize("factor", [2, 4])
def test_a_picture_of_any_size_is_padded_and_cropped_back(size, factor):
    pixels = ramp(*size)
    layers = layers_of(pixels, SCENES)
    padded = layers.colours
    assert padded.shape[0] % STEP == padded.shape[1] % STEP == 0
    assert padded.shape[0] - size[0] < STEP
    assert padded.shape[1] - size[1] < STEP
    np.testing.assert_array_equal(padded[: size[0], : size[1]], pixels)
    image, drift = restored(layers, enlarged(layers, factor), "none")
    assert (image.height, image.width) == (factor * size[0], factor * size[1])
    assert image.mode == "RGB"
    assert drift < 3  # but for the edge, beyond which the padding is


def test_the_padding_mirrors_the_edge():
    layers = fitted(Image.fromarray(ramp(5, 8)), None, 8)
    np.testing.assert_array_equal(layers.colours[5:], layers.colours[4:1:-1])


@pytest.mark.parametrize("colour_fix", ["wavelet", "adain", "none"])
def test_a_relay_that_changes_nothing_gives_the_picture_back(colour_fix):
    layers = layers_of(ramp(64, 48), SCENES)
    image, drift = restored(layers, enlarged(layers, 2), colour_fix)
    made = np.asarray(image, int)
    expected = np.asarray(
        Image.fromarray(ramp(64, 48)).resize((96, 128), Image.Resampling.BILINEAR), int
    )
    assert np.abs(made - expected).max() <= 1
    assert drift < 0.5


def test_colour_fixes_bound_the_drift_and_keep_detail():
    layers = layers_of(ramp(128, 96), SCENES)
    detail = np.random.default_rng(0).normal(0, 8, (256, 192, 1))
    # colours that are off by 30 and steeper, as those of a relay may be
    made = np.clip(0.7 * enlarged(layers, 2) + 55 + detail, 0, 255).astype(np.uint8)
    drifts = {fix: restored(layers, made, fix) for fix in ("none", "adain", "wavelet")}
    assert drifts["none"][1] > 15
    assert drifts["adain"][1] < drifts["none"][1] / 3
    assert drifts["wavelet"][1] < 2
    plain, fixed = (np.asarray(drifts[fix][0], np.float32) for fix in ("none", "wavelet"))
    middle = np.s_[64:-64, 64:-64, 2]  # away from the edges, and from clipping
    high = [x - low_frequencies(x) for x in (plain, fixed)]
    assert np.corrcoef(*(part[middle].ravel() for part in high))[0, 1] > 0.95
    assert high[1][middle].std() > 5


def test_the_drift_is_the_difference_of_low_frequencies():
    layers = layers_of(np.full((32, 32, 3), 100, np.uint8), SCENES)
    made = np.full((64, 64, 3), 112, np.uint8)
    assert restored(layers, made, "none")[1] == pytest.approx(12)
    made[::2] += 20  # of high frequency, but for the mean
    made[1::2] -= 20
    assert restored(layers, made, "none")[1] == pytest.approx(12, abs=1)
    with pytest.raises(InputError, match="colour fix 'sharp': give one of wavelet, adain, none"):
        restored(layers, made, "sharp")


def disc(mode):
    """Return an opaque red disc on transparent black of 40×56 pixels, as a PNG of that mode."""
    y, x = np.mgrid[:40, :56]
    inside = (y - 20) ** 2 + (x - 28) ** 2 < 15**2
    rgba = np.zeros((40, 56, 4), np.uint8)
    rgba[inside] = (200, 30, 30, 255)
    image = Image.fromarray(rgba)
    if mode == "P":
        image = image.convert("RGB").quantize(4)
        return saved(image, transparency=int(np.asarray(image)[0, 0]))
    return saved(image.convert(mode))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_kept_and_leaves_no_fringe(mode):
    """White, on which the relay sees the picture, must not show at the edge of the disc."""
    layers = layers_of(open_image(disc(mode)), SCENES)
    assert layers.colours[0, 0].tolist() == [255, 255, 255]
    soft, inside = enlarged(layers, 4), layers.colours[20, 28]
    # a relay that sharpens: all of it is one or the other
    made = np.where(soft[..., 1:2] < (255.0 + inside[1]) / 2, inside, 255).astype(np.uint8)
    image, _ = restored(layers, made, "none")
    assert (image.mode, image.height, image.width) == ("RGBA", 160, 224)
    made = np.asarray(image, int)
    alpha = made[..., 3]
    assert alpha[0, 0] == 0
    assert alpha[80, 112] == 255
    edge = (alpha > 20) & (alpha < 128)
    assert edge.sum() > 100
    assert np.abs(made[edge][:, :3] - made[80, 112, :3]).max() < 60


def test_the_colour_of_what_is_half_transparent_is_its_own():
    rgba = np.full((24, 24, 4), (20, 120, 220, 128), np.uint8)
    layers = layers_of(Image.fromarray(rgba), SCENES)
    image, _ = restored(layers, enlarged(layers, 2), "wavelet")
    assert np.abs(np.asarray(image, int) - (20, 120, 220, 128)).max() <= 3


def test_a_picture_with_rotation_and_profile_is_upright_and_in_srgb():
    pixels = ramp(24, 40)
    data = saved(Image.fromarray(pixels), "JPEG", quality=100, exif=exif(6))
    layers = layers_of(open_image(data), SCENES)
    assert layers.size == (40, 24)
    upright = np.rot90(pixels, -1).astype(int)
    assert np.abs(layers.colours[:40, :24].astype(int) - upright).mean() < 4
    swapped = saved(Image.fromarray(pixels), icc_profile=rgb_profile(2.2, (2, 1, 0)))
    seen = layers_of(open_image(swapped), SCENES).colours
    assert np.abs(seen[:24, :40].astype(int) - pixels[..., ::-1]).mean() < 8


def test_decoded_layers_are_the_colours_of_the_file():
    """Colours of transparent pixels are kept, and a picture without transparency has no alpha."""
    rgba = np.zeros((3, 4, 4), np.uint8)
    rgba[..., 1], rgba[1, 2, 3] = 90, 255
    colours, alpha = decode_layers(open_image(saved(Image.fromarray(rgba))))
    np.testing.assert_array_equal(colours, rgba[..., :3])
    np.testing.assert_array_equal(alpha, rgba[..., 3])
    assert decode_layers(open_image(saved(Image.fromarray(rgba[..., :3]))))[1] is None


def test_what_is_no_picture_is_refused():
    for wrong, line in (
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((4, 4), np.uint8), r"\[4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
        ("photo.jpg", "type str: give a PIL image"),
        (io.BytesIO(), "type BytesIO"),
        (np.zeros((1, MAX_GIVEN + 1, 3), np.uint8), r"^a picture of 1×4097 .* at most 4096 pixels"),
    ):
        with pytest.raises(InputError, match=line):
            layers_of(wrong, SCENES)
    assert layers_of(np.zeros((1, MAX_GIVEN, 3), np.uint8), SCENES).size == (1, MAX_GIVEN)


@pytest.mark.parametrize(
    ("how", "line"),
    [
        (Enlarging(3), "factor 3: give one of 2, 4, 8, 16"),
        (Enlarging(colour_fix="sharp"), "colour fix 'sharp'"),
        (Enlarging(True), "factor True"),
    ],
)
def test_settings_that_cannot_be(how, line):
    with pytest.raises(InputError, match=line):
        how.check(SCENES)
