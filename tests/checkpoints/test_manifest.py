"""Test that a manifest detects every change of its directory and names the file."""

import json

import pytest

from cv3jax.checkpoints import manifest


@pytest.fixture
def written(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "values").write_bytes(b"0123456789")
    (tmp_path / "tree").write_text("names")
    manifest.write(tmp_path)
    return tmp_path


def test_a_directory_as_it_was_written_is_whole(written):
    assert manifest.damage(written) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"0123456780", "values"),  # another byte
        (b"012345678", "d/values has 9 bytes where 10 were written"),
        (None, "d/values is missing"),
    ],
)
def test_a_damaged_file_is_named(written, content, said):
    if content is None:
        (written / "d" / "values").unlink()
    else:
        (written / "d" / "values").write_bytes(content)
    assert said in manifest.damage(written)


def test_a_damaged_name_in_the_manifest_is_not_taken_for_a_missing_file(written):
    path = written / manifest.NAME
    path.write_text(path.read_text().replace("d/values", "d/valuez"))
    assert json.loads(path.read_text())
    assert manifest.damage(written) == f"{manifest.NAME} differs from what was written"


def test_a_directory_without_a_manifest_is_not_whole(tmp_path):
    assert manifest.damage(tmp_path) == f"{manifest.NAME} is missing"
