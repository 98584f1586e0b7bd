"""`cv3jax data encode`: a dataset's latents and text features, made once and kept, so that training
need not make them at every step.
"""

import argparse
import json
import time
from pathlib import Path

from cv3jax import recipes
from cv3jax.commands import arguments as command_line
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_file, write_json
from data_pipeline.io.staging import check_renamable
from data_pipeline.records import LATENTS, TEXTS

EXAMPLE = """cv3jax data encode --config=relay_1024 --data runs/art --cascade cogview3 \\
      --out runs/art_1024
  cv3jax train --config=relay_1024 --workdir runs/relay --config.data.path=runs/art \\
      --config.cascade=cogview3 --config.data.random_crop=False --config.train.preview_every=0 \\
      --config.data.cache=runs/art_1024"""
MAX_BATCH = 65_536


def arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """(the flags, `--config.a.b=v` overrides). Raises InputError on a value that cannot be."""
    more = (
        "docs/guides/encode.md says when that pays.\n\nStopped or killed, the same command goes on;"
        " several processes share the shards."
    )
    parser = command_line.command(
        "data encode",
        f"{__doc__} {more}",
        f"{EXAMPLE}\n\nrecipes: {', '.join(recipes.recipes())} (each also :tiny)",
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="NAME[:VARIANT]|FILE.py",
        help=(
            "the recipe that is to train on it: image size, relay or base, types; any field:"
            " --config.data.image_size=512"
        ),
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="the dataset")
    parser.add_argument(
        "--cascade", required=True, metavar="DIR", help="the checkpoint whose vae and t5 encode it"
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="the companion dataset; appears when complete",
    )
    parser.add_argument(
        "--latents",
        choices=(*LATENTS, "none"),
        default="float16",
        help=(
            "how means and deviations are stored (default: float16); none: training decodes and"
            " encodes images"
        ),
    )
    parser.add_argument(
        "--text",
        choices=(*TEXTS, "none"),
        default="bfloat16",
        help=(
            "how text features are stored (default: bfloat16, as a bfloat16 UNet reads them); none:"
            " training runs T5"
        ),
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="images a device takes at once (default: the recipe's batch.per_device)",
    )
    parser.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="this machine's devices: data=-1 (default) or, where T5 does not fit one, fsdp=8",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what is at --out of another recipe, dataset or type",
    )
    parser.add_argument(
        "--process_id",
        type=int,
        metavar="I",
        help="make part I of N, counted from 0 (default: what Slurm or JAX_PROCESS_ID says)",
    )
    parser.add_argument(
        "--num_processes",
        type=int,
        metavar="N",
        help="processes that share the work, with the same --out",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    args, overrides = parser.parse_known_args(argv)
    if args.batch is not None and not 1 <= args.batch <= MAX_BATCH:
        raise InputError(f"--batch {args.batch}: 1..{MAX_BATCH}")
    if args.latents == args.text == "none":
        raise InputError(
            "--latents none --text none: nothing is left to encode; give one of them a type"
        )
    check_renamable(args.out)
    check_file(args.json, "--json")
    return args, overrides


def main(argv: list[str] | None = None) -> None:
    args, overrides = arguments(argv)

    from cv3jax.distributed.independent import which_share
    from cv3jax.precompute.run import run
    from cv3jax.training.parsing import parse_stage

    began = time.monotonic()
    config = recipes.load(
        args.config,
        [*overrides, f"--config.data.path={args.data}", f"--config.cascade={args.cascade}"],
    )
    settings = parse_stage(config)
    latents, text = (None if value == "none" else value for value in (args.latents, args.text))
    figures = run(
        settings,
        args.out.absolute(),
        latents=latents,
        text=text,
        batch=args.batch or settings.batch.per_device,
        mesh=args.mesh,
        overwrite=args.overwrite,
        share=which_share(args.process_id, args.num_processes),
    )
    figures["seconds"] = time.monotonic() - began
    print(json.dumps(figures))
    write_json(args.json, figures)


if __name__ == "__main__":
    from cv3jax.cli import run_command

    run_command(main)
