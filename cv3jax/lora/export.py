"""The file of a trained adapter, in the package's own format (`cv3jax.adapters.native`)."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from cv3jax.adapters import native
from cv3jax.adapters.adapter import Adapter
from cv3jax.adapters.provenance import BASE
from cv3jax.adapters.tensors import write_file
from cv3jax.adapters.trees import from_tree, specs_in
from cv3jax.checkpoints.description import StageDescription
from cv3jax.distributed import processes
from cv3jax.lora.settings import LoraSettings

FILE = "adapter.safetensors"


def adapter_of(settings: LoraSettings, trained: Any, stage: StageDescription, base: str) -> Adapter:
    """Return what was trained as an adapter, in every process; all processes call it.

    base: the fingerprint of the stage that is adapted, which the header keeps with the targets.
    """
    tree = jax.tree.map(lambda x: np.asarray(processes.whole(x), np.float32), trained)
    metadata = {BASE: base, "cv3jax.targets": settings.targets}
    if trigger := settings.stage.json.get("pictures", {}).get("trigger"):
        metadata["cv3jax.trigger"] = trigger
    specs = specs_in(tree, stage, float(settings.alpha))
    return from_tree(tree, specs, stage, rslora=settings.rslora, metadata=metadata)


def write(path: Path, adapter: Adapter) -> None:
    """Write the file, also of an adapter that has learnt nothing yet. Raises OSError."""
    write_file(path, *native.write(adapter))
