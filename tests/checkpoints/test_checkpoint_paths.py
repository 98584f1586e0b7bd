"""Test the paths of checkpoints, and that an incomplete checkpoint never gets its final name."""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bad_input import refused

from cv3jax.checkpoints import cascades, manifest, paths, runs, streaming, writing
from data_pipeline.io.errors import InputError

TREE = {"a": {"kernel": jnp.ones((4, 4)), "bias": jnp.zeros(3)}, "b": jnp.arange(5), "c": 1.0}
LIKE = jax.eval_shape(lambda: TREE)
PATTERNS = ["a[1]", "[ab]", "a*", "a**b", "wh?t", "back\\slash", "a[b/c]d", "new [2024-01] run"]
PLAIN = ["a]b", "{a}", "a b", "a%20b", "a#b", "$a", "a:b", "a~", "ä熊", "a\nb", "-a", "a,b@c"]


class _Data:
    def get_state(self):
        return {"next_index": 1}


def _save_run(directory):
    manager = runs.open_manager(directory)
    try:
        runs.save(manager, 1, TREE, _Data(), {"config": {}})
        runs.finish(manager)
    finally:
        manager.close()


def _save_leaves(directory):
    leaf = streaming.Leaf((4, 4), np.dtype(np.float32), lambda: np.ones((4, 4), np.float32))
    cascades.save_part(directory, {"a": leaf, "b": {"c": leaf}})


SAVES = {
    "run": _save_run,
    "part": lambda directory: cascades.save_part(directory, TREE),
    "leaves": _save_leaves,
}
READS = {
    "run": runs.open_manager,
    "part": lambda directory: cascades.load_part(directory, LIKE),
    "leaves": streaming.open_tree,
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("act", [*SAVES.values(), *READS.values()])
def test_a_path_that_orbax_would_glob_is_refused(name, act, tmp_path):
    with pytest.raises(InputError, match=f"{re.escape(name)}.* as a pattern; give a directory"):
        act(tmp_path / name / "vae")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("train", "--config=scenes_vae:tiny --workdir {}"),
        (
            "distill",
            "--config=scenes_distill_base:tiny --workdir {} --config.cascade=scenes_teacher",
        ),
        ("quickstart", "--workdir {} --tiny"),
        ("convert", "--vae v.safetensors --out {}"),
    ],
)
def test_a_command_refuses_it_before_the_work(command, line, tmp_path, monkeypatch, capsys):
    """Relative paths are refused too if their folder has such a name."""
    (tmp_path / "run [2]").mkdir()
    for place, folder in ((tmp_path, "a[1]"), (tmp_path / "run [2]", "w")):
        monkeypatch.chdir(place)
        (place / "v.safetensors").touch()
        before = sorted(tmp_path.rglob("*"))
        refused(command, line.format(folder).split(" "), capsys, "treats [ as a pattern")
        assert sorted(tmp_path.rglob("*")) == before


def test_other_names_are_written_and_read(tmp_path):
    for name in PLAIN:
        cascades.save_part(tmp_path / name / "vae", TREE)
        back = cascades.load_part(tmp_path / name / "vae", LIKE)
        assert jax.tree.all(jax.tree.map(np.array_equal, TREE, back)), name


@pytest.mark.parametrize("name", ["a[1]", "[x-z]y", "back\\slash"])
@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_what_lacks_arrays_is_not_signed(name, save, tmp_path, monkeypatch):
    """The check of names is switched off.

    Then orbax writes every array to such a path, but the checkpoint does not collect them.
    """
    monkeypatch.setattr(paths, "_PATTERN", re.compile("(?!)"))
    (tmp_path / name).mkdir()
    with pytest.raises(OSError, match=r"of its \d arrays were not written, such as a"):
        save(tmp_path / name / "vae")
    assert not list(tmp_path.rglob(manifest.NAME))
    assert not [path for path in (tmp_path / name).rglob("*") if path.name in ("1", "_METADATA")]


@pytest.mark.parametrize("lost", ["manifest.ocdbt", "d"])
def test_parts_are_counted_in_the_store(lost, tmp_path):
    cascades.save_part(tmp_path / "vae", TREE)
    writing.check_parts(tmp_path / "vae")
    (tmp_path / "vae" / lost).rename(tmp_path / "lost")
    with pytest.raises(OSError, match=r"4 of its 4|cannot be read again"):
        writing.check_parts(tmp_path / "vae")
