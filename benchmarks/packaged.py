"""Compare the packaged cascades of scenes with their bars.

    python benchmarks/packaged.py --count 200 --json benchmarks/results/packaged.json

Pictures are judged, and guidance, distances and seconds measured. `scenes_teacher` samples in its
own 20 + 10 guided steps; `scenes` is distilled from it to 4 + 1. The captions are held out: each
has a colour and shape that no training picture combines. The relational ones say only which of two
things is to the left of the other. Exits 1 if a bar is missed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import measure
import numpy as np

from cv3jax.cascade.pipeline import Cascade, load
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.checkpoints import cascades
from cv3jax.distributed.backend import tune_cpu
from cv3jax.evaluation.distilled_scenes import assess_distilled, compared, with_rounds
from cv3jax.evaluation.image_metrics import psnr
from cv3jax.evaluation.scenes import draw_captions, judged_scenes, round_trip
from data_pipeline.scenes import grammar
from data_pipeline.scenes.judge import PROPERTIES, judge
from data_pipeline.scenes.render import render

TEACHER, STUDENT = "scenes_teacher", "scenes"
BARS = {"vae": 0.95, "colour": 0.97, "all": 0.85, "order": 0.90, "seconds": 2.0, "guidance": 4}
PROMPT = "a small green star on the left and a large purple circle on the right, black background"


def relational_scenes(count: int, seed: int) -> list[grammar.Scene]:
    """Return held-out scenes of two things whose captions only state their order.

    Every second scene is textured.
    """
    return [
        grammar.sample_scene(
            seed, i, split="heldout", textured=float(i % 2), two=1.0, relational=1.0
        )
        for i in range(count)
    ]


def following(cascade: Cascade, shown: list[grammar.Scene]) -> dict[str, dict[str, float]]:
    """Return the share of base and final pictures that is right, by property."""
    captions = [grammar.caption(scene) for scene in shown]
    made = draw_captions(cascade, captions, 0)
    verdicts = {
        name: [judge(*pair) for pair in zip(made[name], captions, strict=True)]
        for name in ("base", "relay")
    }
    return {
        name: {key: float(np.mean([v[key] for v in said])) for key in (*PROPERTIES, "all")}
        for name, said in verdicts.items()
    }


def ceilings(cascade: Cascade, shown: list[grammar.Scene]) -> dict[str, dict[str, float]]:
    """Return how well the autoencoder preserves real pictures, by their side.

    `all` is the share that is still judged right after the round trip, `psnr` is in dB.
    """
    found = {}
    for side in (64, 128):
        real = np.stack([render(scene, side) for scene in shown])
        back = round_trip(cascade, real)
        right = [
            judge(image, grammar.caption(scene))["all"]
            for image, scene in zip(back, shown, strict=True)
        ]
        found[str(side)] = {"all": float(np.mean(right)), "psnr": psnr(real, back)}
    return found


def guidance(
    teacher: Cascade, student: Cascade, shown: list[grammar.Scene], weights: list[float]
) -> list[list[float]]:
    """Return root mean square distances of base latents from the same noise.

    A row is a w of the student, a column a w of the guided teacher.
    """
    captions = [grammar.caption(scene) for scene in shown]
    keys = jax.vmap(jax.random.key)(jnp.arange(len(shown)))
    noise = teacher.noise(keys, teacher.description.stages["base"].image_size)

    def latents(one: Cascade, w: float) -> np.ndarray:
        settings = SamplerSettings(guidance=w)
        return np.asarray(one.stage("base", one.text(captions), keys, noise, settings=settings))

    theirs, ours = ([latents(one, w) for w in weights] for one in (teacher, student))
    return [[float(np.sqrt(np.mean((a - b) ** 2))) for b in theirs] for a in ours]


def commands() -> dict[str, float]:
    """Return the seconds of `cv3jax sample` for one picture, run as a command.

    `first` starts with an empty compilation cache, `again` with a filled one.
    """
    took = {}
    with tempfile.TemporaryDirectory() as place:
        for name in ("first", "again"):
            began = time.perf_counter()
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "cv3jax",
                    "sample",
                    "--checkpoint",
                    STUDENT,
                    "--prompt",
                    PROMPT,
                    "--out",
                    f"{place}/{name}",
                ],
                check=True,
                capture_output=True,
                env={**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{place}/cache"},
            )
            took[name] = time.perf_counter() - began
    return took


def alone(cascade: Cascade, rounds: int = 7) -> measure.Spread:
    """Return the seconds of one picture by itself, after compilation."""
    call = measure.timed(lambda: cascade.generate([PROMPT], [0], final=True)["relay"])
    call()
    return measure.spread([call() for _ in range(rounds)])


def measured(count: int, weights: list[float]) -> dict:
    """Return all figures."""
    held, relational = judged_scenes(count, 0), relational_scenes(count, 1)
    teacher, student = (load(cascades.PACKAGED / name) for name in (TEACHER, STUDENT))
    full = tuple(teacher.description.stages[name].steps for name in ("base", "relay"))
    few = tuple(student.description.stages[name].steps for name in ("base", "relay"))
    both = with_rounds(teacher, {few: (cascades.PACKAGED / STUDENT,) * 2})
    return {
        "vae": ceilings(teacher, held),
        "following": {
            name: {"heldout": following(one, held), "relational": following(one, relational)}
            for name, one in ((STUDENT, student), (TEACHER, teacher))
        },
        "samplers": assess_distilled(both, compared(both, full, [few]), count=count, seed=0)[0][
            "distilled"
        ],
        "weights": weights,
        "guidance": guidance(teacher, student, held[:50], weights),
        "one_picture": alone(student),
        "commands": commands(),
    }


def nearest(rows: list[list[float]]) -> int:
    """Return at how many w the student is nearest to the teacher at the same w."""
    return sum(int(np.argmin(row)) == i for i, row in enumerate(rows))


def missed(found: dict) -> list[str]:
    """Return a line for each figure that misses its bar."""
    held, relational = (
        found["following"][STUDENT][kind]["relay"] for kind in ("heldout", "relational")
    )
    samplers = found["samplers"]
    values = {
        "vae": min(one["all"] for one in found["vae"].values()),
        "colour": held["colour"],
        "all": held["all"],
        "order": relational["position"],
        "guidance": nearest(found["guidance"]),
    }
    lines = [
        f"{name} {value:.3g}, bar {BARS[name]}"
        for name, value in values.items()
        if value < BARS[name]
    ]
    if found["one_picture"].median > BARS["seconds"]:
        lines.append(f"{found['one_picture'].median:.3g} s a picture, bar {BARS['seconds']}")
    ours, theirs = (
        next(one for name, one in samplers.items() if name.startswith(kind))
        for kind in ("distilled", "undistilled")
    )
    if ours["image_distance"] > theirs["image_distance"]:
        lines.append(
            "the distilled sampler is further from the full one than the undistilled one in as many"
            " steps"
        )
    return lines


def report(found: dict) -> str:
    """Return the figures as Markdown tables."""
    lines = [
        [name, kind, stage, *(f"{rates[key]:.3f}" for key in (*PROPERTIES, "all"))]
        for name, kinds in found["following"].items()
        for kind, stages in kinds.items()
        for stage, rates in stages.items()
    ]
    tables = [measure.table(("cascade", "captions", "stage", *PROPERTIES, "all"), lines)]
    tables.append(
        measure.table(
            ("sampler", "all", "distance", "denoising, ms", "whole, ms"),
            [
                [
                    name.replace("_", " "),
                    f"{one['all']:.3f}",
                    f"{one['image_distance']:.4f}",
                    *(
                        f"{1000 * x:.1f}"
                        for x in (
                            one["seconds"]["base"] + one["seconds"]["relay"],
                            one["seconds"]["total"],
                        )
                    ),
                ]
                for name, one in found["samplers"].items()
            ],
        )
    )
    weights = [f"{w:g}" for w in found["weights"]]
    tables.append(
        measure.table(
            ("student at w", *(f"teacher at {w}" for w in weights), "nearest"),
            [
                [w, *(f"{x:.4f}" for x in row), weights[int(np.argmin(row))]]
                for w, row in zip(weights, found["guidance"], strict=True)
            ],
        )
    )
    tables.append(
        measure.table(
            ("real pictures", "all", "PSNR, dB"),
            [
                [f"{side}² through the autoencoder", f"{one['all']:.3f}", f"{one['psnr']:.1f}"]
                for side, one in found["vae"].items()
            ],
        )
    )
    took = found["commands"]
    whole = f"`cv3jax sample`: {took['first']:.0f} s with compilation, {took['again']:.0f} s again"
    tables.append(f"One picture by itself: {found['one_picture']} s. {whole}.")
    return "\n\n".join(tables)


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--count",
        type=int,
        default=200,
        metavar="N",
        help="captions of each kind (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        default="1,1.25,1.5,1.75,2,2.5,3",
        metavar="W,…",
        help="guidance weights (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    weights = [float(w) for w in args.weights.split(",")]
    if len(weights) < BARS["guidance"]:
        parser.error(f"--weights must be {BARS['guidance']} or more")
    tune_cpu()
    facts = measure.facts("optax")
    found = measured(args.count, weights)
    lines = missed(found)
    print(report(found) + "\n\n" + ", ".join(f"{key} {value}" for key, value in facts.items()))
    if args.json:
        args.json.write_text(json.dumps({**facts, **found, "missed": lines}, indent=1) + "\n")
    for line in lines:
        print(f"packaged: {line}", file=sys.stderr)
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
