"""Sweeps: one command a point, each of which `cv3jax train` reads back as the point it stands for."""

import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cv3jax import recipe
from data_pipeline.errors import InputError

SCRIPT = Path(__file__).parent.parent / "launch" / "sweep.py"
OVERRIDES = ["--config.data.path=runs/my scenes", "--config.optim.lr=3e-4"]


@pytest.fixture(scope="module")
def commands():
    return runpy.run_path(str(SCRIPT))["commands"]


def parse(command):
    """A printed command as the train command parses it: (config, workdir)."""
    program, name, *argv = shlex.split(command)
    assert (program, name) == ("cv3jax", "train")
    args, overrides = recipe.parser("train", "", "").parse_known_args(argv)
    return recipe.load(args.config, overrides), args.workdir


def write_recipe(path, sweep):
    path.write_text(f"from cv3jax.configs import relay_1024\nget_config = relay_1024.get_config\n{sweep}\n")
    return str(path)


def run(*args):
    return subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("spec", "own"), [("relay_1024", []), ("relay_1024:tiny", []), ("scenes_relay", [40])])
def test_relay_starts(commands, spec, own):
    configs, workdirs = zip(*(parse(line) for line in commands(spec, Path("runs/an ablation"), OVERRIDES)))
    assert [c.schedule.start for c in configs] == [*own, 200, 400, 500, 600, 800]
    assert all(c.data.path == "runs/my scenes" and c.optim.lr == 3e-4 for c in configs)
    assert len(set(workdirs)) == len(configs)
    assert workdirs[-1] == Path("runs/an ablation/schedule.start=800")


def test_other_types_survive_the_shell(commands, tmp_path):
    point = {"model.channel_mult": (1, 2, 4), "objective.weighting": "min_snr", "data.flip": True, "optim.lr": 1e-5}
    [line] = commands(write_recipe(tmp_path / "mine.py", f"def sweep(): yield {point}"), tmp_path, [])
    config, workdir = parse(line)
    assert config.model.channel_mult == (1, 2, 4)
    assert (config.objective.weighting, config.data.flip, config.optim.lr) == ("min_snr", True, 1e-5)
    assert workdir.parent == tmp_path


def test_command_line():
    done = run("--config=relay_1024", "--workdir", "runs/ablation", "--", "--config.data.path=runs/scenes")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 5
    assert "--config.data.path=runs/scenes" in done.stdout


def test_recipe_without_a_sweep():
    done = run("--config=scenes_base", "--workdir", "runs/ablation")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no sweep()" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("sweep", "overrides", "message"),
    [
        ('def sweep(): yield {"schedule.begin": 1}', [], "begin"),
        ('def sweep(): yield {"schedule.start": "early"}', [], "start"),
        ('def sweep(): yield from ({"schedule.start": 7}, {"schedule.start": 7})', [], "share the workdir"),
        ('def sweep(): yield {"schedule.start": 7}', ["--config.schedule.start=9"], "sets this field itself"),
        ("def sweep(): return []", [], "has no sweep()"),
    ],
)
def test_bad_sweeps_print_nothing(commands, tmp_path, sweep, overrides, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
        commands(write_recipe(tmp_path / "bad.py", sweep), tmp_path, overrides)
