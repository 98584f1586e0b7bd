"""Plan the memory of what benchmarks/gpu_session.sh runs at full size, without a GPU.

    python benchmarks/gpu_plan.py --json benchmarks/results/gpu_plan.json

The programs of the session are compiled ahead of time for an H200: forward pass and train step of
the UNet, the samplers of both stages for a batch of pictures, guided and distilled, and the decoder
in tiles. Nothing is run. Bytes are arguments, results and temporaries of one program; of the train
step they are the parameters, both moments, the EMA, the gradient and the activations. Workspaces
that cuDNN chooses on the device are missing. The JSON is written after each program, and a second
call resumes with what is missing. Exits 1 if a program does not fit. Needs `make setup-gpu`.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import measure
import tiled_autoencoder
from cascade import STEPS, distilled, released
from jax.sharding import SingleDeviceSharding
from unet_sides import SIZES, Case, forward_of, inputs, model, shapes_of, training_of

from cv3jax.aot import topology
from cv3jax.aot.run import WITHOUT_A_GPU, memory_of, ran_out, room
from cv3jax.cascade.parts import build_model, computed_shapes
from cv3jax.cascade.stage_network import SamplerOptions, stage_attend
from cv3jax.cascade.stage_sampler import make_stage_sampler
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.distributed.mesh import make_mesh
from cv3jax.kernels import flops
from cv3jax.kernels.attention import make_attend
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder

FEW = {"base": 4, "relay": 1}  # steps of the distilled stages
COLUMNS = ("program", "for", "GB", "usable GB", "fits", "TFLOP", "compile s")


def unet(case: Case, where: topology.Topology) -> tuple[Callable, tuple]:
    """Return (the jitted program of a case, the shapes of its arguments)."""
    net = model(case)
    mesh = make_mesh(devices=where.devices[:1])
    attend = make_attend("auto", "gpu", mesh, head_dim=net.head_dim, dtype=net.dtype)
    net = net.clone(attend=attend)
    shapes, batch = shapes_of(net, case), inputs(case)
    if case.what == "forward":
        typed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, case.dtype), shapes)
        return jax.jit(forward_of(net, case)), (typed, batch)
    begin, step = training_of(net, case)
    return jax.jit(step, donate_argnums=0), (jax.eval_shape(begin, shapes), {}, batch)


def sampler(
    description: CascadeDescription, name: str, batch: int, where: topology.Topology
) -> tuple[Callable, tuple]:
    """Return (the jitted sampler of a stage, the shapes of its arguments) for so many pictures."""
    stage = description.stages[name]
    side, channels = stage.image_size // stage.factor, UNet.out_channels
    attend = stage_attend(stage, "auto", make_mesh(devices=where.devices[:1]))
    options = SamplerOptions(stage.steps, unguided=stage.guidance == 1.0, attend=attend)
    latent = jax.ShapeDtypeStruct((batch, side, side, channels), jnp.float32)
    text = (batch, description.t5.length, stage.text_width)
    args = (
        computed_shapes(description, name),
        jax.ShapeDtypeStruct(text, jnp.float32),
        latent if stage.kind == "relay" else None,
        latent,
        jax.eval_shape(lambda: jax.vmap(jax.random.key)(jnp.arange(batch))),
        jax.ShapeDtypeStruct((), jnp.float32),
    )
    return make_stage_sampler(stage, options), args


def planned(jitted: Callable, args: tuple, where: topology.Topology) -> dict[str, Any]:
    """Return what XLA says of one program."""
    place, began = SingleDeviceSharding(where.devices[0]), time.perf_counter()
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), args)
    traced = jitted.trace(*placed)
    counted = flops.count_jaxpr(traced.jaxpr).model
    try:
        memory = memory_of(traced.lower().compile(compiler_options=WITHOUT_A_GPU))
    except jax.errors.JaxRuntimeError as e:
        memory = ran_out(str(e), placed, where)
    return {
        "bytes": memory["peak_bytes_per_chip"],
        **room(where.chip, memory["peak_bytes_per_chip"], 0),
        "flops": counted,
        "compile_seconds": time.perf_counter() - began,
    }


def decoder(where: topology.Topology, side: int, tile: int | None) -> dict[str, Any]:
    """Return what XLA says of the decoder of one picture."""
    row = tiled_autoencoder.planned(Autoencoder(dtype=jnp.bfloat16), "decode", side, tile, where)
    return {"bytes": row["peak_bytes"], **room(where.chip, row["peak_bytes"], 0), **row}


def programs(where: topology.Topology, batch: int, train: int, remat: str) -> dict[str, Callable]:
    """Return {"program, what for": function that plans it}."""

    def of(make: Callable, *args: Any) -> Callable[[], dict]:
        return lambda: planned(*make(*args, where), where)

    known = released().computing_in("bfloat16")
    vae = build_model(Autoencoder, known.vae.model)
    large = known.stages["relay"].image_size * 4
    forward = Case("forward", "full", "bfloat16")
    found = {
        f"forward, {SIZES['full'].batch} × {SIZES['full'].side}²": of(unet, forward),
        f"train, {train} × {SIZES['full'].side}², remat {remat}": of(
            unet, Case("train", "full", "bfloat16", train, remat)
        ),
    }
    for made, steps in ((known, STEPS), (distilled(known, FEW), FEW)):
        for name, stage in made.stages.items():
            key = f"{name} sampler of {steps[name]}, {batch} × {stage.image_size // vae.factor}²"
            found[key] = of(sampler, made, name, batch)
    for tile in (1024, None):
        key = f"decoder, {large}², {f'tiles of {tile}' if tile else 'whole'}"
        found[key] = lambda tile=tile: decoder(where, large, tile)
    return found


def report(stored: dict) -> str:
    """Return the table, with what the newest row was made on."""
    rows = [
        (
            *key.split(", ", 1),
            f"{one['bytes'] / 1e9:.1f}",
            f"{one['usable_bytes'] / 1e9:.1f}",
            "yes" if one["fits"] else "no",
            f"{one['flops'] / 1e12:.0f}",
            f"{one['compile_seconds']:.0f}",
        )
        for key, one in stored["results"].items()
    ]
    made = ", ".join(f"{name} {value}" for name, value in stored["facts"].items())
    return f"{made}\n\n{measure.table(COLUMNS, rows)}"


def main() -> None:
    """Plan what the results lack, and print the table."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", required=True, type=Path, metavar="FILE")
    made.add_argument("--topology", default="h200:1x1x1", metavar="CHIP:SHAPE")
    made.add_argument("--batch", type=int, default=4, help="pictures of a sampler (default: 4)")
    made.add_argument("--train", type=int, default=8, help="pictures of an update (default: 8)")
    made.add_argument("--remat", choices=("none", "block"), default="none")
    args = made.parse_args()
    if min(args.batch, args.train) < 1:
        made.error("--batch and --train must be at least 1")
    where = topology.load(args.topology)
    stored = json.loads(args.json.read_text()) if args.json.exists() else {"results": {}}
    for key, plan in programs(where, args.batch, args.train, args.remat).items():
        if key in stored["results"]:
            continue
        print(key, file=sys.stderr, flush=True)
        figures = plan()
        facts = stored["facts"] = measure.facts()
        origin = {"date": facts["date"], "revision": facts["revision"]}
        stored["results"][key] = {**figures, **origin}
        measure.write_json(args.json, stored)
    written = report(stored)
    args.json.with_suffix(".md").write_text(f"{written}\n")
    print(written)
    if bad := [key for key, one in stored["results"].items() if not one["fits"]]:
        sys.exit(f"does not fit: {'; '.join(bad)}")


if __name__ == "__main__":
    main()
