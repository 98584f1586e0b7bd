"""Test that a stored piece that unpacks to far more than its array is refused in one line."""

import shutil

import packing_server
import pytest
import tensorstore

from cv3jax.cascade.parts import load_params
from cv3jax.checkpoints import cascades, manifest
from data_pipeline.io.errors import InputError


def test_a_piece_that_unpacks_to_too_much_is_refused(tmp_path):
    """Its manifest fits, as whoever makes such a part would see to."""
    folder = shutil.copytree(cascades.PACKAGED / "scenes", tmp_path / "scenes")
    part = folder / "vae"
    spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{part}/"}}
    store = tensorstore.KvStore.open(spec).result()
    pieces = [key for key in store.list().result() if not key.endswith(b".zarray")]
    store.write(pieces[0], packing_server.PACKED["zstd"]()).result()
    manifest.write(part)
    with pytest.raises(InputError, match="vae does not hold the model") as caught:
        load_params(*cascades.read_cascade(folder), ("vae",))
    assert "\n" not in str(caught.value)
