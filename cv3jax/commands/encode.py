"""`cv3jax data encode`: store a dataset's latents and text features.

Training then reads them instead of making them at every step. docs/guides/encode.md says when that
pays. Stopped or killed, the same command resumes; several processes share the shards.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from cv3jax import recipes
from cv3jax.checkpoints import cascades
from cv3jax.commands import arguments as command_line
from cv3jax.distributed import parse_axes
from cv3jax.distributed.backend import loading
from cv3jax.distributed.independent import which_share
from cv3jax.training.parsing import parse_stage
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json, check_json, reporting, tell_json
from data_pipeline.io.objects.outputs import check_out, dataset
from data_pipeline.io.objects.store import address_of
from data_pipeline.io.staging import check_renamable
from data_pipeline.records import LATENTS, TEXTS, check_records

EXAMPLE = """cv3jax data encode --config=relay_1024 --input runs/art --checkpoint cogview3 \\
      --out runs/art_1024
  cv3jax train --config=relay_1024 --workdir runs/relay --config.data.path=runs/art \\
      --config.cascade=cogview3 --config.data.random_crop=False --config.train.preview_every=0 \\
      --config.data.cache=runs/art_1024"""
MAX_BATCH = 65_536


def parser() -> Parser:
    """Return the parser of `cv3jax data encode`."""
    made = command_line.command(
        "data encode",
        __doc__,
        EXAMPLE,
        old={"--data": "--input", "--cascade": "--checkpoint"},
        config=True,
    )
    # strings: the recipe's fields, which check them
    made.add_argument("--input", required=True, metavar="DIR", help="the dataset")
    made.add_argument(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="the cascade whose vae and t5 encode the dataset",
    )
    command_line.add_out(
        made,
        "the feature cache's directory; it appears when the cache is complete",
        stores=True,
    )
    made.add_argument(
        "--latents",
        choices=(*LATENTS, "none"),
        default="float16",
        help=(
            "type of the stored latents (default: float16); none: no latents are stored, and"
            " training encodes the images"
        ),
    )
    made.add_argument(
        "--text",
        choices=(*TEXTS, "none"),
        default="bfloat16",
        help=(
            "type of the stored text features (default: bfloat16, which a bfloat16 UNet reads"
            " without loss); none: no text features are stored, and training runs T5"
        ),
    )
    command_line.add_devices(
        made,
        "the recipe's batch.per_device",
        "how this machine's devices share the work: data=-1 splits images (default); fsdp=8 also"
        " shards the models, for a T5 that does not fit on one device",
    )
    made.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a feature cache of another recipe, dataset or type",
    )
    command_line.add_share(made, "the shards")
    add_json(made)
    return made


def arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Return (the flags, `--config.a.b=v` overrides). Raises InputError on wrong values."""
    args, overrides = parser().parse_known_args(argv)
    if args.batch is not None and not 1 <= args.batch <= MAX_BATCH:
        raise InputError(f"--batch {args.batch}: must be 1..{MAX_BATCH}")
    if args.latents == args.text == "none":
        raise InputError(
            "--latents none --text none: nothing is left to encode; give one of them a type"
        )
    if (args.process_id, args.num_processes) != (None, None):
        which_share(args.process_id, args.num_processes)  # without JAX, which else says it
    if address_of(args.out) is None:
        check_renamable(args.out)
    check_out(args.out)
    check_json(args.json)
    if args.mesh is not None:
        parse_axes(args.mesh)
    return args, overrides


def main(argv: list[str] | None = None) -> None:
    """Encode a dataset. Raises InputError on flags, fields and files that cannot be."""
    args, overrides = arguments(argv)
    fields = [f"--config.data.path={args.input}", f"--config.cascade={args.checkpoint}"]
    settings = parse_stage(recipes.load(args.config, [*overrides, *fields]))
    check_records(Path(args.input))
    cascades.find_cascade(args.checkpoint)
    share = command_line.share_of(args)

    with loading():
        from cv3jax.precompute.run import run

    began = time.monotonic()
    latents, text = (None if value == "none" else value for value in (args.latents, args.text))

    def make(out: Path) -> dict[str, Any]:
        return run(
            settings,
            out.absolute(),
            latents=latents,
            text=text,
            batch=args.batch or settings.batch.per_device,
            mesh=args.mesh,
            overwrite=args.overwrite,
            share=share,
        )

    with reporting(args.json) as report:
        asked = [vars(args), overrides]
        figures = dataset(args.out, make, asked, overwrite=args.overwrite)
        figures["seconds"] = time.monotonic() - began
        tell_json(figures)
        report(figures)
