"""A LoRA adapter in memory: the form between all file formats, and between them and a model.

An adapter changes matrices and convolutions: W + s · up · down, with s = alpha / r, or alpha / √r
for rsLoRA (arXiv:2312.03732). With DoRA (arXiv:2402.09353) the rows of the sum are scaled to the
lengths that the magnitude says. Arrays have PyTorch's layout, and keep the types of their file.
"""

import dataclasses
import math
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from data_pipeline.io.errors import InputError, counted

MOST_RANK = 8192
LISTED = 5  # most names in an error
DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
SGM, DIFFUSERS = "sgm", "diffusers"  # whose names the layers have


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """What an adapter has for one matrix [out, in], or convolution [out, in, kh, kw].

    Attributes:
        down: [r, in], or [r, in, kh, kw].
        up: [out, r], or [out, r, 1, 1].
        alpha: the numerator of the scale.
        magnitude: DoRA's [out], the lengths of the rows of the sum; None without DoRA.
    """

    down: np.ndarray
    up: np.ndarray
    alpha: float
    magnitude: np.ndarray | None = None

    @property
    def rank(self) -> int:
        """The rank r."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight that it changes, in PyTorch's layout."""
        return (self.up.shape[0], *self.down.shape[1:])

    def matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (up [out, r], down [r, everything else]) in float64."""
        down = self.down.reshape(self.rank, -1).astype(np.float64)
        return self.up.reshape(len(self.up), self.rank).astype(np.float64), down


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """The layers of an adapter by the name of the module that each changes.

    Attributes:
        layers: by sgm's names, such as "input_blocks.4.1.transformer_blocks.0.attn1.to_q", or by
            diffusers'.
        stage: "base" or "relay" where the file says for which it was made.
        rslora: whether the scale is alpha / √r.
        metadata: the texts of the file's header that are not about its form.
        naming: SGM or DIFFUSERS.
    """

    layers: Mapping[str, Layer]
    stage: str | None = None
    rslora: bool = False
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    naming: str = SGM

    def scale(self, name: str) -> float:
        """Return the factor of up · down of a layer."""
        layer = self.layers[name]
        return layer.alpha / (math.sqrt(layer.rank) if self.rslora else layer.rank)


def check(adapter: Adapter, where: str) -> None:
    """Raise InputError, which names the layers, on an adapter that cannot be or changes nothing."""
    if not adapter.layers:
        raise InputError(f"{where} has no layer, so it would change nothing")
    for name, layer in adapter.layers.items():
        if problem := wrong_layer(layer):
            raise InputError(f"{where}: {name}: {problem}")
    if not any(changes(layer) for layer in adapter.layers.values()):
        names = list(adapter.layers)
        raise InputError(
            f"{where} changes nothing: up, down or alpha of every layer is zero"
            f" ({listed(names, 'layer')})"
        )


def changes(layer: Layer) -> bool:
    """Return whether a layer changes its weight, as far as it shows without the weight."""
    if layer.magnitude is not None:
        return True
    return bool(layer.alpha) and bool(layer.up.any()) and bool(layer.down.any())


def wrong_layer(layer: Layer) -> str | None:
    """Return what is wrong with a layer's shapes, types or values, or None."""
    down, up, magnitude = layer.down, layer.up, layer.magnitude
    for what, array in (("down", down), ("up", up), ("magnitude", magnitude)):
        if array is not None and array.dtype not in DTYPES:
            names = ", ".join(np.dtype(one).name for one in DTYPES)
            return f"its {what} is {array.dtype.name}, but must be one of {names}"
    if down.ndim not in (2, 4) or up.ndim != down.ndim or up.shape[2:] not in ((), (1, 1)):
        return (
            f"down {list(down.shape)} and up {list(up.shape)} are those of no matrix or"
            " convolution: give [r, in] and [out, r], or [r, in, h, w] and [out, r, 1, 1]"
        )
    if up.shape[1] != down.shape[0]:
        return f"down has rank {down.shape[0]} and up has rank {up.shape[1]}; they must be equal"
    if not down.size or not up.size:
        return f"down {list(down.shape)} or up {list(up.shape)} is empty"
    if layer.rank > MOST_RANK:
        return f"its rank is {layer.rank:,}, and may be {MOST_RANK:,}"
    if magnitude is not None and magnitude.shape != (len(up),):
        return f"its magnitude is {list(magnitude.shape)}, but must be [{len(up)}]"
    if not math.isfinite(layer.alpha):
        return f"its alpha is {layer.alpha}, which is no finite number"
    for what, array in (("down", down), ("up", up), ("magnitude", magnitude)):
        if array is not None and not np.isfinite(array).all():
            count = array.size - int(np.isfinite(array).sum())
            return f"{counted(count, 'value')} of its {what} {_are(count)} NaN or infinite"
    return None


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def listed(names: list[str], noun: str) -> str:
    """Return the first names of a list for a message, and how many there are."""
    first = ", ".join(name[:200] for name in names[:LISTED])
    more = f", the first {LISTED} of {len(names):,} {noun}s" if len(names) > LISTED else ""
    return f"{first}{more}"
