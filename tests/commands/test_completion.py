"""Test shell completion by argcomplete: commands, flags and values, without importing JAX."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import subprocesses

from cv3jax import __main__, cli
from cv3jax.commands import completion

# a shell asks in a process of its own, and reads what descriptor 8 gets
PROGRAM = """
import os, sys
from cv3jax import cli
leave = os._exit
def check(code):
    heavy = {"jax", "flax", "orbax", "tensorflow_datasets", "apache_beam"} & {*sys.modules}
    leave(code or bool(heavy))
os._exit = check
cli.main()
"""


def completed(line: str, folder: Path) -> list[str]:
    """Return the completions of the last word of a command line."""
    answer = folder / "answer"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SHELL": "bash",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=subprocesses.environment(**asked),
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return answer.read_text().split("\n")


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("cv3jax ", {"sample", "train", "data"}, {"pack"}),
        ("cv3jax data ", {"pack", "build", "encode"}, {"sample", "analyse", "merge"}),
        ("cv3jax judge-people ", {"serve", "analyse"}, {"pack", "merge"}),
        ("cv3jax lora ", {"merge", "inspect"}, {"pack", "analyse"}),
        ("cv3jax sample --ch", {"--checkpoint"}, {"--prompt"}),
        ("cv3jax sample --checkpoint s", {"scenes", "scenes_teacher"}, set()),
        ("cv3jax train --config scenes_", {"scenes_vae", "scenes_base"}, {"base_512"}),
        ("cv3jax data build --near", {"--near-radius"}, {"--min-side"}),
    ],
)
def test_what_tab_shows(line, some, none, tmp_path):
    shown = {*completed(line, tmp_path)}
    assert some <= shown
    assert not none & shown


def test_only_the_command_in_the_line_is_imported(monkeypatch):
    asked = []
    parser_of = cli.parser_of
    monkeypatch.setattr(completion, "parser_of", lambda name: asked.append(name) or parser_of(name))
    completion.parser_for("cv3jax data pack --in")
    completion.parser_for('cv3jax sample --prompt "a small')  # a quote that is still open
    completion.parser_for("cv3jax ")
    assert asked == ["data pack", "sample"]


def test_the_script_is_marked_for_argcomplete_s_global_hook():
    with open(__main__.__file__, encoding="utf-8") as file:
        assert "PYTHON_ARGCOMPLETE_OK" in file.read(1024)
    assert "_ARGCOMPLETE" not in os.environ
