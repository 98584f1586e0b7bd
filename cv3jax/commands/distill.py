"""`cv3jax distill`: a trained stage in fewer steps.

Each round halves the steps of the one before. A killed round is resumed, and a finished one is
never repeated. quality.md and quality.png say what the halving costs, rounds.png what it looks
like.
"""

from cv3jax import recipes
from cv3jax.commands import arguments as command_line
from cv3jax.commands.inputs import check_stage_inputs
from cv3jax.commands.workdirs import opened
from cv3jax.distillation.parsing import parse_distillation
from cv3jax.distributed import processes
from cv3jax.distributed.backend import loading
from cv3jax.distributed.preemption import preemptible
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import counted
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.objects.store import address_of
from data_pipeline.io.progress import say

EXAMPLE = """cv3jax distill --config=scenes_distill_base --workdir runs/fast_base \\
      --config.data.path=runs/scenes --config.cascade=runs/relay"""


def parser() -> Parser:
    """Return the parser of `cv3jax distill`."""
    made = command_line.command("distill", __doc__, EXAMPLE, config=True)
    command_line.add_workdir(made, stores=True)
    command_line.add_allow_changed(made)
    processes.add_flags(made)
    add_json(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Distil a stage. Raises InputError on flags, fields and files that cannot be."""
    args, overrides = parser().parse_known_args(argv)
    check_json(args.json)
    processes.check(args)
    config = recipes.load(args.config, overrides)
    settings, source = parse_distillation(config), recipes.source(args.config, config)
    check_stage_inputs(settings.stage)

    with loading():
        from cv3jax.distillation.run import run
        from cv3jax.evaluation.scorers import open_scorers

    processes.start(args)
    with (
        opened(args.workdir) as workdir,
        preemptible(workdir),
        reporting(args.json) as report,
    ):
        figures = run(settings, workdir, args.allow_changed, source, open_scorers)
        if processes.main():
            least = figures["rounds"][-1]["steps"]
            said = (
                f"{figures['stage']}: {counted(len(figures['rounds']), 'round')} to"
                f" {counted(least, 'step')} in {figures['seconds']:.0f} s"
            )
            place = address_of(args.workdir) or args.workdir
            say(f"{said}, checkpoint in {place}/cascade, quality.md and rounds.png beside it")
            report(figures)
