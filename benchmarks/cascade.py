"""Compare the cascade with single-stage sampling at the relay's resolution by the same UNet.

    python benchmarks/cascade.py --json benchmarks/results/cascade.json

The cascade takes 50 base steps and 10 relay steps; the single stage takes 50 steps. Two ratios are
printed. One is of seconds: a batch of pictures by the scenes' models, from prompts to uint8
pictures, with text encoder and autoencoder, guided on both sides. The weights are random, because
the time does not depend on them. The other is of FLOPs: a picture at the released sizes, 512² →
1024², counted in the same functions. The paper reports 10.33 s against 19.67 s, a ratio of 0.525.
Exits 1 if a ratio is above 0.5.
"""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np

from cv3jax.cascade.parts import build_model, part_shapes, t5_init, unet_init, vae_init
from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.sizes import drawn_sizes
from cv3jax.cascade.stage_network import SamplerOptions
from cv3jax.cascade.stage_sampler import make_stage_sampler
from cv3jax.checkpoints.description import (
    CascadeDescription,
    Distilled,
    StageDescription,
    TextDescription,
    VaeDescription,
)
from cv3jax.configs import base_512, common, relay_1024, scenes_base, scenes_relay, scenes_vae
from cv3jax.distributed.backend import tune_cpu
from cv3jax.kernels import flops
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder

MOST = 0.5
STEPS = {"base": 50, "relay": 10}
W_DIM, W = 512, (1.0, 12.0)  # of distilled stages: their guidance embedding and their weights
SCENES_TEXT = ("vocab", "channels", "layers", "heads", "head_dim", "ff", "dtype")


def describe(base: Any, relay: Any, vae: dict, t5: dict) -> CascadeDescription:
    """Return a guided cascade of these recipes, with STEPS.

    The relay's pictures have twice the side of the base's.
    """
    model = build_model(Autoencoder, vae)
    stages = {}
    for name, config, side in (
        ("base", base, base.data.image_size),
        ("relay", relay, 2 * base.data.image_size),
    ):
        fields = {
            "out_channels": model.z_channels,
            **{key: config.model[key] for key in base.model if key != "remat"},
        }
        stages[name] = StageDescription(
            kind=name,
            model=fields,
            text_width=t5["channels"],
            prediction=config.objective.prediction,
            factor=model.factor,
            image_size=side,
            start=config.schedule.start,
            steps=STEPS[name],
            guidance=config.sample.guidance,
            eta=0.0,
            form="released",
        )
    return CascadeDescription(
        VaeDescription(vae, 0.13025), TextDescription(t5, base.text.length), stages
    )


def scenes() -> CascadeDescription:
    """Return the description of the scenes' cascade."""
    base = scenes_base.get_config()
    return describe(
        base,
        scenes_relay.get_config(),
        scenes_vae.get_config().model.to_dict(),
        {k: base.text[k] for k in SCENES_TEXT},
    )


def released() -> CascadeDescription:
    """Return the description of the released cascade.

    It has 2.9 B parameters a stage, SDXL's autoencoder and T5-XXL.
    """
    return describe(
        base_512.get_config(),
        relay_1024.get_config(),
        {},
        {"channels": T5Encoder.channels, "dtype": "bfloat16"},
    )


def tiny() -> CascadeDescription:
    """Return a cascade that tests can run: the parts of the paper's recipes' `:tiny` variants."""
    base = base_512.get_config("tiny")
    vae = common.tiny(common.vae_config()).model.to_dict()
    return describe(
        base, relay_1024.get_config("tiny"), vae, {k: base.text[k] for k in SCENES_TEXT}
    )


def distilled(description: CascadeDescription, steps: dict[str, int]) -> CascadeDescription:
    """Return the same cascade with stages that were distilled to so many steps each."""
    stages = {
        name: dataclasses.replace(
            stage,
            model={**stage.model, "w_dim": W_DIM},
            steps=steps[name],
            distilled=Distilled(steps[name], W),
        )
        for name, stage in description.stages.items()
    }
    return dataclasses.replace(description, stages=stages)


def single(description: CascadeDescription) -> CascadeDescription:
    """Return the same description with the base alone, at the relay's resolution."""
    stages = description.stages
    base = dataclasses.replace(stages["base"], image_size=stages["relay"].image_size)
    return dataclasses.replace(description, stages={"base": base})


