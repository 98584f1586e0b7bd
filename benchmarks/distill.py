"""Compare a distillation step with its bare passes through teacher and student.

    python benchmarks/distill.py --json benchmarks/results/distill.json

The bare passes are two predictions of the teacher, and value and gradient of the student's squared
error. Each is jitted alone, on inputs of the step's shapes, with random weights, on one device. The
step is the compiled train step of a round without microbatches. In the first round the teacher is
guided, so its passes have twice the rows; later it is guidance-conditioned. The update of
parameters and EMA, jitted alone, is added to the passes, as every training step has it. The bar
limits the rest of the step: draws, noise, the pair's weights and the landing point. FLOPs (matrix
products and convolutions) are counted in the same functions. Exits 1 if a ratio to passes and
update is above 1.05.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cv3jax import recipes
from cv3jax.aot.programs import encoders_of
from cv3jax.cascade.parts import model_of
from cv3jax.checkpoints.description import VaeDescription
from cv3jax.configs import scenes_vae
from cv3jax.diffusion.denoiser import guided, make_denoiser
from cv3jax.diffusion.schedule import ddpm_sigma
from cv3jax.distillation.loss import with_guidance
from cv3jax.distillation.parsing import parse_distillation
from cv3jax.distillation.programs import distillation_step, round_of
from cv3jax.distillation.settings import DistillSettings
from cv3jax.distributed.backend import jit_once, tune_cpu
from cv3jax.distributed.batches import placement
from cv3jax.kernels import flops
from cv3jax.models.precision import as_computed
from cv3jax.models.unet import UNet
from cv3jax.training.programs import diffusion_programs, train_args
from cv3jax.training.stage import mesh_plan
from cv3jax.training.state import attend_of
from cv3jax.training.train_step import create_state

MOST = 1.05
RECIPES = ("scenes_distill_base", "scenes_distill_relay")
KINDS = ("guided", "guidance-conditioned")
PASSES = ("teacher", "student")


class Pieces(NamedTuple):
    """Hold the functions to time, each with its arguments."""

    step: tuple[Callable, tuple]  # the state is donated and comes first, in what it returns too
    teacher: tuple[Callable, tuple]  # both passes, with the text's keys and values computed once
    student: tuple[Callable, tuple]
    update: tuple[Callable, tuple]  # as of the step


def load(name: str, batch: int | None, *fields: str) -> DistillSettings:
    """Return the settings of a distillation recipe at a batch size."""
    size = batch or recipes.load(name, []).batch.size
    given = (f"batch.size={size}", f"batch.per_device={size}", *fields)
    return parse_distillation(recipes.load(name, [f"--config.{field}" for field in given]))


def pieces(settings: DistillSettings, kind: str) -> Pieces:
    """Return the functions of a recipe's first round ("guided") or of a later one."""
    stage = settings.stage
    plan, encoders = mesh_plan(stage, jax.devices()[:1]), encoders_of(stage)
    vae = encoders.vae
    if stage.text.random:  # a recipe of the scenes, whose autoencoder is not the released one
        vae = VaeDescription(scenes_vae.get_config().model.to_dict(), 1.0)
    w_dim = settings.w_dim if kind == "guidance-conditioned" else 0
    steps = diffusion_programs(
        stage,
        plan,
        vae,
        encoders.t5,
        make_step=distillation_step(settings, w_dim),
    )
    state = jit_once(lambda key: create_state(steps.init, steps.tx, key), placement(steps.like))(
        jax.random.key(0)
    )
    draws = np.random.default_rng(0)
    batch = jax.tree.map(
        lambda x: jnp.asarray(draws.standard_normal(x.shape), x.dtype), train_args(steps)[2]
    )
    copy = jax.tree.map(
        jnp.copy, {name: value for name, value in state.params.items() if w_dim or name != "w_proj"}
    )
    theirs = as_computed(copy, stage.model["dtype"])
    later = kind == "guidance-conditioned" and len(settings.rounds) > 1
    now = round_of(settings, settings.rounds[later])
    # where the step leaves the state
    batch, theirs, now = jax.device_put((batch, theirs, now), NamedSharding(plan.mesh, P()))
    aside = {"teacher": theirs, "round": now}

    model = model_of(UNet, stage.model, "config.model", out_channels=batch["x0"].shape[-1]).clone(
        attend=attend_of(stage, plan.mesh)
    )

    def denoiser(of: UNet) -> Callable:
        return make_denoiser(
            lambda p, x, i, c: of.apply({"params": p}, x, i, c),
            jnp.asarray(ddpm_sigma()),
            stage.objective.prediction,
        )

    other = model.clone(w_dim=w_dim, remat="none")
    denoise, plain = denoiser(model), denoiser(other)
    t, w = (
        jnp.full(stage.batch.size, stage.schedule.start, jnp.int32),
        jnp.linspace(1.0, 3.0, stage.batch.size),
    )
    cond, shown = (with_guidance(batch["cond"], w, dim) for dim in (settings.w_dim, w_dim))

    def teacher(params, x, t, cond, w):
        predict = plain if w_dim else guided(plain, w)
        cond = {**cond, "text": other.text_kv(params, cond["text"])}
        return predict(params, predict(params, x, t, cond), t, cond)

    def error(params, x, t, cond, target):
        return ((denoise(params, x, t, cond) - target) ** 2).mean()

    def update(state, grads, rate, decay):
        updates, opt_state = steps.tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, optax.tree.scale(rate, updates))
        ema = optax.incremental_update(params, state.ema, 1.0 - decay)
        norms = optax.tree.norm(grads), optax.tree.norm(params)
        return type(state)(state.step + 1, state.key, params, ema, opt_state), norms

    x0, grads = batch["x0"], jax.tree.map(lambda x: jnp.full_like(x, 1e-3), state.params)
    another = jax.tree.map(jnp.copy, state)
    return Pieces(
        (steps.train, (state, aside, batch)),
        (jax.jit(teacher), (theirs, x0, t, shown, w)),
        (
            jax.jit(jax.value_and_grad(error)),
            (jax.tree.map(jnp.copy, state.params), x0, t, cond, x0),
        ),
        (
            jax.jit(update, donate_argnums=0),
            (another, grads, aside["round"].lr, aside["round"].decay),
        ),
    )


