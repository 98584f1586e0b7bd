"""Run the real commands against a bucket of which one request in a hundred fails."""

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import faulty_proxy
import pytest
import subprocesses
from object_servers import BUCKET, environment, serving

from data_pipeline.io.objects import fetching, lease, snapshots
from data_pipeline.io.objects.mirror import mirrored
from data_pipeline.io.objects.store import Store

PATIENCE = 600.0  # seconds until what is waited for has to come


class Bucket(NamedTuple):
    """A bucket behind a proxy; `direct` has the environment of this process, without faults."""

    address: str
    proxy: faulty_proxy.Proxy
    variables: dict[str, str]  # by which commands reach it through the proxy
    machines: Path  # one directory a machine

    def of_machine(self, name: str) -> dict[str, str]:
        """Return a command's environment on a machine of that name, which has its own disk."""
        return {**self.variables, "CV3JAX_STORES": str(self.machines / name)}

    def run(self, *args: str, machine: str = "one") -> subprocess.CompletedProcess:
        """Run a cv3jax command to its end and require success."""
        return subprocesses.run("cv3jax", *args, **self.of_machine(machine))

    def start(self, log: Path, *args: str, machine: str = "one") -> subprocess.Popen:
        with log.open("w") as file:
            return subprocess.Popen(
                subprocesses.command("cv3jax", *args),
                env=subprocesses.environment(**self.of_machine(machine)),
                stderr=file,
            )

    def put(self, folder: Path, name: str) -> None:
        """Publish a cascade that is on this machine's disk."""
        with mirrored(f"{self.address}/{name}") as work:
            shutil.copytree(folder, work / "cascade")

    def tree(self, name: str) -> dict[str, list]:
        """Return what is published at an address."""
        tree = snapshots.read_tree(Store(f"{self.address}/{name}"))
        return tree[0] if tree else {}

    def saved(self, name: str) -> list[int]:
        """Return the steps of the checkpoints that are published."""
        places = [file.split("/") for file in self.tree(name) if file.endswith("manifest.json")]
        return sorted(int(words[1]) for words in places if words[0] == "checkpoints")

    def fetched(self, name: str, folder: Path) -> Path:
        """Return a directory with all that is published."""
        fetching.fetch(Store(f"{self.address}/{name}"), folder)
        return folder

    def holder(self, name: str) -> dict:
        """Return what the lease says."""
        found = Store(f"{self.address}/{name}").read(lease.NAME)
        return json.loads(found.data) if found else {}

    def move_holder(self, name: str, host: str) -> None:
        """Make a dead holder one of another machine, of which nobody knows that it is dead."""
        store = Store(f"{self.address}/{name}")
        found = store.read(lease.NAME)
        value = {**json.loads(found.data), "host": host}
        store.replace(lease.NAME, json.dumps(value).encode(), found.stamp)


@contextlib.contextmanager
def bucket(kind: str, folder: Path, seed: int, share: float = 0.01) -> Iterator[Bucket]:
    """Serve a bucket. This process reaches it without faults, and commands by the proxy."""
    with (
        serving(kind) as port,
        faulty_proxy.before(port, share, seed) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in environment(kind, port).items():
            patch.setenv(name, value)
        patch.setenv("CV3JAX_STORES", str(folder / "tests"))
        variables = {**environment(kind, proxy.port), "CV3JAX_LEASE_SECONDS": "3"}
        yield Bucket(f"{kind}://{BUCKET}", proxy, variables, folder)


def wait_for(come: Callable[[], bool], process: subprocess.Popen, log: Path) -> None:
    """Wait until something is so, while a process runs."""
    limit = time.monotonic() + PATIENCE
    while not come():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < limit, log.read_text()[-3000:]
        time.sleep(0.05)


def kill(process: subprocess.Popen) -> None:
    """End a process at once, wherever it is."""
    process.kill()
    process.wait(60)
