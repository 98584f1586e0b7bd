"""Load the frozen weights of the perceptual loss from a file of the user; nothing is downloaded."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from cv3jax.models.lpips import LPIPS, WIDTHS
from cv3jax.weights.files import open_tensors
from cv3jax.weights.mapping import check_tensors, stack
from cv3jax.weights.names import Entry
from data_pipeline.io.errors import InputError

# the indices of the convolutions in VGG16's list of layers, slice by slice
_INDICES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))


def _tensors() -> list[tuple[Entry, tuple[int, ...]]]:
    """Return each tensor of the public LPIPS package's state dict for net="vgg", with its shape.

    Its constants are left out.
    """
    tensors, before = [], 3
    for i, (indices, widths) in enumerate(zip(_INDICES, WIDTHS, strict=True)):
        for j, (index, width) in enumerate(zip(indices, widths, strict=True)):
            name, ours = f"net.slice{i + 1}.{index}", f"conv_{i}_{j}"
            tensors.append(
                (Entry(f"{name}.weight", (ours, "kernel"), "conv"), (width, before, 3, 3))
            )
            tensors.append((Entry(f"{name}.bias", (ours, "bias"), "same"), (width,)))
            before = width
        tensors.append(
            (
                Entry(f"lin{i}.model.1.weight", (f"lin_{i}", "kernel"), "conv_dense"),
                (1, before, 1, 1),
            )
        )
    return tensors


def load_lpips(path: str | Path) -> tuple[Callable[[dict, jax.Array, jax.Array], jax.Array], dict]:
    """Return (perceptual, frozen).

    `perceptual(frozen, a, b)` → distances [B] of images in [-1, 1] [B, H, W, 3]; frozen is
    {"lpips": params}. `path` is a .safetensors file with `net.slice{1..5}.{index}.weight|bias` and
    `lin{0..4}.model.1.weight`, which the package `lpips` writes with

        state = lpips.LPIPS(net="vgg").state_dict()
        safetensors.torch.save_file({k: v for k, v in state.items() if not k.startswith(("lins.",
            "scaling_layer."))}, path)

    Raises:
        InputError: there is no such file, it is not safetensors, or a name is missing, unknown, or
            of another shape.
    """
    if not Path(path).is_file() or Path(path).suffix != ".safetensors":
        raise InputError(
            f"perceptual weights: there is no file {path}; give a .safetensors file of LPIPS with"
            " VGG16"
        )
    tensors, where = (
        open_tensors(Path(path), "perceptual weights:")[0],
        f"perceptual weights: {path}, for LPIPS with VGG16,",
    )
    wanted = dict(_tensors())
    check_tensors(
        {name: leaf.shape for name, leaf in tensors.items()},
        {entry.torch: shape for entry, shape in wanted.items()},
        where,
    )
    params = jax.tree.map(
        lambda leaf: jnp.asarray(leaf.read(), jnp.float32), stack(tensors, list(wanted))
    )
    model = LPIPS()
    return lambda frozen, a, b: model.apply({"params": frozen["lpips"]}, a, b), {"lpips": params}
