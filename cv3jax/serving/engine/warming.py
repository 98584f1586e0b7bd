"""Compile all programs of an engine, and keep those whose rows do not depend on their unit."""

import concurrent.futures
import functools
import os
import time
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.serving.engine.compiling import Compiled, compiled, shapes_down_from
from cv3jax.serving.engine.estimates import Estimates
from cv3jax.serving.engine.lanes import Lane
from cv3jax.serving.engine.pool import Store
from cv3jax.serving.engine.verify import Found, Probes

AT_ONCE = 4  # programs that are compiled beside each other, on as many cores

Tell = Callable[[str], None]  # takes a line that says what is being done


@functools.cache
def _compilers() -> int:
    """Return how many programs to compile at once. For a GPU, XLA times kernels, alone on it."""
    return 1 if jax.default_backend() == "gpu" else min(AT_ONCE, os.cpu_count() or 1)


def warmed(
    store: Store,
    description: CascadeDescription,
    batch: int,
    ways: int,
    mesh: Mesh | None,
    tell: Tell,
) -> tuple[dict[tuple[Lane, int], Compiled], dict[Lane, Found], Estimates]:
    """Return (the programs to use by lane and shape, what was found of each lane, their seconds).

    The shapes are halves of `batch`, largest first; below one that differs, none is tried. ways:
    devices that share a unit.

    Raises:
        InputError: rows of the largest shape depend on each other.
        NoRoomError: the devices have too little memory.
    """
    probes, estimates = Probes(description, store, batch), Estimates()
    ready: dict[tuple[Lane, int], Compiled] = {}
    lanes = list(store.programs)
    for shape in shapes_down_from(batch, ways):
        began = time.monotonic()
        tell(f"compiling for {shape} rows: {', '.join(map(str, lanes))}")
        with concurrent.futures.ThreadPoolExecutor(_compilers()) as pool:
            compile_lane = functools.partial(
                compiled, store=store, shape=shape, tokens=description.t5.length, mesh=mesh
            )
            programs = list(pool.map(compile_lane, lanes))
        tell(f"comparing the bits of {shape} rows; compiled in {time.monotonic() - began:.0f} s")
        for program in programs:
            if probes.check(program):
                ready[program.lane, shape] = program
                estimates.measured(program.lane, shape, probes.found[program.lane].seconds[shape])
        lanes = [lane for lane in lanes if (lane, shape) in ready]
    for lane, found in probes.found.items():
        times = [f"{1e3 * took:.1f} ms for {n}" for n, took in sorted(found.seconds.items())]
        other = f"; {found.differs} gives other bits" if found.differs else ""
        tell(f"{lane}: {', '.join(times)}{other}")
    return ready, probes.found, estimates
