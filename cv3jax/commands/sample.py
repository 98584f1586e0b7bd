"""`cv3jax sample`: prompts to pictures with a trained cascade, one PNG an image; a contact sheet,
or an index of many.
"""

import argparse
import sys
import time
from pathlib import Path

from cv3jax.commands.arguments import command
from cv3jax.kernels import KINDS
from cv3jax.sampling.inputs import LAST_SEED, check_prompt
from data_pipeline.io import locks
from data_pipeline.io.arguments import pair
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_directory, check_file, write_json

EXAMPLE = """cv3jax sample --checkpoint runs/quickstart --num 4 --out runs/star \\
      --prompt "a small green star, black background"
  cv3jax sample --checkpoint runs/quickstart --prompts captions.txt --out runs/many"""
BATCH = 16  # images sampled at once on a device
MAX_BATCH = 65_536
MANY = ("process_id", "num_processes")  # flags that go with --prompts alone
FEW = ("image", "noise")  # and with --prompt


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command("sample", __doc__, EXAMPLE)
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        help="a cascade directory, or the --workdir of a run, whose newest checkpoint serves too",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", action="append", help="what to draw; may be given several times")
    what.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help=(
            'many prompts, one a line, or a .jsonl of {"prompt": ..., "seed": ..., "name": ...},'
            " the last two if wanted; the same command goes on where it was stopped, and makes what"
            " was appended to the file"
        ),
    )
    parser.add_argument("--out", required=True, type=Path, help="directory for the pictures")
    parser.add_argument(
        "--steps", help="base and relay steps, e.g. 50,12 (default: the checkpoint's)"
    )
    parser.add_argument(
        "--guidance",
        help=(
            "guidance weight, one for both stages or base,relay, e.g. 7.5 (default: the"
            " checkpoint's)"
        ),
    )
    parser.add_argument(
        "--size", type=int, help="side of the final pictures in pixels (default: one relay pass)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help=(
            "the first image's; the next ones count up: of each --prompt anew, of --prompts through"
            " the whole file"
        ),
    )
    parser.add_argument("--num", type=int, default=1, help="pictures a prompt")
    parser.add_argument(
        "--image",
        type=Path,
        action="append",
        metavar="FILE",
        help=(
            "a square picture to enlarge by the relay, instead of drawing one; as often as"
            " --prompt, or once for all"
        ),
    )
    parser.add_argument(
        "--noise",
        type=Path,
        metavar="FILE.npz",
        help=(
            "noise of another program instead of the seeds': arrays base (without --image), and low"
            " and relay for a relay pass, each [pictures, h, w, channels] of the latents; to"
            " reproduce its pictures"
        ),
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=BATCH,
        metavar="N",
        help=f"images sampled at once on a device, or on as many as share them (default: {BATCH})",
    )
    parser.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help=(
            "how this machine's devices work together, e.g. fsdp=4,context=2: data takes rows, fsdp"
            " rows and parts of the parameters, tensor parts of the layers, context parts of each"
            " image; -1 is what is left (default: data=-1)"
        ),
    )
    parser.add_argument(
        "--attention",
        choices=KINDS,
        default="auto",
        help=(
            "the UNets': xla, cudnn (GPU), splash (TPU), heads (CPU), or what suits devices and"
            " sizes (default)"
        ),
    )
    parser.add_argument(
        "--process_id",
        type=int,
        metavar="I",
        help=(
            "of --prompts make part I of N, counted from 0 (default: what Slurm or JAX_PROCESS_ID"
            " says)"
        ),
    )
    parser.add_argument(
        "--num_processes",
        type=int,
        metavar="N",
        help="processes that share the work, each on devices of its own, with the same --out",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write files, prompts, seeds and seconds as JSON"
    )
    return parser.parse_args(argv)


def check_flags(args: argparse.Namespace) -> None:
    """Raise InputError on a flag that is wrong whatever the checkpoint holds."""
    if not 1 <= args.num <= 10_000:
        raise InputError(f"--num {args.num}: 1..10000")
    if not 0 <= args.seed <= LAST_SEED - args.num:
        raise InputError(f"--seed {args.seed}: 0..{LAST_SEED - args.num}")
    if not 1 <= args.batch <= MAX_BATCH:
        raise InputError(f"--batch {args.batch}: 1..{MAX_BATCH}")
    for prompt in args.prompt or ():
        if problem := check_prompt(prompt):
            raise InputError(f"--prompt {prompt[:40]!r}: {problem}")
    for names, other in ((MANY, "prompts"), (FEW, "prompt")):
        if wrong := [
            name
            for name in names
            if getattr(args, name) is not None and getattr(args, other) is None
        ]:
            raise InputError(f"--{wrong[0]} goes with --{other}")
    check_directory(args.out, "--out")
    check_file(args.json, "--json")


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    check_flags(args)
    steps, guidance = (
        pair(args.steps, "steps", int, 1, 1000),
        pair(args.guidance, "guidance", float, 0.0, 100.0),
    )

    from cv3jax.cascade.sampler_settings import SamplerSettings
    from cv3jax.checkpoints.cascades import pinned
    from cv3jax.distributed.independent import which_share
    from cv3jax.sampling.few import Request, sample_few
    from cv3jax.sampling.resumable import Devices, Pictures, sample_many

    base, relay = (SamplerSettings(**steps[i], **guidance[i]) for i in range(2))
    began, checkpoint = time.monotonic(), pinned(args.checkpoint)
    if args.prompts is None:
        with locks.hold(args.out, "--out"):
            figures = sample_few(
                checkpoint,
                Request(
                    args.prompt,
                    args.num,
                    args.seed,
                    base,
                    relay,
                    size=args.size,
                    images=args.image,
                    noise=args.noise,
                ),
                args.out,
                batch=args.batch,
                mesh=args.mesh,
                attention=args.attention,
            )
    else:
        figures = sample_many(
            checkpoint,
            Pictures(args.prompts, args.num, args.seed, args.size, base, relay),
            args.out,
            Devices(args.batch, args.mesh, args.attention),
            which_share(args.process_id, args.num_processes),
        )
    figures["seconds"] = time.monotonic() - began
    print(f"{figures['seconds']:.1f} s with loading and compilation", file=sys.stderr)
    write_json(args.json, figures)


if __name__ == "__main__":
    from cv3jax.cli import run_command

    run_command(main)