def picture_flops(description: CascadeDescription) -> dict[str, int]:
    """Return the FLOPs of one picture by part.

    They are counted in the functions that `Cascade.generate` runs.
    """
    side, text_width = (
        description.stages["base"].image_size,
        description.stages["base"].text_width,
    )
    vae, t5 = (
        build_model(Autoencoder, description.vae.model),
        build_model(T5Encoder, description.t5.model),
    )
    shapes = {part: part_shapes(description, part) for part in description.parts}
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    text = jax.ShapeDtypeStruct((1, description.t5.length, text_width), jnp.float32)

    def latent(side: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            (1, side // vae.factor, side // vae.factor, vae.z_channels), jnp.float32
        )

    def stage(name: str, side: int) -> int:
        described = description.stages[name]
        options = SamplerOptions(described.steps, unguided=described.guidance == 1.0)
        run = make_stage_sampler(described, options)
        low = latent(side) if name == "relay" else None
        w = jax.ShapeDtypeStruct((), jnp.float32)
        return flops.count(
            lambda *args: run(*args), shapes[name], text, low, latent(side), keys, w
        ).total

    def decoded(side: int) -> int:
        return flops.count(
            lambda p, z: vae.apply({"params": p}, z, method="decode"), shapes["vae"], latent(side)
        ).total

    tokens = jax.ShapeDtypeStruct((1, description.t5.length), jnp.int32)
    found = {
        "text": flops.count(lambda p, x: t5.apply({"params": p}, x), shapes["t5"], tokens).total,
        "base": stage("base", side),
        "decode": decoded(side),
    }
    for _ in drawn_sizes(description)[1:]:
        side *= 2
        pixels = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        found["encode"] = flops.count(
            lambda p, x: vae.apply({"params": p}, x, method="encode"), shapes["vae"], pixels
        ).total
        found["relay"] = stage("relay", side)
        found["decode"] += decoded(side)
    return found


def random_cascades() -> dict[str, Cascade]:
    """Return the scenes' cascade and its base at the relay's resolution.

    Both have random parameters.
    """
    description = scenes()
    key = jax.random.key(0)
    params = {
        "vae": jax.jit(vae_init(build_model(Autoencoder, description.vae.model)))(key),
        "t5": jax.jit(t5_init(build_model(T5Encoder, description.t5.model)))(key),
    }
    for name, stage in description.stages.items():
        params[name] = jax.jit(unet_init(build_model(UNet, stage.model), stage.text_width))(key)
    length, vocab = description.t5.length, description.t5.model["vocab"]

    def tokenize(prompts: list[str]) -> np.ndarray:
        return np.random.default_rng(0).integers(0, vocab, (len(prompts), length), np.int32)

    return {
        "cascade": Cascade(description, params, tokenize),
        "single stage": Cascade(single(description), params, tokenize),
    }


def measured(batch: int, rounds: int) -> dict:
    """Return the seconds of a batch by the cascade and by the single stage."""
    prompts, seeds = [""] * batch, list(range(batch))
    calls = {}
    for name, cascade in random_cascades().items():
        side = cascade.generate(prompts, seeds, final=True).popitem()[1].shape[1]  # compiles
        print(f"{name}: {side}² pictures", file=sys.stderr, flush=True)
        calls[name] = measure.timed(
            lambda cascade=cascade: cascade.generate(prompts, seeds, final=True)
        )
    took = measure.turns(calls, rounds, lambda line: print(line, file=sys.stderr, flush=True))
    return {
        "batch": batch,
        "rounds": rounds,
        "seconds": took,
        "ratio": measure.ratios(took["cascade"], took["single stage"]),
    }


def counted() -> dict:
    """Return the FLOPs of a picture at the released sizes, by cascade and by single stage."""
    description = released()
    found = {
        "cascade": picture_flops(description),
        "single stage": picture_flops(single(description)),
    }
    return {
        "flops": found,
        "ratio": sum(found["cascade"].values()) / sum(found["single stage"].values()),
    }


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=4, help="pictures at once (default: 4)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of both (default: 9)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.batch < 1 or args.rounds < 1:
        parser.error("--batch and --rounds must be at least 1")
    tune_cpu()
    facts = measure.facts()
    print(json.dumps(facts, indent=2))
    time, count = measured(args.batch, args.rounds), counted()
    rows = [
        (
            f"seconds a batch of {args.batch}, scenes, median (quartiles)",
            *map(measure.spread, time["seconds"].values()),
            time["ratio"],
        ),
        (
            "TFLOPs a picture, released sizes",
            *(f"{sum(parts.values()) / 1e12:.1f}" for parts in count["flops"].values()),
            f"{count['ratio']:.3f}",
        ),
    ]
    print(measure.table(("", *time["seconds"], "ratio"), rows))
    for name, parts in count["flops"].items():
        print(
            f"{name}: "
            + ", ".join(f"{part} {value / 1e12:.1f}" for part, value in parts.items())
            + " TFLOPs"
        )
    measure.write_json(args.json, {**facts, "measured": time, "counted": count})
    if not max(time["ratio"].median, count["ratio"]) <= MOST or math.isnan(count["ratio"]):
        sys.exit(f"the cascade takes more than {MOST} of single-stage sampling")


if __name__ == "__main__":
    main()
