"""Runs of many processes: which of them this is, and what all of them do together.

Slurm, a TPU or the command line says which process this is.
"""

import argparse
import contextlib
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cv3jax.distributed import roll_call
from cv3jax.distributed.liveness import Peers
from data_pipeline.io import progress, signals
from data_pipeline.io.errors import InputError, first_line

if TYPE_CHECKING:  # the code that adds flags for --help does without jax
    import jax
    import numpy as np

JOIN = 300  # seconds for all processes to start
PATIENCE = 60
FLAGS = (
    ("coordinator", "JAX_COORDINATOR_ADDRESS"),
    ("num_processes", "JAX_NUM_PROCESSES"),
    ("process_id", "JAX_PROCESS_ID"),
)
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_peers: Peers | None = None


class Place(NamedTuple):
    """One process of many."""

    coordinator: str
    num_processes: int
    process_id: int


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add --coordinator, --num-processes, --process-id and --patience."""
    group = parser.add_argument_group(
        "many processes",
        "found automatically under Slurm and on TPUs; otherwise give these or"
        " JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID",
    )
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="process 0's host and a free port there; the same for all processes",
    )
    group.add_argument(
        "--num-processes", type=int, metavar="N", help="how many processes there are"
    )
    group.add_argument("--process-id", type=int, metavar="I", help="which process this is, 0..N-1")
    group.add_argument(
        "--patience",
        type=float,
        default=PATIENCE,
        metavar="S",
        help=f"end when a process has been silent for S seconds (default: {PATIENCE})",
    )


def place(args: argparse.Namespace, environment: Mapping[str, str]) -> Place | None:
    """Return the place that flags or JAX_* variables give, or None for a single process.

    Raises:
        InputError: some of them are given and not all, or they do not fit together.
    """
    values, names = {}, {}
    for flag, variable in FLAGS:
        value = getattr(args, flag)
        names[flag] = _shown(flag)
        if value is None and variable in environment:
            value, names[flag] = environment[variable], variable
            if flag != "coordinator":
                if not re.fullmatch(r"\d+", value):
                    raise InputError(f"{variable} = {value}: must be a whole number")
                value = int(value)
        values[flag] = value
    if not any(value is not None for value in values.values()):
        return None
    count, index = values["num_processes"], values["process_id"]
    if missing := [flag for flag, value in values.items() if value is None]:
        if count == 1 and missing == ["coordinator"] and index == 0:
            return None
        given = " and ".join(names[flag] for flag in values if flag not in missing)
        lack = " and ".join(map(_shown, missing))
        raise InputError(
            f"{lack} must be given together with {given}; give --coordinator HOST:PORT"
            " --num-processes N --process-id I"
        )
    if count < 1:
        raise InputError(f"{names['num_processes']} = {count}: must be at least 1")
    if not 0 <= index < count:
        raise InputError(
            f"{names['process_id']} = {index}: must be 0..{count - 1}, because"
            f" {names['num_processes']} is {count}"
        )
    if not re.fullmatch(r"[^\s:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", values["coordinator"]):
        raise InputError(
            f"{names['coordinator']} = {values['coordinator']}: must be HOST:PORT, such as"
            " 10.0.0.1:8476"
        )
    return None if count == 1 else Place(**values)


def _shown(flag: str) -> str:
    """Return a flag as the command line has it."""
    return f"--{flag.replace('_', '-')}"


def check(args: argparse.Namespace) -> None:
    """Raise InputError on flags or JAX_* variables that do not fit together."""
    if not args.patience > 0:
        raise InputError(f"--patience {args.patience:g}: must be positive")
    place(args, os.environ)


def start(args: argparse.Namespace) -> None:
    """Join the other processes, where there are any. Call it before the first use of a device.

    Raises:
        InputError: flags or variables do not fit together.
        ConnectionError: the others did not start.
    """
    check(args)
    import jax

    given = place(args, os.environ)
    if given:
        how = {
            "coordinator_address": given.coordinator,
            "num_processes": given.num_processes,
            "process_id": given.process_id,
            "cluster_detection_method": "deactivate",
        }
    elif slurm := _slurm_place(os.environ):
        given, how = slurm, {"cluster_detection_method": "slurm"}
    elif _on_tpu():
        how = {}  # JAX reads GKE's variables or the VM's metadata
    else:
        return
    if given:
        with progress.waiting("waiting for the other processes"):
            roll_call.answer(*given, JOIN)
    # it handles SIGTERM itself, and does not handle Ctrl-C
    jax.config.update("jax_enable_preemption_service", False)
    # JAX looks for dead processes too, but ends the others without saying which one died; so it
    # waits longer
    limits = {
        "initialization_timeout": JOIN,
        "heartbeat_timeout_seconds": max(int(3 * args.patience), 10),
    }
    try:
        with progress.waiting("joining the other processes"):
            jax.distributed.initialize(**how, **limits)
    except (RuntimeError, OSError, ValueError) as e:
        if not how and not isinstance(e, RuntimeError):  # a TPU that belongs to no cluster
            return
        raise ConnectionError(
            f"the processes did not find each other within {JOIN} s ({first_line(e, 200)})"
        ) from e
    _watch(args.patience)


def _slurm_place(env: Mapping[str, str]) -> Place | None:
    """Return this task's place in its Slurm step, or None where it is alone.

    It is alone outside of a step, and in a step of a single task. An interactive step of one task
    has the allocation's SLURM_NTASKS, so the step's own count is read.
    """
    if not all(name in env for name in SLURM):
        return None
    count = int(env.get("SLURM_STEP_NUM_TASKS", env["SLURM_NTASKS"]))
    if count <= 1:
        return None
    from jax._src.clusters import SlurmCluster  # jax.distributed will take its port

    return Place(SlurmCluster.get_coordinator_address(None, None), count, int(env["SLURM_PROCID"]))


def _watch(patience: float) -> None:
    global _peers
    # there is no public way to the client; orbax uses this one too
    from jax._src import distributed

    state = distributed.global_state
    if state.num_processes > 1:
        _peers = Peers(
            state.client, state.process_id, state.num_processes, state.coordinator_address, patience
        )
        signals.telling(leave)


def _on_tpu() -> bool:
    import jax
    from jax._src import cloud_tpu_init

    return cloud_tpu_init.running_in_cloud_tpu_vm and "tpu" in (jax.config.jax_platforms or "tpu")


def main() -> bool:
    """Return whether this process writes what is written once."""
    return _peers is None or _peers.index == 0


def peers() -> Peers | None:
    """Return the other processes, or None when this one is alone."""
    return _peers


def barrier(name: str) -> None:
    """Wait for all processes."""
    if _peers:
        _peers.barrier(name)


def first(name: str, function: Callable[[], Any]) -> Any:
    """Return `function()`, a JSON value, as process 0 computes it; only process 0 calls it.

    An exception in it ends all processes.
    """
    value = function() if main() else None
    return _peers.share(name, value) if _peers else value


def gather(name: str, value: Any) -> list[Any]:
    """Return the `value` of each process, a JSON value, in all processes; all must call it."""
    return _peers.gather(name, value) if _peers else [value]


def share() -> tuple[int, int]:
    """Return (which process this is, how many there are)."""
    return (_peers.index, _peers.count) if _peers else (0, 1)


def whole(x: "jax.Array") -> "np.ndarray":
    """Return all of `x` in every process, wherever its shards are; all processes must call it."""
    import numpy as np
    from jax.experimental import multihost_utils

    if not (x.is_fully_addressable or x.is_fully_replicated):
        x = multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)


@contextlib.contextmanager
def main_first(name: str):
    """Run the block in process 0, then in the others, which read what process 0 writes."""
    if not main():
        barrier(name)
    yield
    if main():
        barrier(name)


def finish() -> None:
    """Wait for the others to finish their work."""
    global _peers
    if _peers:
        _peers.close()
        _peers = None


def leave(message: str, code: int) -> None:
    """Tell the others why this process ends before its work is done, so that they end too.

    Returns only where there are no others.
    """
    if _peers:
        _peers.leave(message, code)


def suspect(error: Exception) -> None:
    """Wait where `error` may come from the death of another process, until that is known.

    The watching thread then ends this process.
    """
    if _peers:
        _peers.suspect(error)
