"""Measure how long a checkpoint of two processes takes, with its hashes, on this machine's disk.

    python benchmarks/preemption.py --gb 2 --rounds 3

The state is sharded over both processes. Each round saves it three times, in turns: as `cv3jax
train` does (each process hashes its own files, while others are written), with all files hashed by
process 0 after the save, as it was before, and as a local checkpoint, on each process's own disk.
Then it is verified, shared by both processes and by one alone. Every time is until the bytes are on
the disk and signed. Writing is slow on few cores, because orbax compresses.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import measure

from cv3jax.checkpoints import local, manifest, runs, signing
from cv3jax.checkpoints.writing import check_parts
from cv3jax.distributed import processes
from data_pipeline.io.files import write_json

OURS, BEFORE, LOCAL = "every process, beside the save", "process 0, after the save", "local"
SHARED, ALONE = "verified by both", "verified by one"
LEAVES = 16  # arrays of the state


class Data:
    """Stands at no position, in place of a loader."""

    def get_state(self) -> dict:
        """Return nothing."""
        return {}


def sign_after(signer: signing.Signer) -> None:
    """Write the manifest as it was written before: process 0 hashes everything."""
    if jax.process_index() == 0:
        for place in signer._places():
            for tree in place.rglob("_METADATA"):
                check_parts(tree.parent)
            manifest.write(place)


def worker(args: argparse.Namespace) -> None:
    """Be one of the two processes; process 0 prints the seconds of all rounds as JSON."""
    processes.start(args)
    mesh = jax.make_mesh((2,), ("fsdp",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    rows = int(args.gb * 1e9 / 4 / LEAVES / 1024) // 2 * 2
    make = jax.jit(
        lambda key: [jax.random.normal(k, (rows, 1024)) for k in jax.random.split(key, LEAVES)],
        out_shardings=[sharding] * LEAVES,
    )
    state = jax.block_until_ready(make(jax.random.key(0)))
    folder, step = args.workdir / "checkpoints", 0

    def together(call: Callable[[], Any]) -> float:
        processes.barrier("begin")
        began = time.perf_counter()
        call()
        processes.barrier("end")
        return time.perf_counter() - began

    def save() -> float:
        nonlocal step
        step += 1
        manager = runs.open_manager(folder, keep=1)

        def call() -> None:
            runs.save(manager, step, state, Data(), {})
            runs.finish(manager)

        took = together(call)
        manager.close()
        return took

    def save_before() -> float:
        own = signing.processes
        with (
            mock.patch.object(signing.Signer, "begin", return_value=None),
            mock.patch.object(signing.Signer, "_sign", sign_after),
            mock.patch.object(signing, "processes", mock.Mock(wraps=own, peers=lambda: None)),
        ):
            return save()

    def save_local() -> float:
        place = args.workdir / f"local-{jax.process_index()}" / "1"
        return together(lambda: local.write(place, local.taken(state), {"step": 1}))

    def alone() -> float:
        main = processes.main()
        return together(lambda: main and manifest.damage(folder / str(step)))

    calls = {
        OURS: save,
        BEFORE: save_before,
        LOCAL: save_local,
        SHARED: lambda: together(lambda: runs.damage(folder, step)),
        ALONE: alone,
    }
    took = measure.turns(calls, args.rounds, lambda line: print(line, file=sys.stderr, flush=True))
    if processes.main():
        print(json.dumps(took), flush=True)
    processes.finish()
    os._exit(0)  # gRPC's server may abort while JAX shuts it down, after everything was said


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gb", type=float, default=2.0, help="size of the state (default: 2)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--workdir", type=Path, help="place of the checkpoints (default: temporary)"
    )
    processes.add_flags(parser)
    args = parser.parse_args()
    if args.rounds < 1 or args.gb <= 0:
        parser.error("--rounds must be at least 1, and --gb above 0")
    if args.num_processes:
        worker(args)
        return
    facts = measure.facts("orbax-checkpoint")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(dir=args.workdir) as folder:
        command = [sys.executable, __file__, f"--gb={args.gb}", f"--rounds={args.rounds}"]
        command += [f"--workdir={folder}", f"--coordinator=127.0.0.1:{port}"]
        both = [
            subprocess.Popen(
                [*command, "--num-processes=2", f"--process-id={i}"],
                stdout=subprocess.PIPE,
                stderr=None if i == 0 else subprocess.DEVNULL,
                text=True,
            )
            for i in (0, 1)
        ]
        said = [process.communicate()[0] for process in both]
        if any(process.returncode for process in both):
            raise SystemExit("a process failed")
        shutil.rmtree(folder, ignore_errors=True)
    took = json.loads(said[0].splitlines()[-1])
    against = {OURS: BEFORE, LOCAL: BEFORE, SHARED: ALONE}
    ratios = {name: measure.ratios(took[name], took[other]) for name, other in against.items()}
    rows = [(name, measure.spread(values), ratios.get(name, "")) for name, values in took.items()]
    print(json.dumps({**facts, "gb": args.gb}, indent=2))
    print(measure.table(("two processes", "s", "of the other's"), rows))
    if args.json:
        write_json(args.json, {**facts, "gb": args.gb, "seconds": took, "ratio": ratios})


if __name__ == "__main__":
    main()
