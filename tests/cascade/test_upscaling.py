"""Test that a picture is enlarged in tiles on eight devices as it is on one."""

import numpy as np
import pytest
from PIL import Image

from cv3jax.cascade.own_pictures import layers_of
from cv3jax.cascade.pipeline import load
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.upscaling import Enlarging, upscale
from cv3jax.distributed.mesh import make_mesh

PARTS = ("relay", "t5", "vae")
PROMPT = "a large red circle in the center, white background"


def disc(height, width):
    """Return a red disc on white, mode RGBA, with a transparent corner."""
    y, x = np.mgrid[:height, :width]
    rgba = np.full((height, width, 4), 255, np.uint8)
    rgba[(y - height / 2) ** 2 + (x - width / 2) ** 2 < (height / 3) ** 2] = (220, 30, 30, 255)
    rgba[:10, :10, 3] = 0
    return Image.fromarray(rgba)


def test_a_picture_in_tiles_on_eight_devices_is_that_of_one():
    how = Enlarging(2, 3, SamplerSettings(tile=64), "wavelet")
    made = {}
    for name, mesh in (("one", None), ("eight", make_mesh(data=4, fsdp=2))):
        cascade = load("scenes", PARTS, mesh)
        result = upscale(cascade, layers_of(disc(61, 83), cascade.description), PROMPT, how)
        assert (result.image.mode, result.image.size) == ("RGBA", (166, 122))
        assert result.drift["result"] < result.drift["relay"]
        made[name] = np.asarray(result.image, int)
    assert np.abs(made["one"] - made["eight"]).mean() < 0.05
    assert made["one"][61, 83, :3] == pytest.approx((220, 30, 30), abs=40)  # it is still the disc
    assert made["one"][4, 4, 3] == 0
