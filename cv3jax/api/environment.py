"""Set JAX up in a notebook or a server as the command line does."""

import contextlib
import functools
from collections.abc import Iterator

from cv3jax.distributed.backend import (
    keep_compiled,
    prefer_cpu,
    quiet_libraries,
    size_pool,
    tune_cpu,
)
from data_pipeline.io.errors import InputError


@functools.cache  # once a process
def prepare() -> None:
    """Set the compilation cache, XLA's CPU settings and the share of a GPU's memory.

    Settings that the environment has stay. They hold if no JAX computation ran before. Raises
    ValueError where the environment has a share of a GPU's memory that cannot be.
    """
    quiet_libraries()
    tune_cpu()
    prefer_cpu()
    keep_compiled()
    with value_errors():
        size_pool()


@contextlib.contextmanager
def value_errors() -> Iterator[None]:
    """Raise ValueError with the same line in place of the InputError of a command."""
    try:
        yield
    except InputError as e:
        raise ValueError(str(e)) from e
