"""`cv3jax sample`: prompts to pictures with a trained cascade, one PNG an image and a contact sheet."""

import argparse
import json
import re
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from cv3jax.cascade import Cascade, load
from cv3jax.pictures import contact_sheet, save_png
from cv3jax.recipe import check_directory, check_file, command, write_json
from cv3jax.sample_inputs import read_images, read_noise
from data_pipeline.errors import InputError

EXAMPLE = 'cv3jax sample --checkpoint runs/quickstart --prompt "a small green star in the center, black background" --num 4 --out runs/star'
BATCH = 16  # images sampled at once
SHEET = (24, 8)  # at most so many prompts, and pictures of each, on the contact sheet
MAX_PROMPT = 4096  # characters; the encoder reads far fewer


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command("sample", __doc__, EXAMPLE)
    parser.add_argument("--checkpoint", required=True, type=Path, help="a cascade directory, or the --workdir of a run that made one")
    parser.add_argument("--prompt", required=True, action="append", help="what to draw; may be given several times")
    parser.add_argument("--out", required=True, type=Path, help="directory for the pictures")
    parser.add_argument("--steps", help="base and relay steps, e.g. 50,12 (default: the checkpoint's)")
    parser.add_argument("--guidance", help="guidance weight, one for both stages or base,relay, e.g. 7.5 (default: the checkpoint's)")
    parser.add_argument("--size", type=int, help="side of the final pictures in pixels (default: one relay pass)")
    parser.add_argument("--seed", type=int, default=0, help="the first image's; the next ones count up")
    parser.add_argument("--num", type=int, default=1, help="pictures a prompt")
    parser.add_argument("--image", type=Path, action="append", metavar="FILE",
                        help="a square picture to enlarge by the relay, instead of drawing one; as often as --prompt, or once for all")
    parser.add_argument("--noise", type=Path, metavar="FILE.npz",
                        help="noise of another program instead of the seeds': arrays base (without --image), and low and relay for a relay "
                        "pass, each [pictures, h, w, channels] of the latents; to reproduce its pictures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write files, prompts, seeds and seconds as JSON")
    return parser.parse_args(argv)


