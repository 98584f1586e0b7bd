"""XLA's CPU flags, JAX's pool on a GPU, which backend JAX loads, and programs that are compiled for
one call.
"""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.io.errors import InputError

POOL = "XLA_CLIENT_MEM_FRACTION"
OLD_POOL = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # JAX refuses both names at once
POOL_FRACTION = 0.9  # JAX's own is .75; NCCL, cuDNN and the driver need the rest


def jit_once(function: Callable, shardings: Any) -> Callable:
    """`function` jitted for a single call: on a CPU, compiling it well takes seconds and saves a
    fraction of one.
    """
    import jax

    platform = jax.tree.leaves(shardings)[0].mesh.devices.flat[0].platform
    options = {"xla_backend_optimization_level": 0} if platform == "cpu" else None
    return jax.jit(function, out_shardings=shardings, compiler_options=options)


def tune_cpu() -> None:
    """Has XLA's CPU backend, where one is used, leave convolutions to Eigen; of YNN's fusions,
    those of products and sums stay.

    Must come before the first use of a backend. A flag that XLA does not know ends the process, so
    only those that do get it; one that XLA_FLAGS already sets stays.
    """
    import jaxlib

    flag, flags = "--xla_cpu_experimental_ynn_fusion_type", os.environ.get("XLA_FLAGS", "")
    if jaxlib.__version__.startswith("0.10.") and flag not in flags:
        kinds = "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
        os.environ["XLA_FLAGS"] = f"{flags} {flag}={kinds}".strip()


def pool_fraction() -> float:
    """Returns the part of a GPU's memory, 0..1, that JAX takes for its arrays and programs.

    Raises InputError where the environment says what is no such part.
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
    """Has JAX take `pool_fraction` of a GPU's memory; what the environment says stays.

    Must come before the first use of a backend.
    """
    fraction = pool_fraction()
    if not os.environ.get(OLD_POOL):
        os.environ[POOL] = str(fraction)


def prefer_cpu(devices: Path = Path("/dev")) -> None:
    """Leaves GPUs and TPUs alone where their compilers are installed (for `cv3jax compile`) and
    none of either is there.

    JAX would load them all the same, which takes seconds and leaves a page of errors. JAX_PLATFORMS
    overrides.
    """
    installed = any(
        importlib.util.find_spec(name)
        for name in ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin")
    )
    there = any(
        next(devices.glob(pattern), None)
        for pattern in ("nvidia[0-9]*", "dxg", "accel*", "vfio/[0-9]*")
    )
    if installed and not there:
        _default("jax_platforms", "cpu")


def keep_compiled() -> None:
    """Keeps compiled programs in ~/.cache/cv3jax/xla, so that a second start compiles nothing anew.

    JAX_COMPILATION_CACHE_DIR overrides. Where there is no home directory, or none that takes files,
    as in a container of a user without one, it is said that nothing is kept.
    """
    if (directory := _in_home(".cache", "cv3jax", "xla")) is not None:
        _default("jax_compilation_cache_dir", str(directory))
    elif not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        print(
            "cv3jax: there is no home directory for the compilation cache, so every start compiles"
            " again; set JAX_COMPILATION_CACHE_DIR=DIR to keep compiled programs in DIR",
            file=sys.stderr,
        )


def _in_home(*names: str) -> Path | None:
    """A place below the home directory; None where no such directory is, or can be made."""
    try:
        place = Path.home().joinpath(*names)
    except RuntimeError:  # no HOME, and a user that the system has no entry of
        return None
    nearest = next(folder for folder in (place, *place.parents) if folder.exists())
    return place if nearest.is_dir() and os.access(nearest, os.W_OK) else None


def _default(option: str, value: str) -> None:
    """Sets an option of JAX that nobody has set.

    Where JAX is not imported yet, its environment variable does: commands that compute nothing do
    without JAX, whose import takes a second.
    """
    if "jax" in sys.modules:
        import jax

        if not getattr(jax.config, option):
            jax.config.update(option, value)
    elif not os.environ.get(option.upper()):
        os.environ[option.upper()] = value
