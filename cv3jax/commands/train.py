"""`cv3jax train`: one stage of the cascade (autoencoder, base or relay) from a recipe; an existing
workdir continues.
"""

import sys

from cv3jax import recipes
from cv3jax.commands import arguments as command_line
from cv3jax.distributed import processes
from cv3jax.distributed.preemption import preemptible
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_file, write_json

EXAMPLE = (
    "cv3jax train --config=scenes_base --workdir runs/base --config.data.path=runs/scenes"
    " --config.cascade=runs/vae"
)


def main(argv: list[str] | None = None) -> None:
    parser = command_line.parser("train", __doc__, EXAMPLE)
    parser.add_argument(
        "--resume_from",
        type=int,
        metavar="STEP",
        help="go on from this checkpoint and set newer ones aside",
    )
    command_line.add_allow_changed(parser)
    processes.add_flags(parser)
    args, overrides = parser.parse_known_args(argv)
    check_file(args.json, "--json")

    from cv3jax.training.parsing import parse_stage
    from cv3jax.training.run import run

    processes.start(args)
    with preemptible():
        config = recipes.load(args.config, overrides)
        if "distill" in config:
            raise InputError("this recipe is a distillation's: cv3jax distill runs it")
        figures = run(parse_stage(config), args.workdir, args.resume_from, args.allow_changed)
        if processes.main():
            done = f"{figures['stage']}: {figures['steps']} steps in {figures['seconds']:.0f} s"
            print(f"{done}, checkpoint in {args.workdir}/cascade", file=sys.stderr)
            write_json(args.json, figures)


if __name__ == "__main__":
    from cv3jax.cli import run_command

    run_command(main)
