"""`fid`, `kid` and `prc`: distances of Inception's features, by clean-fid's protocol.

The network is the TorchScript file of StyleGAN2-ADA, which clean-fid takes too. TorchScript is
code. So the file is loaded only if it has the published SHA-256, or one that the user states in a
SHA256SUMS.
"""

import functools
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL.Image import Image

from cv3jax.evaluation.metrics import distances, needs, pixels, resamples
from cv3jax.evaluation.metrics.base import SetMetric, batches, versions
from cv3jax.evaluation.metrics.networks import device, libraries
from cv3jax.evaluation.metrics.weight_files import Found, digest_of_bytes, digests
from cv3jax.weights.digests import SUMS
from data_pipeline.io.errors import InputError, first_line
from data_pipeline.io.regular_files import read_regular

NETWORK = needs.INCEPTION
_MOST = 2**28  # bytes; the file has 95,607,719
_SIDE, _FEATURES = 299, 2048


def open_fid(found: dict[str, Found]) -> SetMetric:
    """Return the metric `fid`. Raises InputError as `_open`."""
    figures, of_rows = resamples.figures_of(("fid",), distances.frechet, resamples.frechet_of_rows)
    features, protocol = _open("fid", found)
    return SetMetric("fid", "lower", protocol, features, figures, of_rows=of_rows)


def open_kid(found: dict[str, Found]) -> SetMetric:
    """Return the metric `kid`. Raises InputError as `_open`."""
    figures, of_rows = resamples.figures_of(("kid",), distances.kid, resamples.kid_of_rows)
    features, protocol = _open("kid", found)
    more = {"kid": distances.KID, "versions": protocol["versions"] | versions("torchmetrics")}
    return SetMetric("kid", "lower", protocol | more, features, figures, of_rows=of_rows)


def open_prc(found: dict[str, Found]) -> SetMetric:
    """Return the metric `prc`, precision and recall. Raises InputError as `_open`."""
    least = distances.PRC["neighbours"] + 1
    figures, of_rows = resamples.figures_of(
        ("precision", "recall"),
        distances.precision_recall,
        resamples.precision_recall_of_rows,
        least,
    )
    features, protocol = _open("prc", found)
    more = {"prc": distances.PRC}
    return SetMetric("prc", "higher", protocol | more, features, figures, least, of_rows)


def _open(name: str, found: dict[str, Found]) -> tuple[Any, dict[str, Any]]:
    """Return (the function from pictures to features [n, 2048], the protocol).

    Raises:
        InputError: nobody states the file's SHA-256, or it is no Inception.
    """
    libraries(name, "torchmetrics", "scipy")
    file = found[NETWORK.path]
    if file.listed is None:
        raise InputError(
            f"{file.path} is TorchScript, which is code, and is loaded only if its SHA-256 is"
            f" known: it is {file.sha256}, and the published one is {NETWORK.sha256}; if you trust"
            f" the file, write the line `{file.sha256}  {file.path.name}` into"
            f" {file.path.parent / SUMS}"
        )
    protocol = {
        "metric": name,
        "weights": digests(found),
        "features": "Inception of 2015-12-05, TorchScript",
        "pixels": pixels.SQUARE | {"side": _SIDE, "shift": "(x - 128) / 128"},
        "precision": "float32, distances in float64",
        "versions": versions("torch", "scipy", "pillow"),
    }
    return _features(file), protocol


@functools.lru_cache(1)  # all three metrics are opened with one network
def _features(file: Found) -> Callable[[Sequence[Image]], np.ndarray]:
    """Return the function from pictures to features [n, 2048]. Raises InputError as `_layers`."""
    torch = libraries("fid")
    layers = _layers(torch, file)

    def features(images: Sequence[Image]) -> np.ndarray:
        with torch.inference_mode():
            parts = [one(images[rows]) for rows in batches(len(images))]
        return np.concatenate(parts) if parts else np.empty((0, _FEATURES), np.float32)

    def one(images: Sequence[Image]) -> np.ndarray:
        shown = ((pixels.square(images, _SIDE) - 128) / 128).to(device(torch))
        try:
            found = layers(shown).flatten(1)
        except RuntimeError as e:  # of the file's own code
            raise InputError(
                f"{file.path} is not Inception of 2015-12-05: {first_line(e)}; get it again"
            ) from e
        if found.shape[1] != _FEATURES:
            raise InputError(
                f"{file.path} has {found.shape[1]} features, but Inception has {_FEATURES}"
            )
        return found.float().cpu().numpy()

    return features


def _layers(torch: Any, file: Found) -> Any:
    """Return the network without its own resize, from bytes of the SHA-256 that was checked."""
    try:
        data = read_regular(file.path, _MOST)
    except OSError as e:
        raise InputError(f"{file.path}: {e.strerror}") from e
    if digest_of_bytes(data) != file.sha256:
        raise InputError(f"{file.path} changed while it was read; run the same command again")
    try:
        network = torch.jit.load(io.BytesIO(data), map_location=device(torch))
        return network.eval().layers
    except (RuntimeError, AttributeError, ValueError) as e:
        raise InputError(
            f"{file.path} is not the TorchScript of Inception: {first_line(e)}; get it from"
            f" {NETWORK.source}"
        ) from e
