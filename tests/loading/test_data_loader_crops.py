"""Test cropped and resized images.

Their sizes agree with the pixels. A window is resized as in the whole image. A large JPEG is
decoded at a reduced size.
"""

import io

import numpy as np
import pytest
from PIL import Image

from data_pipeline.images.decode import encode_png
from data_pipeline.io.errors import InputError
from data_pipeline.loading.crops import fit


def gradient(height, width):
    """Return an image whose red is the row and whose green is the column.

    So any pixel shows the crop's corner.
    """
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)


def test_the_crop_is_where_sizes_says():
    image = gradient(100, 180)
    seen = set()
    for down, across in ((0, 0), (0.999, 0.999), (0.5, 0.5), (0.2, 0.7)):
        # not resized
        pixels, sizes = fit(encode_png(image), 60, zoom=100 / 60, position=(down, across))
        height, width, top, left, *target = sizes
        assert (height, width, *target) == (100, 180, 60, 60)
        assert np.array_equal(pixels, image[top : top + 60, left : left + 60])
        seen.add((int(top), int(left)))
    assert {(0, 0), (40, 120), (20, 60)} <= seen


@pytest.mark.parametrize("mirror", [False, True])
def test_a_window_at_its_own_scale_has_the_pixels_that_lanczos_gives(mirror):
    noise = np.random.default_rng(1).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    pixels, sizes = fit(encode_png(noise), 35, zoom=2.0, position=(0.4, 0.7), mirror=mirror)
    seen = noise[:, ::-1] if mirror else noise
    whole = Image.fromarray(seen).resize((90, 70), Image.Resampling.LANCZOS, box=(0, 0, 90, 70))
    top, left = sizes[2:4]
    assert np.array_equal(pixels, np.asarray(whole)[top : top + 35, left : left + 35])
    assert (top, left) == (int(0.4 * 36), int(0.7 * 56))


def test_the_crop_is_measured_in_the_resized_image():
    image = gradient(120, 240)
    pixels, sizes = fit(encode_png(image), 40, zoom=1.5, position=(0.5, 0.9))  # 60 × 120: half
    assert list(sizes) == [120, 240, 10, int(0.9 * 81), 40, 40]
    centre = pixels[20, 20].astype(float)
    assert centre[0] == pytest.approx((sizes[2] + 20.5) * 2 - 0.5, abs=1.5)
    assert centre[1] == pytest.approx((sizes[3] + 20.5) * 2 - 0.5, abs=1.5)


def test_a_mirrored_crop_is_measured_in_the_mirrored_image():
    image = gradient(60, 100)
    pixels, sizes = fit(encode_png(image), 60, position=(0, 0.3), mirror=True)
    assert np.array_equal(pixels, image[:, ::-1][:, sizes[3] : sizes[3] + 60])


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("size", [24, 90])  # reduced and enlarged
def test_the_window_alone_is_resized_as_it_would_be_with_the_whole(size, mirror):
    noise = np.random.default_rng(0).integers(0, 256, (60, 101, 3), dtype=np.uint8)
    pixels, sizes = fit(encode_png(noise), size, zoom=1.25, position=(0.3, 0.8), mirror=mirror)
    short = round(size * 1.25)
    whole = Image.fromarray(noise[:, ::-1] if mirror else noise).resize(
        (round(101 * short / 60), short), Image.Resampling.LANCZOS
    )
    cropped = np.asarray(whole)[sizes[2] : sizes[2] + size, sizes[3] : sizes[3] + size].astype(int)
    assert np.abs(pixels - cropped).max() <= 2  # rounding


def test_a_strip_needs_no_more_memory_than_its_window():
    row = np.zeros((1, 60_000, 3), np.uint8)
    row[:, 30_000:] = 255
    for image, corner in ((row, 3), (row.swapaxes(0, 1), 2)):  # resized as a whole, 44 GiB
        for place, value in ((0.1, 0), (0.9, 255)):
            pixels, sizes = fit(encode_png(image), 512, position=(place, place))
            assert (pixels.shape, set(pixels.ravel())) == ((512, 512, 3), {value})
            assert sizes[corner] == int(place * (60_000 * 512 - 512 + 1))
    with pytest.raises(InputError, match="too long"):
        fit(encode_png(row), 8192, zoom=5.0)  # the corner's place would overflow int32


def test_reading_a_large_jpeg_reduced_agrees_with_reading_it_whole():
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize(
        (900, 600), Image.Resampling.BICUBIC
    )
    out = io.BytesIO()
    smooth.save(out, "JPEG", quality=95)
    pixels, sizes = fit(out.getvalue(), 64)
    assert list(sizes) == [600, 900, 0, 16, 64, 64]
    whole = np.asarray(
        Image.open(io.BytesIO(out.getvalue())).resize((96, 64), Image.Resampling.LANCZOS)
    )[:, 16:80]
    assert np.abs(pixels.astype(int) - whole).mean() < 2.5  # a pixel off would be 20


@pytest.mark.parametrize("position", [(0.0, 0.0), (0.999, 0.999)])
def test_a_jpeg_of_odd_sides_reads_reduced_where_it_does_whole(position):
    smooth = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    out = io.BytesIO()
    # at 1/2 451 × 302
    Image.fromarray(smooth).resize((901, 603), Image.Resampling.BICUBIC).save(
        out, "JPEG", quality=95
    )
    reduced, whole = (
        fit(out.getvalue(), 256, position=position, reduced=r)[0].astype(int) for r in (True, False)
    )
    # 0.34; half a pixel off at the far end would be 0.6 or more
    assert 0 < np.abs(reduced - whole).mean() < 0.45


@pytest.mark.parametrize("side", [8, 9, 16, 40])
def test_jpegs_of_sides_that_no_part_divides(side):
    """A side that is rounded up at 1/8 is nearer to 1/7 of the whole."""
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 3, 3), dtype=np.uint8))
    for height, width in ((65, 65), (66, 67), (73, 74), (81, 600), (33, 34), (17, 129), (105, 97)):
        out = io.BytesIO()
        smooth.resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=95)
        for position in ((0.0, 0.0), (0.999, 0.999)):
            reduced, whole = (
                fit(out.getvalue(), side, position=position, reduced=r)[0].astype(int)
                for r in (True, False)
            )
            assert np.abs(reduced - whole).mean() < 4, (height, width)
