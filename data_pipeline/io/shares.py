"""Independent shares of one job: which of them this process has.

Such processes do not communicate. Each is told its number and how many there are, by flags, by
Slurm or by two environment variables, and makes its share of the work.
"""

import os
import re
from typing import NamedTuple

from data_pipeline.io.errors import InputError

_FLAGS = ("--process-id", "--num-processes")
_VARIABLES = ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES")
_SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")


class Share(NamedTuple):
    """The share of one of `count` processes: the pieces k with k mod count = index."""

    index: int
    count: int


def by_slurm() -> bool:
    """Return whether the environment's share is that of a task of a Slurm step (inside srun)."""
    return _SLURM[1] in os.environ and not any(name in os.environ for name in _VARIABLES)


def given_share(process_id: int | None = None, num_processes: int | None = None) -> Share | None:
    """Return the share that the flags name, else the environment; None where neither does.

    The environment is Slurm's step, or JAX_PROCESS_ID and JAX_NUM_PROCESSES.

    Raises:
        InputError: one of the two numbers is missing, or they do not fit together.
    """
    names, values = _FLAGS, (process_id, num_processes)
    if values == (None, None):
        names = _SLURM if by_slurm() else _VARIABLES
        values = tuple(os.environ.get(name) for name in names)
        if values == (None, None):
            return None
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


def parse_share(text: str) -> Share:
    """Return the share that `--part I/N` names, such as 0/4.

    Raises:
        InputError: the text is of another form, or I is not in 0..N-1.
    """
    if found := re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII):
        share = Share(*map(int, found.groups()))
        if share.index < share.count:
            return share
    raise InputError(
        f"--part {text}: give I/N, such as 0/4, 1/4, 2/4 and 3/4 for the four processes of a job"
    )
