"""`cv3jax distill`: a trained stage in fewer steps.

Each round halves the steps of the one before; a killed one goes on where it was, a finished one is
not touched again. What it costs stands in quality.md and quality.png, what it looks like in
rounds.png.
"""

import sys

from cv3jax import recipes
from cv3jax.commands import arguments as command_line
from cv3jax.distributed import processes
from cv3jax.distributed.preemption import preemptible
from data_pipeline.io.files import check_file, write_json

EXAMPLE = (
    "cv3jax distill --config=scenes_distill_base --workdir runs/fast_base"
    " --config.data.path=runs/scenes --config.cascade=runs/relay"
)


def main(argv: list[str] | None = None) -> None:
    parser = command_line.parser("distill", __doc__, EXAMPLE)
    command_line.add_allow_changed(parser)
    processes.add_flags(parser)
    args, overrides = parser.parse_known_args(argv)
    check_file(args.json, "--json")

    from cv3jax.distillation.parsing import parse_distillation
    from cv3jax.distillation.run import run

    processes.start(args)
    with preemptible():
        settings = parse_distillation(recipes.load(args.config, overrides))
        figures = run(settings, args.workdir, args.allow_changed)
        if processes.main():
            least = figures["rounds"][-1]["steps"]
            said = (
                f"{figures['stage']}: {len(figures['rounds'])} rounds to {least} steps in"
                f" {figures['seconds']:.0f} s"
            )
            print(
                f"{said}, checkpoint in {args.workdir}/cascade, quality.md and rounds.png"
                " beside it",
                file=sys.stderr,
            )
            write_json(args.json, figures)


if __name__ == "__main__":
    from cv3jax.cli import run_command

    run_command(main)
