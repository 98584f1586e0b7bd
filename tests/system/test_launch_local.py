"""Test the scripts that start processes on one machine.

They are launch/local.sh, task.sh, and slurm.sh outside Slurm.
"""

import os
import re
import signal
import sys

import pytest
from launch_scripts import PATIENT, read_until, run, start

TOGETHER = """
import jax
from jax.experimental.multihost_utils import process_allgather
import os
address, count, index = (
    os.environ["JAX_" + name] for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")
)
jax.distributed.initialize(address, int(count), int(index))
total = process_allgather(jax.numpy.array(jax.process_index() + 1)).sum()
print("SUM", total, "OF", jax.process_count())
"""


def test_local_processes_are_one_run(tmp_path):
    fixed = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "LOGS": str(tmp_path / "logs")}
    done = run("local.sh", "-n", "2", "-r", "0", "--", sys.executable, "-c", TOGETHER, **fixed)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / "logs" / f"{i}.log").read_text().splitlines()[-1] for i in range(2)] == [
        "SUM 3 OF 2"
    ] * 2


def test_local_a_single_process_gets_no_coordinator():
    done = run("local.sh", "--", "bash", "-c", "env; exit 0")
    assert done.returncode == 0
    assert not [
        line
        for line in done.stdout.splitlines()
        if line.startswith(("JAX_COORDINATOR", "JAX_NUM_PROC", "JAX_PROCESS_ID"))
    ]


def test_local_shares_gpus(tmp_path):
    listing = tmp_path / "nvidia-smi"
    listing.write_text('#!/bin/sh\nfor i in 0 1 2 3; do echo "GPU $i: NVIDIA H200"; done\n')
    listing.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    say = ("bash", "-c", "echo $JAX_PROCESS_ID has $JAX_LOCAL_DEVICE_IDS")
    assert sorted(run("local.sh", "-n", "2", "--", *say, PATH=path).stdout.splitlines()) == [
        "0 has 0,1",
        "1 has 2,3",
    ]
    uneven = run("local.sh", "-n", "3", "--", *say, PATH=path)
    assert (uneven.returncode, uneven.stdout) == (2, "")
    assert "4 GPUs cannot be shared evenly by 3 processes" in uneven.stderr


def test_local_names_the_process_that_died_and_ends_the_others(tmp_path):
    """Processes that ignore SIGTERM are killed after GRACE."""
    dies = f"""
trap 'echo SIGNALLED; exit 0' TERM
if [ $JAX_PROCESS_ID = 2 ]; then trap '' TERM; fi
touch {tmp_path}/$JAX_PROCESS_ID
if [ $JAX_PROCESS_ID = 1 ]; then
  until [ -e {tmp_path}/0 ] && [ -e {tmp_path}/2 ]; do sleep 0.05; done
  exit 9
fi
for i in {{1..600}}; do sleep 0.1; done
"""
    done = run("local.sh", "-n", "3", "-r", "0", "--", "bash", "-c", dies, GRACE="1")
    assert done.returncode == 9
    assert "process 1 of 3: exit code 9" in done.stderr
    assert "process 2 of 3: exit code 137" in done.stderr
    assert done.stdout == "SIGNALLED\n"


@pytest.mark.parametrize(("code", "starts"), [(0, 1), (2, 1), (7, 3)])
def test_local_starts_again_after_failures(code, starts):
    done = run("local.sh", "-r", "2", "--", "bash", "-c", f"echo UP; exit {code}")
    assert (done.returncode, done.stdout) == (code, "UP\n" * starts)


def test_local_starts_nothing_again_where_any_process_was_refused(tmp_path):
    """This holds even if another process failed first."""
    wait = (
        f"if [ $JAX_PROCESS_ID = 0 ]; then until [ -e {tmp_path}/up ]; do sleep 0.05; done; exit"
        " 7; fi"
    )
    refused = (
        f"trap 'exit 2' TERM; {wait}; touch {tmp_path}/up; for i in {{1..600}}; do sleep 0.1; done"
    )
    done = run("local.sh", "-n", "2", "--", "bash", "-c", refused)
    assert done.returncode == 2
    assert "process 0 of 2: exit code 7" in done.stderr
    assert "again" not in done.stderr


