"""Measure the seconds and the memory of decoding one large picture, in tiles and as a whole.

    python benchmarks/tiled_decode.py --json tiled_decode.json
    python benchmarks/tiled_decode.py --size tiny --side 128 --tile 64

The autoencoder has the released size and computes in bfloat16; its weights and the latents are
random. The memory is that of one call, as XLA plans it for the compiled program. In float32 both
ways make the same pixels to 1e-4 (`tiled_autoencoder.py`). In bfloat16 they round differently, so
the largest difference of the uint8 pixels is given, and the share of those that differ. The JSON is
written after each way.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np
from cascade import tiny
from random_weights import on_device
from tiled_autoencoder import jitted, plain

from cv3jax.aot.run import memory_of
from cv3jax.cascade.parts import build_model, model_shapes
from cv3jax.distributed.backend import size_pool, tune_cpu
from cv3jax.distributed.chips import chip_of
from cv3jax.kernels import flops
from cv3jax.models.precision import as_computed
from cv3jax.models.vae import Autoencoder

SIZES = ("full", "tiny")
COLUMNS = ("", "s", "of the whole's time", "MFU", "GB", "TFLOP", "compile s")


def autoencoder(size: str) -> Autoencoder:
    """Return the released autoencoder in bfloat16, or a tiny one."""
    if size == "tiny":
        return build_model(Autoencoder, tiny().vae.model)
    return Autoencoder(dtype=jnp.bfloat16)


def measured(vae: Autoencoder, params: Any, latents: Any, tile: int | None, rounds: int) -> tuple:
    """Return (the figures of a decode, its uint8 pixels)."""
    began = time.perf_counter()
    run = jitted(vae, "decode", tile).lower(params, latents).compile()
    took = time.perf_counter() - began
    pixels = np.asarray(run(params, latents))
    call = measure.timed(lambda: run(params, latents))
    seconds = [call() for _ in range(rounds)]
    counted = flops.count(plain(vae, "decode", tile), params, latents).total
    chip = chip_of(jax.devices()[0].device_kind)
    figures = {
        "tile": tile,
        "side": pixels.shape[1],
        "dtype": jnp.dtype(vae.dtype).name,
        "seconds": seconds,
        "spread": measure.spread(seconds),
        "memory_bytes": memory_of(run)["peak_bytes_per_chip"],
        "flops": counted,
        "compile_seconds": took,
    }
    if chip is not None:
        figures["mfu"] = measure.spread([counted / each / chip.flops for each in seconds])
    return figures, pixels


def compare(vae: Autoencoder, args: argparse.Namespace, keep: Any) -> dict[str, dict]:
    """Return the figures in tiles and as a whole. keep: called with them whenever there are more.

    The whole may need more memory than there is; then it has the field `failed`.
    """
    params = on_device(as_computed(model_shapes(vae), vae.dtype))
    shape = (1, args.side // vae.factor, args.side // vae.factor, vae.z_channels)
    latents = jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
    found: dict[str, dict] = {}
    found["tiles"], tiled = measured(vae, params, latents, args.tile, args.rounds)
    keep(found)
    try:
        found["whole"], whole = measured(vae, params, latents, None, args.rounds)
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        found["whole"] = {"failed": "more memory than the device has"}
        return found
    apart = np.abs(tiled.astype(np.int16) - whole)
    found["tiles"]["ratio"] = measure.ratios(found["tiles"]["seconds"], found["whole"]["seconds"])
    found["tiles"]["difference"] = {
        "largest": int(apart.max()),
        "share": float((apart > 0).mean()),
    }
    return found


def cells(name: str, row: dict) -> tuple:
    """Return a line of the table."""
    if "failed" in row:
        return (name, row["failed"], "", "", "", "", "")
    how = f"tiles of {row['tile']}" if row["tile"] else "whole"
    return (
        f"{row['side']}², {how}",
        measure.Spread(*row["spread"]),
        measure.Spread(*row["ratio"]) if "ratio" in row else "",
        f"{row['mfu'][0]:.0%}" if "mfu" in row else "",
        f"{row['memory_bytes'] / 1e9:.2f}",
        f"{row['flops'] / 1e12:.1f}",
        f"{row['compile_seconds']:.0f}",
    )


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--size", choices=SIZES, default="full", help="of the autoencoder")
    made.add_argument("--side", type=int, default=4096, help="of the picture (default: 4096)")
    made.add_argument("--tile", type=int, default=1024, help="side in pixels (default: 1024)")
    made.add_argument("--rounds", type=int, default=3, help="decodes of each (default: 3)")
    made.add_argument("--json", type=Path, metavar="FILE")
    args = made.parse_args()
    vae = autoencoder(args.size)
    if args.rounds < 1:
        made.error("--rounds must be at least 1")
    if min(args.side, args.tile) < vae.factor or args.side % vae.factor or args.tile % vae.factor:
        made.error(f"--side and --tile must be multiples of {vae.factor} above 0")
    tune_cpu()
    size_pool()
    facts = measure.facts()
    print(json.dumps(facts, indent=2), flush=True)

    def keep(found: dict) -> None:
        measure.write_json(args.json, {**facts, "rows": found})
        print(f"{list(found)[-1]} measured", file=sys.stderr, flush=True)

    found = compare(vae, args, keep)
    keep(found)
    print(measure.table(COLUMNS, [cells(*each) for each in found.items()]))


if __name__ == "__main__":
    main()
