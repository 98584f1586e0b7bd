"""Test that a changed letter in a cascade's tokenizer is noticed, and moves no fingerprint."""

import shutil

import pytest

from cv3jax.cascade.parts import read_tokenizer
from cv3jax.checkpoints import cascades, manifest
from cv3jax.checkpoints.fingerprint import encoder_fingerprint
from data_pipeline.io.errors import InputError


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(cascades.PACKAGED / "scenes", tmp_path / "scenes")
    return tmp_path / "scenes"


@pytest.mark.parametrize("name", cascades.packaged())
def test_the_packaged_tokenizers_have_a_manifest_that_fits(name):
    assert manifest.damage(cascades.PACKAGED / name / "t5" / "tokenizer") is None


def test_a_changed_word_is_named(folder):
    place = folder / "t5" / "tokenizer" / "tokenizer.json"
    text = place.read_text()
    assert "circle" in text
    place.write_text(text.replace("circle", "circel"))
    with pytest.raises(InputError, match=r"tokenizer\.json differs from what was written"):
        read_tokenizer(*cascades.read_cascade(folder))


def test_a_tokenizer_without_a_manifest_is_read_and_has_the_same_fingerprint(folder):
    directory, description = cascades.read_cascade(folder)
    before = encoder_fingerprint(directory, description, "t5")
    (folder / "t5" / "tokenizer" / manifest.NAME).unlink()
    assert encoder_fingerprint(directory, description, "t5") == before
    assert read_tokenizer(directory, description)(["a red circle"]).shape[0] == 1
