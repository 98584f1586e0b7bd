"""Test that a sweep has one command for each point, which `cv3jax train` parses as that point."""

import runpy
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cv3jax import recipes
from cv3jax.commands import train
from data_pipeline.io.errors import InputError

SCRIPT = Path(__file__).parents[2] / "launch" / "sweep.py"
OVERRIDES = ["--config.data.path=runs/my scenes", "--config.optim.lr=3e-4"]


@pytest.fixture(scope="module")
def commands():
    return runpy.run_path(str(SCRIPT))["commands"]


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(SCRIPT))["main"]


def parse(command):
    """Return (config, workdir) of a command as the train command parses it."""
    program, name, *argv = command
    assert (program, name) == ("cv3jax", "train")
    args, overrides = train.parser().parse_known_args(argv)
    return recipes.load(args.config, overrides), args.workdir


def write_recipe(path, sweep):
    path.write_text(
        f"from cv3jax.configs import relay_1024\nget_config = relay_1024.get_config\n{sweep}\n"
    )
    return str(path)


def run(*args):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *args], capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize(
    ("spec", "own"), [("relay_1024", []), ("relay_1024:tiny", []), ("scenes_relay", [40, 40, 40])]
)
def test_relay_starts(commands, spec, own):
    configs, workdirs = zip(
        *(parse(line) for line in commands(spec, Path("runs/an ablation"), OVERRIDES)), strict=True
    )
    assert [c.schedule.start for c in configs] == [*own, 200, 400, 500, 600, 800]
    assert all(c.data.path == "runs/my scenes" and c.optim.lr == 3e-4 for c in configs)
    assert len(set(workdirs)) == len(configs)
    assert workdirs[-1] == Path("runs/an ablation/schedule.start=800")


def test_other_types_survive_the_shell(commands, tmp_path):
    point = {
        "model.channel_mult": (1, 2, 4),
        "objective.weighting": "min_snr",
        "data.flip": True,
        "optim.lr": 1e-5,
    }
    [line] = commands(
        write_recipe(tmp_path / "mine.py", f"def sweep(): yield {point}"), tmp_path, []
    )
    config, workdir = parse(line)
    assert config.model.channel_mult == (1, 2, 4)
    assert (config.objective.weighting, config.data.flip, config.optim.lr) == (
        "min_snr",
        True,
        1e-5,
    )
    assert workdir.parent == tmp_path


def test_command_line():
    done = run(
        "--config=relay_1024", "--workdir", "runs/ablation", "--", "--config.data.path=runs/scenes"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 5
    assert "--config.data.path=runs/scenes" in done.stdout


def test_launcher_stands_in_front(main, capsys):
    launcher = 'python launch/gke.py --name="ablation-{index}" --'
    main(
        [
            "--config=relay_1024",
            "--workdir",
            "runs/a b",
            "--launcher",
            launcher,
            "--",
            "--config.optim.lr=1e-4",
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    for i, line in enumerate(lines):
        assert line.startswith(
            f'python launch/gke.py --name="ablation-{i}" -- cv3jax train --config=relay_1024 '
        )
        assert shlex.split(line)[-3].startswith("runs/a b/schedule.start=")


def test_launcher_and_run_exclude_each_other(main, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--config=relay_1024", "--workdir", "runs/a", "--run", "--launcher=srun"])
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.slow
def test_runs_end_at_what_is_refused(tmp_path):
    """The data is missing, so the first point is refused and no other is tried."""
    done = run(
        "--config=scenes_relay:tiny",
        "--workdir",
        str(tmp_path / "never"),
        "--run",
        "--",
        "--config.data.path=no/such",
        "--config.cascade=no/such",
    )
    assert done.returncode == 2
    assert "at point 1 of 8" in done.stderr
    assert "point 2 of 6" not in done.stderr
    assert not (tmp_path / "never").exists()


# stands in for `python -m cv3jax train … --workdir DIR`: a first point that takes long and
# saves when it is signalled, a second that fails
STAND_IN = """#!/bin/bash
for last; do case $before in --workdir) workdir=$last ;; esac; before=$last; done
mkdir -p "$workdir"
trap 'echo TERM >>"$workdir/log"; touch "$workdir/saved"; sleep 0.3; exit 0' TERM
echo start >>"$workdir/log"
case $workdir in
  *=200)
    if [ -e "$workdir/saved" ]; then exit 0; fi
    for i in {1..600}; do sleep 0.1; done
    ;;
  *=400) exit 1 ;;
esac
"""
WITH_STAND_IN = (
    "import runpy, sys; sys.executable = sys.argv.pop(1); runpy.run_path(sys.argv.pop(1),"
    " run_name='__main__')"
)


def test_points_run_one_after_the_other_and_resume(tmp_path):
    program = tmp_path / "python"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    command = [
        sys.executable,
        "-c",
        WITH_STAND_IN,
        program,
        SCRIPT,
        "--config=relay_1024",
        "--workdir",
        tmp_path,
        "--run",
    ]

    def log(start):
        path = tmp_path / f"schedule.start={start}" / "log"
        return path.read_text().split() if path.exists() else []

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as sweep:
        end = time.monotonic() + 600
        while not log(200):
            assert sweep.poll() is None, sweep.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.05)
        sweep.send_signal(signal.SIGTERM)
        while "TERM" not in log(200):
            time.sleep(0.05)
        sweep.send_signal(signal.SIGTERM)  # is not passed on: it would end the save
        said = sweep.communicate(timeout=60)[1]
    assert sweep.returncode == 143
    assert "stopped by SIGTERM, at point 1 of 5" in said
    assert [log(start) for start in (200, 400)] == [["start", "TERM"], []]

    again = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert again.returncode == 1
    assert again.stderr.endswith(
        "sweep: failed points: 2 (exit code 1); run the same command to try them again\n"
    )
    assert [log(start) for start in (200, 400, 500, 800)] == [
        ["start", "TERM", "start"],
        ["start"],
        ["start"],
        ["start"],
    ]


def test_recipe_without_a_sweep():
    done = run("--config=base_512", "--workdir", "runs/ablation")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no sweep()" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("sweep", "overrides", "message"),
    [
        ('def sweep(): yield {"schedule.begin": 1}', [], "begin"),
        ('def sweep(): yield {"schedule.start": "early"}', [], "start"),
        (
            'def sweep(): yield from ({"schedule.start": 7}, {"schedule.start": 7})',
            [],
            "have the same workdir",
        ),
        (
            'def sweep(): yield {"schedule.start": 7}',
            ["--config.schedule.start=9"],
            "sets this field itself",
        ),
        ("def sweep(): return []", [], "has no sweep()"),
    ],
)
def test_bad_sweeps_print_nothing(commands, tmp_path, sweep, overrides, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
        commands(write_recipe(tmp_path / "bad.py", sweep), tmp_path, overrides)
