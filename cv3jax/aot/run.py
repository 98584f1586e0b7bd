"""Compile a recipe's step ahead of time for other hardware: `cv3jax compile`.

It reports whether the step fits, what it moves, and how fast it can be.
"""

import math
import re
import resource
from typing import Any

import jax

from cv3jax.aot import collectives, roofline
from cv3jax.aot.hlo import Module
from cv3jax.aot.memory_traffic import traffic
from cv3jax.aot.progress import Progress
from cv3jax.aot.topology import Topology, load, parse
from cv3jax.cascade.sizes import Size
from cv3jax.distillation.settings import DistillSettings
from cv3jax.distributed.backend import pool_fraction
from cv3jax.distributed.chips import Chip
from cv3jax.kernels import flops
from cv3jax.lora.settings import LoraSettings
from cv3jax.training.memory_plan import held
from cv3jax.training.settings import StageSettings
from data_pipeline.io.errors import InputError, first_line

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# without a GPU XLA cannot measure which of Triton's tiles is the fastest, and may find none that it
# can use; so it takes cuBLAS
WITHOUT_A_GPU = {"xla_gpu_enable_triton_gemm": False}
# jaxlib 0.10.2 cannot read a module in which libtpu 0.0.52 lets a SparseCore (v5p, v6e) look up
# T5's embeddings
READABLE = {"xla_tpu_offload_gather_to_sparsecore": False}
# what the TPU compiler says when it runs out of memory; both figures have their unit, and the first
# is everything that the program would need
RAN_OUT = (
    r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)",
    r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm",
)


def run(
    settings: StageSettings | DistillSettings | LoraSettings,
    topology: str,
    step: str,
    *,
    size: Size | None = None,
    tile: int = 0,
    steps: int | None = None,
    mfu: float = 0.4,
) -> dict:
    """Compile and measure a recipe's step. Returns the figures of the report.

    size, tile: of the pictures of the step `sample`, see `cv3jax.aot.programs.Drawn`.

    Raises:
        InputError: the topology or recipe is not possible, or XLA does not compile the step for
            another reason than memory.
    """
    parse(topology)  # refuse a wrong name before the tools for a right one load
    from cv3jax.aot.programs import Drawn, program

    where = load(topology)
    with Progress() as progress:
        progress.phase("shapes")
        work = program(settings, where.devices, step, Drawn(size, tile))
        # a parameter is gathered once forward and once backward, and recomputation uses the gather
        # of the backward; nested remat needs one more
        trains = step in ("train", "later")
        distils = isinstance(settings, DistillSettings)
        adapts = isinstance(settings, LoraSettings)
        stage = settings.stage if distils or adapts else settings
        student = 3 if stage.model.get("remat") == "full" else 2
        # and the two passes of a teacher, which has the same sizes
        gathers = student + 2 * distils if trains else {"encode": 1}.get(step)
        # of an adapter's base no gradient is reduced
        figures = analyse(work, where, progress, gathers=gathers, train=trains and not adapts)
    figures.update({"step": step, "topology": topology})
    if size is not None:
        figures["size"] = list(size)
    if tile:
        figures["tile"] = tile
    if steps is not None:
        roof = (
            roofline.Roofline(**figures["roofline_seconds"])
            if figures["roofline_seconds"]
            else None
        )
        figures["estimate"] = roofline.chip_hours(
            where.chip, figures["chips"], figures["model_flops_per_step"], roof, steps, mfu
        )
    return figures


