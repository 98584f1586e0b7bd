"""Test that the shapes of a model are traced once a version, and kept as JSON."""

import json

import jax
import jax.numpy as jnp
import pytest
import random_cascades

from cv3jax.cascade import kept_shapes, parts
from cv3jax.cascade.kept_shapes import fields_of, kept
from cv3jax.models.unet import UNet

FIELDS = {"class": "Model", "width": 2}
TREE = {
    "a": {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)},
    "b": jax.ShapeDtypeStruct((), jnp.float32),
}


@pytest.fixture
def folder(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    yield tmp_path / "cache" / kept_shapes.FOLDER
    jax.config.update("jax_compilation_cache_dir", before)


def never():
    raise AssertionError("it is kept")


def test_the_second_start_traces_nothing(folder):
    assert kept(FIELDS, lambda: TREE) == TREE
    assert kept(FIELDS, never) == TREE
    (file,) = folder.iterdir()
    assert json.loads(file.read_text()) == {"a/kernel": [[2, 3], "bfloat16"], "b": [[], "float32"]}


def test_the_shapes_of_every_model_come_back(folder):
    known = random_cascades.description()
    traced = {}
    for times in range(2):
        parts.model_shapes.cache_clear()
        found = {part: parts.part_shapes(known, part) for part in known.parts}
        traced = traced or found
        assert found == traced
        assert len(list(folder.iterdir())) == 3, times  # base and relay have the same


@pytest.mark.parametrize("change", ["field", "code", "version"])
def test_what_decides_the_shapes_is_in_the_name(change, folder, monkeypatch):
    kept(FIELDS, lambda: TREE)
    if change == "code":
        monkeypatch.setattr(kept_shapes, "_CODE", ("models",))
        kept_shapes._code.cache_clear()
    if change == "version":
        monkeypatch.setattr(kept_shapes.importlib.metadata, "version", lambda name: "0")
        kept_shapes._code.cache_clear()
    fields = {**FIELDS, "width": 3} if change == "field" else FIELDS
    other = {"c": jax.ShapeDtypeStruct((1,), jnp.float32)}
    try:
        assert kept(fields, lambda: other) == other
    finally:
        kept_shapes._code.cache_clear()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"a": 1}', '{"a": [[1.5], "float32"]}', '{"a": [[1], "nope"]}']
)
def test_a_damaged_file_is_made_again(content, folder):
    kept(FIELDS, lambda: TREE)
    (file,) = folder.iterdir()
    file.write_text(content)
    assert kept(FIELDS, lambda: TREE) == TREE
    assert kept(FIELDS, never) == TREE


def test_where_nothing_can_be_kept_it_is_traced(folder, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    assert kept(FIELDS, lambda: TREE) == TREE
    for place in (None, "gs://bucket/cache"):
        jax.config.update("jax_compilation_cache_dir", place)
        assert kept(FIELDS, lambda: TREE) == TREE
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_models_fields_are_what_its_shapes_depend_on():
    a = fields_of(UNet(channels=64, dtype=jnp.bfloat16), parts.UNDESCRIBED)
    assert a["class"] == "UNet"
    assert (a["channels"], a["dtype"]) == (64, "bfloat16")
    assert not a.keys() & parts.UNDESCRIBED
    json.dumps(a)
