"""`cv3jax train`: train one stage of the cascade (autoencoder, base or relay) from a recipe.

An existing workdir is resumed.
"""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cv3jax import recipes
from cv3jax.checkpoints import cascades
from cv3jax.commands import arguments as command_line
from cv3jax.commands.inputs import check_stage_inputs
from cv3jax.commands.workdirs import opened
from cv3jax.distributed import processes
from cv3jax.distributed.backend import loading
from cv3jax.distributed.preemption import preemptible
from cv3jax.lora.parsing import parse_lora
from cv3jax.lora.settings import LoraSettings
from cv3jax.training.parsing import parse_stage
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError, StoppedError, counted
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.objects.places import place_of
from data_pipeline.io.objects.store import address_of
from data_pipeline.io.progress import say
from data_pipeline.loading.damaged import readable

EXAMPLE = """cv3jax train --config=scenes_base --workdir runs/base --config.data.path=runs/scenes \\
      --config.cascade=runs/vae"""


def parser() -> Parser:
    """Return the parser of `cv3jax train`."""
    made = command_line.command("train", __doc__, EXAMPLE, config=True)
    add_run(made)
    return made


def add_run(parser: Parser) -> None:
    """Add the flags of a command that trains, or resumes a run."""
    command_line.add_workdir(parser, stores=True)
    parser.add_argument(
        "--resume-from",
        type=int,
        metavar="STEP",
        help="resume from this checkpoint and set newer ones aside",
    )
    command_line.add_allow_changed(parser)
    processes.add_flags(parser)
    add_json(parser)


def main(argv: list[str] | None = None) -> None:
    """Train a stage. Raises InputError on flags, fields and files that cannot be."""
    args, overrides = parser().parse_known_args(argv)
    check_json(args.json)
    processes.check(args)
    config = recipes.load(args.config, overrides)
    if "distill" in config:
        raise InputError(
            f"--config={args.config}: this is a distillation recipe; run it with cv3jax distill"
        )
    if "lora" in config:
        train_adapter(config, args)
        return
    settings = parse_stage(config)
    check_stage_inputs(settings)

    with loading():
        from cv3jax.training.run import run

    _train(run, settings, args, recipes.source(args.config, config), "checkpoint", "cascade")


def train_adapter(
    config: ConfigDict,
    args: argparse.Namespace,
    prepare: Callable[..., ConfigDict] | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Train the adapter that a recipe describes. Raises InputError as `main` does.

    prepare: (config, workdir, step of --resume-from, fields of --allow-changed) → the recipe on
    data that it makes under the workdir, before training. check: looks at what else the command
    reads, before JAX is imported.
    """
    settings = parse_lora(config)
    check_stage_inputs(settings.stage)
    if settings.base:
        cascades.find_cascade(settings.base)
    check()

    with loading():
        from cv3jax.lora.run import run

    used = [settings]  # with the data that were prepared

    def prepared(settings: Any, workdir: Path, *given: Any) -> dict:
        resume_from, allowed, source, scorers = given
        if prepare is not None:
            changed = prepare(config, workdir, resume_from, allowed)
            settings, source = parse_lora(changed), recipes.source(args.config, changed)
            used[:] = [settings]
        try:
            return run(settings, workdir, resume_from, allowed, source, scorers)
        except StoppedError:
            say_trial(settings, args.workdir)
            raise

    made = ("adapter", "lora/adapter.safetensors", lambda: say_trial(used[0], args.workdir))
    _train(prepared, settings, args, recipes.source(args.config, config), *made)


def say_trial(settings: LoraSettings, workdir: Path) -> None:
    """Say which command draws with the adapter that a run has written, where a command can."""
    from cv3jax.training.data import open_data

    address = address_of(workdir)
    here = workdir if address is None else place_of(address) / "work"
    if not processes.main() or not (here / "lora" / "adapter.safetensors").is_file():
        return
    try:
        _, description = cascades.read_cascade(settings.base)
        if "base" not in description.stages:
            return
        prompt = next(readable(open_data(settings.stage.data)))["caption"]
    except (InputError, OSError, StopIteration):
        return  # the run has ended well or as it was asked to, and this is a hint alone
    given = ("--checkpoint", settings.base, "--lora", address or workdir, "--prompt", prompt)
    words = ("cv3jax", "sample", *given, "--out", f"{address or workdir}/out")
    say(f"cv3jax: try it: {shlex.join(map(str, words))}")


def _train(
    run: Callable[..., dict],
    settings: Any,
    args: argparse.Namespace,
    source: recipes.Source,
    made: str,
    place: str,
    last: Callable[[], None] = lambda: None,
) -> None:
    """Train by `run`, and say what was made and where in the workdir. `last` says what follows."""
    with loading():
        from cv3jax.evaluation.scorers import open_scorers

    processes.start(args)
    with (
        opened(args.workdir) as workdir,
        preemptible(workdir),
        reporting(args.json) as report,
    ):
        given = (workdir, args.resume_from, args.allow_changed, source, open_scorers)
        figures = run(settings, *given)
        if processes.main():
            done = (
                f"{figures['stage']}: {counted(figures['steps'], 'step')} in"
                f" {figures['seconds']:.0f} s"
            )
            say(f"{done}, {made} in {address_of(args.workdir) or args.workdir}/{place}")
            report(figures)
            last()
