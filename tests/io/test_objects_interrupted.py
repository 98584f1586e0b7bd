"""Test uploads of outputs and datasets that were killed or failed, and what is left out of them."""

import pytest

from data_pipeline.cli import main
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects import reading, snapshots
from data_pipeline.io.objects.lease import NAME as LEASE
from data_pipeline.io.objects.outputs import output
from data_pipeline.io.objects.places import place_of
from data_pipeline.io.objects.store import Store
from data_pipeline.records.records import open_records
from data_pipeline.scenes import command
from data_pipeline.scenes.dataset import build

KEPT = {"dataset", "dataset.json"}  # of a dataset that is to be published


def failing(patch) -> None:
    """Let the upload of dataset_info.json fail; all other files are uploaded."""
    upload = Store.upload

    def lost(self, path, name):
        if name != "dataset_info.json":
            upload(self, path, name)

    patch.setattr(Store, "upload", lost)
    patch.setattr(snapshots, "TRIES", 1)


def names(address: str) -> set[str]:
    return {*Store(address).sizes("")} - {LEASE}


def scenes(address: str, shards: int, *more: str) -> None:
    main(["scenes", "--num=6", "--size=32", f"--shards={shards}", "--out", address, *more])


def test_a_failed_first_upload_is_followed_by_another(bucket, tmp_path):
    address = f"{bucket}/first"
    with pytest.MonkeyPatch.context() as patch:
        failing(patch)
        with pytest.raises(OSError, match="stored cut"):
            scenes(address, 3)
    assert snapshots.read_tree(Store(address))[0] == {}
    assert sum(".array_record-" in name for name in names(address)) == 3
    with pytest.raises(InputError, match="nothing was published there"):
        reading.local(address)
    (tmp_path / "x").write_text("theirs")
    Store(address).upload(tmp_path / "x", "x")
    with pytest.raises(InputError, match="that no command of cv3jax published"):
        scenes(address, 1)
    Store(address).remove(["x"])
    scenes(address, 1)
    assert sum(".array_record-" in name for name in names(address)) == 1
    assert names(address) == {*snapshots.read_tree(Store(address))[0], snapshots.NAME}
    assert len(open_records(reading.local(address))) == 6


def test_a_dataset_that_was_not_published_is_not_made_again(bucket, monkeypatch, capsys):
    address = f"{bucket}/kept"
    with pytest.MonkeyPatch.context() as patch:
        failing(patch)
        with pytest.raises(OSError, match="stored cut"):
            scenes(address, 3)
    built = []
    monkeypatch.setattr(command, "build", lambda *a, **b: built.append(a) or build(*a, **b))
    scenes(address, 3)
    assert not built
    out, err = capsys.readouterr()
    assert "it is published now" in err
    assert f"6 scenes of the train split in {address}" in out
    assert len(open_records(reading.local(address))) == 6
    assert {path.name for path in place_of(address).iterdir()}.isdisjoint(KEPT)
    scenes(address, 3, "--overwrite")
    assert len(built) == 1


def test_another_command_makes_its_own_dataset(bucket):
    address = f"{bucket}/other"
    with pytest.MonkeyPatch.context() as patch:
        failing(patch)
        with pytest.raises(OSError, match="stored cut"):
            scenes(address, 3)
    assert {path.name for path in place_of(address).iterdir()} > KEPT
    scenes(address, 2)
    assert sum(".array_record-" in name for name in names(address)) == 2


def test_links_are_left_out_and_kept_here(bucket, tmp_path, capsys):
    address = f"{bucket}/links"
    (tmp_path / "secret").write_text("of this machine")
    with output(address) as out:
        (out / "0.png").write_text("0")
        (out / "dangling").symlink_to(tmp_path / "nothing")
        (out / "elsewhere").symlink_to(tmp_path / "secret")
    assert names(address) == {"0.png", snapshots.NAME}
    assert (place_of(address) / "work" / "elsewhere").exists()
    assert f"elsewhere looks unfinished or is a link, and is not in {address}" in (
        capsys.readouterr().err
    )


def test_only_names_that_end_as_unfinished_ones_do_are_left_out(tmp_path):
    folder = tmp_path / "1.orbax-checkpoint-tmp-17"
    folder.mkdir()
    (folder / "a").write_text("")
    for name in ("x.partial", "x.tmp", "x.tmp.12", "x.12.writing", "my.partial_x2.png", "a.tmpl"):
        (tmp_path / name).write_text("")
    assert snapshots.whole(tmp_path).keys() == {"my.partial_x2.png", "a.tmpl"}
