"""Compare attention kernels with XLA's and PyTorch's attention, on the device that is present.

    python benchmarks/attention.py --json benchmarks/results/attention.json

The shapes are those of the UNet. Each is timed forward, and forward with gradients. On a CPU the
kernels are XLA's, ours by heads and PyTorch's scaled_dot_product_attention. On a GPU they are
XLA's, cuDNN's and PyTorch's flash kernel; on a TPU, XLA's and splash. They take turns. A ratio is
the time of one kernel over the time of XLA's in the same turn; the table has its median and
quartiles. Every output is compared with XLA's first. PyTorch is left out if it is not installed, or
not for the device.
"""

import argparse
import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np

from cv3jax.distributed.backend import tune_cpu
from cv3jax.distributed.mesh import make_mesh
from cv3jax.kernels.attention import KERNELS, make_attend

# queries, keys, heads: self-attention and cross-attention to 225 tokens, of the released UNet's two
# stages at 512² and 1024²
SHAPES = tuple(
    (queries, keys, heads)
    for queries, heads in ((256, 20), (1024, 10), (1024, 20), (4096, 10))
    for keys in (queries, 225)
)
HEAD_DIM = 64
LEAST = 0.1  # seconds of what is timed at once: a call that takes less is repeated
WITHIN = {"bfloat16": 0.03, "float32": 1e-4}  # of the largest value


def draw(batch: int, queries: int, keys: int, heads: int) -> list[np.ndarray]:
    """Return random q, k, v and the cotangent of the output, float32 [B, S, N, D]."""
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal((batch, length, heads, HEAD_DIM), np.float32)
        for length in (queries, keys, keys, queries)
    ]


def jax_call(
    kind: str, arrays: list[np.ndarray], dtype: str, gradients: bool
) -> Callable[[], tuple]:
    """Return a function that runs one compiled kernel and returns its outputs."""
    device = jax.devices()[0]
    attend = make_attend(
        kind, device.platform, make_mesh(devices=[device]), head_dim=HEAD_DIM, dtype=dtype
    )

    def run(q, k, v, g):
        if not gradients:
            return (attend(q, k, v),)
        out, back = jax.vjp(attend, q, k, v)
        return out, *back(g)

    compiled = jax.jit(run)
    inputs = [jax.device_put(jnp.asarray(x, dtype), device) for x in arrays]
    return lambda: jax.block_until_ready(compiled(*inputs))


def torch_call(arrays: list[np.ndarray], dtype: str, gradients: bool) -> Callable[[], tuple] | None:
    """Return a function that runs PyTorch's attention and returns its outputs.

    It runs on the same kind of device as JAX. Returns None if PyTorch does not support that device
    or is not installed.
    """
    try:
        import torch
    except ImportError:
        return None
    gpu = jax.devices()[0].platform == "gpu"
    if jax.devices()[0].platform == "tpu" or (gpu and not torch.cuda.is_available()):
        return None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    # its layout is [B, N, S, D]: the transposition is no copy
    inputs = [
        torch.from_numpy(x).to("cuda" if gpu else "cpu", getattr(torch, dtype)).transpose(1, 2)
        for x in arrays
    ]
    q, k, v = (x.detach().requires_grad_(gradients) for x in inputs[:3])

    def run():
        with torch.set_grad_enabled(gradients):
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            result = (out, *torch.autograd.grad(out, (q, k, v), inputs[3])) if gradients else (out,)
        if gpu:
            torch.cuda.synchronize()
        return result

    return run


def as_array(x: Any) -> np.ndarray:
    """Return an output of JAX or PyTorch as float32 [B, S, N, D]."""
    return (
        np.asarray(x, np.float32)
        if isinstance(x, jax.Array)
        else x.detach().transpose(1, 2).float().cpu().numpy()
    )


def check(name: str, ours: tuple, theirs: tuple, within: float) -> None:
    """Raise RuntimeError unless outputs and gradients agree with XLA's."""
    for a, b in zip(map(as_array, ours), map(as_array, theirs), strict=True):
        if not np.abs(a - b).max() <= within * np.abs(b).max():
            raise RuntimeError(
                f"{name} is off by {np.abs(a - b).max() / np.abs(b).max():.2g} of the largest value"
            )


def seconds(call: Callable[[], tuple], repeats: int) -> float:
    """Return the mean time of one of `repeats` calls in a row."""
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


def compare(
    shape: tuple[int, int, int], batch: int, dtype: str, gradients: bool, rounds: int
) -> dict:
    """Return the seconds of every available kernel at one shape, and the ratios to XLA's."""
    arrays, platform = draw(batch, *shape), jax.devices()[0].platform
    kinds = ["xla"] + ([KERNELS[platform]] if platform in KERNELS else [])
    calls = {kind: jax_call(kind, arrays, dtype, gradients) for kind in kinds}
    if torch := torch_call(arrays, dtype, gradients):
        calls["torch"] = torch
    reference = calls["xla"]()
    for name, call in calls.items():
        check(name, call(), reference, WITHIN[dtype])
    repeats = {name: max(1, round(LEAST / seconds(call, 2))) for name, call in calls.items()}
    took = measure.turns(
        {name: functools.partial(seconds, call, repeats[name]) for name, call in calls.items()},
        rounds,
    )
    queries, keys, heads = shape
    return {
        "queries": queries,
        "keys": keys,
        "heads": heads,
        "pass": "forward, gradients" if gradients else "forward",
        "seconds": took,
        "ratio": {
            name: measure.ratios(values, took["xla"])
            for name, values in took.items()
            if name != "xla"
        },
    }


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, help="images (default: 1 on a CPU, else 8)")
    parser.add_argument(
        "--dtype", choices=tuple(WITHIN), help="default: float32 on a CPU, else bfloat16"
    )
    parser.add_argument("--rounds", type=int, default=9, help="turns of all (default: 9)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.rounds < 1 or (args.batch is not None and args.batch < 1):
        parser.error("--batch and --rounds must be at least 1")
    # PyTorch needs some of the GPU's memory too
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    tune_cpu()
    cpu = jax.devices()[0].platform == "cpu"
    batch, dtype = args.batch or (1 if cpu else 8), args.dtype or ("float32" if cpu else "bfloat16")
    facts = {**measure.facts(), "batch": batch, "dtype": dtype, "head_dim": HEAD_DIM}
    results = [
        compare(shape, batch, dtype, gradients, args.rounds)
        for shape in SHAPES
        for gradients in (False, True)
    ]
    if "torch" in results[0]["seconds"]:
        import torch

        facts["torch"] = torch.__version__
    print(json.dumps(facts, indent=2))
    others = list(results[0]["ratio"])
    rows = [
        (
            r["queries"],
            r["keys"],
            r["heads"],
            r["pass"],
            measure.spread([1e3 * s for s in r["seconds"]["xla"]]),
            *r["ratio"].values(),
        )
        for r in results
    ]
    print(
        measure.table(
            ("queries", "keys", "heads", "pass", "xla, ms", *(f"{name} / xla" for name in others)),
            rows,
        )
    )
    measure.write_json(args.json, {**facts, "results": results})


if __name__ == "__main__":
    main()
