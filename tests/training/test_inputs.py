"""Test that the inputs of a run are identified by their content.

They are datasets, mixtures, feature caches, encoders and a learned distance.
"""

import json
import shutil

import pytest
from tiny_runs import scenes

from cv3jax import recipes
from cv3jax.checkpoints import cascades
from cv3jax.distillation.parsing import parse_distillation
from cv3jax.distillation.resume import distill_inputs
from cv3jax.training.inputs import stage_inputs
from cv3jax.training.parsing import parse_stage
from data_pipeline.io.errors import InputError
from data_pipeline.scenes import dataset


def inputs(stage: str, *fields: str) -> dict:
    given = [f"--config.{field}" for field in fields]
    return stage_inputs(parse_stage(recipes.load(f"scenes_{stage}:tiny", given)))


@pytest.fixture
def moved(tmp_path):
    """Return the scenes and a copy of them."""
    return scenes(), shutil.copytree(scenes(), tmp_path / "moved")


@pytest.fixture
def cascade(tmp_path):
    """Return a copy of the packaged cascade."""
    return shutil.copytree(cascades.PACKAGED / "scenes", tmp_path / "cascade")


def test_moved_data_are_the_same_data(moved, tmp_path):
    here, there = moved
    assert inputs("vae", f"data.path={here}") == inputs("vae", f"data.path={there}")
    mixed = [inputs("vae", f"data.path={a}:3,{b}:1") for a, b in ((here, there), (there, here))]
    assert mixed[0] == mixed[1]
    assert mixed[0] != inputs("vae", f"data.path={here}:1,{there}:1")  # other shares
    assert mixed[0] != inputs("vae", f"data.path={here}")
    dataset.build(tmp_path / "other", dataset.SceneSettings(64, 9, "train", size=64))
    assert inputs("vae", f"data.path={here}") != inputs("vae", f"data.path={tmp_path}/other")


def test_moved_encoders_are_the_same_encoders_and_other_ones_at_the_same_path_are_not(
    moved, cascade
):
    data = f"data.path={moved[0]}"
    here = inputs("base", data, "cascade=scenes")
    assert inputs("base", data, f"cascade={cascade}") == here
    shutil.rmtree(cascade / "relay")  # no encoder
    assert inputs("base", data, f"cascade={cascade}") == here
    for part in ("vae", "t5"):
        changed = cascade.with_name(part)
        shutil.copytree(cascade, changed)
        path = changed / part / "manifest.json"
        path.write_text(path.read_text() + " ")
        assert inputs("base", data, f"cascade={changed}")["cascade"] != here["cascade"]


def test_a_feature_cache_and_a_learned_distance_are_known_by_what_they_hold(moved, tmp_path):
    here, _ = moved
    here_cache, there_cache = tmp_path / "a", tmp_path / "b"
    for place in (here_cache, there_cache):
        shutil.copytree(here, place)
        (place / "encoded.json").write_text(json.dumps({"latents": {"vae": "x"}}))
    given = (f"data.path={here}", "cascade=scenes")
    found = [inputs("base", *given, f"data.cache={place}") for place in (here_cache, there_cache)]
    assert found[0] == found[1]
    (there_cache / "encoded.json").write_text(json.dumps({"latents": {"vae": "y"}}))
    assert inputs("base", *given, f"data.cache={there_cache}") != found[0]
    weights = [tmp_path / "lpips.safetensors", tmp_path / "moved.safetensors"]
    for path in weights:
        path.write_bytes(b"weights")
    one, two = (inputs("vae", given[0], f"objective.perceptual={path}") for path in weights)
    assert one == two
    weights[1].write_bytes(b"others")
    assert inputs("vae", given[0], f"objective.perceptual={weights[1]}") != one


def test_the_teacher_of_a_distillation_is_one_of_them(moved, cascade):
    def of(*fields):
        given = [f"--config.{field}" for field in (f"data.path={moved[0]}", *fields)]
        return distill_inputs(parse_distillation(recipes.load("scenes_distill_base", given)))

    here = of("cascade=scenes_teacher")
    assert of("cascade=scenes_teacher", "init_from=scenes_teacher") != here
    teacher = shutil.copytree(cascades.PACKAGED / "scenes_teacher", cascade.with_name("teacher"))
    assert of(f"cascade={teacher}") == here
    named = of(f"cascade={teacher}", f"init_from={teacher}")
    path = teacher / "base" / "manifest.json"
    path.write_text(path.read_text() + " ")
    assert of(f"cascade={teacher}")["cascade"] != here["cascade"]
    other = of(f"cascade={teacher}", f"init_from={teacher}")
    assert other["cascade"] == named["cascade"]  # its encoders
    assert other["init_from"] != named["init_from"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ((), "config.data.path is not set"),
        (("data.path=/none",), "config.data.path: no records at /none"),
        (("data.path=/none:1,/neither:2",), "config.data.path: no records at /none"),
        (("data.path=a:0,b:1",), "'a:0' is not a dataset"),
    ],
)
def test_nothing_at_a_path_is_said_as_ever(fields, said):
    with pytest.raises(InputError, match=said):
        inputs("vae", *fields)
