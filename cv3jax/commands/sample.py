"""`cv3jax sample`: prompts to pictures with a trained cascade, one PNG an image; a contact sheet,
or an index of many.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cv3jax.cascade.limits import check_trained, relay_passes
from cv3jax.cascade.pipeline import Cascade, load
from cv3jax.checkpoints import cascades
from cv3jax.commands.arguments import command
from cv3jax.distributed.independent import which_part
from cv3jax.distributed.mesh import choose_mesh
from cv3jax.kernels.attention import KINDS
from cv3jax.reports.pictures import contact_sheet, save_png
from cv3jax.sampling.batches import batch_width, draw
from cv3jax.sampling.inputs import LAST_SEED, check_prompt, read_images, read_noise
from cv3jax.sampling.jobs import Job, slug
from cv3jax.sampling.resumable import require, sample_many
from data_pipeline.io.arguments import pair
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_directory, check_file, write_json

EXAMPLE = """cv3jax sample --checkpoint runs/quickstart --num 4 --out runs/star \\
      --prompt "a small green star, black background"
  cv3jax sample --checkpoint runs/quickstart --prompts captions.txt --out runs/many"""
BATCH = 16  # images sampled at once on a device
MAX_BATCH = 65_536
SHEET = (24, 8)  # at most so many prompts, and pictures of each, on the contact sheet
MANY = ("process_id", "num_processes")  # flags that go with --prompts alone
FEW = ("image", "noise")  # and with --prompt


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command("sample", __doc__, EXAMPLE)
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        help="a cascade directory, or the --workdir of a run that made one",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", action="append", help="what to draw; may be given several times")
    what.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help=(
            'many prompts, one a line, or a .jsonl of {"prompt": ..., "seed": ..., "name": ...},'
            " the last two if wanted; the same command goes on where it was stopped"
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


def check(args: argparse.Namespace) -> None:
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


def given(cascade: Cascade, args: argparse.Namespace) -> dict:
    """The arguments of `draw` that are in files.

    Raises InputError where they do not suit the cascade, or a part it takes is missing.
    """
    require(args.checkpoint, cascade.description, "relay" if args.image else "base")
    images = None
    if args.image:
        if len(args.image) not in (1, len(args.prompt)):
            raise InputError(
                f"{len(args.image)} --image for {len(args.prompt)} --prompt; give as many, or one"
            )
        images = read_images(
            args.image * (len(args.prompt) // len(args.image)), cascade.multiple("relay") // 2
        )
    side = images.shape[1] if args.image else cascade.description["stages"]["base"]["image_size"]
    passes = cascade.passes(args.size if args.size or not args.image else 2 * side, side)
    if args.image and not passes:
        raise InputError(f"--size {args.size}: the picture has it already; give {2 * side} or more")
    if args.noise is None:
        return {"images": images, "noise": None}
    if passes > 1:
        raise InputError(
            f"--noise {args.noise}: for one relay pass at most, and --size {args.size} takes"
            f" {passes}"
        )
    count = args.num * len(args.prompt)
    shapes = {} if args.image else {"base": (count, *cascade.latent(side))}
    if passes:
        shapes |= dict.fromkeys(("low", "relay"), (count, *cascade.latent(2 * side)))
    return {"images": images, "noise": read_noise(args.noise, shapes)}


def few(args: argparse.Namespace, base: dict, relay: dict) -> dict:
    """The pictures of --prompt, and a contact sheet of them. Returns figures."""
    count = args.num * len(args.prompt)
    mesh = choose_mesh(args.mesh, count)
    width = batch_width(args.batch, mesh, count)
    description = cascades.read_cascade(args.checkpoint)[1]
    # where it is needed and not there `given` says so
    if "base" in description["stages"] and not args.image:
        check_trained(description, base=base)
    if args.image or ("base" in description["stages"] and relay_passes(description, args.size)):
        check_trained(description, relay=relay)
    cascade = load(args.checkpoint, mesh=mesh, attention=args.attention)
    files = given(cascade, args)
    names = [f"{number:02d}_{slug(prompt)}" for number, prompt in enumerate(args.prompt)]
    jobs = [
        Job(args.prompt[n], args.seed + i, f"{names[n]}_{args.seed + i}.png")
        for n in range(len(names))
        for i in range(args.num)
    ]
    shown: dict[int, list[np.ndarray]] = {}
    for begin in tqdm(range(0, count, width), desc="sample", unit="batch", file=sys.stderr):
        rows = np.arange(begin, min(begin + width, count))
        images = None if files["images"] is None else files["images"][rows // args.num]
        noise = (
            None
            if files["noise"] is None
            else {name: value[rows] for name, value in files["noise"].items()}
        )
        made = draw(
            cascade,
            [jobs[i] for i in rows],
            width,
            images,
            noise,
            size=args.size,
            base=base,
            relay=relay,
        )
        for i, image in zip(rows, made, strict=True):
            save_png(args.out / jobs[i].file, image)
            if i // args.num < SHEET[0] and i % args.num < SHEET[1]:
                shown.setdefault(i // args.num, []).append(image)
    sheet = [np.stack(row) for row in shown.values()]
    save_png(args.out / "contact_sheet.png", contact_sheet(sheet, rows=args.prompt[: len(sheet)]))
    print(f"{count} pictures and contact_sheet.png in {args.out}", file=sys.stderr)
    print(json.dumps([job.file for job in jobs]))
    made = [{"file": job.file, "prompt": job.prompt, "seed": job.seed} for job in jobs]
    return {"images": made, "sheet": str(args.out / "contact_sheet.png")}


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    check(args)
    steps, guidance = (
        pair(args.steps, "steps", int, 1, 1000),
        pair(args.guidance, "guidance", float, 0.0, 100.0),
    )
    base, relay = steps[0] | guidance[0], steps[1] | guidance[1]
    began = time.monotonic()
    if args.prompts is None:
        figures = few(args, base, relay)
    else:
        figures = sample_many(
            args.checkpoint,
            args.prompts,
            args.out,
            num=args.num,
            seed=args.seed,
            size=args.size,
            base=base,
            relay=relay,
            batch=args.batch,
            mesh=args.mesh,
            attention=args.attention,
            part=which_part(args.process_id, args.num_processes),
        )
    figures["seconds"] = time.monotonic() - began
    print(f"{figures['seconds']:.1f} s with loading and compilation", file=sys.stderr)
    write_json(args.json, figures)


if __name__ == "__main__":
    from cv3jax.cli import run_command

    run_command(main)
