"""`cv3jax data <sub>`: from captioned images, however they come, to records that training reads,
and looking into them.
"""

import importlib
import sys
from pathlib import Path

from data_pipeline.io.arguments import Parser, run
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_file, write_json

# name → (module, summary, example). A module has `add_arguments(parser)` and `command(args)` →
# figures; its docstring's first paragraph is the description; with TAKES_MORE, args.more are the
# flags that it does not know. Only the module that was asked for is imported: Beam alone takes
# seconds.
COMMANDS = {
    "build": (
        "data_pipeline.builder.command",
        "shards of captioned images to filtered, deduplicated records, on one machine or many",
        (
            "build --input 'laion/*.tar' --output runs/laion --min-side 256 --blocked-sources"
            " blocked.txt --direct_num_workers 8 --direct_running_mode multi_processing"
        ),
    ),
    "pack": (
        "data_pipeline.packing.command",
        "captioned images to records, on one machine in one go",
        "pack --source photos/ --out runs/photos",
    ),
    "inspect": (
        "data_pipeline.records.inspect",
        "a dataset's schema, counts and sizes, and a contact sheet",
        "inspect runs/photos --out look.png",
    ),
    "recaption": (
        "data_pipeline.recaption.command",
        "new captions from a vision model behind an OpenAI-compatible endpoint",
        (
            "recaption runs/photos --endpoint http://localhost:8000/v1 --model"
            " Qwen/Qwen2.5-VL-7B-Instruct --out runs/recaptioned"
        ),
    ),
    "scenes": (
        "data_pipeline.scenes.command",
        "renders captioned scenes of coloured shapes",
        "scenes --out runs/scenes --num 12000 --split train",
    ),
}


def main(argv: list[str] | None = None) -> None:
    """Runs one subcommand.

    Figures go to stdout and, with --json, to a file; progress goes to stderr.

    Raises:
        InputError: something given is unusable, a wrong flag included.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["-h"], ["--help"]):
        print(usage())
        return
    if not argv or argv[0] not in COMMANDS:
        given = f"no command data {argv[0]!r}; " if argv else ""
        raise InputError(
            f"{given}after data comes one of {', '.join(COMMANDS)}, encode; see cv3jax data --help"
        )
    name, (module, _, example) = argv[0], COMMANDS[argv[0]]
    module = importlib.import_module(module)
    summary = " ".join(module.__doc__.split("\n\n")[0].split())
    parser = Parser(
        prog=f"cv3jax data {name}", description=summary, epilog=f"example: cv3jax data {example}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as JSON")
    module.add_arguments(parser)
    args, more = parser.parse_known_args(argv[1:])
    if more and not getattr(module, "TAKES_MORE", False):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    args.more = more
    check_file(args.json, "--json")
    figures = module.command(args)
    write_json(args.json, figures)


def usage() -> str:
    shown = {name: summary for name, (_, summary, _) in COMMANDS.items()}
    # in cv3jax.precompute.run: it runs the models
    shown["encode"] = "a dataset's latents and text features, for training without the encoders"
    rows = "\n".join(f"  {name:<12}{summary}" for name, summary in shown.items())
    example = f"cv3jax data {COMMANDS['pack'][2]}"
    return (
        f"usage: cv3jax data <command> [options]\n\ncommands:\n{rows}\n\nexample:\n "
        f" {example}\n\neach command has --help"
    )


if __name__ == "__main__":
    run(main)
