"""Write the micro preset's weights in the forms in which released weights are found.

Conversions of these files are read back too.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_models import files
from safetensors.numpy import load_file, save_file

from cv3jax.checkpoints import streaming
from cv3jax.commands import convert
from cv3jax.weights.files import SAT_FILE
from cv3jax.weights.select_model import PREFIX
from data_pipeline.io.errors import InputError

UNET = PREFIX["unet"]
FLAGS = ("--head-channels", "16", "--image-size", "32")
RELATIVE = 1e-4  # what PyTorch's libraries may be off by, in parts of the largest value


@functools.cache
def tensors(file: str) -> dict[str, np.ndarray]:
    """Return float32 tensors of a file.

    They are unet.safetensors (without its prefix), vae.safetensors or t5/model.safetensors.
    """
    return {
        name.removeprefix(UNET): value for name, value in load_file(files("micro") / file).items()
    }


def cast(values: dict[str, np.ndarray], dtype: Any) -> dict[str, np.ndarray]:
    return {name: value.astype(dtype) for name, value in values.items()}


def prefixed(values: dict[str, np.ndarray], prefix: str = UNET) -> dict[str, np.ndarray]:
    return {prefix + name: value for name, value in values.items()}


def write(path: Path, values: dict[str, np.ndarray]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(values, path)
    return path


def write_pt(path: Path, values: dict[str, np.ndarray], **beside: Any) -> Path:
    """Write a .pt with `values` under `module`, as SAT does, and the entries `beside`."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {"module": {name: torch.from_numpy(value) for name, value in values.items()}, **beside},
        path,
    )
    return path


def write_sat(folder: Path, values: dict[str, np.ndarray], **beside: Any) -> Path:
    """Write a SAT folder."""
    write_pt(folder / "1" / SAT_FILE, values, **beside)
    (folder / "latest").write_text("1\n")
    return folder


def converted(out: Path, *argv: str | Path) -> Path:
    """Run `cv3jax convert` and return the directory that it made."""
    convert.main([*map(str, argv), "--out", str(out)])
    return out


def stored(directory: Path, part: str) -> dict[str, np.ndarray]:
    """Return the parameters of a part by path, with the dtypes on disk."""
    return {
        "/".join(path): leaf.read()
        for path, leaf in streaming.walk(streaming.open_tree(directory / part))
    }


def same_bits(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    """Return whether names, dtypes, shapes and bits are equal."""
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == value.dtype
        and ours[name].shape == value.shape
        and ours[name].tobytes() == value.tobytes()
        for name, value in theirs.items()
    )


def sat_module(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a .pt of SAT."""
    torch = pytest.importorskip("torch")
    return {
        name: tensor.numpy()
        for name, tensor in torch.load(path, weights_only=True)["module"].items()
    }


def relative(ours, theirs: np.ndarray) -> float:
    """Return the largest error as a share of the largest value."""
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def small() -> dict[str, np.ndarray]:
    """Return a few tensors, enough for files that are refused before tensors are read."""
    return dict(list(tensors("unet.safetensors").items())[:4])


def refused(tmp_path: Path, line: str, *argv: str | Path) -> None:
    """Check that the command ends with an InputError of one line and writes nothing."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=line) as caught:
        converted(tmp_path / "out", *argv)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
