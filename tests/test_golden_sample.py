"""Files of the release → `cv3jax convert` → `cv3jax sample`: the released pictures, from the released noise."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from golden import PNG_PIXELS, reads
from golden_models import converted
from PIL import Image

from cv3jax import sample

pytestmark = pytest.mark.usefixtures("quick_compiles")


def draw(g, noise: dict, *flags: str) -> np.ndarray:
    """The two pictures that the command makes, uint8 [2, H, W, 3]."""
    with tempfile.TemporaryDirectory() as out:
        np.savez(f"{out}/noise.npz", **{name: g.nhwc(key) for name, key in noise.items()})
        sample.main(["--checkpoint", str(converted(g.preset)), "--out", out, "--noise", f"{out}/noise.npz", *flags])
        return np.stack([np.asarray(Image.open(path)) for path in sorted(Path(out).glob("0*.png"))])


def same(g, key: str, ours: np.ndarray) -> None:
    """±1 on at most PNG_PIXELS of the pixels, as test_golden_end_to_end.py says."""
    difference = np.abs(ours.astype(int) - g[key])
    assert difference.max() <= 1
    assert (difference > 0).any(axis=-1).mean() <= PNG_PIXELS


@reads("e2e.base.noise", "e2e.base.png_uint8")
def test_the_command_draws_the_released_pictures(g):
    side = str(g["e2e.base.png_uint8"].shape[1])
    prompt = g.meta["e2e"]["prompt"]
    same(g, "e2e.base.png_uint8", draw(g, {"base": "e2e.base.noise"}, "--prompt", prompt, "--num", "2", "--size", side))


@reads("e2e.base.png_uint8", "e2e.relay.encode_noise", "e2e.relay.noise", "e2e.relay.png_uint8")
def test_the_command_enlarges_the_released_pictures(g):
    noise = {"low": "e2e.relay.encode_noise", "relay": "e2e.relay.noise"}
    with tempfile.TemporaryDirectory() as folder:
        flags = []
        for i, image in enumerate(g["e2e.base.png_uint8"]):
            Image.fromarray(image).save(f"{folder}/{i}.png")
            flags += ["--prompt", g.meta["e2e"]["prompt"], "--image", f"{folder}/{i}.png"]
        same(g, "e2e.relay.png_uint8", draw(g, noise, *flags))