def test_local_continues_after_one_failure(tmp_path):
    fails_once = f"if mkdir {tmp_path}/$JAX_PROCESS_ID; then exit 3; fi; echo $JAX_PROCESS_ID"
    done = run("local.sh", "-n", "2", "--", "bash", "-c", fails_once)
    assert done.returncode == 0, done.stderr
    # of the last start; one that was stopped may have got this far before
    assert sorted(done.stdout.split()[-2:]) == ["0", "1"]


@pytest.mark.parametrize("processes", [1, 2])
def test_local_passes_a_sigterm_on_once(processes):
    with start("local.sh", "-n", str(processes), "--", "bash", "-c", PATIENT) as running:
        read_until(running, *["UP"] * processes)
        running.send_signal(signal.SIGTERM)
        read_until(running, *["TERM"] * processes)
        running.send_signal(signal.SIGTERM)
        rest = running.communicate(timeout=60)[0]
    assert running.returncode == 0
    assert rest.count("SAVED") == processes
    assert "TERM\n" not in rest
    assert "UP" not in rest


def test_local_where_all_are_signalled_passes_nothing_on():
    with start("local.sh", "-n", "2", "--", "bash", "-c", PATIENT, TASK_SIGNALS="all") as running:
        read_until(running, "UP", "UP")
        os.killpg(running.pid, signal.SIGTERM)
        rest = running.communicate(timeout=60)[0]
    assert running.returncode == 0
    assert (rest.count("TERM\n"), rest.count("SAVED")) == (2, 2)


@pytest.mark.parametrize(
    "args", ["", "--", "-n 0 -- true", "-n two -- true", "-r -1 -- true", "-x", "-n"]
)
def test_local_bad_usage_is_one_line(args):
    done = run("local.sh", *args.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("launch/local.sh: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("code", [0, 1, 2, 143])
def test_task_passes_exit_codes_on(code):
    done = run("task.sh", "--", "bash", "-c", f"echo out; exit {code}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "out\n", "")


@pytest.mark.parametrize(
    ("signals", "code", "expected"), [("", 0, 75), ("", 1, 75), ("", 2, 2), ("all", 0, 75)]
)
def test_task_says_that_it_was_stopped(signals, code, expected):
    with start(
        "task.sh", "--", "bash", "-c", PATIENT, TASK_SIGNALS=signals, CODE=str(code)
    ) as running:
        read_until(running, "UP")
        if signals:
            os.killpg(running.pid, signal.SIGTERM)
        else:
            running.send_signal(signal.SIGTERM)
            read_until(running, "TERM")
            running.send_signal(signal.SIGTERM)
        rest = running.communicate(timeout=60)[0]
    assert running.returncode == expected
    assert rest.count("SAVED") == 1
    assert rest.count("TERM\n") == bool(signals)
    assert ("exit 75" in rest) == (expected == 75)


def test_task_copies_its_output(tmp_path):
    done = run("task.sh", "bash", "-c", "echo out; echo err >&2", LOGS=str(tmp_path / "logs"))
    [log] = (tmp_path / "logs").iterdir()
    assert sorted(log.read_text().split()) == sorted(done.stdout.split()) == ["err", "out"]


def test_task_without_a_command():
    done = run("task.sh", "--")
    assert done.returncode == 2
    assert "no command" in done.stderr


@pytest.mark.parametrize("script", ["task.sh", "slurm.sh", "local.sh", "tpu_vm.sh", "xpk.sh"])
def test_help_is_what_stands_at_the_top(script):
    done = run(script, "--help")
    assert done.returncode == 0
    assert re.fullmatch(rf".*launch/{script} .*-- COMMAND\.\.\.", done.stdout.splitlines()[0])
    assert not {"#", "set"} & set(done.stdout.split())


def test_slurm_s_script_outside_slurm():
    done = run("slurm.sh", "--", "true")
    assert done.returncode == 2
    assert "not in a Slurm job; start it with sbatch" in done.stderr
