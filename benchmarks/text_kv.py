"""Sampling with the text's keys and values computed once, beside computing them at every step.

    python benchmarks/text_kv.py --json benchmarks/results/text_kv.json

Both are guided and start from the same noise, in float32. `scenes` are the stages of the packaged
teacher with its own steps. `one block` is a UNet of the released widths, with one ResBlock per
stage and one transformer block, on one 64×64 latent with a text of 225 tokens of 4096 channels; its
parameters are random. Seconds are of all steps, with the text's keys and values. FLOPs are counted
from the same programs. The latents of both have to agree. Exits 1 when `one block` takes more than
0.85 of the seconds.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np

from cv3jax.aot import flops
from cv3jax.cascade.parts import build_model, unet_init
from cv3jax.cascade.pipeline import load
from cv3jax.cascade.stage_network import SamplerOptions, stage_attend
from cv3jax.cascade.stage_sampler import make_stage_sampler, make_stage_steps, sample_stage
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import StageDescription
from cv3jax.distributed.backend import tune_cpu
from cv3jax.distributed.mesh import make_mesh
from cv3jax.models.unet import UNet

MOST = 0.85  # of the seconds, for the one block
CLOSE = 1e-4  # of the largest value
CAPTIONS = ["a large red circle", "a small green star", "a large blue square", "a small red star"]
ONE_BLOCK = {
    "channels": 320,
    "channel_mult": [1, 2, 4],
    "res_blocks": 1,
    "depth": [0, 1, 1],
    "mid_depth": 1,
    "head_dim": 64,
}
TEXT = (225, 4096)
STEPS = 2  # of the one block
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


def one_block() -> tuple[StageDescription, Args]:
    """Return a stage of random parameters, none of them zeros, and what it is called with."""
    like = cascades.read_cascade(cascades.PACKAGED / "scenes_teacher")[1].stages["base"]
    stage = dataclasses.replace(like, model=ONE_BLOCK, text_width=TEXT[1], steps=STEPS)
    shapes = jax.eval_shape(unet_init(build_model(UNet, ONE_BLOCK), TEXT[1]), jax.random.key(0))
    draws = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(0.02 * draws.standard_normal(x.shape, np.float32)), shapes
    )
    text, noise = (
        jnp.asarray(draws.standard_normal(shape, np.float32))
        for shape in ((1, *TEXT), (1, 64, 64, 4))
    )
    keys = jax.vmap(jax.random.key)(jnp.arange(1))
    return stage, (params, text, None, noise, keys, jnp.float32(7.5))


def compare(what: str, stage: StageDescription, args: Args, rounds: int) -> dict:
    """Figures of one row. Raises RuntimeError where the two do not draw the same."""
    attend = stage_attend(stage, "auto", make_mesh(data=1, devices=jax.local_devices()[:1]))
    args = jax.device_put(args, jax.local_devices()[0])
    calls: dict[str, Callable[[], Any]] = {}
    counted, latents = {}, {}
    for name, cached in NAMES.items():
        options = SamplerOptions(stage.steps, text_kv_cache=cached, attend=attend)
        sampler, whole = make_stage_steps(stage, options), make_stage_sampler(stage, options)
        calls[name] = lambda sampler=sampler: sample_stage(sampler, *args, None)
        counted[name] = flops.count(lambda *args, whole=whole: whole(*args), *args).total
        latents[name] = np.asarray(calls[name]())  # warm
    ours, theirs = latents.values()
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not difference <= CLOSE:
        raise RuntimeError(f"{what}: the latents differ by {difference:.1e} of the largest value")
    took = measure.turns(
        {name: measure.timed(call) for name, call in calls.items()},
        rounds,
        lambda line: print(f"{what}: {line}", file=sys.stderr, flush=True),
    )
    return {
        "what": what,
        "batch": len(ours),
        "side": ours.shape[1],
        "steps": stage.steps,
        "seconds": took,
        "flops": counted,
        "flops_ratio": counted["cached"] / counted["every step"],
        "ratio": measure.ratios(took["cached"], took["every step"]),
        "difference": difference,
    }


def rows(figures: list[dict]) -> list[tuple]:
    """Return the rows of the table."""
    return [
        (
            row["what"],
            f"{row['batch']} × {row['side']}²",
            row["steps"],
            *(measure.spread(row["seconds"][name]) for name in NAMES),
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
        "scenes, base": lambda: scenes("base"),
        "scenes, relay": lambda: scenes("relay"),
        "one block": one_block,
    }
    figures = [compare(what, *made(), args.rounds) for what, made in cases.items()]
    head = ("", "latents", "steps", *(f"{name}, s" for name in NAMES))
    head = (*head, "ratio", "FLOPs", "difference")
    print(measure.table(head, rows(figures)) + "\nseconds and ratios: median (quartiles)")
    measure.write_json(args.json, {**facts, "rows": figures})
    if not figures[-1]["ratio"].median <= MOST:
        sys.exit(f"one block: {figures[-1]['ratio']} of the seconds, above {MOST}")


if __name__ == "__main__":
    main()
