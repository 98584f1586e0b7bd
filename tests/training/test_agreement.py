"""Test that processes of one run with other recipes, data or flags all end before anything."""

import copy
import json
from types import SimpleNamespace

import pytest

import cv3jax
from cv3jax.distributed import processes
from cv3jax.training import agreement
from data_pipeline.io.errors import InputError

RECIPE = {
    "seed": 0,
    "optim": {"lr": 1e-4, "betas": (0.9, 0.99)},
    "data": {"path": "runs/scenes", "threads": 2},
    "train": {"steps": 100},
}
INPUTS = {"data.path": [[{"shards": "a", "sampled": ["b", None]}, 1.0]]}
FLAGS = {"--resume-from": None}


def side(**changes) -> dict:
    """Return what one process was given; a key such as optim__lr is a field."""
    recipe = copy.deepcopy(RECIPE)
    for name, value in changes.items():
        *sections, last = name.split("__")
        place = recipe
        for section in sections:
            place = place[section]
        place[last] = value
    return {"recipe": recipe, "inputs": INPUTS, "flags": FLAGS}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optim__lr": 0.5}, "config.optim.lr is 0.5, not 0.0001"),
        ({"seed": 1}, "config.seed is 1, not 0"),
        ({"train__steps": 99}, "config.train.steps is 99, not 100"),
    ],
)
def test_another_field_is_named(changes, words):
    assert agreement.differences(side(**changes), side()) == [words]


@pytest.mark.parametrize("changes", [{"data__threads": 8}, {"data__path": "/mnt/scenes"}])
def test_a_machine_may_have_its_own_threads_and_paths(changes):
    assert agreement.differences(side(**changes), side()) == []


def test_other_content_is_named_and_a_damaged_record_is_not_other_content():
    def with_data(shards: str, record: str | None) -> dict:
        content = {"shards": shards, "sampled": [record, "c"]}
        return {**side(), "inputs": {"data.path": [[content, 1.0]]}}

    assert agreement.differences(with_data("a", "b"), with_data("a", None)) == []
    for other in (with_data("x", "b"), with_data("a", "x"), {**side(), "inputs": {}}):
        said = agreement.differences(with_data("a", "b"), other)
        assert said[-1] == "the content of config.data.path is another one"


def test_another_flag_is_named():
    theirs = {**side(), "flags": {"--resume-from": 5}}
    assert agreement.differences(side(), theirs) == ["--resume-from is None, not 5"]


@pytest.fixture
def given(monkeypatch):
    """Return a function that calls `check_agreement` as process 1 beside `theirs`."""
    monkeypatch.setattr(agreement, "version", lambda name: "1.0")

    def call(ours: dict, theirs: dict, libraries: str = "1.0") -> list[str]:
        waited = []
        flags = {**theirs["flags"], **dict.fromkeys(("jax", "jaxlib", "flax"), libraries)}
        sent = json.dumps({**theirs, "flags": {**flags, "cv3jax": cv3jax.__version__}})
        peers = SimpleNamespace(
            index=1, share=lambda name, value: json.loads(sent), barrier=waited.append
        )
        monkeypatch.setattr(processes, "_peers", peers)
        agreement.check_agreement(ours["recipe"], ours["inputs"], ours["flags"])
        return waited

    return call


def test_a_process_that_differs_ends_before_the_others_begin(given):
    assert given(side(), side()) == ["agreed"]  # a tuple arrives as a list
    with pytest.raises(
        InputError,
        match=r"process 1 has other settings than process 0: config.optim.lr is 0.5, not 0.0001;"
        r" config.seed is 3, not 0; give all processes the same command",
    ):
        given(side(optim__lr=0.5, seed=3), side())
    with pytest.raises(InputError, match=r"jax is 1.0, not 0.9"):
        given(side(), side(), libraries="0.9")


def test_a_process_alone_agrees_with_itself():
    assert processes.peers() is None
    agreement.check_agreement(RECIPE, INPUTS, FLAGS)
