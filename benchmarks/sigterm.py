"""Measure the seconds from SIGTERM to the end of a run, with a state of so many bytes, here.

    python benchmarks/sigterm.py --gb 1 --rounds 3

Each turn starts the loop of `cv3jax train` twice, in a process of its own and with a new workdir on
this machine's disk: with the workdir's checkpoints alone, and with local checkpoints too
(train.local_every), which come first. Its steps take a moment, so that the rest is what a stop
costs: the step that runs, the checkpoint with its hashes, and the end of Python. A run that has
local checkpoints also says when the one of its last step was whole on the disk: from then on, a
machine that goes away takes nothing with it. Nothing is trained, and no bucket is written.
"""

import argparse
import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grain
import jax
import measure
import numpy as np
import optax

from cv3jax.checkpoints import manifest, runs
from cv3jax.distributed.partitioning import abstract
from cv3jax.distributed.preemption import preemptible
from cv3jax.training.local_saves import LocalSaves
from cv3jax.training.loop import Cadence, Work, train_loop
from cv3jax.training.train_settings import Local
from cv3jax.training.train_step import create_state

PLAIN, BOTH, WHOLE = "workdir", "local disk, then workdir", "until the local checkpoint is whole"
COPIES = 4  # of the parameters in the state: themselves, two moments and the average
LEAVES = 16
READY = "ready"  # what a run prints when its second step begins
NAMES = ("loss", "grad_norm", "param_norm")  # what the loop checks


def numbers() -> Any:
    """Return an endless loader of one number a batch."""
    data = grain.MapDataset.range(64).map(np.float32).repeat(None).batch(8)
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))


def worker(gb: float, workdir: Path, local: bool) -> None:
    """Train until a signal comes; print when steps are done, and when the local copy is whole."""
    rows = max(1, int(gb * 1e9 / COPIES / 4 / LEAVES / 1024))

    def init(key: jax.Array) -> list[jax.Array]:
        return [jax.random.normal(k, (rows, 1024)) for k in jax.random.split(key, LEAVES)]

    # random, as what is trained is: zeros would be compressed to nothing
    moments = optax.GradientTransformation(lambda params: [params, params], None)
    state = jax.jit(lambda key: create_state(init, moments, key))(jax.random.key(0))
    like = abstract(state, jax.tree.map(lambda x: x.sharding, state))

    def advanced(state: Any) -> tuple[Any, dict]:
        step = state.step + 1
        return dataclasses.replace(state, step=step), dict.fromkeys(NAMES, step * 0.5)

    advance = jax.jit(advanced, donate_argnums=0)
    done, wait = 0, LocalSaves.wait

    def step(state: Any, batch: jax.Array) -> tuple[Any, dict]:
        nonlocal done
        done += 1
        if done == 2:
            print(READY, flush=True)
        time.sleep(0.01)
        return advance(state)

    def waited(saves: LocalSaves) -> None:
        written = saves._running is not None
        wait(saves)
        if written:
            print(WHOLE, flush=True)

    LocalSaves.wait = waited
    cadence = Cadence(
        steps=10**9,
        log=10**9,
        save=0,
        preview=0,
        keep=1,
        local=Local(10**8 if local else 0, workdir / "disk"),
    )
    work, place = Work("state", like, numbers(), jax.device_put, step), workdir / "run"
    with preemptible(place):
        train_loop(work, place, state, cadence, {})


def stopped(gb: float, local: bool, folder: Path | None, whole: list[float]) -> float:
    """Return the seconds from SIGTERM to the end of a run, whose checkpoint is verified.

    whole: gets the seconds until its local checkpoint was whole.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        argv = [sys.executable, __file__, f"--gb={gb}", f"--worker={place}"]
        process = subprocess.Popen(
            [*argv, *(["--local"] if local else [])], stdout=subprocess.PIPE, text=True
        )
        if process.stdout.readline().strip() != READY:
            raise SystemExit("the run ended before its second step")
        process.send_signal(signal.SIGTERM)
        began = time.perf_counter()
        for line in process.stdout:
            if line.strip() == WHOLE:
                whole.append(time.perf_counter() - began)
        code = process.wait()
        took = time.perf_counter() - began
        checkpoints = Path(place) / "run" / "checkpoints"
        (saved,) = runs.steps(checkpoints)
        if code or manifest.damage(checkpoints / str(saved)):
            raise SystemExit(f"the run ended with exit code {code}, or with a damaged checkpoint")
        return took


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gb", type=float, default=1.0, help="size of the state (default: 1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--workdir", type=Path, help="place of the runs (default: temporary)")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--local", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 1 or args.gb <= 0:
        parser.error("--rounds must be at least 1, and --gb above 0")
    if args.worker:
        worker(args.gb, args.worker, args.local)
        return
    facts, whole = measure.facts("orbax-checkpoint"), []
    calls = {
        PLAIN: lambda: stopped(args.gb, False, args.workdir, whole),
        BOTH: lambda: stopped(args.gb, True, args.workdir, whole),
    }
    took = measure.turns(calls, args.rounds, lambda line: print(line, file=sys.stderr, flush=True))
    took[WHOLE] = whole
    ratio = {name: measure.ratios(took[name], took[PLAIN]) for name in (BOTH, WHOLE)}
    rows = [(name, measure.spread(x), ratio.get(name, "")) for name, x in took.items()]
    print(json.dumps({**facts, "gb": args.gb}, indent=2))
    print(measure.table(("what is saved", "s", "of the workdir's alone"), rows))
    measure.write_json(args.json, {**facts, "gb": args.gb, "seconds": took, "ratio": ratio})


if __name__ == "__main__":
    main()
