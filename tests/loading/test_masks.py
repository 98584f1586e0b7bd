"""Test that a mask is the alpha channel of what a step sees, and the colours are the file's."""

import io

import numpy as np
import pytest
from loaders import loader_of
from PIL import Image

from data_pipeline.loading.crops import fit
from data_pipeline.records.records import make_record

SIDE = 32


def saved(image: Image.Image, kind: str = "PNG", **more) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def picture(height: int = 48, width: int = 64) -> Image.Image:
    """Return a smooth picture."""
    y, x = np.mgrid[:height, :width]
    values = np.stack([4 * y, 3 * x, 128 + 50 * np.sin(x / 9)], -1)
    return Image.fromarray(values.astype(np.uint8))


def with_alpha(image: Image.Image) -> Image.Image:
    """Return the picture, transparent in the left half, half so in the upper right quarter."""
    alpha = np.full((image.height, image.width), 255, np.uint8)
    alpha[: image.height // 2] = 128
    alpha[:, : image.width // 2] = 0
    both = image.copy()
    both.putalpha(Image.fromarray(alpha))
    return both


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("position", [(0.0, 0.0), (0.5, 0.5), (0.999, 0.999)])
@pytest.mark.parametrize("zoom", [1.0, 1.5])
def test_colours_are_those_of_the_opaque_picture_and_the_mask_is_cut_alike(zoom, position, mirror):
    how = {"zoom": zoom, "position": position, "mirror": mirror}
    opaque, sizes = fit(saved(picture()), SIDE, **how)
    both, same = fit(saved(with_alpha(picture())), SIDE, alpha=True, **how)
    np.testing.assert_array_equal(both[..., :3], opaque)
    np.testing.assert_array_equal(same, sizes)
    # the alpha channel as a picture of its own
    grey = Image.merge("RGB", [with_alpha(picture()).getchannel("A")] * 3)
    cut, _ = fit(saved(grey), SIDE, **how)
    far = np.abs(both[..., 3].astype(int) - cut[..., 0])
    assert (far > 2).mean() < 0.2  # but for the filter, at the edges
    assert far.max() < 64


def test_without_it_transparent_pixels_are_white_as_before():
    seen, _ = fit(saved(with_alpha(picture())), SIDE, position=(0.5, 0.0))
    assert seen.shape == (SIDE, SIDE, 3)
    assert (seen[:, :8] == 255).all()


@pytest.mark.parametrize(
    "data",
    [saved(picture()), saved(picture(480, 640), "JPEG"), saved(picture().convert("L"))],
    ids=["png", "jpeg", "grey"],
)
def test_a_picture_without_alpha_counts_in_full(data):
    both, _ = fit(data, SIDE, alpha=True)
    assert (both[..., 3] == 255).all()
    np.testing.assert_array_equal(both[..., :3], fit(data, SIDE)[0])


def test_the_mask_is_turned_with_the_picture():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    both, _ = fit(saved(with_alpha(picture()), exif=exif), SIDE, alpha=True)
    assert (both[:8, :, 3] == 0).all()  # the left half is above now
    assert (both[-8:, :8, 3] == 255).all()
    assert (both[-8:, -8:, 3] == 128).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_have_masks_where_the_settings_say_so(workers):
    records = [
        make_record(saved(with_alpha(picture())), "masked", key="a"),
        make_record(saved(picture()), "whole", key="b"),
    ]
    fields = {"batch_size": 2, "image_size": SIDE, "seed": 0, "shuffle": False, "num_threads": 1}
    loader = loader_of(records, random_crop=False, alpha=True, num_workers=workers, **fields)
    batch = next(loader)
    loader.close()
    assert batch["image"].shape == (2, SIDE, SIDE, 3)
    assert batch["mask"].dtype == np.uint8
    assert batch["mask"].shape == (2, SIDE, SIDE)
    assert sorted(float((one == 255).mean()) for one in batch["mask"])[1] == 1.0
    assert 0.2 < (batch["mask"] == 0).mean() < 0.3
    plain = loader_of(records, random_crop=False, **fields)
    assert "mask" not in next(plain)
    plain.close()