def pair(text: str | None, flag: str, kind: type, low: float, high: float) -> tuple[dict, dict]:
    """`--steps 50,12` → ({"steps": 50}, {"steps": 12}); one value serves both. Raises InputError outside [low, high]."""
    if text is None:
        return {}, {}
    try:
        values = [kind(value) for value in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or not all(low <= value <= high for value in values):
        raise InputError(f"--{flag} {text}: give one {kind.__name__} or two with a comma, each {low}..{high}")
    return {flag: values[0]}, {flag: values[-1]}


def sample(
    cascade: Cascade, prompts: list[str], *, num: int, seed: int, size: int | None, base: dict, relay: dict,
    images: np.ndarray | None = None, noise: dict[str, np.ndarray] | None = None,
):  # fmt: skip
    """Yield (the prompt's number, seed, {stage: uint8 image}) for `num` images of each prompt, computed BATCH at a time.

    images: of each prompt, to enlarge. noise: {"base", "low", "relay"}, of each picture in the order they are made.
    """
    jobs = [(number, seed + i) for number in range(len(prompts)) for i in range(num)]
    width = min(BATCH, len(jobs))
    for begin in tqdm(range(0, len(jobs), width), desc="sample", unit="batch", file=sys.stderr):
        rows = np.minimum(np.arange(begin, begin + width), len(jobs) - 1)  # one batch size, one compilation
        numbers, seeds = zip(*(jobs[row] for row in rows), strict=True)
        made = cascade.generate(
            [prompts[number] for number in numbers], list(seeds), size=size, base=base, relay=relay,
            images=None if images is None else images[list(numbers)],
            noise=None if noise is None else {name: jnp.asarray(value[rows]) for name, value in noise.items()},
        )  # fmt: skip
        for i in range(min(width, len(jobs) - begin)):
            yield numbers[i], seeds[i], {stage: batch[i] for stage, batch in made.items()}


def given(cascade: Cascade, args: argparse.Namespace) -> dict:
    """The arguments of `sample` that are in files. Raises InputError where they do not suit the cascade, or a part it takes is missing."""
    description, stages = cascade.description, cascade.description["stages"]
    first = "relay" if args.image else "base"
    if needed := [name for name, there in ((f"{first} stage", first in stages), ("t5", "t5" in description)) if not there]:
        raise InputError(f"--checkpoint {args.checkpoint} has no {needed[0]} to start from, only {', '.join(cascade.params)}")
    images = None
    if args.image:
        if len(args.image) not in (1, len(args.prompt)):
            raise InputError(f"{len(args.image)} --image for {len(args.prompt)} --prompt; give as many, or one")
        images = read_images(args.image * (len(args.prompt) // len(args.image)), cascade.multiple("relay") // 2)
    side = images.shape[1] if args.image else stages["base"]["image_size"]
    passes = cascade.passes(args.size if args.size or not args.image else 2 * side, side)
    if args.image and not passes:
        raise InputError(f"--size {args.size}: the picture has it already; give {2 * side} or more")
    if args.noise is None:
        return {"images": images, "noise": None}
    if passes > 1:
        raise InputError(f"--noise {args.noise}: for one relay pass at most, and --size {args.size} takes {passes}")
    count = args.num * len(args.prompt)
    shapes = {} if args.image else {"base": (count, *cascade.latent(side))}
    if passes:
        shapes |= dict.fromkeys(("low", "relay"), (count, *cascade.latent(2 * side)))
    return {"images": images, "noise": read_noise(args.noise, shapes)}


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if not 1 <= args.num <= 10_000:
        raise InputError(f"--num {args.num}: 1..10000")
    if not 0 <= args.seed <= 2**32 - 1 - args.num:
        raise InputError(f"--seed {args.seed}: 0..{2**32 - 1 - args.num}")
    for prompt in args.prompt:
        if not prompt.strip() or len(prompt) > MAX_PROMPT:
            raise InputError(f"--prompt {prompt[:40]!r}: must hold 1..{MAX_PROMPT} characters that are not all blank")
    steps, guidance = pair(args.steps, "steps", int, 1, 1000), pair(args.guidance, "guidance", float, 0.0, 100.0)
    check_directory(args.out, "--out")
    check_file(args.json, "--json")
    cascade = load(args.checkpoint)
    files = given(cascade, args)
    began, made, shown = time.monotonic(), [], {}
    jobs = sample(
        cascade, args.prompt, num=args.num, seed=args.seed, size=args.size, base=steps[0] | guidance[0],
        relay=steps[1] | guidance[1], **files,
    )  # fmt: skip
    for number, seed, images in jobs:
        image = images.get("relay", images["base"])
        slug = re.sub(r"[^a-z0-9]+", "_", args.prompt[number].lower()).strip("_")[:60] or "prompt"
        path = args.out / f"{number:02d}_{slug}_{seed}.png"
        save_png(path, image)
        made.append({"file": path.name, "prompt": args.prompt[number], "seed": seed})
        row = shown.setdefault(number, [])
        if number < SHEET[0] and len(row) < SHEET[1]:
            row.append(image)
    rows = [np.stack(row) for row in shown.values() if row]
    save_png(args.out / "contact_sheet.png", contact_sheet(rows, rows=args.prompt[: len(rows)]))
    seconds = time.monotonic() - began
    print(f"{len(made)} pictures and contact_sheet.png in {args.out}, {seconds:.1f} s with compilation", file=sys.stderr)
    write_json(args.json, {"images": made, "seconds": seconds, "sheet": str(args.out / "contact_sheet.png")})
    print(json.dumps([entry["file"] for entry in made]))


if __name__ == "__main__":
    from cv3jax.cli import run_command

    run_command(main)
