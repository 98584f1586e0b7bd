"""The scripts that start processes on a machine, run: launch/local.sh, task.sh, and tpu_vm.sh, for
which folders stand in as hosts.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
# says UP, and at SIGTERM SAVED before it ends with CODE; a second SIGTERM is counted
PATIENT = """
trap 'echo TERM; ended=yes' TERM
echo UP
for i in {1..600}; do
  if [ -n "${ended:-}" ]; then sleep 0.3; echo SAVED; exit ${CODE:-0}; fi
  sleep 0.1
done
"""
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


def environment(**extra):
    return {**os.environ, "PAUSE": "0", **extra}


def run(script, *args, **extra):
    return subprocess.run(
        [LAUNCH / script, *args],
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=120,
    )


def start(script, *args, **extra):
    """In a session of its own, so that it can be signalled as a whole."""
    return subprocess.Popen(
        [LAUNCH / script, *args],
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def read_until(process, *lines):
    """Reads what it prints until each of `lines` came."""
    missing = list(lines)
    while missing:
        line = process.stdout.readline()
        assert line, f"it ended without {missing}"
        if line.strip() in missing:
            missing.remove(line.strip())


def test_local_processes_are_one_run(tmp_path):
    fixed = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "LOGS": str(tmp_path / "logs")}
    done = run("local.sh", "-n", "2", "-r", "0", "--", sys.executable, "-c", TOGETHER, **fixed)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / "logs" / f"{i}.log").read_text().splitlines()[-1] for i in range(2)] == [
        "SUM 3 OF 2"
    ] * 2


def test_local_one_process_is_not_told_of_others():
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
    """Those that do not end when told are killed after GRACE."""
    dies = f"""
trap 'echo TOLD; exit 0' TERM
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
    assert done.stdout == "TOLD\n"


@pytest.mark.parametrize(("code", "starts"), [(0, 1), (2, 1), (7, 3)])
def test_local_starts_again_after_failures(code, starts):
    done = run("local.sh", "-r", "2", "--", "bash", "-c", f"echo UP; exit {code}")
    assert (done.returncode, done.stdout) == (code, "UP\n" * starts)


def test_local_starts_nothing_again_where_any_process_was_refused(tmp_path):
    """Not even where another one failed first."""
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


def test_local_goes_on_after_one_failure(tmp_path):
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


@pytest.fixture
def hosts(tmp_path):
    """Two homes with cv3jax in them, and a gcloud that runs its --command in each: ({name: value}
    for the environment, homes).
    """
    homes = [tmp_path / f"host{i}" for i in range(2)]
    for home in homes:
        (home / "cv3jax" / ".venv" / "bin").mkdir(parents=True)
        (home / "cv3jax" / "launch").symlink_to(LAUNCH)
        command = home / "cv3jax" / ".venv" / "bin" / "cv3jax"
        command.write_text(f'#!/bin/bash\necho "given: $#: $*"\n{PATIENT}')
        command.chmod(0o755)
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(f"""#!/bin/bash
echo "$@" >>{tmp_path}/calls
for option; do
  case $option in
    --worker=*) worker=${{option#*=}} ;;
    --command=*) command=${{option#*=}} ;;
  esac
done
for i in 0 1; do
  if [ "$worker" = all ] || [ "$worker" = $i ]; then
    (cd {tmp_path}/host$i && HOME=$PWD bash -c "$command") || failed=yes
  fi
done
[ -z "${{failed:-}}" ]
""")
    gcloud.chmod(0o755)
    yield {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, homes
    for home in homes:
        if (home / "cv3jax" / ".pid").exists() and (
            leader := int((home / "cv3jax" / ".pid").read_text())
        ):
            subprocess.run(["kill", "-KILL", "--", f"-{leader}"], capture_output=True, check=False)


def test_tpu_vm_starts_shows_and_stops_every_host(hosts):
    path, homes = hosts
    words = ("pod", "--zone=here", "--project=p")
    began = run("tpu_vm.sh", *words, "--", "cv3jax", "train", "--note=it's $HOME", **path)
    assert (began.returncode, began.stderr) == (0, "")
    logs = [home / "cv3jax" / "launch.log" for home in homes]
    until(lambda: all("UP" in log.read_text() for log in logs))
    assert all("given: 2: train --note=it's $HOME\n" in log.read_text() for log in logs)

    twice = run("tpu_vm.sh", *words, "--", "cv3jax", "train", **path)
    assert twice.returncode != 0
    assert twice.stderr.count("one is running") == 2

    assert run("tpu_vm.sh", *words, "--logs", **path).stdout == logs[0].read_text()
    assert run("tpu_vm.sh", *words, "--stop", **path).returncode == 0
    until(lambda: all("stopped (exit code 0)" in log.read_text() for log in logs))
    assert [(log.read_text().count("TERM\n"), log.read_text().count("SAVED")) for log in logs] == [
        (1, 1),
        (1, 1),
    ]
    calls = re.findall(
        r"^compute tpus tpu-vm ssh pod --worker=(\w+) --zone=here --project=p --command=",
        (homes[0].parent / "calls").read_text(),
        re.M,
    )
    assert calls == ["all", "all", "0", "all"]


@pytest.mark.parametrize(
    "args", [(), ("--zone=here", "--", "true"), ("pod", "--zone=here"), ("pod", "--")]
)
def test_tpu_vm_bad_usage_is_one_line(hosts, args):
    done = run("tpu_vm.sh", *args, **hosts[0])
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert not (hosts[1][0].parent / "calls").exists()
