"""The file of a trained adapter: its leaves by path as safetensors, and a header on what it is of.

A path has the modules of our UNet with slashes between, then the leaf's name
(`cv3jax.models.adapters`). All values are float32.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from cv3jax.distributed import processes
from cv3jax.distributed.partitioning import names
from cv3jax.lora.settings import LoraSettings
from cv3jax.models.adapters import LAYER
from data_pipeline.io.errors import naming

FILE, FORMAT = "adapter.safetensors", "cv3jax.lora"


def leaves_of(*trees: Any) -> dict[str, np.ndarray]:
    """Return path → array of adapter trees, whole in every process; all processes call it."""
    found = {}
    for tree in trees:
        for path, leaf in jax.tree.leaves_with_path(tree):
            if names(path)[-1] != LAYER:
                whole = processes.whole(leaf) if isinstance(leaf, jax.Array) else leaf
                found["/".join(names(path))] = np.asarray(whole, np.float32)
    return found


def metadata_of(settings: LoraSettings, base: str) -> dict[str, str]:
    """Return the header's words. base: the fingerprint of the stage that is adapted."""
    return {
        "format": FORMAT,
        "stage": settings.stage.stage,
        "rank": str(settings.rank),
        "alpha": repr(float(settings.alpha)),
        "rslora": str(settings.rslora),
        "dora": str(settings.dora),
        "targets": settings.targets,
        "base": base,
    }


def write(path: Path, leaves: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write the file. Raises OSError."""
    try:
        with naming(path):
            path.touch()
            mode = path.stat().st_mode  # of ordinary files, which save_file's are not
            save_file(leaves, path, metadata=metadata)
            path.chmod(mode)
    except SafetensorError as e:
        raise OSError(None, f"could not be written ({str(e)[:200]})", str(path)) from e
