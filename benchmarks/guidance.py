"""Measure at which of its steps a distilled base has learnt guidance.

    python benchmarks/guidance.py --student scenes --json benchmarks/results/guidance.json

Two tables are printed. The first has the share of guidance at each step. The teacher takes its two
steps with the greatest w and with the least, from its own samples noised anew. The difference of
the two x0 is the effect of w. The share is the slope of the student's difference on the teacher's.
The second table replaces steps: the teacher's two steps are taken in place of some of the
student's. It has the distances of the results from the teacher's samples at its full number of
steps, from the same noise.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np

from cv3jax.cascade.parts import build_on
from cv3jax.cascade.pipeline import Cascade, load
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.diffusion.conditioning import make_cond, picture_sizes
from cv3jax.diffusion.denoiser import guided, make_denoiser
from cv3jax.diffusion.schedule import base_grid, ddpm_sigma
from cv3jax.distillation.loss import Pairs, pairs, two_steps, with_guidance
from cv3jax.distributed.backend import tune_cpu
from cv3jax.evaluation.scenes import judged_scenes
from cv3jax.models.unet import UNet
from data_pipeline.scenes import grammar


class Both(NamedTuple):
    """Hold a student and its teacher on the same captions and noise.

    Each is a function (x, step of the student, w) → x̂0 of that step.
    """

    student: Callable[[jax.Array, int, float], jax.Array]
    teacher: Callable[[jax.Array, int, float], jax.Array]  # of two steps
    grid: Pairs  # a row a step of the student
    full: Callable[[float], np.ndarray]  # w → the teacher's latents at its full number of steps
    first: jax.Array  # what sampling begins with


def both(teacher: Cascade, student: Cascade, count: int) -> Both:
    """Return student and teacher on `count` held-out captions."""
    captions, keys = (
        [grammar.caption(scene) for scene in judged_scenes(count, 0)],
        jax.vmap(jax.random.key)(jnp.arange(count)),
    )
    stages = [one.description.stages["base"] for one in (teacher, student)]
    steps, side, w_dim = stages[1].steps, stages[0].image_size, stages[1].w_dim
    grid, text, noise = (
        pairs(base_grid(2 * steps)),
        teacher.text(captions),
        teacher.noise(keys, side),
    )
    cond = make_cond(text, picture_sizes(count, side, side))

    def denoiser(stage):
        model = build_on(None, UNet, stage.model)
        return make_denoiser(
            lambda p, x, i, c: model.apply({"params": p}, x, i, c),
            jnp.asarray(ddpm_sigma()),
            stage.prediction,
        )

    theirs, ours = (denoiser(stage) for stage in stages)

    @jax.jit
    def one_step(params, x, row, w):
        return ours(params, x, row.t[:, 0], with_guidance(cond, w, w_dim))

    @jax.jit
    def two(params, x, row, w):
        low = jnp.zeros_like(x)
        return two_steps(
            lambda x, t: guided(theirs, w)(params, x, t, cond),
            "released",
            x,
            low,
            low,
            row.t,
            row.sigma,
            row.blur,
        )

    def of(call, cascade):
        def run(x, k, w):
            row = Pairs(
                *(
                    jnp.broadcast_to(values[k], (count, 3))
                    for values in (grid.t, grid.sigma, grid.blur)
                ),
                grid.count,
            )
            return call(cascade.params["base"], x, row, jnp.full(count, w))

        return run

    def full(w):
        settings = SamplerSettings(guidance=w)
        return np.asarray(teacher.stage("base", text, keys, noise, settings=settings))

    return Both(
        of(one_step, student),
        of(two, teacher),
        grid,
        full,
        noise * jnp.sqrt(1.0 + grid.sigma[0, 0] ** 2),
    )


def shares(found: Both, low: float, high: float) -> list[dict[str, float]]:
    """Return a row for each step of the student, about the effect of w between `low` and `high`.

    `sigma` is the σ at its start, `difference` the root mean square of the teacher's effect, and
    `share` the part of it that the student has.
    """
    x0 = jnp.asarray(found.full((low + high) / 2))
    noise, rows = jax.random.normal(jax.random.key(7), x0.shape), []
    for k in range(int(found.grid.count)):
        sigma = found.grid.sigma[k, 0]
        theirs, ours = (
            call(x0 + sigma * noise, k, high) - call(x0 + sigma * noise, k, low)
            for call in (found.teacher, found.student)
        )
        rows.append(
            {
                "sigma": float(sigma),
                "difference": float(jnp.sqrt((theirs**2).mean())),
                "share": float((ours * theirs).sum() / (theirs**2).sum()),
            }
        )
    return rows


def distances(
    found: Both, weights: list[float], full: list[np.ndarray], replaced: set[int]
) -> list[list[float]]:
    """Return root mean square distances of samples.

    A row is a w of the student whose `replaced` steps the teacher takes; a column is one of `full`.
    """
    rows = []
    for w in weights:
        x = found.first
        for k in range(int(found.grid.count)):
            x0 = (found.teacher if k in replaced else found.student)(x, k, w)
            x = x0 + found.grid.sigma[k, 2] / found.grid.sigma[k, 0] * (x - x0)
        rows.append([float(np.sqrt(np.mean((np.asarray(x) - other) ** 2))) for other in full])
    return rows


def report(weights: list[float], steps: list[dict], replaced: dict[str, list[list[float]]]) -> str:
    """Return both tables as Markdown."""
    first = measure.table(
        (f"step of {len(steps)}", "σ at its start", "difference", "share"),
        [
            [k + 1, f"{one['sigma']:.1f}", f"{one['difference']:.2f}", f"{one['share']:.2f}"]
            for k, one in enumerate(steps)
        ],
    )
    second = measure.table(
        ("steps replaced", *(f"at w = {w:g}" for w in weights), "nearest teacher"),
        [
            [
                name,
                *(f"{row[i]:.4f}" for i, row in enumerate(rows)),
                ", ".join(f"{weights[int(np.argmin(row))]:g}" for row in rows),
            ]
            for name, rows in replaced.items()
        ],
    )
    return f"{first}\n\n{second}"


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--teacher", default="scenes_teacher", metavar="CASCADE", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--student", default="scenes", metavar="CASCADE", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--count", type=int, default=50, metavar="N", help="captions (default: %(default)s)"
    )
    parser.add_argument(
        "--weights",
        default="1,1.5,2,3",
        metavar="W,…",
        help="guidance weights (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    weights = sorted({float(w) for w in args.weights.split(",")})
    if len(weights) < 2 or args.count < 1:
        parser.error("--weights must be two or more, --count at least 1")
    tune_cpu()
    facts, student = measure.facts(), load(args.student)
    if not student.description.stages["base"].w_dim:
        parser.error(f"--student {args.student}: its base is not guidance-conditioned")
    found = both(load(args.teacher), student, args.count)
    count = int(found.grid.count)
    sets = {"none": set(), **{str(k + 1): {k} for k in range(count)}, "all": set(range(count))}
    steps, full = shares(found, weights[0], weights[-1]), [found.full(w) for w in weights]
    replaced = {name: distances(found, weights, full, one) for name, one in sets.items()}
    print(
        f"{report(weights, steps, replaced)}\n\n"
        + ", ".join(f"{key} {value}" for key, value in facts.items())
    )
    if args.json:
        args.json.write_text(
            json.dumps(
                {**facts, "weights": weights, "steps": steps, "replaced": replaced}, indent=1
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
