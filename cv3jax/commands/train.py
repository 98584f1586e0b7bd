"""`cv3jax train`: train one stage of the cascade (autoencoder, base or relay) from a recipe.

An existing workdir is resumed.
"""

from cv3jax import recipes
from cv3jax.commands import arguments as command_line
from cv3jax.commands.inputs import check_stage_inputs
from cv3jax.distributed import processes
from cv3jax.distributed.backend import loading
from cv3jax.distributed.preemption import preemptible
from cv3jax.training.parsing import parse_stage
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError, counted
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.progress import say

EXAMPLE = """cv3jax train --config=scenes_base --workdir runs/base --config.data.path=runs/scenes \\
      --config.cascade=runs/vae"""


def parser() -> Parser:
    """Return the parser of `cv3jax train`."""
    made = command_line.command("train", __doc__, EXAMPLE, config=True)
    command_line.add_workdir(made)
    made.add_argument(
        "--resume-from",
        type=int,
        metavar="STEP",
        help="resume from this checkpoint and set newer ones aside",
    )
    command_line.add_allow_changed(made)
    processes.add_flags(made)
    add_json(made)
    return made


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
    settings, source = parse_stage(config), recipes.source(args.config, config)
    check_stage_inputs(settings)

    with loading():
        from cv3jax.evaluation.scorers import open_scorers
        from cv3jax.training.run import run

    processes.start(args)
    with preemptible(args.workdir), reporting(args.json) as report:
        given = (args.workdir, args.resume_from, args.allow_changed, source, open_scorers)
        figures = run(settings, *given)
        if processes.main():
            done = (
                f"{figures['stage']}: {counted(figures['steps'], 'step')} in"
                f" {figures['seconds']:.0f} s"
            )
            say(f"{done}, checkpoint in {args.workdir}/cascade")
            report(figures)
