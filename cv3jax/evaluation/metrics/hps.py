"""`hps` and `hps21`: Human Preference Score v2.0 and v2.1, a fine-tuned CLIP ViT-H/14 of open_clip.

The score is the cosine of the picture's and the prompt's embeddings, as in the package `hpsv2`,
here in float32 on every device. The files of both versions have the same names and shapes; only
their content tells them apart, so each version has its own metric.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from cv3jax.evaluation.metrics import clip, pixels
from cv3jax.evaluation.metrics.base import PictureMetric, batches, versions
from cv3jax.evaluation.metrics.networks import libraries
from cv3jax.evaluation.metrics.weight_files import Found, Need, digests
from cv3jax.weights.digests import digest_of
from data_pipeline.io.errors import InputError

# metric → its version, and the file of its weights
VERSIONS = {
    "hps": ("v2.0", Need("hps/HPS_v2_compressed.pt", "xswu/HPSv2: HPS_v2_compressed.pt")),
    "hps21": ("v2.1", Need("hps/HPS_v2.1_compressed.pt", "xswu/HPSv2: HPS_v2.1_compressed.pt")),
}


def needs(name: str) -> tuple[Need, ...]:
    """Return the files that the metric `name` takes; the tokenizer is that of OpenAI's CLIP."""
    return (VERSIONS[name][1], *clip.TOKENIZER)


def open_hps(name: str, found: dict[str, Found], sizes: clip.Sizes = clip.VIT_H) -> PictureMetric:
    """Return the metric `name`, one of VERSIONS.

    Raises:
        InputError: a file holds something else, or the weights of both versions are one file.
    """
    torch = libraries(name, "ftfy")
    version, need = VERSIONS[name]
    _check_other(name, found[need.path])
    vocabulary, merges = (found[each.path].path for each in clip.TOKENIZER)
    tokenizer = clip.load_tokenizer(vocabulary, merges, sizes)
    model = clip.load_open_clip(found[need.path].path, sizes)

    def score(images: Sequence[Image], prompts: Sequence[str]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            parts = [one(images[rows], prompts[rows]) for rows in batches(len(images))]
        return {name: np.concatenate(parts) if parts else np.empty(0)}

    def one(images: Sequence[Image], prompts: Sequence[str]) -> np.ndarray:
        seen = clip.image_features(model, pixels.long_side(images, sizes.image))
        said = clip.text_features(model, clip.tokens(tokenizer, prompts, sizes, repair=True))
        return (seen * said).sum(-1).double().cpu().numpy()

    protocol: dict[str, Any] = {
        "metric": name,
        "version": version,
        "weights": digests(found),
        "network": sizes.name,
        "pixels": pixels.LONG_SIDE | {"side": sizes.image},
        "prompt": {"prefix": "", "repaired": "ftfy, HTML's entities", "tokens": sizes.context},
        "precision": "float32",
        "versions": versions("torch", "transformers", "pillow", "ftfy"),
    }
    return PictureMetric(name, "higher", protocol, score)


def _check_other(name: str, own: Found) -> None:
    """Raise InputError where the file of the other version beside this one has the same content."""
    for other, (version, need) in VERSIONS.items():
        path: Path = own.path.parent / Path(need.path).name
        same_size = path.is_file() and path.stat().st_size == own.path.stat().st_size
        if other != name and same_size and digest_of(path) == own.sha256:
            raise InputError(
                f"{own.path} and {path} are the same file, but one is of HPS {version} and the"
                f" other of {VERSIONS[name][0]}; get both again from xswu/HPSv2"
            )
