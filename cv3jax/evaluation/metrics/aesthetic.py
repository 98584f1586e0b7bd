"""`aes`: LAION's aesthetic predictor, a linear head on the image embedding of CLIP ViT-L/14.

Source: github.com/christophschuhmann/improved-aesthetic-predictor, whose picture transform is
OpenAI's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL.Image import Image

from cv3jax.evaluation.metrics import clip, pixels
from cv3jax.evaluation.metrics.base import PictureMetric, batches, versions
from cv3jax.evaluation.metrics.networks import build, head, libraries, read_tensors
from cv3jax.evaluation.metrics.weight_files import Found, Need, digests
from data_pipeline.io.errors import InputError

HEAD = Need(
    "aesthetic/sac+logos+ava1-l14-linearMSE.pth",
    "github.com/christophschuhmann/improved-aesthetic-predictor: sac+logos+ava1-l14-linearMSE.pth",
    "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
)
NEEDS = (HEAD, clip.MODEL)
_WIDTHS = (1024, 128, 64, 16, 1)


def open_aesthetic(found: dict[str, Found], sizes: clip.Sizes = clip.VIT_L) -> PictureMetric:
    """Return the metric `aes`.

    Raises:
        InputError: a file holds something else; the widths of both are named.
    """
    torch = libraries("aes")
    path = found[HEAD.path].path
    tensors = read_tensors(path)
    first = tensors.get("layers.0.weight")
    if first is not None and first.ndim == 2 and first.shape[1] != sizes.embedding:
        raise InputError(
            f"{path} is a head on embeddings of {first.shape[1]}, but CLIP {sizes.name} has"
            f" {sizes.embedding}"
        )
    linear = build(
        lambda: head((sizes.embedding, *_WIDTHS)), tensors, f"{path}, for the aesthetic head,"
    )
    model = clip.load_huggingface(found[clip.MODEL.path].path, sizes)

    def score(images: Sequence[Image], prompts: Sequence[str]) -> dict[str, np.ndarray]:
        del prompts  # it is of the picture alone
        with torch.inference_mode():
            parts = [one(images[rows]) for rows in batches(len(images))]
        return {"aes": np.concatenate(parts) if parts else np.empty(0)}

    def one(images: Sequence[Image]) -> np.ndarray:
        features = clip.image_features(model, pixels.short_side(images, sizes.image, "round"))
        return linear["layers"](features)[:, 0].double().cpu().numpy()

    protocol: dict[str, Any] = {
        "metric": "aes",
        "weights": digests(found),
        "network": sizes.name,
        "pixels": pixels.SHORT_SIDE | {"side": sizes.image, "crop": "centre, half pixels to even"},
        "precision": "float32",
        "versions": versions("torch", "transformers", "pillow"),
    }
    return PictureMetric("aes", "higher", protocol, score)
