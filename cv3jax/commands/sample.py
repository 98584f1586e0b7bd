"""`cv3jax sample`: draw pictures of prompts with a trained cascade.

Each picture is a PNG. A few get a contact sheet, many an index.
"""

import argparse
import time
from pathlib import Path

from cv3jax.adapters.given import parse_all
from cv3jax.cascade.limits import check_trained
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size, drawn_sizes, parse_size
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.checkpoints.description_checks import STAGES
from cv3jax.commands import arguments as command_line
from cv3jax.commands import expansion_flags, from_png, lora_flags
from cv3jax.distributed import parse_axes
from cv3jax.distributed.backend import loading
from cv3jax.sampling.inputs import LAST_SEED, check_prompt
from data_pipeline.io import locks, signals
from data_pipeline.io.arguments import Parser, pair
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json, check_json, reporting, tell_json
from data_pipeline.io.objects.outputs import check_out, output
from data_pipeline.io.progress import say

EXAMPLE = """cv3jax sample --checkpoint scenes --out runs/star --num 4 \\
      --prompt "a small green star, black background"
  cv3jax sample --checkpoint runs/quickstart --prompts captions.txt --out runs/many"""
BATCH = 16  # images sampled at once on a device
MAX_BATCH = 65_536
MANY = ("process_id", "num_processes")  # flags that go with --prompts alone
FEW = ("image", "noise")  # and with --prompt


def parser() -> Parser:
    """Return the parser of `cv3jax sample`."""
    made = command_line.command("sample", __doc__, EXAMPLE)
    command_line.add_checkpoint(
        made,
        "a cascade directory, the --workdir of a run, or an installed cascade's name"
        f" ({', '.join(cascades.packaged())})",
    )
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="what to draw; may be given several times",
    )
    what.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help=(
            'a file with one prompt per line, or a .jsonl of {"prompt": ..., "seed": ..., "name":'
            " ...}, where seed and name are optional; run the same command again to resume, or to"
            " draw prompts that were appended to the file"
        ),
    )
    from_png.add_from_png(what)
    command_line.add_out(made, "directory for the pictures", stores=True)
    made.add_argument(
        "--steps",
        metavar="N[,N]",
        help="base and relay steps, e.g. 50,12 (default: the checkpoint's)",
    )
    made.add_argument(
        "--guidance",
        metavar="W[,W]",
        help=(
            "guidance weight, one for both stages or base,relay, e.g. 7.5 (default: the"
            " checkpoint's)"
        ),
    )
    made.add_argument(
        "--size",
        metavar="H[xW]",
        help=(
            "height and width of the final pictures in pixels, such as 768x512 (height first), or"
            " one side (default: one relay pass)"
        ),
    )
    made.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help=(
            "seed of the first picture (default: 0); each next one adds 1. Every --prompt starts"
            " again at this seed; the lines of --prompts do not"
        ),
    )
    made.add_argument(
        "--num", type=int, default=1, metavar="N", help="pictures per prompt (default: 1)"
    )
    made.add_argument(
        "--image",
        type=Path,
        action="append",
        metavar="FILE",
        help=(
            "a picture that the relay enlarges, so that the base draws none; give one per"
            " --prompt, or one for all"
        ),
    )
    made.add_argument(
        "--noise",
        type=Path,
        metavar="FILE.npz",
        help=(
            "noise to use in place of the seeds', to reproduce another program's pictures: arrays"
            " named base (without --image), low and relay (for one relay pass), each [pictures, h,"
            " w, channels] in latents"
        ),
    )
    command_line.add_devices(
        made,
        str(BATCH),
        "how this machine's devices share the work, e.g. fsdp=4,context=2: data splits the batch,"
        " fsdp the batch and the parameters, tensor the layers, context each picture; -1: all"
        " devices that are left (default: data=-1)",
    )
    command_line.add_tile(made, command_line.FITTING)
    command_line.add_attention(made)
    made.add_argument(
        "--no-text-kv-cache",
        action="store_true",
        help=(
            "compute the text's keys and values at every step, also of the guidance's rows without"
            " text: the same pictures, for comparison"
        ),
    )
    lora_flags.add_lora(made, lora_flags.APPLIED)
    from_png.add_no_metadata(made)
    expansion_flags.add_expansion(made)
    command_line.add_share(made, "--prompts")
    add_json(made)
    return made


