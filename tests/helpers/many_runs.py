"""Train with many processes at the smallest size.

Loop, loader, mesh, sharding, checkpoints and peers are real; the model is five matrices.
`start(...)` runs this file in N processes. `train(...)` is what each of them runs, and a test may
call it too.
"""

import argparse
import functools
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from subprocesses import environment

from cv3jax import cli
from cv3jax.checkpoints import manifest, runs
from cv3jax.commands.workdirs import opened
from cv3jax.distributed import partitioning, processes
from cv3jax.distributed.batches import own_rows, placer
from cv3jax.distributed.fsdp import Layout
from cv3jax.distributed.mesh import make_mesh
from cv3jax.distributed.partitioning import abstract, tree_sharding, tree_specs
from cv3jax.optim import optimizers
from cv3jax.training import resume
from cv3jax.training.loop import Cadence, Work, train_loop
from cv3jax.training.train_settings import Local
from cv3jax.training.train_step import TrainState, create_state, make_train_step
from data_pipeline.images.decode import encode_png
from data_pipeline.loading.loader import make_loader
from data_pipeline.loading.settings import CropSettings, LoaderSettings

BATCH, SIDE, WIDTH, LAYERS = 16, 8, 64, 2
NO_LOCAL = Local()
ALL = -2  # in place of one process
PATIENCE = 8.0  # seconds; a machine that has other work may be late


def records() -> list[dict]:
    draws = np.random.default_rng(0)
    pictures = [draws.integers(0, 256, (12, 10, 3), dtype=np.uint8) for _ in range(24)]
    return [
        {"key": str(i), "image": encode_png(x), "caption": "", "recaption": ""}
        for i, x in enumerate(pictures)
    ]


def init(key: jax.Array) -> dict:
    """Return parameters like a UNet's.

    One matrix is gathered whole, scanned ones where they are needed; biases are too small to be
    split.
    """
    one, two, three = jax.random.split(key, 3)
    size = 3 * SIDE**2
    return {
        "in": {"kernel": jax.random.normal(one, (size, WIDTH)) / size**0.5},
        "blocks": {
            "kernel": jax.random.normal(two, (LAYERS, WIDTH, WIDTH)) / WIDTH**0.5,
            "bias": jnp.zeros((LAYERS, WIDTH)),
        },
        "out": {
            "kernel": jax.random.normal(three, (WIDTH, size)) / WIDTH**0.5,
            "bias": jnp.zeros(size),
        },
    }


def denoiser(layout: Layout):
    """Return a loss with noise of its own for each row, of parameters sharded as `layout`."""

    @jax.checkpoint
    def block(h, params):
        params = layout.gather(("blocks",), params)
        return h + jnp.tanh(h @ params["kernel"] + params["bias"]), None

    def loss(params, frozen, batch, keys):
        params = layout.whole(params, lambda path: path[0] == "blocks")
        x = batch["image"].reshape(len(keys), -1) / 127.5 - 1.0
        noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
        h, _ = jax.lax.scan(block, jnp.tanh((x + noise) @ params["in"]["kernel"]), params["blocks"])
        return jnp.mean((h @ params["out"]["kernel"] + params["out"]["bias"] - x) ** 2), {}

    return loss


def pieces(mesh, accumulate: int = 2, posthoc: bool = False):
    """Return (create, like, data, place, step) as `build` does."""
    # eps: without it adam makes steps of what rounding leaves of a gradient that is zero
    tx = optimizers.make_optimizer(
        optimizers.OptimizerSettings("adamw", eps=1e-5), optax.constant_schedule(1e-2)
    )
    make = functools.partial(create_state, init, tx, posthoc=posthoc)
    shape = jax.eval_shape(make, jax.random.key(0))
    with mock.patch.object(partitioning, "MIN_SIZE", 256):
        layout, shardings = (
            Layout(mesh, tree_specs(shape.params, mesh), "float32"),
            tree_sharding(shape, mesh),
        )
    step = make_train_step(
        denoiser(layout), tx, decay=0.9, accumulate=accumulate, spread=layout.spread_gradient
    )
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
    data = make_loader(
        records(),
        LoaderSettings(BATCH, SIDE, seed=0, crop=CropSettings(flip=True)),
        rows=own_rows(mesh, BATCH),
    )

    def create():
        return jax.jit(make, out_shardings=shardings)(jax.random.key(0))

    return (
        create,
        abstract(shape, shardings),
        data,
        placer(mesh, BATCH),
        lambda state, batch: jitted(state, {}, batch),
    )


