"""`clip`: 100 × max(cosine, 0) of the embeddings of CLIP ViT-L/14, as torchmetrics' CLIPScore.

Prompts of more tokens than CLIP takes are cut before the mark of their end, as in OpenAI's CLIP.
torchmetrics cuts the mark off, and then scores another token.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL.Image import Image

from cv3jax.evaluation.metrics import clip, pixels
from cv3jax.evaluation.metrics.base import PictureMetric, batches, versions
from cv3jax.evaluation.metrics.networks import libraries
from cv3jax.evaluation.metrics.weight_files import Found, digests


def open_clip_score(found: dict[str, Found], sizes: clip.Sizes = clip.VIT_L) -> PictureMetric:
    """Return the metric `clip`. Raises InputError where a file holds something else."""
    torch = libraries("clip")
    vocabulary, merges = (found[each.path].path for each in clip.TOKENIZER)
    tokenizer = clip.load_tokenizer(vocabulary, merges, sizes)
    model = clip.load_huggingface(found[clip.MODEL.path].path, sizes)

    def score(images: Sequence[Image], prompts: Sequence[str]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            parts = [one(images[rows], prompts[rows]) for rows in batches(len(images))]
        return {"clip": np.concatenate(parts) if parts else np.empty(0)}

    def one(images: Sequence[Image], prompts: Sequence[str]) -> np.ndarray:
        seen = clip.image_features(model, pixels.short_side(images, sizes.image, "floor"))
        said = clip.text_features(model, clip.tokens(tokenizer, prompts, sizes))
        return 100 * (seen * said).sum(-1).clamp(min=0).double().cpu().numpy()

    protocol: dict[str, Any] = {
        "metric": "clip",
        "weights": digests(found),
        "network": sizes.name,
        "pixels": pixels.SHORT_SIDE | {"side": sizes.image, "crop": "centre, half pixels down"},
        "prompt": {"prefix": "", "tokens": sizes.context},
        "precision": "float32",
        "versions": versions("torch", "transformers", "pillow"),
    }
    return PictureMetric("clip", "higher", protocol, score)
