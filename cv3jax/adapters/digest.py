"""The hash of what an adapter changes, whatever its format and its header."""

import hashlib
import json

from cv3jax.adapters.adapter import Adapter


def digest_of(adapter: Adapter) -> str:
    """Return the SHA-256 of an adapter's layers: names, scales, shapes, types and bytes."""
    found = hashlib.sha256()
    for name in sorted(adapter.layers):
        layer = adapter.layers[name]
        arrays = [layer.down, layer.up, *([] if layer.magnitude is None else [layer.magnitude])]
        about = [[array.dtype.name, array.shape] for array in arrays]
        found.update(json.dumps([name, adapter.scale(name), about]).encode())
        for array in arrays:
            found.update(array.tobytes())
    return found.hexdigest()
