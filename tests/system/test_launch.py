"""Test what holds for all scripts of launch/, and how launch/xpk.sh calls XPK."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SHELL = [*sorted(LAUNCH.glob("*.sh")), ROOT / ".ci" / "run"]
COMMAND = ["cv3jax", "train", "--config=base_512", '--workdir=/runs/it\'s $(HOME) "here"']
CACHE, SIZE = "JAX_COMPILATION_CACHE_DIR", "CV3JAX_COMPILED_GB"
SAY = f'echo "${{{CACHE}:-none}} ${{{SIZE}:-none}}"'


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_shellcheck(script):
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program, "shellcheck is missing; it comes with pip install '.[dev]'"
    done = subprocess.run([program, "--severity=style", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def xpk(tmp_path, *args):
    """Return the arguments with which launch/xpk.sh calls xpk."""
    program = tmp_path / "xpk"
    program.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    return subprocess.run(
        [LAUNCH / "xpk.sh", *args],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_xpk(tmp_path):
    """XPK runs its --command in a shell."""
    tpu = json.loads(xpk(tmp_path, "--cluster=c", "--tpu-type=v5p-4x8x8", "--", *COMMAND).stdout)
    assert tpu[:2] == ["workload", "create"]
    assert {
        "--cluster=c",
        "--tpu-type=v5p-4x8x8",
        "--restart-on-exit-codes=1,75",
        "--max-restarts=20",
    } < set(tpu)
    assert shlex.split(tpu[-1].removeprefix("--command=")) == [
        "exec",
        "/cv3jax/launch/task.sh",
        "--",
        *COMMAND,
    ]
    assert not [word for word in tpu if word.startswith("--env")]


@pytest.mark.parametrize(
    "device", [["--device-type=h100-mega-80gb-8"], ["--device-type", "h200-141gb-8"]]
)
def test_xpk_tells_gpu_processes_their_places(tmp_path, device):
    gpu = json.loads(
        xpk(tmp_path, "--cluster=c", *device, "--num-nodes=4", "--", "cv3jax", "train").stdout
    )
    variables = dict(
        word.removeprefix("--env=").split("=", 1) for word in gpu if word.startswith("--env=")
    )
    assert set(variables) == {"JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"}
    assert variables["JAX_PROCESS_ID"] == "$(NODE_RANK)"


def test_xpk_without_a_command(tmp_path):
    done = xpk(tmp_path, "--cluster=c", "--")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no command" in done.stderr


def test_every_place_is_in_the_document():
    text = (ROOT / "docs" / "scale" / "launch.md").read_text()
    assert [
        path.name
        for path in LAUNCH.iterdir()
        if path.is_file() and f"launch/{path.name}" not in text
    ] == []


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (("--workdir=/runs/base",), "/runs/.cache/xla"),
        (("--workdir", "/runs/stages/base/"), "/runs/stages/.cache/xla"),
        (("--workdir=runs/base", "--workdir=runs/last"), f"{ROOT}/runs/.cache/xla"),
        (("--workdir=gs://bucket/runs/base",), "gs://bucket/runs/.cache/xla"),
        (("--workdir=s3://bucket/base",), "s3://bucket/.cache/xla"),
        (("--workdir=s3://bucket",), "none"),
        ((), "none"),
    ],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("script", ["task.sh", "local.sh"])
def test_compiled_programs_stay_beside_the_workdir(script, arguments, kept):
    command = [LAUNCH / script, "--", "sh", "-c", SAY, "x"]
    env = {name: x for name, x in os.environ.items() if name not in (CACHE, SIZE)}
    size = "none" if kept == "none" else "20"
    # somebody's own directory may have the programs of others
    for given, found in (({}, f"{kept} {size}"), ({CACHE: "/mine"}, "/mine none")):
        done = subprocess.run(
            [*command, *arguments], env={**env, **given}, cwd=ROOT, capture_output=True, text=True
        )
        assert done.stdout == f"{found}\n", done.stderr


def test_the_launchers_keep_programs_in_the_same_way():
    """Slurm runs a copy of its script, which finds no other file."""
    blocks = {
        re.search(r"^# compiled programs stay.*?^fi$", path.read_text(), re.MULTILINE | re.DOTALL)[
            0
        ]
        for path in (LAUNCH / "task.sh", LAUNCH / "local.sh", LAUNCH / "slurm.sh")
    }
    assert len(blocks) == 1
