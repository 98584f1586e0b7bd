"""The memory plan of a run: what it holds on each device, by kind.

It is printed before the first step, when the programs are compiled and nothing has run yet.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from cv3jax.distributed.backend import waiting
from data_pipeline.io.progress import say

GB, MB = 1e9, 1e6


def held(tree: Any) -> int:
    """Return the bytes of a tree, arrays or shapes with shardings, on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def memory_plan(
    state: Any, frozen: Mapping[str, Any], batches: Any, compiled: list[Any]
) -> dict[str, int]:
    """Return {kind: bytes per device}.

    The kinds are the parts of the state, each of the frozen parts by its name, the batches, and the
    most that a program needs besides.
    """
    return {
        "parameters": held(state.params),
        "moments": held(state.opt_state),
        "EMA": held(state.ema),
        "post-hoc averages": held(state.posthoc),
        **{name: held(tree) for name, tree in frozen.items()},
        "batch": held(batches),
        "activations": max(program.memory_analysis().temp_size_in_bytes for program in compiled),
    }


def plan_line(plan: dict[str, int], device: Any) -> str:
    """Return the plan in one line.

    Where the backend reports how much JAX takes of the device's memory, it says so, and what to do
    where that is too little.
    """
    total, limit = sum(plan.values()), (device.memory_stats() or {}).get("bytes_limit")
    unit, name = (GB, "GB") if total >= GB else (MB, "MB")
    parts = ", ".join(f"{kind} {size / unit:.2f}" for kind, size in plan.items() if size)
    line = f"memory per device, {name}: {parts}; {total / unit:.2f} in all"
    if not limit:
        return line
    line += f" of {limit / unit:.2f} that JAX takes"
    return f"{line}; that is too little: lower config.batch.per_device" if total > limit else line


def compiled_and_announced(
    programs: list[tuple[Callable, tuple]], state: Any, frozen: Mapping[str, Any], batches: Any
) -> list[Callable]:
    """Return `programs`, compiled, and print their memory plan to stderr.

    programs: (jitted function, the shapes it is called with). frozen: by name.
    """
    with waiting("compiling the train step"):
        compiled = [jitted.lower(*args).compile() for jitted, args in programs]
    device = jax.tree.leaves(state)[0].sharding.mesh.local_devices[0]
    if jax.process_index() == 0:
        say(f"cv3jax: {plan_line(memory_plan(state, frozen, batches, compiled), device)}")
    return compiled
