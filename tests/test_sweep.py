"""Sweeps: one command a point, each of which `cv3jax train` reads back as the point it stands for."""

import runpy
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_runs

from cv3jax import recipe
from cv3jax.metrics import read_lines
from data_pipeline.errors import InputError

SCRIPT = Path(__file__).parent.parent / "launch" / "sweep.py"
OVERRIDES = ["--config.data.path=runs/my scenes", "--config.optim.lr=3e-4"]


@pytest.fixture(scope="module")
def commands():
    return runpy.run_path(str(SCRIPT))["commands"]


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(SCRIPT))["main"]


def parse(command):
    """A command as the train command parses it: (config, workdir)."""
    program, name, *argv = command
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


def test_launcher_stands_in_front(main, capsys):
    launcher = 'python launch/gke.py --name="ablation-{index}" --'
    main(["--config=relay_1024", "--workdir", "runs/a b", "--launcher", launcher, "--", "--config.optim.lr=1e-4"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    for i, line in enumerate(lines):
        assert line.startswith(f'python launch/gke.py --name="ablation-{i}" -- cv3jax train --config=relay_1024 ')
        assert shlex.split(line)[-3].startswith("runs/a b/schedule.start=")


def test_launcher_and_run_exclude_each_other(main, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--config=relay_1024", "--workdir", "runs/a", "--run", "--launcher=srun"])
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.slow
def test_runs_end_at_what_is_refused(tmp_path):
    """The data is missing, so the first point is refused; no other is tried."""
    done = run("--config=scenes_relay:tiny", "--workdir", str(tmp_path / "never"), "--run", "--", "--config.data.path=no/such",
               "--config.cascade=no/such")  # fmt: skip
    assert done.returncode == 2
    assert "at point 1 of 6" in done.stderr
    assert "point 2 of 6" not in done.stderr
    assert not (tmp_path / "never").exists()


@pytest.mark.slow
def test_points_run_one_after_the_other_and_go_on_where_they_were_stopped(tmp_path):
    """Three points: one that is stopped in its middle, one that fails, and one that runs all the same."""
    steps = 60
    sweep = 'def sweep(): yield from ({"optim.lr": 1e-4}, {"optim.lr": float("inf")}, {"optim.lr": 2e-4})'
    spec = tmp_path / "mine.py"
    spec.write_text(f"from cv3jax.configs import scenes_vae\ndef get_config(arg): return scenes_vae.get_config('tiny')\n{sweep}\n")
    fields = tiny_runs.argv("vae", tmp_path, f"train.steps={steps}", "train.save_every=100000", *tiny_runs.ALONE)[3:]
    command = [sys.executable, str(SCRIPT), f"--config={spec}", "--workdir", str(tmp_path / "runs"), "--run", "--", *fields]
    metrics = [tmp_path / "runs" / f"optim.lr={lr}" / "metrics.jsonl" for lr in ("0.0001", "inf", "0.0002")]

    with subprocess.Popen(command, env=tiny_runs.environment(), stderr=subprocess.PIPE, text=True) as sweep:
        end = time.monotonic() + 300
        while not (metrics[0].exists() and len(read_lines(metrics[0])) > 5):
            assert sweep.poll() is None, sweep.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.1)
        sweep.send_signal(signal.SIGTERM)
        said = sweep.communicate(timeout=120)[1]
    assert sweep.returncode == 143
    assert "stopped by SIGTERM, at point 1 of 3" in said
    assert not metrics[1].parent.exists()

    again = subprocess.run(command, env=tiny_runs.environment(), capture_output=True, text=True, timeout=600)
    assert again.returncode == 1
    assert "failed: point 2 (exit code 1)" in again.stderr
    assert [[line["step"] for line in read_lines(metrics[i])] for i in (0, 2)] == [list(range(1, steps + 1))] * 2


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