def counted(some: Pieces) -> dict[str, int]:
    """Return the FLOPs of each function."""
    return {
        name: flops.count(lambda *args, run=run: run(*args), *args).total
        for name, (run, args) in some._asdict().items()
    }


def seconds(
    some: Pieces, steps: int, names: tuple[str, ...] = Pieces._fields
) -> dict[str, Callable[[], float]]:
    """Compile, and return functions that return the seconds of one step and of its parts."""

    def training(run: Callable, args: tuple) -> Callable[[], Any]:
        held = list(args[:1])

        def call() -> Any:
            for _ in range(steps):
                held[0], out = run(held[0], *args[1:])
            return held[0], out

        return call

    def passing(run: Callable, args: tuple) -> Callable[[], Any]:
        def call() -> Any:
            for _ in range(steps):
                # as the passes of a step wait for each other
                out = jax.block_until_ready(run(*args))
            return out

        return call

    timed = {
        name: measure.timed((passing if name in PASSES else training)(*getattr(some, name)))
        for name in names
    }
    for call in timed.values():
        call()
    return {name: lambda call=call: call() / steps for name, call in timed.items()}


def measured(name: str, kind: str, *, batch: int | None, steps: int, rounds: int) -> dict:
    """Return seconds, FLOPs and ratios of one recipe's step."""
    settings = load(name, batch)
    some = pieces(settings, kind)
    count = counted(some)
    took = measure.turns(
        seconds(some, steps),
        rounds,
        lambda line: print(f"{name}, {kind}: {line}", file=sys.stderr, flush=True),
    )
    passes = [a + b for a, b in zip(took["teacher"], took["student"], strict=True)]
    bare = [a + b for a, b in zip(passes, took["update"], strict=True)]
    of_passes = count["teacher"] + count["student"]
    return {
        "recipe": name,
        "kind": kind,
        "batch": settings.stage.batch.size,
        "optimizer": settings.stage.optim.kind,
        "seconds": took,
        "flops": count,
        "ratio": measure.ratios(took["step"], bare),
        "ratio_passes": measure.ratios(took["step"], passes),
        "flops_ratio": count["step"] / (of_passes + count["update"]),
        "flops_ratio_passes": count["step"] / of_passes,
    }


def table(rows: list[dict]) -> str:
    """Return a Markdown table with a row for each recipe and kind; seconds are medians."""
    head = (
        "",
        "batch",
        "s a step",
        "teacher",
        "student",
        "update",
        "of passes + update",
        "of passes",
        "FLOPs, so",
        "FLOPs, of passes",
    )
    lines = []
    for row in rows:
        took = [f"{measure.spread(values).median:.3f}" for values in row["seconds"].values()]
        counts = [f"{row[name]:.4f}" for name in ("flops_ratio", "flops_ratio_passes")]
        lines.append(
            (
                f"{row['recipe']}, {row['kind']}",
                row["batch"],
                *took,
                row["ratio"],
                row["ratio_passes"],
                *counts,
            )
        )
    return measure.table(head, lines)


def missed(rows: list[dict]) -> list[str]:
    """Return a sentence for each ratio that is above the bar."""
    found = []
    for row in rows:
        for what, ratio in (("time", row["ratio"].median), ("FLOPs", row["flops_ratio"])):
            if not ratio <= MOST:
                found.append(
                    f"{row['recipe']}, {row['kind']}: a step is {ratio:.3f} of its passes and"
                    f" update in {what} (bar: {MOST})"
                )
    return found


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config",
        action="append",
        metavar="NAME[:VARIANT]",
        help=f"may be repeated (default: {', '.join(RECIPES)})",
    )
    parser.add_argument("--batch", type=int, help="images a step (default: the recipe's)")
    parser.add_argument("--steps", type=int, default=8, help="timed in each round (default: 8)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.steps < 1 or args.rounds < 1 or (args.batch is not None and args.batch < 1):
        parser.error("--batch, --steps and --rounds must be at least 1")
    tune_cpu()
    facts = measure.facts("optax")
    print(json.dumps(facts, indent=2))
    cells = [(name, kind) for name in args.config or RECIPES for kind in KINDS]
    rows = [
        measured(name, kind, batch=args.batch, steps=args.steps, rounds=args.rounds)
        for name, kind in cells
    ]
    print(table(rows))
    measure.write_json(args.json, {**facts, "rows": rows})
    if over := missed(rows):
        sys.exit("; ".join(over))


if __name__ == "__main__":
    main()
