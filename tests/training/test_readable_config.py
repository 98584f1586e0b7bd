"""Test that a run's config.yaml has its config, all meanings and the overridden fields."""

import yaml

from cv3jax import recipes
from cv3jax.distillation.parsing import recipe_fields
from cv3jax.training.readable_config import NAME, keep_config, yaml_of

CHANGES = [{"step": 4, "field": "optim.lr", "was": 0.005, "now": 1.0}]


def asked(spec: str, *fields: str):
    """Return (config, fields' meanings, source) of a recipe."""
    config = recipes.load(spec, [f"--config.{field}" for field in fields])
    values = recipes.to_json(config)
    return values, recipe_fields(values), recipes.source(spec, config)


def test_the_file_is_the_config_and_marks_what_differs_from_the_recipe():
    for name in recipes.recipes():
        values, fields, source = asked(name)
        said = yaml_of(values, fields, source, [])
        assert yaml.safe_load(said) == values
        assert f"# Recipe: {name}; changed: nothing\n" in said
        assert "CHANGED" not in said
    odd = "data.path=runs/a # b: 'c'"
    values, fields, source = asked(
        "scenes_base:tiny", odd, "optim.lr=1", "sample.prompts=('a: b',)"
    )
    said = yaml_of(values, fields, source, CHANGES)
    assert yaml.safe_load(said) == values
    assert "# Recipe: scenes_base:tiny; changed: data.path, optim.lr, sample.prompts\n" in said
    assert "# From step 4 on: optim.lr was 0.005, is 1.0\n" in said
    assert "  lr: 1.0  # CHANGED from 0.005. Highest learning rate. (above 0)\n" in said
    assert (
        "  clip: 1.0  # Largest global norm of a gradient; a gradient with a larger norm is scaled"
        " down to it. (above 0)\n" in said
    )
    assert said.count("CHANGED") == 3


def test_a_recipe_with_fields_of_its_own_keeps_them_in_their_section():
    values = {"stage": "base", "optim": {"lr": 1.0, "own": [1]}, "own": {"x": {"y": 2}}, "z": None}
    said = yaml_of(values, recipe_fields(values), None, [])
    assert yaml.safe_load(said) == values
    assert "Recipe" not in said


def test_it_is_written_again_only_where_it_changes(tmp_path):
    first = asked("scenes_base:tiny")
    keep_config(tmp_path, *first, [])
    path = tmp_path / NAME
    before = path.stat().st_ino
    keep_config(tmp_path, *first, [])
    assert path.stat().st_ino == before
    keep_config(tmp_path, *asked("scenes_base:tiny", "train.steps=9"), [])
    assert yaml.safe_load(path.read_text())["train"]["steps"] == 9
    path.unlink()
    keep_config(tmp_path, *first, [])
    assert yaml.safe_load(path.read_text()) == first[0]
    assert [one.name for one in tmp_path.iterdir()] == [NAME]
