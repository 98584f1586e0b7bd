"""Test that a changed cascade.json is noticed, and that earlier ones without a digest are read."""

import contextlib
import json
import random

import altered_descriptions as altered
import pytest

from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import CascadeDescription
from data_pipeline.io.errors import InputError


@pytest.fixture
def file(tmp_path):
    """Return a cascade.json that was written as of a trained cascade."""
    directory = altered.copied(tmp_path / "scenes")
    cascades.write_cascade(directory, CascadeDescription.from_json(altered.content(), "x"))
    return directory / cascades.CASCADE


def read(file) -> dict:
    return cascades.read_cascade(file.parent)[1].to_json()


def test_each_of_many_flips_is_noticed_or_changes_nothing(file):
    data, before, noticed = file.read_bytes(), read(file), 0
    rng = random.Random(0)
    for _ in range(60):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(flipped)
        with contextlib.suppress(InputError):
            assert read(file) == before
            continue
        noticed += 1
    assert noticed > 30


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (("stages", "relay"), "start", 7),
        (("stages", "base"), "prediction", "eps"),
        (("stages", "base"), "form", "paper"),
        (("stages", "base", "model"), "head_dim", 16),
        (("stages", "base", "model"), "groups", 32),
        (("vae",), "scale", 0.5),
        (("t5",), "length", 9),
    ],
)
def test_a_changed_field_is_refused_unless_its_digest_is_removed(file, section, field, value):
    told = json.loads(file.read_text())
    changed = altered.section_of(told, section)
    assert changed[field] != value
    changed[field] = value
    file.write_text(json.dumps(told))
    with pytest.raises(
        InputError, match=r"cascade\.json is not as it was written: its sha256"
    ) as e:
        read(file)
    assert "remove its field sha256" in str(e.value)
    del told["sha256"]
    file.write_text(json.dumps(told))
    assert altered.section_of(read(file), section)[field] == value


def test_other_blanks_and_another_order_are_no_change(file):
    told, before = json.loads(file.read_text()), read(file)
    file.write_text(json.dumps(dict(reversed(told.items())), indent=7))
    assert read(file) == before


@pytest.mark.parametrize("digest", [None, 1, "", [], "0" * 64])
def test_a_digest_of_another_form_is_refused(file, digest):
    told = json.loads(file.read_text())
    file.write_text(json.dumps({**told, "sha256": digest}))
    with pytest.raises(InputError, match="is not as it was written"):
        read(file)


def test_what_is_packaged_is_read_with_or_without_a_digest(file):
    file.write_text(json.dumps(altered.content()))
    assert "sha256" not in altered.content()
    assert read(file)["stages"]


def test_each_packaged_cascade_has_its_digest():
    for name in cascades.packaged():
        told = json.loads((cascades.PACKAGED / name / cascades.CASCADE).read_text())
        assert told.pop("sha256") == cascades.digest_of(told), name
