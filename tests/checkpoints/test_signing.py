"""Test that a save is hashed while it is written, and that processes share the verification."""

import json

import jax
import jax.numpy as jnp
import pytest
from toy_runs import numbers

from cv3jax.checkpoints import manifest, runs, signing


def entries(checkpoint) -> dict:
    return json.loads((checkpoint / manifest.NAME).read_text())["files"]


def test_files_are_hashed_while_others_are_written(tmp_path, monkeypatch):
    manager = runs.open_manager(tmp_path)
    seen, settled = [], manifest.settled
    monkeypatch.setattr(
        manifest, "settled", lambda files: seen.append(set(files)) or settled(files)
    )
    signer = signing.Signer(tmp_path, "[0-9]*")
    place = tmp_path / f"3{signing.UNFINISHED}" / "state" / "ocdbt.process_0" / "d"
    place.mkdir(parents=True)
    (place / "one").write_bytes(b"1")
    (place / f"two{signing.LOCKED}").write_bytes(b"2")
    (place.parent / "manifest.ocdbt").write_bytes(b"3")
    signer.begin()
    while not any(seen):
        pass
    (place / f"two{signing.LOCKED}").rename(place / "two")
    signer._sign()
    name = "state/ocdbt.process_0"
    assert seen[0] == {f"{name}/d/one"}
    assert {f"{name}/d/two", f"{name}/manifest.ocdbt"} <= set.union(*seen[1:])
    assert f"{name}/d/one" not in set.union(*seen[1:])
    assert manifest.damage(tmp_path / f"3{signing.UNFINISHED}") is None
    manager.close()


def test_a_file_that_changes_after_it_was_hashed_is_hashed_again(tmp_path):
    signer = signing.Signer(tmp_path, "3")
    file = tmp_path / f"3{signing.UNFINISHED}" / "ocdbt.process_0" / "d" / "one"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"1")
    before = signer._hash(tmp_path / f"3{signing.UNFINISHED}")
    file.write_bytes(b"22")
    assert signer._hash(tmp_path / f"3{signing.UNFINISHED}") != before


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_of_a_manifest_are_all_files_and_find_the_damage(count, tmp_path):
    for number in range(7):
        (tmp_path / f"{number}").write_bytes(bytes(100 * number))
    manifest.write(tmp_path)
    shares = [(i, count) for i in range(count)]
    assert [manifest.damage(tmp_path, share) for share in shares] == [None] * count
    (tmp_path / "4").write_bytes(bytes(399) + b"x")
    found = [manifest.damage(tmp_path, share) for share in shares]
    assert [each for each in found if each] == ["4 differs from what was written"]


def test_the_manifest_of_a_run_has_every_file(tmp_path):
    manager = runs.open_manager(tmp_path)
    for step in (1, 2):  # the second begins while the first may still be written
        runs.save(manager, step, {"w": jnp.arange(4096.0)}, numbers(), {})
    runs.finish(manager)
    manager.close()
    for step in (1, 2):
        whole = tmp_path / str(step)
        found = {path.relative_to(whole) for path in whole.rglob("*") if path.is_file()}
        covered = {str(path) for path in found if path.name not in manifest._OTHERS}
        assert entries(whole).keys() == covered
        assert manifest.damage(whole) is None
    assert jax.process_index() == 0
