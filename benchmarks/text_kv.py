"""Sampling with the text's keys and values computed once, beside computing them at every step.

    python benchmarks/text_kv.py --json benchmarks/results/text_kv.json

Both are guided and start from the same noise, in float32. `scenes` are the stages of the packaged
teacher with its own steps. `one block` is a UNet of the released widths with one ResBlock per stage
and one transformer block, and `released` is the released UNet of 2.9 billion parameters: each
takes one guided step of one 64×64 latent, with a text of 225 tokens of 4096 channels and random
parameters. Seconds are CPU seconds of these steps. Those in which the text is read, once a
picture, stand beside them. The ratio is that of a whole picture's steps, with the reading. FLOPs
are counted from the same programs. The latents of both have to agree. Exits 1 when `released` takes
more than 0.85 of the CPU seconds.
"""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np

from cv3jax.cascade.parts import build_model, unet_init
from cv3jax.cascade.pipeline import load
from cv3jax.cascade.stage_network import SamplerOptions, stage_attend
from cv3jax.cascade.stage_sampler import make_stage_sampler, make_stage_steps
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import StageDescription
from cv3jax.distributed.backend import tune_cpu
from cv3jax.distributed.mesh import make_mesh
from cv3jax.kernels import flops
from cv3jax.models.unet import UNet

MOST = 0.85  # of the seconds, for the released UNet
CLOSE = 1e-4  # of the largest value
CAPTIONS = ["a large red circle", "a small green star", "a large blue square", "a small red star"]
RELEASED = {
    "channels": 320,
    "channel_mult": [1, 2, 4],
    "res_blocks": 2,
    "depth": [0, 2, 10],
    "mid_depth": 10,
    "head_dim": 64,
}
ONE_BLOCK = {**RELEASED, "res_blocks": 1, "depth": [0, 1, 1], "mid_depth": 1}
TEXT = (225, 4096)
STEPS = 50  # of a picture of these two
NAMES = {"cached": True, "every step": False}

# (params, text, low, noise, keys, w), as `make_stage_sampler` takes them
Args = tuple[Any, jax.Array, jax.Array | None, jax.Array, jax.Array, jax.Array]


def scenes(name: str) -> tuple[StageDescription, Args]:
    """Return a stage of the packaged teacher, and what it is called with."""
    cascade = load(cascades.PACKAGED / "scenes_teacher")
    stage = cascade.description.stages[name]
    keys = jax.vmap(jax.random.key)(jnp.arange(len(CAPTIONS)))
    noise = cascade.noise(keys, stage.image_size)
    low = jnp.zeros_like(noise) if name == "relay" else None
    w = jnp.float32(stage.guidance)
    return stage, (cascade.params[name], cascade.text(CAPTIONS), low, noise, keys, w)


def random(model: dict) -> tuple[StageDescription, Args]:
    """Return a stage of random parameters, none of them zeros, and what it is called with."""
    like = cascades.read_cascade(cascades.PACKAGED / "scenes_teacher")[1].stages["base"]
    stage = dataclasses.replace(like, model=model, text_width=TEXT[1], steps=STEPS)
    shapes = jax.eval_shape(unet_init(build_model(UNet, model), TEXT[1]), jax.random.key(0))
    draws = np.random.default_rng(0)

    def normal(shape: tuple[int, ...], scale: float = 1.0) -> jax.Array:
        values = draws.standard_normal(shape, np.float32)
        values *= scale
        return jnp.asarray(values)

    params = jax.tree.map(lambda x: normal(x.shape, 0.02), shapes)
    keys = jax.vmap(jax.random.key)(jnp.arange(1))
    text, noise = normal((1, *TEXT)), normal((1, 64, 64, 4))
    return stage, (params, text, None, noise, keys, jnp.float32(7.5))


def compare(what: str, stage: StageDescription, args: Args, taken: int, rounds: int) -> dict:
    """Figures of one row, of `taken` steps. Raises RuntimeError where the latents differ."""
    attend = stage_attend(stage, "auto", make_mesh(data=1, devices=jax.local_devices()[:1]))
    params, text, low, noise, keys, w = args = jax.device_put(args, jax.local_devices()[0])
    calls: dict[str, Callable[[], Any]] = {}
    counted, latents = {}, {}
    for name, cached in NAMES.items():
        options = SamplerOptions(taken, text_kv_cache=cached, attend=attend)
        whole = make_stage_sampler(stage, dataclasses.replace(options, steps=stage.steps))
        sampler = make_stage_steps(stage, options)
        counted[name] = flops.count(lambda *args, whole=whole: whole(*args), *args).total
        state, read = sampler.begin(low, noise), sampler.read_text(params, text)
        between = (jnp.int32(0), jnp.int32(taken))
        calls[name] = functools.partial(sampler.run, params, read, low, state, keys, w, between)
        latents[name] = np.asarray(calls[name]()[0])  # warm
        if cached:
            calls["reading"] = functools.partial(sampler.read_text, params, text)
            jax.block_until_ready(calls["reading"]())  # warm
    ours, theirs = latents.values()
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not difference <= CLOSE:
        raise RuntimeError(f"{what}: the latents differ by {difference:.1e} of the largest value")
    took = measure.turns(
        {name: measure.cpu_timed(call) for name, call in calls.items()},
        rounds,
        lambda line: print(f"{what}: {line}", file=sys.stderr, flush=True),
    )
    share = taken / stage.steps
    both = [
        cached + share * reading
        for cached, reading in zip(took["cached"], took["reading"], strict=True)
    ]
    return {
        "what": what,
        "batch": len(ours),
        "side": ours.shape[1],
        "steps": stage.steps,
        "taken": taken,
        "seconds": took,
        "flops": counted,
        "flops_ratio": counted["cached"] / counted["every step"],
        "ratio": measure.ratios(both, took["every step"]),
        "difference": difference,
    }


def rows(figures: list[dict]) -> list[tuple]:
    """Return the rows of the table."""
    return [
        (
            row["what"],
            f"{row['batch']} × {row['side']}²",
            f"{row['taken']} of {row['steps']}",
            *(measure.spread(row["seconds"][name]) for name in (*NAMES, "reading")),
            row["ratio"],
            f"{row['flops_ratio']:.3f}",
            f"{row['difference']:.1e}" if row["difference"] else "none",
        )
        for row in figures
    ]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="turns of each pair (default: 9)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    tune_cpu()
    facts = measure.facts()
    print(json.dumps(facts, indent=2), flush=True)
    cases = {
        "scenes, base": (lambda: scenes("base"), None, args.rounds),
        "scenes, relay": (lambda: scenes("relay"), None, args.rounds),
        "one block": (lambda: random(ONE_BLOCK), 1, args.rounds),
        "released": (lambda: random(RELEASED), 1, -(-args.rounds // 2)),
    }
    figures = []
    for what, (made, taken, rounds) in cases.items():
        stage, given = made()
        figures.append(compare(what, stage, given, taken or stage.steps, rounds))
    head = ("", "latents", "steps", *(f"{name}, s" for name in (*NAMES, "reading")))
    head = (*head, "ratio", "FLOPs", "difference")
    print(measure.table(head, rows(figures)) + "\nCPU seconds and ratios: median (quartiles)")
    measure.write_json(args.json, {**facts, "rows": figures})
    if not figures[-1]["ratio"].median <= MOST:
        sys.exit(f"released: {figures[-1]['ratio']} of the seconds, above {MOST}")


if __name__ == "__main__":
    main()
