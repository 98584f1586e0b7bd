"""Provide a painter in place of a cascade, prompts for it, and the files that it writes."""

import hashlib
from pathlib import Path
from unittest import mock

import numpy as np

from cv3jax.cascade.sampler_settings import AS_DESCRIBED
from cv3jax.cascade.sizes import Size

LINES = [f"a drawing of {i} things" for i in range(11)]


class Painter:
    """Draw pictures, in place of a cascade, that show their batch.

    Every prompt and seed of the batch changes them, and their place in it does too.
    """

    def __init__(self, stop=lambda batch: None):
        self.batches, self.stop = 0, stop
        self.tokenize = mock.Mock(unknown=lambda prompts: [])

    def with_progress(self, progress) -> "Painter":
        return self

    def generate(self, prompts: list[str], seeds: list[int], **options) -> dict[str, np.ndarray]:
        self.batches += 1
        self.stop(self.batches)
        assert options == {
            "size": Size(32, 32),
            "base": AS_DESCRIBED,
            "relay": AS_DESCRIBED,
            "images": None,
            "noise": None,
            "final": True,
        }
        key = hashlib.sha256(repr((prompts, seeds)).encode()).digest()
        return {
            "base": np.stack(
                [
                    np.random.default_rng([i, *key]).integers(0, 256, (32, 32, 3), np.uint8)
                    for i in range(len(seeds))
                ]
            )
        }


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
