"""Set up the backend: XLA flags for CPUs, JAX's GPU memory, choice of backend, compile cache."""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from logging import LogRecord, getLogger
from pathlib import Path
from typing import Any

from cv3jax.distributed import compile_cache, processes
from cv3jax.distributed.huge_pages import accelerated
from data_pipeline.io import progress
from data_pipeline.io.address_space import MODELS, check_room
from data_pipeline.io.errors import InputError, machine_error
from data_pipeline.io.progress import say

POOL = "XLA_CLIENT_MEM_FRACTION"
OLD_POOL = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # JAX refuses both names at once
POOL_FRACTION = 0.9  # JAX's own default is .75; NCCL, cuDNN and the driver need the rest


def jit_once(function: Callable, shardings: Any) -> Callable:
    """Return `function` jitted for a single call.

    On a CPU, compiling it well takes seconds and saves a fraction of one, so it is compiled without
    optimisation.
    """
    import jax

    platform = jax.tree.leaves(shardings)[0].mesh.devices.flat[0].platform
    options = {"xla_backend_optimization_level": 0} if platform == "cpu" else None
    return jax.jit(function, out_shardings=shardings, compiler_options=options)


def waiting(what: str) -> contextlib.AbstractContextManager[None]:
    """Return a block that says on stderr, in process 0, that `what` is being done (`progress`)."""
    return progress.waiting(what) if processes.main() else contextlib.nullcontext()


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Say that JAX is being loaded, which the block does.

    Raises FailedRunError where the limit of the address space leaves too little for it.
    """
    check_room(MODELS, "JAX")
    with progress.waiting("loading JAX"):
        yield


def announced(jitted: Any, what: str) -> Callable:
    """Return a jitted function that says on stderr when it compiles, and how long that took.

    what: the name of what is compiled, such as "the decoder".
    """
    import jax

    known = set()

    def call(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return jitted(*args)  # a part of a larger program, which its caller compiles
        like = (tree, *map(jax.typeof, leaves))
        if like not in known:
            with waiting(f"compiling {what}"):
                jitted.lower(*args).compile()  # which the call below takes
            known.add(like)
        return jitted(*args)

    call.lower, call.trace = jitted.lower, jitted.trace
    return call


def quiet_libraries() -> None:
    """Keep the logs of XLA and of libraries that use absl off stderr.

    XLA prints a page in the middle of each compilation of minutes, and orbax the traceback of an
    error that it raises as well. What goes wrong is raised, and what ends the process is still
    printed. TF_CPP_MIN_LOG_LEVEL=0 in the environment shows XLA's log. Must come before JAX is
    imported.
    """
    from absl import logging

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.FATAL)
    getLogger("asyncio").addFilter(_tells_of_a_bug)


def _tells_of_a_bug(record: LogRecord) -> bool:
    """Return whether a line of asyncio's log is about anything but a full or failing disk.

    Where a save fails, orbax leaves hundreds of tasks with the error that it raises as well.
    """
    raised = record.exc_info and record.exc_info[1]
    return raised is None or machine_error(raised, "") is None


def tune_cpu() -> None:
    """Set XLA's CPU backend to leave convolutions to Eigen.

    Of YNN's fusions, those of products and of sums stay. Call it before the first use of a backend.
    XLA ends the process on an unknown flag, so only the versions that know the flag get it. A flag
    that XLA_FLAGS already sets stays.
    """
    import jaxlib

    flag, flags = "--xla_cpu_experimental_ynn_fusion_type", os.environ.get("XLA_FLAGS", "")
    if jaxlib.__version__.startswith("0.10.") and flag not in flags:
        kinds = "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
        os.environ["XLA_FLAGS"] = f"{flags} {flag}={kinds}".strip()


def pool_fraction() -> float:
    """Return the fraction of a GPU's memory, 0..1, that JAX takes for its arrays and programs.

    Raises InputError where the environment holds something else.
    """
    name = OLD_POOL if os.environ.get(OLD_POOL) else POOL
    said = os.environ.get(name) or str(POOL_FRACTION)
    try:
        fraction = float(said)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction <= 1:
        raise InputError(f"{name}={said}: must be above 0 and at most 1, such as {POOL_FRACTION}")
    return fraction


def size_pool() -> None:
    """Let JAX take `pool_fraction` of a GPU's memory; a value in the environment stays.

    Call it before the first use of a backend.
    """
    fraction = pool_fraction()
    if not os.environ.get(OLD_POOL):
        os.environ[POOL] = str(fraction)


def prefer_cpu(devices: Path = Path("/dev")) -> None:
    """Use the CPU where compilers for GPUs or TPUs are installed, but no such device is present.

    `cv3jax compile` needs those compilers. JAX would load their backends, which takes seconds and
    prints a page of errors. JAX_PLATFORMS overrides this.
    """
    installed = any(
        importlib.util.find_spec(name)
        for name in ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin")
    )
    if installed and not accelerated(devices):
        _default("jax_platforms", "cpu")


def keep_compiled() -> None:
    """Keep compiled programs in ~/.cache/cv3jax/xla, so that a second start compiles nothing again.

    These are all programs, however small: a start has dozens, and compiling one takes 30 ms. JAX's
    own limit of a second is overridden by JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS alone, and the
    directory by JAX_COMPILATION_CACHE_DIR. Where there is no writable home directory, as in a
    container of a user without one, a message says that nothing is kept. A directory on this
    machine is kept within a size (`compile_cache`), unless JAX has a limit of its own.

    Raises InputError where CV3JAX_COMPILED_GB is no size.
    """
    most = compile_cache.limit()
    _default("jax_persistent_cache_min_compile_time_secs", "0", unset=1.0)
    if (directory := _in_home(".cache", "cv3jax", "xla")) is not None:
        _default("jax_compilation_cache_dir", str(directory))
    elif not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        say(
            "cv3jax: there is no home directory for the compilation cache, so every start compiles"
            " again; set JAX_COMPILATION_CACHE_DIR=DIR to keep compiled programs in DIR"
        )
    place = os.environ.get("JAX_COMPILATION_CACHE_DIR") or directory
    theirs = os.environ.get("JAX_COMPILATION_CACHE_MAX_SIZE")
    if place and most and not theirs and "://" not in str(place):
        compile_cache.prune(Path(place), most)


def _in_home(*names: str) -> Path | None:
    """Return a place below the home directory, or None where there is none that can be written."""
    try:
        place = Path.home().joinpath(*names)
    except RuntimeError:  # HOME is not set, and the system does not know the user
        return None
    nearest = next(folder for folder in (place, *place.parents) if folder.exists())
    return place if nearest.is_dir() and os.access(nearest, os.W_OK) else None


def _default(option: str, value: str, unset: float | None = None) -> bool:
    """Set an option of JAX that nobody has set, and return whether it was so.

    Before JAX is imported, set its environment variable instead: commands that compute nothing do
    not import JAX, which takes a second. unset: the value of a number that nobody has set.
    """
    if "jax" in sys.modules:
        import jax

        now = getattr(jax.config, option)
        if free := not now if unset is None else now == unset:
            jax.config.update(option, value if unset is None else float(value))
        return free
    if free := not os.environ.get(option.upper()):
        os.environ[option.upper()] = value
    return free
