"""Test the way from released files through `cv3jax convert` and `cv3jax sample` to a PNG.

The picture is the released one, and one of twice its side follows. The intermediate results of the
command are compared with the goldens too.
"""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from golden import PNG_PIXELS, WIDER, reads
from golden_models import converted, decode
from PIL import Image

from cv3jax.cascade.pipeline import Cascade
from cv3jax.commands import sample
from cv3jax.models.embeddings import size_embedding


def draw(g, noise: dict, *flags: str) -> tuple[np.ndarray, dict]:
    """Return the two pictures of the command, and inputs and outputs of its steps.

    The pictures are uint8 [2, H, W, 3].
    """
    seen = {}

    def watched(name):
        method = getattr(Cascade, name)

        def call(self, *args, **kwargs):
            seen[name] = (args, method(self, *args, **kwargs))
            return seen[name][1]

        return call

    with tempfile.TemporaryDirectory() as out, pytest.MonkeyPatch.context() as patch:
        for name in ("stage", "encode"):
            patch.setattr(Cascade, name, watched(name))
        np.savez(f"{out}/noise.npz", **{name: g.nhwc(key) for name, key in noise.items()})
        sample.main(
            [
                "--checkpoint",
                str(converted(g.preset)),
                "--out",
                out,
                "--noise",
                f"{out}/noise.npz",
                *flags,
            ]
        )
        return (
            np.stack([np.asarray(Image.open(path)) for path in sorted(Path(out).glob("0*.png"))]),
            seen,
        )


def check_png(g, key: str, ours: np.ndarray) -> None:
    """Check that at most 0.1 % of pixels differ, by at most 1.

    A pixel differs if any of its channels does, so at most 2 of micro's 2,048 may. Truncation turns
    the smallest error into 1 where a value is next to a whole number. The expected share of such
    values is 127.5 times the mean error of the decoded picture.
    """
    difference = np.abs(ours.astype(int) - g[key])
    off = (difference > 0).any(axis=-1)
    assert difference.max() <= 1, f"{g.preset} {key}: off by {difference.max()}"
    assert off.mean() <= PNG_PIXELS, f"{g.preset} {key}: {off.sum()} of {off.size} pixels are off"


def check_stage(g, stage: str, seen: dict, side: int) -> None:
    """Check a stage's size conditioning, its latents, and the decoded picture before truncation."""
    g.check(f"e2e.{stage}.vector", size_embedding(np.tile([side, side, 0, 0, side, side], (2, 1))))
    latent = seen["stage"][1]
    g.check_nhwc(f"e2e.{stage}.latent", latent)
    g.check_nhwc(f"e2e.{stage}.decoded", decode(g.preset, np.asarray(latent)))


@reads("e2e.base.*", slow=WIDER)
def test_prompt_to_png(g):
    side = g["e2e.base.png_uint8"].shape[1]
    flags = ("--prompt", g.meta["e2e"]["prompt"], "--num", "2", "--size", str(side))
    images, seen = draw(g, {"base": "e2e.base.noise"}, *flags)
    check_stage(g, "base", seen, side)
    check_png(g, "e2e.base.png_uint8", images)


@reads("e2e.relay.*", "e2e.base.png_uint8", slow=WIDER)
def test_png_to_png_of_twice_the_side(g):
    noise = {"low": "e2e.relay.encode_noise", "relay": "e2e.relay.noise"}
    with tempfile.TemporaryDirectory() as folder:
        flags = []
        for i, image in enumerate(g["e2e.base.png_uint8"]):
            Image.fromarray(image).save(f"{folder}/{i}.png")
            flags += ["--prompt", g.meta["e2e"]["prompt"], "--image", f"{folder}/{i}.png"]
        images, seen = draw(g, noise, *flags)
    (upsampled, *_), low = seen["encode"]
    g.check_nhwc("e2e.relay.upsampled", upsampled)
    g.check_nhwc("e2e.relay.image_latent", low)
    check_stage(g, "relay", seen, images.shape[1])
    check_png(g, "e2e.relay.png_uint8", images)
