"""Test that `cv3jax config` prints every field of a recipe, as text, JSON and Markdown."""

import importlib
import json
import re
import subprocess
import sys

import pytest
import subprocesses

from cv3jax import recipes
from cv3jax.commands import compile, config, distill, encode, train
from cv3jax.evaluation.scorers import open_scorers
from cv3jax.fields import Row
from cv3jax.reports import recipe_tables
from data_pipeline.io.errors import InputError

UNKNOWN = "no field 'optim.clipp'; the nearest one is 'optim.clip'"


def test_without_a_recipe_all_are_named_with_a_line_and_their_variants(capsys):
    config.main([])
    said = capsys.readouterr().out
    for name in recipes.recipes():
        assert f"{name}\n  {recipes.summary(name)}\n  {name}:tiny" in said
    assert "  scenes_vae:tiny, scenes_vae:long\n" in said


def test_a_recipe_s_fields_are_printed_with_what_was_changed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    config.main(["scenes_base:tiny", "--config.optim.lr=1", "--config.train.steps=9"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == recipes.summary("scenes_base")
    assert lines[2].split() == ["field", "value", "type", "range", "meaning"]
    assert max(map(len, lines)) <= 150
    assert [line for line in lines if re.fullmatch(r"\w+", line)] == [
        *("mesh", "batch", "data", "model", "objective", "optim", "train"),
        *("profile", "text", "vae", "schedule", "sample"),
    ]
    (lr,) = (" ".join(line.split()) for line in lines if line.startswith("  lr "))
    assert lr == "lr 1.0 (recipe: 0.005) float above 0 Highest learning rate."
    fields = {row.name for row in config.describe("scenes_base:tiny", [])}
    shown = [line for line in lines[3:] if re.match(r"(  )?\w+ +\S", line)]
    assert len(shown) == len(fields) > 60


@pytest.mark.parametrize("width", [80, 110, 150])
def test_the_table_keeps_to_the_terminal(width):
    found = config.describe("distill_relay", [])
    said = recipe_tables.text(found, width)
    assert max(map(len, said.splitlines())) <= width
    words = " ".join(said.split())
    if width < 120:  # each below its field
        assert all(row.meaning in words for row in found)


def test_json_has_every_field_once(tmp_path, capsys):
    overrides = ["--config.optim.lr=1"]
    config.main(["scenes_vae", *overrides, "--json", str(tmp_path / "a.json")])
    capsys.readouterr()
    config.main(["scenes_vae", *overrides, "--json", "-"])
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "a.json").read_text())
    assert found["recipe"] == "scenes_vae"
    fields = {one.pop("field"): one for one in found["fields"]}
    assert len(fields) == len(found["fields"])
    assert fields["optim.lr"] == {
        "value": 1.0,
        "recipe": 0.003,
        "type": "float",
        "range": "above 0",
        "meaning": "Highest learning rate.",
    }
    assert "recipe" not in fields["optim.clip"]
    config.main(["--json", "-"])
    (first, *_) = json.loads(capsys.readouterr().out)["recipes"]
    assert first["variants"] == ["base_256:tiny"]


def test_markdown_has_a_table_for_each_section():
    said = config.markdown("base_512")
    assert "### `optim`\n\n| field | default | type | range | meaning |\n|---|" in said
    assert "| `optim.clip` | `1.0` | float | above 0 | Largest global norm of" in said
    assert said.count("\n| `") == len(config.describe("base_512", []))


def test_a_pipe_in_a_cell_is_no_column():
    row = Row("a.b", "x|y", "str", "any text", "One|two.")
    assert "| `a.b` | `x\\|y` | str | any text | One\\|two. |" in recipe_tables.markdown([row])


def test_a_recipe_given_by_path_may_have_fields_of_its_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from cv3jax.configs import common\n\n\ndef get_config(_=''):\n"
        "    c = common.stage_config()\n    c.optim.mine = 3\n    return c\n"
    )
    found = {row.name: row for row in config.describe(str(tmp_path / "mine.py"), [])}
    assert found["optim.mine"].meaning == "Not read by cv3jax."
    assert found["optim.lr"].meaning == "Highest learning rate."


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["scenes_vae", "--config.data.threads=-1"],
            "config.data.threads = -1: must be at least 0",
        ),
        (["scenes_va"], "unknown recipe 'scenes_va' (nearest: scenes_vae); give a .py"),
        (["--config.a=1"], "--config.a=1: no recipe is named; give its name first"),
        (["scenes_vae:lang"], "unknown variant 'lang'; give tiny or long"),
    ],
)
def test_what_cannot_be_is_refused(argv, said):
    with pytest.raises(InputError) as e:
        config.main(argv)
    assert said in str(e.value)


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        (config, ["scenes_base"]),
        (train, ["--config=scenes_base", "--workdir", "w"]),
        (distill, ["--config=scenes_distill_base", "--workdir", "w"]),
        (compile, ["--config=scenes_base", "--topology", "v5e:2x2"]),
        (
            encode,
            ["--config=scenes_base", "--input", "d", "--checkpoint", "scenes", "--out", "o"],
        ),
    ],
    ids=["config", "train", "distill", "compile", "encode"],
)
def test_every_command_names_the_field_nearest_to_an_unknown_one(
    command, argv, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(UNKNOWN)):
        command.main([*argv, "--config.optim.clipp=1"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "module", "recipe"),
    [
        (train, "cv3jax.training.run", "scenes_base:tiny"),
        (distill, "cv3jax.distillation.run", "scenes_distill_base:tiny"),
    ],
    ids=["train", "distill"],
)
def test_a_run_is_given_what_was_overridden(command, module, recipe, tmp_path, monkeypatch):
    given = []
    ended = {"stage": "base", "steps": 1, "seconds": 1.0, "rounds": [{"steps": 1}]}
    run = importlib.import_module(module)
    monkeypatch.setattr(run, "run", lambda *args: given.extend(args) or ended)
    command.main([f"--config={recipe}", "--workdir", str(tmp_path), "--config.optim.b1=.5"])
    assert given[-2:] == [recipes.Source(recipe, {"optim.b1": 0.9}), open_scorers]


def test_it_takes_less_than_two_seconds_and_no_jax():
    program = (
        "import sys, time; from cv3jax.commands import config;"
        "config.main(['distill_relay', '--config.optim.b1=.5']); config.main([]);"
        "assert time.process_time() < 2, time.process_time();"
        "print(sorted({'jax', 'flax', 'grain', 'orbax'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=subprocesses.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
