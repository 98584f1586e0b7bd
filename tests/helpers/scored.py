"""Provide pictures of scenes in a folder, cheap metrics, and a request that scores them."""

from pathlib import Path

import numpy as np
from PIL import Image

from cv3jax.evaluation.figures import Bootstrap
from cv3jax.evaluation.metrics.base import PictureMetric, SetMetric
from cv3jax.evaluation.prompt_row import PromptRow
from cv3jax.evaluation.prompt_sets import PromptSet
from cv3jax.evaluation.run import Request

TEXTS = ("a red thing", "a <b>blue</b> thing", "two things", "no thing", "a thing & another")
PROMPTS = PromptSet(
    "five", tuple(PromptRow(f"p{i}", text, "ab"[i % 2]) for i, text in enumerate(TEXTS))
)
SIDE = 8


def pictures(folder: Path, count: int, *, seed: int = 0, side: int = SIDE) -> list[Path]:
    """Write `count` random pictures, and return their paths in the order of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        made.append(folder / f"{i:03d}.png")
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(made[-1])
    return made


class Metrics:
    """Metrics of the mean colour, which count the batches that they were given.

    stop: called with the number of each batch before it is scored.
    """

    def __init__(self, stop=lambda batch: None, version: str = "1", **more):
        self.batches, self.stop, self.more = 0, stop, more
        self.protocol = {"weights": {"mean.bin": "0" * 64}, "versions": {"pillow": version}}

    def open(self, name: str, weights: Path | None) -> PictureMetric | SetMetric:
        """Return the metric "mean" of pictures, or the distance "far" of sets."""
        if name == "mean":
            return PictureMetric("mean", "higher", self.protocol, self._score, **self.more)
        return SetMetric("far", "lower", self.protocol, self._features, self._figures)

    def _score(self, images, prompts) -> dict[str, np.ndarray]:
        self._count()
        assert all(image.mode == "RGB" for image in images)
        means = np.array([np.asarray(image).mean() for image in images])
        # of the batch, as a network that rounds otherwise in another batch
        return {"mean": means + len(images) * 1e-9, "mean.words": np.array([*map(len, prompts)])}

    def _features(self, images) -> np.ndarray:
        self._count()
        return np.stack([np.asarray(image, np.float32).mean((0, 1)) for image in images])

    def _figures(self, drawn: np.ndarray, reference: np.ndarray) -> dict[str, float]:
        return {"far": float(np.linalg.norm(drawn.mean(0) - reference.mean(0)))}

    def _count(self) -> None:
        self.batches += 1
        self.stop(self.batches)


def request(out: Path, metrics: tuple[str, ...] = ("mean",), **fields) -> Request:
    """Return a request over PROMPTS with few draws."""
    return Request(fields.pop("prompts", PROMPTS), metrics, out, bootstrap=Bootstrap(200), **fields)
