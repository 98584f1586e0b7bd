"""Test that files of an earlier version are still read.

They are a dataset, a feature cache, runs, cascades and a recipe. written_before/README.md says how
they were made.
"""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_runs
from PIL import Image
from states import leaves, named_leaves, untimed

from cv3jax import recipes
from cv3jax.cascade.pipeline import load
from cv3jax.checkpoints import cascades, runs
from cv3jax.checkpoints.fingerprint import encoder_fingerprint, parts_fingerprint
from cv3jax.commands import sample, train
from cv3jax.training.metrics import read_lines
from cv3jax.training.parsing import stage_defaults
from data_pipeline.records.feature_cache import open_cache
from data_pipeline.records.records import open_records

BEFORE = Path(__file__).parent / "written_before"
EXPECTED = json.loads((BEFORE / "expected.json").read_text())
VARIANTS = ("", ":autoencoder", ":distilled")
OFF = {
    "data.shuffle": "global",
    "data.cache_gb": 100.0,
    "objective.huber_c": 0.1,
    "objective.huber_schedule": "constant",
    "objective.timesteps": "uniform",
    "objective.timestep_mean": 0.0,
    "objective.timestep_spread": 1.0,
    "optim.turns": 1,
    "optim.renew": 1,
}
# XLA's order of additions depends on the processor's vectors, the number of devices and the passes
# that are on, so that figures and pictures of another machine are the same but for their last bits.
# A step from other parameters, moments or records is off by a hundred times as much.
RELATIVE, LEVELS = 1e-4, 1


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Return the directory in which the earlier version's commands ran, as they left it."""
    folder = tmp_path_factory.mktemp("written")
    with tarfile.open(BEFORE / "runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    shutil.copy(BEFORE / "pebbles.py", folder)
    return folder


@pytest.fixture(autouse=True)
def _there(written, monkeypatch):
    monkeypatch.chdir(written)


def digest(value: Any) -> str:
    """Return the SHA-256 of nested dicts and lists; arrays by dtype, shape and bytes."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        if isinstance(value, bytes):
            return hashlib.sha256(value).hexdigest()
        if isinstance(value, (np.ndarray, np.generic, jax.Array)):
            array = np.asarray(value)
            return [str(array.dtype), list(array.shape), plain(array.tobytes())]
        return value

    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def movement(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the root of summed squares by which a step moves each tree of a train state."""
    assert before.keys() == after.keys()
    found: dict[str, float] = {}
    for name in before:
        apart = after[name].astype(np.float64) - before[name].astype(np.float64)
        tree = name.split("/")[0]
        found[tree] = found.get(tree, 0.0) + float(np.sum(apart**2))
    return {tree: value**0.5 for tree, value in found.items()}


def test_the_records_are_the_same():
    assert [digest(record) for record in open_records("scenes")] == EXPECTED["records"]


def test_a_feature_cache_is_that_of_its_records():
    encoded = open_cache("encoded", open_records("scenes"))
    assert [digest(record) for record in encoded] == EXPECTED["encoded"]
    directory, description = cascades.read_cascade("base")
    for part, field in (("vae", "latents"), ("t5", "text")):
        made_by = encoded.identity[field][part]
        assert encoder_fingerprint(directory, description, part) == made_by


def test_a_job_is_of_the_same_parts():
    assert parts_fingerprint("base", ("vae", "t5", "base")) == EXPECTED["parts"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_recipe_says_the_same(variant):
    """Only fields that did not exist are added, and they are switched off.

    Of evaluations, eval_every and others are numbers, of nothing while two fields are empty. Those
    of OFF are of nothing while another field is off, or name what was always done.
    """
    ours = recipes.to_json(recipes.load(f"pebbles.py{variant}", []))
    theirs = EXPECTED["recipe"][variant]
    assert not ours["train"]["eval_data"]
    assert not ours["train"]["eval_metrics"]
    for field in [name for name in ours["train"] if name.startswith("eval_")]:
        del ours["train"][field]
    for section in (name for name in ours if isinstance(ours[name], dict)):
        for field in ours[section].keys() - theirs[section].keys():
            value, name = ours[section].pop(field), f"{section}.{field}"
            assert value == OFF[name] if name in OFF else not value, name
            assert value == stage_defaults(ours["stage"])[name], name  # of older checkpoints
    assert recipes.differences(ours, theirs) == []


@pytest.mark.parametrize("workdir", ["vae", "base", "distilled"])
def test_a_cascade_has_the_same_parameters(workdir):
    _, description = cascades.read_cascade(workdir)
    assert description.to_json() == EXPECTED["cascade"][workdir]
    params = load(workdir).params
    assert {part: digest(named_leaves(tree)) for part, tree in params.items()} == (
        EXPECTED["parameters"][workdir]
    )


def test_a_description_of_format_1_is_widened(tmp_path):
    """That format lacks the width of a stage's text features."""
    now = EXPECTED["cascade"]["base"]
    then = json.loads(json.dumps({**now, "format": 1}))
    del then["stages"]["base"]["text_width"]
    (tmp_path / cascades.CASCADE).write_text(json.dumps(then))
    assert cascades.read_cascade(tmp_path)[1].to_json() == {**now, "format": 1}


def test_a_cascade_draws_the_same_pictures():
    prompt = "a large red circle"
    words = ["--prompt", prompt, "--num", "2", "--seed", "7", "--out", "drawn"]
    sample.main(["--checkpoint", "base", *words])
    names = sorted(path.name for path in BEFORE.glob("*.png"))
    assert sorted(path.name for path in Path("drawn").iterdir()) == names
    for name in names:
        ours, theirs = (
            np.asarray(Image.open(folder / name)).astype(int) for folder in (Path("drawn"), BEFORE)
        )
        if name == "contact_sheet.png":  # its labels are measured by now
            assert ours.ndim == theirs.ndim
            continue
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= LEVELS, name


def test_a_run_resumes():
    """The step after the checkpoint is that of the earlier version.

    It has the same parameters, moments and records.
    """
    shutil.copytree("base", "later")
    fields = ("data.path=scenes", "cascade=vae", "train.steps=3")
    words = ["--config=pebbles.py", "--workdir=later", *(f"--config.{field}" for field in fields)]
    with tiny_runs.devices(1):  # the batch of 2 is not one for eight
        train.main(words)
    lines = read_lines(Path("later") / "metrics.jsonl")
    assert lines[:2] == read_lines(Path("base") / "metrics.jsonl")
    (line,) = untimed(lines[2:])
    assert line.pop("lr") > 0  # earlier versions did not write it
    assert line == pytest.approx(EXPECTED["next"], rel=RELATIVE)
    assert runs.steps(Path("later") / "checkpoints") == [3]
    moved = movement(leaves(Path("base"), 2), leaves(Path("later"), 3))
    assert moved == pytest.approx(EXPECTED["moved"], rel=RELATIVE)
