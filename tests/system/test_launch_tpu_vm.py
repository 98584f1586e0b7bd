"""Test that launch/tpu_vm.sh starts, shows and stops a run on every host.

Folders stand in for the hosts.
"""

import os
import re
import subprocess
import time

import pytest
from launch_scripts import LAUNCH, PATIENT, run


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def hosts(tmp_path):
    """Make two homes with cv3jax in them, and a gcloud that runs its --command in each.

    Returns ({name: value} for the environment, homes).
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
