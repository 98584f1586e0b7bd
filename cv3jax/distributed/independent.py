"""Independent shares of one job: which of them this process has, one holder of each."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_pipeline.io import locks
from data_pipeline.io.errors import InputError


class Share(NamedTuple):
    """Which of `count` processes this is, each of which makes the batches k with k mod count =
    index.
    """

    index: int
    count: int


@contextlib.contextmanager
def holding(out: Path, share: Share) -> Iterator[Path]:
    """Hold this share of `out` for this process.

    Yields where its files are written before they get their names.
    """
    place = out / f".part_{share.index}_of_{share.count}"
    try:
        with locks.hold(place, "--out"):
            for left in place.iterdir():  # by one that was killed
                if left.name != locks.NAME:
                    left.unlink()
            yield place
    finally:
        # a directory that was there before is not removed by the lock
        with contextlib.suppress(OSError):
            place.rmdir()


def which_share(process_id: int | None = None, num_processes: int | None = None) -> Share:
    """Which share is this process's: as given, else as Slurm's step or JAX_PROCESS_ID and
    JAX_NUM_PROCESSES say, else as JAX knows.

    Processes that sample do not talk to each other, so nobody coordinates them.

    Raises:
        InputError: one of the two numbers is missing, or they make no sense.
    """
    names, values = ("--process-id", "--num-processes"), (process_id, num_processes)
    if values == (None, None):
        names = ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES")
        # not in a script outside srun
        if "SLURM_STEP_NUM_TASKS" in os.environ and not any(name in os.environ for name in names):
            names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
            # more than one a node: a GPU each
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
        said = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
        raise InputError(f"{said}: give both, the first from 0 to one less than the second")
    return share
