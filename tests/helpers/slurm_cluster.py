"""Run a private Slurm cluster of one machine in a folder.

It runs munged, slurmctld and slurmd of Debian's slurm-wlm as the user who runs the tests. It has
two partitions for tests of preemption: a job in `urgent` has the jobs in `normal` requeued, GRACE
seconds after SIGTERM.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DAEMONS = ("munged", "slurmctld", "slurmd")
SYSTEM = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where they are, which is in root's PATH only
GRACE = 120
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=normal Nodes=ALL Default=YES PriorityTier=1 GraceTime={grace}
PartitionName=urgent Nodes=ALL PriorityTier=2
"""


class Cluster(NamedTuple):
    """Hold a running cluster; `environment` is what its commands need."""

    root: Path
    environment: dict[str, str]

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Run a Slurm command that must succeed, and return its output."""
        done = subprocess.run(
            command, env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """Return the fields of `scontrol show job`."""
        return dict(
            field.split("=", 1)
            for field in self.run("scontrol", "show", "job", number, "--oneliner").split()
            if "=" in field
        )

    def wait(self, until, seconds: float = 120) -> None:
        """Wait until `until()` holds; after a limit fail with the logs of the daemons."""
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                said = [
                    f"{log.name}:\n" + "\n".join(log.read_text().splitlines()[-25:])
                    for log in sorted(self.root.glob("*.log"))
                ]
                raise AssertionError(f"not within {seconds} s\n" + "\n".join(said))
            time.sleep(0.2)


@contextlib.contextmanager
def cluster(root: Path) -> Iterator[Cluster]:
    """Start a cluster in `root`, yield it, and end its processes.

    Without Slurm it fails and names what installs it.
    """
    found = {name: shutil.which(name, path=SYSTEM) for name in DAEMONS}
    missing = [name for name, path in found.items() if path is None]
    assert not missing, (
        f"no {', '.join(missing)} on this machine; `make setup-slurm`, which is apt-get install"
        " slurm-wlm munge, as root"
    )
    for folder in ("state", "spool"):
        (root / folder).mkdir(parents=True)
    root.chmod(0o755)
    (root / "munge.key").write_bytes(secrets.token_bytes(1024))
    (root / "munge.key").chmod(0o600)
    conf = root / "slurm.conf"
    host = socket.gethostname().split(".")[0]
    conf.write_text(
        CONFIGURATION.format(
            root=root, user=getpass.getuser(), host=host, ports=ports(2), grace=GRACE
        )
    )
    endings = {
        "key-file": "key",
        "socket": "socket",
        "pid-file": "pid",
        "log-file": "log",
        "seed-file": "seed",
    }
    munge = [f"--{option}={root}/munge.{ending}" for option, ending in endings.items()]
    commands = {  # munged with --force: nobody else needs to reach its socket
        "munged": ["--foreground", "--force", *munge],
        "slurmctld": ["-D", "-f", str(conf)],
        "slurmd": ["-D", "-f", str(conf)],
    }
    this = Cluster(root, {**os.environ, "SLURM_CONF": str(conf)})
    with contextlib.ExitStack() as stack:
        for name in DAEMONS:
            log = stack.enter_context(open(root / f"{name}.log", "w"))
            process = subprocess.Popen(
                [found[name], *commands[name]],
                stdout=log,
                stderr=log,
                env=this.environment,
                start_new_session=True,
            )
            stack.callback(end, process)
            if name == "munged":
                this.wait((root / "munge.socket").exists, 20)
        ready = ["sinfo", "--noheader", "--format=%T"]
        this.wait(
            lambda: (
                "idle"
                in subprocess.run(
                    ready, env=this.environment, capture_output=True, text=True
                ).stdout
            ),
            60,
        )
        yield this
        subprocess.run(["scancel", "--user", getpass.getuser()], env=this.environment, check=False)
        this.wait(lambda: not this.run("squeue", "--noheader"), 90)


def end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ports(count: int) -> list[int]:
    """Return so many free ports."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
