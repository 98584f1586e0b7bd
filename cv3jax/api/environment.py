"""Set JAX up in a notebook or a server as the command line does."""

import contextlib
import functools
import re
from collections.abc import Iterator

from cv3jax.distributed.backend import (
    keep_compiled,
    prefer_cpu,
    quiet_libraries,
    size_pool,
    tune_cpu,
)
from data_pipeline.io.errors import InputError

# a command's flag; a field of a recipe, such as --config.train.seed, is none
FLAG = re.compile(r"--([a-z][a-z-]*)\b(?!\.)")


@functools.cache  # once a process
def prepare() -> None:
    """Set the compilation cache, XLA's CPU settings and the share of a GPU's memory.

    Settings that the environment has stay. They hold if no JAX computation ran before. Raises
    ValueError where the environment has a share of a GPU's memory, or a size of the cache, that
    cannot be.
    """
    quiet_libraries()
    tune_cpu()
    prefer_cpu()
    with value_errors():
        keep_compiled()
        size_pool()


@contextlib.contextmanager
def value_errors() -> Iterator[None]:
    """Raise ValueError in place of the InputError of a command.

    The line is the same, with the names of arguments in place of flags: `mesh` for `--mesh`.
    """
    try:
        yield
    except InputError as e:
        raise ValueError(FLAG.sub(lambda flag: flag[1].replace("-", "_"), str(e))) from e
