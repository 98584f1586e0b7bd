"""Independent shares of one job: which of them belongs to this process, and one holder of each."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_pipeline.io import locks
from data_pipeline.io.errors import InputError


class Share(NamedTuple):
    """The share of one of `count` processes: the batches k with k mod count = index."""

    index: int
    count: int


@contextlib.contextmanager
def holding(out: Path, share: Share) -> Iterator[Path]:
    """Hold this share of `out` for this process.

    Yields the directory in which its files are written before they get their names.
    """
    place = out / f".part_{share.index}_of_{share.count}"
    try:
        with locks.hold(place, "--out"):
            for left in place.iterdir():  # files of a process that was killed
                if left.name != locks.NAME:
                    left.unlink()
            yield place
    finally:
        # the lock does not remove a directory that was there before
        with contextlib.suppress(OSError):
            place.rmdir()


def which_share(process_id: int | None = None, num_processes: int | None = None) -> Share:
    """Return this process's share.

    The arguments decide; else Slurm's step, or JAX_PROCESS_ID and JAX_NUM_PROCESSES; else JAX.
    Processes that sample do not communicate, so no coordinator is needed.

    Raises:
        InputError: one of the two numbers is missing, or they do not fit together.
    """
    names, values = ("--process-id", "--num-processes"), (process_id, num_processes)
    if values == (None, None):
        names = ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES")
        # only inside srun
        if "SLURM_STEP_NUM_TASKS" in os.environ and not any(name in os.environ for name in names):
            names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
            # several processes per node: each takes one GPU
            if os.environ.get("SLURM_STEP_NUM_NODES") != os.environ["SLURM_STEP_NUM_TASKS"]:
                import jax

                jax.config.update(
                    "jax_cuda_visible_devices", os.environ.get("SLURM_LOCALID", "all")
                )
        values = tuple(os.environ.get(name) for name in names)
        if values == (None, None):
            import jax

            return Share(jax.process_index(), jax.process_count())
    try:
        share = Share(*map(int, values))
    except (TypeError, ValueError):
        share = Share(-1, 0)
    if not 0 <= share.index < share.count:
        said = ", ".join(
            f"{name} {'is not given' if value is None else value}"
            for name, value in zip(names, values, strict=True)
        )
        raise InputError(
            f"{said}: give both; the first must be 0 or more, and less than the second"
        )
    return share
