"""A cascade directory with adapters in its weights.

The parts that they do not change are linked.
"""

from pathlib import Path
from typing import Any

import numpy as np

from cv3jax.adapters import trees
from cv3jax.adapters.applied import Loras
from cv3jax.adapters.provenance import merged_in, write_merged
from cv3jax.checkpoints import cascades, manifest, streaming
from cv3jax.checkpoints.streaming import Leaf
from cv3jax.models.adapters import with_adapter
from cv3jax.weights.importing import copy_tokenizer, progress
from data_pipeline.io.staging import appearing


def merge(source: Path, loras: Loras, out: Path) -> list[str]:
    """Write the cascade at `source` with adapters in it as `out`, which appears when complete.

    Changed weights are stored as float32, so that nothing of a small change is rounded away.
    Returns the names of the parts that changed.

    Raises:
        InputError: a part is damaged, or `out` exists.
        OSError: it could not be written; nothing is left.
    """
    directory, description = cascades.read_cascade(source)
    changed = sorted({one.stage for one in loras.applied if one.weight})
    with appearing(out) as partial:
        for part in description.parts:
            place, within = cascades.place_of(directory, part)
            if part not in changed and not within:
                cascades.check_part(place)
                cascades.carry_part(place, partial / part)
                continue
            cascades.check_part(place.parent if within else place)
            params: Any = streaming.open_tree(place, within)
            for one in loras.applied:
                if one.stage == part and one.weight:
                    tree = one.tree(description.stages[part])
                    leaves = {
                        path: _changed(trees.at(params, path), node)
                        for path, node in trees.leaves_of(tree).items()
                    }
                    params = trees.replaced(params, leaves)
            with progress(part, params) as shown:
                cascades.save_part(partial / part, shown)
            if part == "t5":
                copy_tokenizer(
                    cascades.place_of(directory, "t5/tokenizer")[0], partial / "t5" / "tokenizer"
                )
                manifest.write(partial / "t5" / "tokenizer")
        write_merged(partial, [*merged_in(source), *loras.records()])
        cascades.write_cascade(partial, description)
    return changed


def _changed(leaf: Leaf, node: dict[str, Any]) -> Leaf:
    """Return a leaf that has an adapter in it when it is read."""
    wide = np.dtype(np.float32)

    def read() -> np.ndarray:
        return np.asarray(with_adapter(leaf.read().astype(wide), node))

    return Leaf(leaf.shape, wide, read)
