"""A profiler trace of some steps of a run, which TensorBoard's profile plugin opens."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipeline.io.errors import InputError


def check_profiler(steps: range | None) -> None:
    """Raise InputError where a trace would crash the process.

    The profiler of an accelerator that is installed but not present crashes.
    """
    import jax

    plugins = [name for name in ("libtpu", "jax_plugins") if importlib.util.find_spec(name)]
    if steps and plugins and not jax.config.jax_platforms and jax.default_backend() == "cpu":
        raise InputError(
            f"config.profile.steps: {plugins[0]} is installed, but this machine has no device for"
            " it; set JAX_PLATFORMS=cpu to trace"
        )


@contextlib.contextmanager
def tracing(directory: Path, steps: range | None) -> Iterator[Callable[[int], None]]:
    """Yield a function to be called before each step, when no other step runs.

    It starts the trace at the first of `steps`, and writes it after the last. The trace is
    `directory`/plugins/profile/<time>/<host>.xplane.pb. A run that ends among the steps writes what
    it has.
    """
    import jax

    running = False

    def before(step: int) -> None:
        nonlocal running
        inside = steps is not None and step in steps
        if inside and not running:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # it would slow down what is measured
            jax.profiler.start_trace(directory, profiler_options=options)
        elif running and not inside:
            jax.profiler.stop_trace()
        running = inside

    try:
        yield before
    finally:
        before(0)
