"""Test that every command that reads an adapter refuses hostile files of it in one line.

The exit code is 2, nothing is written, no reader waits, and nothing of a name or header reaches the
terminal as it is.
"""

import importlib
import os
import signal

import pytest
from bad_adapters import CASES, GOOD
from hostile_adapters import NAME, PLACES

from cv3jax import cli
from cv3jax.adapters import formats

SECONDS = 60  # in which each ends, however busy the machine is
SCENES = "--checkpoint scenes"
# "{lora}": the hostile file; "{good}": a right one; "{out}": what would be written
READERS = {
    "lora inspect": "--lora {lora}",
    "lora convert": "--lora {lora} --to kohya --out {out}.safetensors",
    "lora compare": "--lora {good} --lora {lora}",
    "lora merge": f"{SCENES} --lora {{lora}} --out {{out}}",
    "sample": f"{SCENES} --lora {{lora}} --prompt x --out {{out}}",
}
# where nothing says for which model it must be, what fits another one is right
ALONE = ("lora inspect", "lora convert", "lora compare")
OTHERS = {"unknown module", "conv for a matrix", "other width", "another model's", "SDXL's"}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.safetensors"
    formats.write(path, GOOD, "native")
    return path


@pytest.fixture
def hurry():
    """End a command that waits."""

    def late(number, frame):
        raise AssertionError(f"it has not ended after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def ended(command, argv, capsys) -> tuple[int, list[str]]:
    """Run a command in this process; return its exit code and its lines on stderr."""
    main = importlib.import_module(cli.COMMANDS[command][0]).main
    try:
        cli.run_command(main, argv)
        code = 0
    except SystemExit as e:
        code = e.code
    err = capsys.readouterr().err
    assert not {*err} & {"\x1b", "\u202e"}
    return code, [line for line in err.splitlines() if not line.endswith(" ...")]


def words(line: str, **places: object) -> list[str]:
    return [word.format(**places) for word in line.split(" ")]


def refused(command, argv, capsys) -> str:
    code, lines = ended(command, argv, capsys)
    assert (code, len(lines)) == (2, 1), lines
    assert lines[0].startswith("cv3jax: ")
    assert len(lines[0]) < 1500
    return lines[0]


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("name", PLACES)
def test_a_hostile_place(name, command, good, hurry, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    path = PLACES[name](tmp_path / "in")
    argv = words(READERS[command], lora=path, good=good, out=tmp_path / "out")
    line = refused(command, argv, capsys)
    assert "--lora" in line or str(path / "adapter_config.json") in line
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("name", PLACES)
def test_a_hostile_place_in_a_server_s_folder(name, hurry, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    PLACES[name](tmp_path / "in")
    argv = [*SCENES.split(), "--port=0", "--lora-dir", str(tmp_path / "in")]
    assert "--lora" in refused("serve", argv, capsys)


@pytest.mark.parametrize("command", [*READERS, "serve"])
@pytest.mark.parametrize("name", CASES)
def test_a_bad_file(name, command, good, hurry, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    path = CASES[name][0](tmp_path / "in")
    if command == "serve":
        (tmp_path / "loras").mkdir()
        end = "" if path.is_dir() else ".safetensors"
        (tmp_path / "loras" / f"a{end}").symlink_to(path)
        argv = [*SCENES.split(), "--port=0", "--lora-dir", str(tmp_path / "loras")]
        if name == ".pt":  # under a name that says nothing of pickles it is a right file
            return
    else:
        argv = words(READERS[command], lora=path, good=good, out=tmp_path / "out")
    if command in ALONE and name in OTHERS:
        code, lines = ended(command, argv, capsys)
        assert code == 0 or (code, len(lines)) == (2, 1), lines
        return
    refused(command, argv, capsys)
    assert not [each for each in os.listdir(tmp_path) if each.startswith("out")]


def test_a_server_refuses_names_that_no_request_can_give(good, hurry, tmp_path, capsys):
    (tmp_path / NAME).symlink_to(good)
    argv = [*SCENES.split(), "--port=0", "--lora-dir", str(tmp_path)]
    line = refused("serve", argv, capsys)
    assert r"a\x1b[2J\u202e\nb' is no name that a request can give" in line
