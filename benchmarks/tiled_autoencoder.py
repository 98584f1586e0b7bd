"""The autoencoder in tiles (`cascade/tiled_coders.py`) beside the autoencoder of the whole picture.

    python benchmarks/tiled_autoencoder.py --json benchmarks/results/tiled_autoencoder.json

Planned: the memory of one decode and one encode of the released autoencoder's size, from the
programs that XLA compiles; nothing is run. With --topology they are compiled for one such chip too.
Counted: the FLOPs of the same programs. Measured: CPU seconds at a small size, in turns, and the
largest difference of the two results. Exits 1 when a decode in tiles takes more than a sixth of the
memory of the whole one, or a result differs by more than 1e-4.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np
from jax.sharding import SingleDeviceSharding

from cv3jax.aot import topology
from cv3jax.aot.run import memory_of, ran_out
from cv3jax.cascade.coders import decoder, encoder
from cv3jax.cascade.parts import vae_init
from cv3jax.cascade.tiled_coders import decode_tiled, encode_tiled, tiled_decoder, tiled_encoder
from cv3jax.distributed.backend import tune_cpu
from cv3jax.kernels import flops
from cv3jax.models.vae import Autoencoder

MOST_MEMORY, MOST_DIFFERENCE = 1 / 6, 1e-4
SCALE = 0.13025
SMALL = {"channels": 32, "side": 256, "tile": 128}
COLUMNS = ("hardware", "program", "tile", "peak GB", "temporaries GB", "TFLOP", "compile s")


def arguments(vae: Autoencoder, kind: str, side: int, where: Any) -> tuple:
    """Return the shapes of the arguments of a decode or an encode of one picture, on one device."""
    small = (1, side // vae.factor, side // vae.factor, vae.z_channels)
    arrays = {"decode": [small], "encode": [(1, side, side, 3), small]}[kind]
    shapes = (jax.eval_shape(vae_init(vae), jax.random.key(0)), *arrays)

    def placed(shape: Any) -> jax.ShapeDtypeStruct:
        shape = getattr(shape, "shape", shape)
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)

    params = jax.tree.map(placed, shapes[0])
    return params, *map(placed, shapes[1:])


def jitted(vae: Autoencoder, kind: str, tile: int | None) -> Callable:
    """Return the function of `coders` or of `tiled_coders`."""
    if tile is None:
        return {"decode": decoder, "encode": encoder}[kind](vae, SCALE, None)
    return {"decode": tiled_decoder, "encode": tiled_encoder}[kind](vae, SCALE, None, tile)


def plain(vae: Autoencoder, kind: str, tile: int | None) -> Callable:
    """(parameters, latents or pixels) → pixels or moments, before anything is jitted."""
    if tile is None:
        return lambda params, x: vae.apply({"params": params}, x, method=kind)
    tiled = {"decode": decode_tiled, "encode": encode_tiled}[kind]
    return lambda params, x: tiled(vae, params, x, tile)


def planned(vae: Autoencoder, kind: str, side: int, tile: int | None, where: Any) -> dict:
    """Return what XLA says of one program."""
    device = jax.devices("cpu")[0] if where is None else where.devices[0]
    args = arguments(vae, kind, side, SingleDeviceSharding(device))
    call = jitted(vae, kind, tile)
    counted, began = flops.count(plain(vae, kind, tile), *args[:2]).total, time.perf_counter()
    lowered = call.lower(*args)
    try:
        memory = memory_of(lowered.compile())
    except jax.errors.JaxRuntimeError as e:
        if where is None:
            raise
        memory = ran_out(str(e), args, where)
    return {
        "hardware": "CPU" if where is None else where.chip.title,
        "program": kind,
        "side": side,
        "dtype": jnp.dtype(vae.dtype).name,
        "tile": tile,
        "peak_bytes": memory["peak_bytes_per_chip"],
        "temporary_bytes": memory["temporary_bytes_per_chip"],
        "fits": None if where is None else memory["peak_bytes_per_chip"] <= where.chip.memory,
        "flops": counted,
        "compile_seconds": time.perf_counter() - began,
    }


def measured(rounds: int) -> dict:
    """CPU seconds of both at a small size, and how far their results are apart."""
    vae, side = Autoencoder(channels=SMALL["channels"]), SMALL["side"]
    rng = np.random.default_rng(0)

    def filled(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        wide = max(1, int(np.prod(leaf.shape[:-1]))) ** -0.5
        return jnp.asarray(rng.normal(0, wide, leaf.shape), jnp.float32)

    params = jax.tree.map(filled, jax.eval_shape(vae_init(vae), jax.random.key(0)))
    pixels = jnp.asarray(rng.uniform(-1, 1, (1, side, side, 3)), jnp.float32)
    latents = jnp.asarray(rng.normal(size=(1, side // 8, side // 8, 4)), jnp.float32)
    found: dict = {**SMALL, "rounds": rounds}
    for kind, x in (("decode", latents), ("encode", pixels)):
        whole, tiled = (plain(vae, kind, tile) for tile in (None, SMALL["tile"]))
        calls = {"whole": jax.jit(whole), "tiles": jax.jit(tiled)}
        made = {name: jax.block_until_ready(call(params, x)) for name, call in calls.items()}
        apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), *made.values())
        timers = {
            name: measure.timed(lambda call=call, x=x: call(params, x))
            for name, call in calls.items()
        }
        took = measure.turns(timers, rounds)
        found[kind] = {
            "seconds": took,
            "ratio": measure.ratios(took["tiles"], took["whole"]),
            "difference": max(jax.tree.leaves(apart)),
            "flops_ratio": flops.count(tiled, params, x).total
            / flops.count(whole, params, x).total,
        }
    return found


def report(facts: dict, rows: list[dict], found: dict) -> str:
    """Return the tables, with what they were made on."""
    cells = [
        (
            row["hardware"],
            f"{row['program']} {row['side']}² {row['dtype']}",
            row["tile"] or "whole",
            f"{row['peak_bytes'] / 1e9:.2f}",
            f"{row['temporary_bytes'] / 1e9:.2f}",
            f"{row['flops'] / 1e12:.0f}",
            f"{row['compile_seconds']:.0f}",
        )
        for row in rows
    ]
    small = [
        (
            f"{kind} {found['side']}², {found['channels']} channels, tile {found['tile']}",
            *(measure.spread(found[kind]["seconds"][name]) for name in ("whole", "tiles")),
            measure.Spread(*found[kind]["ratio"]),
            f"{found[kind]['flops_ratio']:.2f}",
            f"{found[kind]['difference']:.1e}",
        )
        for kind in ("decode", "encode")
    ]
    head = ("", "whole s", "tiles s", "ratio", "FLOPs ratio", "largest difference")
    made = ", ".join(f"{name} {value}" for name, value in facts.items())
    return "\n\n".join((made, measure.table(COLUMNS, cells), measure.table(head, small)))


def missed(rows: list[dict], found: dict) -> list[str]:
    """Return the bars that were missed."""
    wrong = []
    for row in rows:
        same = ("hardware", "program", "side", "dtype")
        whole = next(
            (r for r in rows if r["tile"] is None and all(r[k] == row[k] for k in same)), None
        )
        if whole is None or row["tile"] is None or row["program"] != "decode":
            continue
        if (ratio := row["peak_bytes"] / whole["peak_bytes"]) > MOST_MEMORY:
            wrong.append(
                f"{row['hardware']}, tile {row['tile']}: {ratio:.3f} of the whole's memory"
            )
    wrong += [
        f"{kind}: differs by {found[kind]['difference']:.1e}"
        for kind in ("decode", "encode")
        if found[kind]["difference"] > MOST_DIFFERENCE
    ]
    return wrong


def main() -> None:
    """Plan and measure, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--side", type=int, default=4096, help="of the planned pictures, in pixels")
    parser.add_argument("--tiles", type=int, nargs="+", default=[512, 1024], metavar="PIXELS")
    parser.add_argument("--topology", nargs="*", default=[], metavar="CHIP:SHAPE")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.rounds < 1:
        sys.exit("--rounds must be at least 1")
    chips = [None, *map(topology.load, args.topology)]
    tune_cpu()
    jax.config.update("jax_platforms", "cpu")
    vae = Autoencoder(dtype=jnp.dtype(args.dtype))
    rows = []
    for where in chips:
        for kind in ("decode", "encode"):
            for tile in (None, *args.tiles):
                rows.append(planned(vae, kind, args.side, tile, where))
                print(rows[-1], flush=True)
    found, facts = measured(args.rounds), measure.facts()
    written = report(facts, rows, found)
    print(written)
    measure.write_json(args.json, {**facts, "planned": rows, "measured": found})
    if args.json is not None:
        args.json.with_suffix(".md").write_text(f"{written}\n")
    if wrong := missed(rows, found):
        sys.exit(f"missed: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