def analyse(
    work: Any, where: Topology, progress: Progress, *, gathers: int | None, train: bool
) -> dict:
    """Return the figures of a `cv3jax.aot.programs.Program` compiled for `where`.

    gathers: how often each parameter may be gathered per microbatch; None for no comparison.
    """
    progress.phase("tracing")
    traced = work.jitted.trace(*work.args)
    counted = flops.count_jaxpr(traced.jaxpr)
    progress.phase("lowering")
    lowered = traced.lower()
    progress.phase("compiling")
    try:
        compiled = lowered.compile(compiler_options=READABLE if where.chip.tpu else WITHOUT_A_GPU)
    except jax.errors.JaxRuntimeError as e:
        memory, moved, read = ran_out(str(e), work.args, where), None, None
    else:
        progress.phase("reading")
        memory, module = memory_of(compiled), Module(compiled.as_text())
        try:
            moved, read = collectives.collectives(module), traffic(module, on_chip=where.chip.tpu)
        except ValueError as e:
            raise InputError(
                f"the compiled step cannot be read ({first_line(e, 300)}); please report it"
            ) from e
    seconds, chips = progress.end(), len(where.devices)
    beside = {name: held(tree) for name, tree in work.beside.items()}
    figures = {
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(work.params)),
        "chips": chips,
        "chip": where.chip.title,
        "mesh": dict(work.mesh.shape),
        "images": work.images,
        "microbatches": work.microbatches,
        **memory,
        **room(where.chip, memory["peak_bytes_per_chip"], sum(beside.values())),
        "beside": beside,
        "flops_per_step": counted.total,
        "flops_per_image": counted.total / work.images,
        "flops_by_kind": counted.kinds,
        "recomputed_flops_per_step": counted.recomputed,
        "model_flops_per_step": counted.model,
        "compile_seconds": sum(seconds.values()),
        "seconds": seconds,
        "host_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "collectives": None,
        "fsdp": None,
        "memory_traffic_bytes_per_chip": None,
        "arithmetic_intensity": None,
        "roofline_seconds": None,
        "mfu_bound": None,
    }
    if moved is None:  # the compiler ran out of memory, so there is no program to examine
        figures["fits"] = False
        return figures
    # the program numbers its chips as the mesh does
    places = [tuple(device.coords) for device in work.mesh.devices.flat]
    roof = roofline.roofline(
        where.chip, where.shape, places, flops=counted.total, traffic=read, moved=moved
    )
    figures.update(
        {
            "collectives": collectives.by_kind(moved),
            "memory_traffic_bytes_per_chip": read,
            "arithmetic_intensity": counted.total / chips / read if read else None,
            "roofline_seconds": roof._asdict(),
            "mfu_bound": roofline.mfu_bound(where.chip, chips, counted.model, roof),
        }
    )
    if gathers is not None:
        least = collectives.fsdp_minimum(
            work.params, microbatches=work.microbatches, gathers=gathers, train=train
        )
        actual = sum(one.total for one in moved)
        figures["fsdp"] = {
            "gathers": gathers,
            "minimum_gather_bytes": least.gather,
            "minimum_reduce_bytes": least.reduce,
            "actual_bytes": actual,
            "ratio": actual / least.total if least.total else None,
            "activation_gather_bytes": sum(
                one.total for one in moved if one.kind == "all-gather" and not one.parameters
            ),
        }
    return figures


def room(chip: Chip, peak: int, beside: int) -> dict[str, Any]:
    """Return whether a program of `peak` bytes fits a chip that also holds `beside` bytes.

    JAX uses only `pool_fraction` of a GPU's memory.
    """
    usable, total = int(chip.memory * (1.0 if chip.tpu else pool_fraction())), peak + beside
    return {
        "beside_bytes_per_chip": beside,
        "total_bytes_per_chip": total,
        "capacity_bytes": int(chip.memory),
        "usable_bytes": usable,
        "fits": total <= usable,
    }


def memory_of(compiled: Any) -> dict[str, int]:
    """Return the bytes per chip that the compiled program takes.

    The peak is arguments + outputs - aliased + temporaries + code.
    """
    m = compiled.memory_analysis()
    parts = {
        "argument": m.argument_size_in_bytes,
        "output": m.output_size_in_bytes,
        "aliased": m.alias_size_in_bytes,
        "temporary": m.temp_size_in_bytes,
        "code": m.generated_code_size_in_bytes,
    }
    host = (
        m.host_argument_size_in_bytes
        + m.host_output_size_in_bytes
        - m.host_alias_size_in_bytes
        + m.host_temp_size_in_bytes
    )
    peak = (
        parts["argument"] + parts["output"] - parts["aliased"] + parts["temporary"] + parts["code"]
    )
    named = {f"{name}_bytes_per_chip": size for name, size in parts.items()}
    return {**named, "peak_bytes_per_chip": peak, "host_memory_bytes_per_chip": host}


def ran_out(message: str, args: Any, where: Topology) -> dict[str, int | None]:
    """Return the figures of `memory_of` that the compiler's out-of-memory error gives.

    Raises InputError on any other error.
    """
    found = next((found for pattern in RAN_OUT if (found := re.search(pattern, message))), None)
    if not found:
        raise InputError(
            f"XLA does not compile this step for {where.name}:"
            f" {first_line(ValueError(message), 400)}"
        )
    peak = int(float(found[1]) * UNITS[found[2]])
    arguments = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(args)
        if leaf.sharding
    )
    return {
        "argument_bytes_per_chip": arguments,
        "output_bytes_per_chip": None,
        "aliased_bytes_per_chip": None,
        "temporary_bytes_per_chip": max(peak - arguments, 0),
        "code_bytes_per_chip": None,
        "peak_bytes_per_chip": peak,
        "host_memory_bytes_per_chip": None,
    }
