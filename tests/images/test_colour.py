"""Test embedded colour profiles: pixels become sRGB, and sRGB pixels stay unchanged."""

import io

import numpy as np
import pytest
from odd_images import grey_profile, rgb_profile, saved
from PIL import Image, ImageCms

from data_pipeline.images import colour
from data_pipeline.images.decode import decode_rgb, is_plain, open_image

COLOURS = np.array([[(255, 0, 0), (10, 100, 200), (128, 128, 128), (0, 0, 0)]], np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def srgb(light):
    """Return sRGB values, 0..255, of linear light 0..1."""
    light = np.asarray(light, float)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return 255 * curve


def seen(image, kind="PNG", **options):
    return np.asarray(decode_rgb(open_image(saved(image, kind, **options))), int)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.6])
def test_the_values_are_those_worked_out_by_hand(gamma, kind, options):
    found = seen(Image.fromarray(COLOURS), kind, icc_profile=rgb_profile(gamma), **options)
    # its primaries are sRGB's, so that only the curve is another
    np.testing.assert_allclose(found, srgb((COLOURS / 255.0) ** gamma), atol=2)


def test_channels_that_mean_other_colours():
    swapped = rgb_profile(2.2, (1, 2, 0))  # its red is green, its green blue, its blue red
    found = seen(Image.fromarray(COLOURS), icc_profile=swapped)
    wanted = srgb((COLOURS[..., (2, 0, 1)] / 255.0) ** 2.2)
    np.testing.assert_allclose(found, wanted, atol=3)
    data = saved(Image.new("RGB", (64, 64), "red"), "JPEG", icc_profile=swapped)
    for short_side in (None, 8):  # reduced, too
        image = decode_rgb(open_image(data), short_side=short_side)
        np.testing.assert_allclose(image.getpixel((2, 2)), (0, 255, 0), atol=5)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "I;16"])
def test_other_modes(mode):
    grey = np.full((4, 4), 55, np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "P":
        image = Image.fromarray(grey).convert("RGB").quantize(2)
    else:
        image = Image.fromarray(grey).convert(mode)
    own = grey_profile(1.0) if mode in ("L", "LA", "I;16") else rgb_profile(1.0)
    np.testing.assert_allclose(seen(image, icc_profile=own), srgb(55 / 255), atol=2)


def test_what_is_transparent_is_white_whatever_the_profile():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    found = seen(image, icc_profile=rgb_profile(1.0, (1, 0, 2)))
    np.testing.assert_allclose(found[0], [[255, 255, 255], [0, 255, 0]], atol=3)


@pytest.mark.parametrize(
    "profile",
    [SRGB, b"damaged", SRGB[:200], grey_profile(1.0), b""],
    ids=["sRGB", "damaged", "cut", "another space", "none"],
)
def test_profiles_that_change_nothing(profile):
    np.testing.assert_array_equal(seen(Image.fromarray(COLOURS), icc_profile=profile), COLOURS)
    assert is_plain(open_image(saved(Image.fromarray(COLOURS), icc_profile=profile)))


def test_only_a_picture_that_all_see_alike_is_plain():
    image = Image.fromarray(COLOURS)
    assert is_plain(open_image(saved(image)))
    assert not is_plain(open_image(saved(image, icc_profile=rgb_profile(1.0))))
    assert not is_plain(open_image(saved(Image.fromarray(COLOURS[..., 0].astype(np.uint16)))))
    assert not is_plain(open_image(saved(image.convert("CMYK"), "JPEG")))
    assert not is_plain(open_image(saved(image.convert("RGBA"))))


def test_a_pillow_without_littlecms_says_so_once(monkeypatch, capsys):
    monkeypatch.setattr(colour.features, "check", lambda name: False)
    colour._has_littlecms.cache_clear()
    colour._change.cache_clear()
    try:
        for gamma in (1.0, 1.5):
            image = colour.to_srgb(Image.fromarray(COLOURS), rgb_profile(gamma))
            np.testing.assert_array_equal(np.asarray(image), COLOURS)
        assert capsys.readouterr().err.count("no littlecms") == 1
    finally:
        colour._has_littlecms.cache_clear()
        colour._change.cache_clear()


def test_the_profiles_of_these_tests_are_profiles():
    for data in (rgb_profile(1.8), grey_profile(1.0)):
        ImageCms.ImageCmsProfile(io.BytesIO(data))
