"""What a run exports: its EMA as the file of an adapter, in our own format."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from cv3jax.adapters import formats
from cv3jax.adapters.adapter import Adapter
from cv3jax.adapters.merging import KERNEL, leaves_of
from cv3jax.adapters.naming import Sizes, modules
from cv3jax.adapters.trees import Spec, from_tree
from cv3jax.checkpoints.description import StageDescription
from cv3jax.distributed import processes
from cv3jax.lora.settings import LoraSettings

FILE = "adapter.safetensors"


def adapter_of(settings: LoraSettings, tree: Any, stage: StageDescription, base: str) -> Adapter:
    """Return the adapter of what was trained; all processes call it.

    tree: the leaves that are trained. stage: the stage that is adapted. base: its fingerprint,
    which the header has.
    """
    whole = jax.tree.map(lambda x: np.asarray(processes.whole(x), np.float32), tree)
    paths = leaves_of(whole)
    specs = {
        name: Spec(settings.rank, float(settings.alpha), dora=settings.dora)
        for name, entry in modules(Sizes.of(stage)).items()
        if (*entry.path[:-1], KERNEL) in paths
    }
    words = {"cv3jax.targets": settings.targets, "cv3jax.base": base}
    return from_tree(whole, specs, stage, rslora=settings.rslora, metadata=words)


def write(directory: Path, adapter: Adapter) -> None:
    """Write the file. Raises InputError on an adapter that changes nothing, and OSError."""
    formats.write(directory / FILE, adapter, "native")