def check_flags(args: argparse.Namespace) -> None:
    """Raise InputError on a flag that is wrong whatever the checkpoint holds."""
    if not 1 <= args.num <= 10_000:
        raise InputError(f"--num {args.num}: must be 1..10000")
    last = LAST_SEED + 1 - args.num
    if not 0 <= args.seed <= last:
        raise InputError(f"--seed {args.seed}: must be 0..{last}")
    if not 1 <= args.batch <= MAX_BATCH:
        raise InputError(f"--batch {args.batch}: must be 1..{MAX_BATCH}")
    for prompt in args.prompt or ():
        if problem := check_prompt(prompt):
            raise InputError(f"--prompt {prompt[:40]!r}: {problem}")
    for names, other in ((MANY, "prompts"), (FEW, "prompt")):
        if wrong := [
            name.replace("_", "-")
            for name in names
            if getattr(args, name) is not None and getattr(args, other) is None
        ]:
            raise InputError(f"--{wrong[0]} needs --{other}; give it, or leave --{wrong[0]} out")
    for flag, path in (
        *(("--image", path) for path in args.image or ()),
        ("--noise", args.noise),
        ("--prompts", args.prompts),
        ("--from-png", args.from_png),
    ):
        if path is not None and not path.exists():
            raise InputError(f"{flag} {path}: there is no such file")
    if args.mesh is not None:
        parse_axes(args.mesh)
    command_line.check_tile(args.tile)
    check_out(args.out)
    check_json(args.json)


def check_drawable(
    description: CascadeDescription,
    size: Size | None,
    base: SamplerSettings,
    relay: SamplerSettings,
) -> None:
    """Raise InputError on a size, steps or guidance that the cascade cannot draw prompts with."""
    if "base" not in description.stages:
        return  # who reads its parts says so
    check_trained(description, {"base": base})
    if len(drawn_sizes(description, size)) > 1:
        check_trained(description, {"relay": relay})


def main(argv: list[str] | None = None) -> None:
    """Draw. Raises InputError on flags and files that cannot be."""
    args = parser().parse_args(argv)
    args.batch = BATCH if args.batch is None else args.batch
    drawing = from_png.fill(args)
    check_flags(args)
    expanding, loras = expansion_flags.expansion_of(args), parse_all(args.lora)
    steps, guidance = (
        pair(args.steps, "steps", int, 1, 1000),
        pair(args.guidance, "guidance", float, 0.0, 100.0),
    )
    size = None if args.size is None else parse_size(args.size)
    common = {"tile": args.tile or 0, "whole": args.tile == 0}
    common["text_kv_cache"] = not args.no_text_kv_cache
    base, relay = (
        from_png.settings(drawing, name, SamplerSettings(**steps[i], **guidance[i], **common))
        for i, name in enumerate(STAGES)
    )
    began, checkpoint = time.monotonic(), cascades.pinned(args.checkpoint)
    description = cascades.read_cascade(checkpoint)[1]
    from_png.check_checkpoint(drawing, checkpoint)
    if not args.image:
        check_drawable(description, size, base, relay)
    share = None if args.prompts is None else command_line.share_of(args)

    with loading():
        from cv3jax.sampling.few import Request, sample_few
        from cv3jax.sampling.jobs import PLAN
        from cv3jax.sampling.resumable import Devices, Pictures, sample_many

    from_png.check_loras(drawing, loras, description)
    with output(args.out) as out, reporting(args.json) as report:
        if share is None:
            with locks.hold(out, "--out"):
                figures = sample_few(
                    checkpoint,
                    Request(
                        args.prompt,
                        args.num,
                        args.seed,
                        base,
                        relay,
                        size=size,
                        images=args.image,
                        noise=args.noise,
                        expanding=expanding,
                        metadata=not args.no_metadata,
                        loras=loras,
                        **from_png.known(drawing, expanding),
                    ),
                    out,
                    batch=args.batch,
                    mesh=args.mesh,
                    attention=args.attention,
                )
        else:
            with signals.saving((out / PLAN).exists):
                figures = sample_many(
                    checkpoint,
                    Pictures(
                        args.prompts,
                        args.num,
                        args.seed,
                        size,
                        base,
                        relay,
                        expanding,
                        metadata=not args.no_metadata,
                        loras=loras,
                    ),
                    out,
                    Devices(args.batch, args.mesh, args.attention),
                    share,
                )
            tell_json(figures)
        figures["seconds"] = time.monotonic() - began
        say(f"{figures['seconds']:.1f} s with loading and compilation")
        report(figures)
