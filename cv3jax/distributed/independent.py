"""Independent shares of one job: which of them belongs to this process, and one holder of each."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.io import locks
from data_pipeline.io.shares import Share, by_slurm, given_share


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
    share = given_share(process_id, num_processes)
    if share is None:
        import jax

        return Share(jax.process_index(), jax.process_count())
    # several processes per node: each takes one GPU
    alone = os.environ.get("SLURM_STEP_NUM_NODES") == os.environ.get("SLURM_STEP_NUM_TASKS")
    if (process_id, num_processes) == (None, None) and by_slurm() and not alone:
        import jax

        jax.config.update("jax_cuda_visible_devices", os.environ.get("SLURM_LOCALID", "all"))
    return share
