"""The five walks of CONTRIBUTING.md name files that are there, and none visits a room twice."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def walks(text: str) -> dict[str, list[str]]:
    """Title → the files of each walk, in order; a bare name is of the folder before it."""
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
    """The rooms in the order of the walk, without repetitions in a row."""
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