def run(
    workdir: Path,
    steps: int,
    mesh,
    *,
    accumulate: int = 2,
    before=lambda step: None,
    save: int = 0,
    local: Local = NO_LOCAL,
    posthoc: int = 0,
) -> TrainState:
    """Train to `steps`, and resume from the checkpoints of `workdir`.

    `before(step)` is called before each step. `save`, `local`: when there are checkpoints. posthoc:
    snapshots of power-function averages.
    """
    create, like, data, place, step_fn = pieces(mesh, accumulate, bool(posthoc))
    count = 0

    def step(state, batch):
        nonlocal count
        with jax.transfer_guard("allow"):
            count = count + 1 if count else int(state.step) + 1
            before(count)
        return step_fn(state, batch)

    with resume.hold(workdir):
        there = processes.first("there", lambda: runs.steps(workdir / "checkpoints"))
        state = None if there else create()
        cadence = Cadence(steps, log=1, save=save, preview=0, keep=3, posthoc=posthoc, local=local)
        return train_loop(Work("many", like, data, place, step), workdir, state, cadence, {})[0]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    processes.add_flags(parser)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--pause", type=float)
    parser.add_argument("--who", type=int)
    parser.add_argument("--at", type=int)
    parser.add_argument("--what")
    parser.add_argument("--fsdp", type=int, default=4)
    parser.add_argument("--save", type=int, default=0)
    parser.add_argument("--local", type=Path)
    parser.add_argument("--posthoc", type=int)
    parser.add_argument("--stores")  # of an address: where each process has a disk of its own
    args = parser.parse_args(argv)
    if args.stores:
        os.environ["CV3JAX_STORES"] = f"{args.stores}/{args.process_id}"
    processes.start(args)

    def before(step: int) -> None:
        time.sleep(args.pause)
        if step == args.at and args.who in (jax.process_index(), ALL):
            if args.what == "wait":
                time.sleep(900)
            if args.what == "full":  # no file of this process may grow past 20 kB
                return resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
            if args.what == "raise":
                raise ZeroDivisionError("nothing divides by zero")
            os.kill(os.getpid(), getattr(signal, args.what))

    local = NO_LOCAL
    if args.local:  # each process has a disk of its own
        local = Local(1, args.local / str(args.process_id))
    mesh = make_mesh(data=8 // args.fsdp, fsdp=args.fsdp)
    with opened(args.workdir) as workdir, mock.patch.object(manifest, "settled", noting(args)):
        run(
            workdir,
            args.steps,
            mesh,
            before=before,
            save=args.save,
            local=local,
            posthoc=args.posthoc,
        )


def noting(args: argparse.Namespace):
    """Return `manifest.settled`, which notes the names that this process hashes in a file."""
    settled = manifest.settled
    if args.stores:
        return settled

    def noted(files: dict) -> dict:
        with (args.workdir / f"hashed.{args.process_id}").open("a") as file:
            file.writelines(f"{name}\n" for name in files)
        return settled(files)

    return noted


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(
    workdir: Path,
    steps: int,
    *,
    count: int = 2,
    pause: float = 0.0,
    what: str = "",
    who: int = -1,
    at: int = -1,
    posthoc: int = 0,
    **more: object,
) -> list[tuple]:
    """Train with `count` processes of 8 / `count` devices.

    Process `who`, or ALL, does `what` before step `at`. `more`: other flags of `main`. Returns
    (exit code, stderr) of each.
    """
    given = {"pause": pause, "what": what, "who": who, "at": at, "posthoc": posthoc, **more}
    return together(command(workdir, steps, **given), count, who if what == "SIGSTOP" else None)


def command(workdir: Path | str, steps: int, **more: object) -> list[str]:
    """Return the arguments of Python that run `main`."""
    flags = {"workdir": workdir, "steps": steps, "pause": 0.0, "posthoc": 0, **more}
    flags = {"patience": PATIENCE, **flags}
    return [__file__, *(f"--{name}={value}" for name, value in flags.items())]


def begin(command: list[str], count: int = 2) -> list[subprocess.Popen]:
    """Start Python code in `count` processes with 8 / `count` devices each."""
    env = environment(JAX_NUM_CPU_DEVICES=str(8 // count), NPROC="64")
    flags = (f"--coordinator=127.0.0.1:{free_port()}", f"--num-processes={count}")
    commands = [[sys.executable, *command, *flags, f"--process-id={i}"] for i in range(count)]
    return [
        subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]


def together(command: list[str], count: int = 2, stopped: int | None = None) -> list[tuple]:
    """Run Python code in `count` processes and return (exit code, stderr) of each.

    They have 8 / `count` devices each. The process that is `stopped` is killed.
    """
    processes, said = begin(command, count), [""] * count
    try:
        for i in sorted(range(count), key=lambda i: i == stopped):
            if i == stopped:
                processes[i].kill()
            said[i] = processes[i].communicate(timeout=900)[1]
        return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()


if __name__ == "__main__":
    cli.run_command(main, sys.argv[1:])
