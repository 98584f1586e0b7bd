"""`cv3jax upscale`: enlarge pictures of your own by a cascade's relay.

Each becomes a PNG of 2, 4, 8 or 16 times its height and width.
"""

import argparse
import os
import time
from pathlib import Path

from cv3jax.adapters.given import parse_all
from cv3jax.cascade import COLOUR_FIXES
from cv3jax.cascade.limits import check_trained
from cv3jax.cascade.own_pictures import MAX_GIVEN
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import FACTORS, has_relay
from cv3jax.checkpoints import cascades
from cv3jax.commands import arguments as command_line
from cv3jax.commands import lora_flags
from cv3jax.commands.from_png import add_no_metadata
from cv3jax.distributed.backend import loading
from cv3jax.sampling.given_pictures import read_pictures
from cv3jax.sampling.inputs import LAST_SEED, check_prompt
from data_pipeline.io import locks
from data_pipeline.io.arguments import Parser, one
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.objects.outputs import check_out, output
from data_pipeline.io.progress import say

EXAMPLE = """cv3jax upscale --checkpoint scenes --image photo.jpg --factor 2 \\
      --prompt "a large red circle, white background" --out runs/large"""


def parser() -> Parser:
    """Return the parser of `cv3jax upscale`."""
    made = command_line.command("upscale", __doc__, EXAMPLE)
    command_line.add_checkpoint(
        made,
        "a cascade directory, the --workdir of a run, or an installed cascade's name"
        f" ({', '.join(cascades.packaged())})",
    )
    made.add_argument(
        "--image",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help=(
            f"a picture of at most {MAX_GIVEN} pixels per side: PNG, JPEG, WebP, ...; may be given"
            " several times"
        ),
    )
    made.add_argument(
        "--prompt",
        action="append",
        required=True,
        metavar="TEXT",
        help="what the picture shows; once for all, or as often as --image",
    )
    command_line.add_out(made, "directory for the enlarged pictures", stores=True)
    made.add_argument(
        "--factor",
        type=int,
        choices=FACTORS,
        default=2,
        help="how many times higher and wider; each doubling is a relay pass (default: 2)",
    )
    made.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="S",
        help=(
            "where the relay starts, as a share of its trained start, above 0 and at most 1: less"
            " keeps more of the picture (default: 1; a distilled relay takes no other)"
        ),
    )
    made.add_argument(
        "--steps",
        metavar="N",
        help="steps of the whole relay (default: the checkpoint's)",
    )
    made.add_argument("--guidance", metavar="W", help="guidance weight (default: the checkpoint's)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the noise")
    command_line.add_tile(made, command_line.FITTING)
    made.add_argument(
        "--colour-fix",
        choices=COLOUR_FIXES,
        default="wavelet",
        help=(
            "give the result the picture's low frequencies, or its mean and spread, or leave it"
            " (default: wavelet)"
        ),
    )
    command_line.add_attention(made)
    lora_flags.add_lora(made, lora_flags.APPLIED)
    add_no_metadata(made)
    add_json(made)
    return made


def check_flags(args: argparse.Namespace) -> None:
    """Raise InputError on a flag that is wrong whatever the checkpoint holds."""
    if len(args.prompt) not in (1, len(args.image)):
        raise InputError(
            f"{len(args.prompt)} --prompt for {len(args.image)} --image; give one for all, or one"
            " for each"
        )
    for prompt in args.prompt:
        if problem := check_prompt(prompt):
            raise InputError(f"--prompt {prompt[:40]!r}: {problem}")
    if not 0 <= args.seed <= LAST_SEED:
        raise InputError(f"--seed {args.seed}: 0..{LAST_SEED}")
    command_line.check_tile(args.tile)
    for path in args.image:
        if not path.exists():
            raise InputError(f"--image {path}: there is no such file")
    names = [path.stem for path in args.image]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"--image: two pictures are called {twice[0]}; rename one of them")
    check_out(args.out)
    given = {os.path.realpath(path) for path in args.image}
    for name in names:
        target = args.out / f"{name}_x{args.factor}.png"
        if os.path.realpath(target) in given:
            raise InputError(f"--out {args.out}: the result {target.name} would replace an --image")
    check_json(args.json)


def main(argv: list[str] | None = None) -> None:
    """Enlarge. Raises InputError on flags and files that cannot be."""
    args = parser().parse_args(argv)
    check_flags(args)
    loras = parse_all(args.lora)
    began, checkpoint = time.monotonic(), cascades.pinned(args.checkpoint)
    description = cascades.read_cascade(checkpoint)[1]
    settings = SamplerSettings(
        **one(args.steps, "steps", int, 1, 1000),
        **one(args.guidance, "guidance", float, 0.0, 100.0),
        tile=args.tile or 0,
        whole=args.tile == 0,
        strength=args.strength,
    )
    if not has_relay(description):
        raise InputError(f"--checkpoint {args.checkpoint} has no relay, which enlarges pictures")
    check_trained(description, {"relay": settings})

    prompts = args.prompt * (len(args.image) // len(args.prompt))
    pictures = read_pictures(list(zip(args.image, prompts, strict=True)), description, args.factor)

    with loading():
        from cv3jax.cascade.upscaling import Enlarging
        from cv3jax.sampling.enlarge import enlarge

    how = Enlarging(args.factor, args.seed, settings, args.colour_fix)
    with (
        output(args.out) as out,
        reporting(args.json) as report,
        locks.hold(out, "--out"),
    ):
        figures = enlarge(
            checkpoint,
            pictures,
            out,
            how,
            attention=args.attention,
            metadata=not args.no_metadata,
            loras=loras,
        )
        figures["seconds"] = time.monotonic() - began
        say(f"{figures['seconds']:.1f} s with loading and compilation")
        report(figures)
