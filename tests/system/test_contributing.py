"""Test CONTRIBUTING.md: its walks name existing files and visit no folder twice.

Its steps for new recipes, samplers and objectives are run.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cv3jax import recipes
from cv3jax.training.parsing import parse_stage
from data_pipeline.io.errors import InputError

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def walks(text: str) -> dict[str, list[str]]:
    """Return the files of each walk in order, by its title.

    A bare name belongs to the folder of the name before it.
    """
    section = text.split("## Five walks")[1].split("\n## ")[0]
    found = {}
    for part in section.split("\n**")[1:]:
        folder, files = "", []
        for line in part.splitlines()[1:]:
            for name in re.findall(r"`([\w/]+\.py)`", line):
                folder = name.rpartition("/")[0] or folder
                files.append(name if "/" in name else f"{folder}/{name}")
        found[part.split("**")[0]] = files
    return found


def rooms(files: list[str]) -> list[str]:
    """Return the folders in the order of the walk, without repetitions in a row."""
    passed = []
    for file in files:
        room = "/".join(file.split("/")[:2]) if file.count("/") > 1 else file
        if passed[-1:] != [room]:
            passed.append(room)
    return passed


def test_there_are_five():
    assert len(walks(TEXT)) == 5


@pytest.mark.parametrize("name", walks(TEXT))
def test_a_walk_s_files_are_there_and_no_room_comes_twice(name):
    files = walks(TEXT)[name]
    assert len(files) >= 5
    assert [file for file in files if not (ROOT / file).is_file()] == []
    passed = rooms(files)
    assert len(passed) == len(set(passed))


def test_a_room_that_comes_twice_is_seen():
    text = "## Five walks\n**a**\n- `cv3jax/a/b.py` → `c.py`\n- `cv3jax/d/e.py`, `cv3jax/a/f.py`"
    assert rooms(walks(text)["a"]) == ["cv3jax/a", "cv3jax/d", "cv3jax/a"]


def test_files_and_tests_that_it_names_are_there():
    named = set(
        re.findall(r"`((?:tests|benchmarks|configs|cv3jax|data_pipeline)/[\w/]+\.\w+)`", TEXT)
    )
    named -= {"configs/NAME.py"}
    assert len(named) > 30
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
    tests = set(re.findall(r"`(test_\w+)`", TEXT))
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(tests) >= 4
    assert [name for name in sorted(tests) if f"def {name}(" not in sources] == []
    targets = set(re.findall(r"`?make ([a-z][\w-]+)", TEXT)) - {"mutants"}
    assert {"setup", "lint", "test-unit", "test-all"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    assert [name for name in sorted(targets) if f"\n{name}:" not in makefile] == []


def test_a_recipe_of_one_s_own_is_a_file_as_it_says(tmp_path):
    """Step 1 of "How to add a recipe", for a file that is not in the package."""
    recipe = (ROOT / "configs" / "base_512.py").read_text().replace("200_000", "7")
    (tmp_path / "mine.py").write_text(recipe)
    settings = parse_stage(recipes.load(f"{tmp_path}/mine.py", []))
    assert (settings.train.steps, settings.data.image_size) == (7, 512)
    assert parse_stage(recipes.load(f"{tmp_path}/mine.py:tiny", [])).batch.size == 8


# the rows' names, as "How to add a sampler" and "How to add an objective" have one write them
NEW_ROWS = """
from cv3jax import diffusion
diffusion.FORMS += ("new",)
diffusion.WEIGHTINGS += ("new",)
diffusion.NORMS += ("new",)
from cv3jax import recipes
from cv3jax.training.parsing import parse_stage
fields = ("sample.form", "objective.weighting", "objective.norm")
settings = parse_stage(recipes.load("scenes_relay", [f"--config.{name}=new" for name in fields]))
print(settings.sample.form, settings.objective.weighting, settings.objective.norm)
"""


def test_the_name_of_a_new_row_is_a_value_that_recipes_take():
    for field in ("sample.form", "objective.weighting", "objective.norm"):
        with pytest.raises(InputError, match=rf"config\.{field} = new: must be one of"):
            parse_stage(recipes.load("scenes_relay", [f"--config.{field}=new"]))
    done = subprocess.run([sys.executable, "-c", NEW_ROWS], capture_output=True, text=True)
    assert done.stdout == "new new new\n", done.stderr[-2000:]
