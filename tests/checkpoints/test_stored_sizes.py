"""Test that the sizes which arrays show are those of the network that has these arrays."""

import json

import altered_descriptions
import pytest
import tensorstore

from cv3jax.cascade.parts import build_model, model_shapes
from cv3jax.checkpoints import cascades, stored_sizes
from cv3jax.checkpoints.description_fields import AUTOENCODER, T5, UNET, filled
from cv3jax.checkpoints.streaming import walk
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from data_pipeline.io.errors import InputError

HIDDEN = {"dtype", "remat", "groups", "head_dim"}  # of a UNet: in no shape
SMALL = {"channels": 16, "channel_mult": [1, 3, 2], "res_blocks": 2, "groups": 4, "head_dim": 8}


def shapes_of(model, text_width: int = 0) -> dict:
    return {path: leaf.shape for path, leaf in walk(model_shapes(model, text_width))}


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": [0, 1, 2], "mid_depth": 3, "w_dim": 8},
        {"depth": [1, 0, 0], "mid_depth": 0, "out_channels": 8},
        {"depth": [0, 0, 0], "mid_depth": 0, "channel_mult": [1, 1, 1], "res_blocks": 1},
    ],
)
def test_of_a_unet(changes):
    fields = {**SMALL, **changes}
    found = stored_sizes._unet(shapes_of(build_model(UNet, fields), 24))
    attends = any(fields["depth"]) or fields["mid_depth"]
    assert found.pop("text_width", None) == (24 if attends else None)
    wanted = filled(fields, UNET)
    assert found == {name: value for name, value in wanted.items() if name not in HIDDEN}


@pytest.mark.parametrize(
    "changes",
    [
        {"patch": 2, "groups": 0, "mid_attention": False, "z_channels": 8},
        {"channel_mult": [1, 2], "mid_attention": True},
    ],
)
def test_of_an_autoencoder(changes):
    fields = {**SMALL, **changes}
    del fields["head_dim"]
    found = stored_sizes._autoencoder(shapes_of(build_model(Autoencoder, fields)))
    wanted = filled(fields, AUTOENCODER)
    if fields["groups"]:
        assert "groups" not in found
        del wanted["groups"]
    assert found == {name: value for name, value in wanted.items() if name != "dtype"}


def test_of_a_text_encoder():
    fields = {"vocab": 40, "channels": 12, "layers": 2, "heads": 3, "head_dim": 5, "ff": 7}
    fields |= {"buckets": 8}
    assert stored_sizes._t5(shapes_of(build_model(T5Encoder, fields))) == fields
    assert fields.keys() == T5.keys() - {"dtype", "epsilon", "max_distance"}


def test_arrays_that_are_no_network_or_damaged_are_left_to_their_reader(tmp_path):
    for rule in (stored_sizes._unet, stored_sizes._autoencoder, stored_sizes._t5):
        assert rule({}) == {}
        assert rule({("conv_in", "kernel"): (), ("embed", "embedding"): (2,)}) == {}
    assert stored_sizes.stored_shapes(tmp_path) == {}
    (tmp_path / "manifest.ocdbt").write_bytes(b"no tree")
    assert stored_sizes.stored_shapes(tmp_path) == {}


def test_arrays_that_unpack_to_far_more_than_their_files_are_refused(tmp_path):
    directory = altered_descriptions.copied(tmp_path / "scenes")
    (directory / "cascade.json").write_text(json.dumps(altered_descriptions.content()))
    (directory / "t5" / "manifest.ocdbt").unlink()
    spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{directory}/t5/"}}
    store = tensorstore.KvStore.open(spec).result()
    store.write("embed.embedding/.zarray", json.dumps({"shape": [2**30, 2**10]})).result()
    with pytest.raises(InputError, match=r"t5 would unpack 1,099,511,627,776 numbers from [\d,]+ "):
        cascades.read_cascade(directory)


def test_only_the_parts_that_are_there_are_compared(tmp_path):
    directory = altered_descriptions.copied(tmp_path / "scenes")
    value = altered_descriptions.content()
    wrong = json.loads(json.dumps(value))
    wrong["t5"]["model"]["layers"] = 3
    (directory / cascades.CASCADE).write_text(json.dumps(wrong))
    with pytest.raises(InputError, match="layers of t5 is 3, but its stored arrays have 2"):
        cascades.read_cascade(directory)
    (directory / "t5").rename(tmp_path / "elsewhere")
    assert cascades.read_cascade(directory)[1].t5.model["layers"] == 3
