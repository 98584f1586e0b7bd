"""`cv3jax convert`: released weights in, trained weights out."""

import argparse
import json
from pathlib import Path

from cv3jax.checkpoints import cascades
from cv3jax.commands import arguments as command_line
from cv3jax.weights import SCALE, TARGETS, WEIGHTS
from data_pipeline.io.arguments import Parser, pair
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.progress import waiting
from data_pipeline.io.staging import check_new

EXAMPLE = """cv3jax convert --base base/transformer --relay relay/transformer \\
      --vae sdxl_vae.safetensors --t5 t5-v1_1-xxl --out cogview3
  cv3jax convert --checkpoint runs/relay --to sat --out relay_for_sat"""


def parser() -> Parser:
    """Return the parser of `cv3jax convert`."""
    made = command_line.command("convert", __doc__, EXAMPLE)
    command_line.add_out(made, "the directory to make; it appears when it is whole")
    into = made.add_argument_group("in: any of these, from PyTorch files to a checkpoint directory")
    into.add_argument(
        "--base",
        type=Path,
        metavar="U",
        help="UNet of the base stage: a SAT folder, its .pt, or .safetensors",
    )
    into.add_argument("--relay", type=Path, metavar="U", help="UNet of the relay stage")
    into.add_argument(
        "--unet",
        type=Path,
        metavar="U",
        help=(
            "a UNet alone: a relay's where --config is a relay's or --relay-start is given, else a"
            " base's"
        ),
    )
    into.add_argument(
        "--vae",
        type=Path,
        metavar="V",
        help="autoencoder: a file in sgm's naming, or a diffusers AutoencoderKL folder",
    )
    into.add_argument(
        "--t5",
        type=Path,
        metavar="T",
        help="text encoder: a Hugging Face T5 v1.1 folder with its tokenizer",
    )
    into.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FOLDER",
        help="the tokenizer's files (default: beside the text encoder)",
    )
    into.add_argument(
        "--config",
        type=Path,
        action="append",
        default=[],
        metavar="YAML",
        help="configuration that came with the weights, of base or relay; may be given for each",
    )
    into.add_argument(
        "--head-channels",
        type=int,
        metavar="N",
        help="channels of an attention head (default: 64, where all widths divide by it)",
    )
    into.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="side of the base's pictures (default: 512; the relay's is twice that)",
    )
    into.add_argument(
        "--steps",
        metavar="N[,N]",
        help="base and relay steps (default: 50,12; distilled models 4,1)",
    )
    into.add_argument(
        "--guidance",
        metavar="W[,W]",
        help="guidance weight, one for both stages or base,relay (default: 7.5)",
    )
    into.add_argument(
        "--relay-start",
        type=int,
        metavar="T",
        help="T_r, where the relay starts, of 1000 (default: 500; the released 1-step relay: 200)",
    )
    into.add_argument(
        "--prediction", choices=("eps", "v"), help="what the UNets predict (default: eps)"
    )
    into.add_argument(
        "--latent-scale",
        type=float,
        metavar="X",
        help=f"what latents are multiplied by (default: {SCALE}, SDXL's)",
    )
    into.add_argument(
        "--text-length", type=int, metavar="N", help="tokens of a prompt (default: 225)"
    )
    into.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help=(
            "what UNets and text encoder compute in (default: float32; the autoencoder always does)"
        ),
    )
    out = made.add_argument_group(
        "out: from a checkpoint directory or a run's --workdir to PyTorch files"
    )
    out.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="what to export; a run's newest checkpoint serves too",
    )
    out.add_argument(
        "--to",
        choices=TARGETS,
        help="the names and files of the SAT release, of diffusers, or SAT's names in safetensors",
    )
    out.add_argument(
        "--parts", metavar="P,Q", help="of base, relay, vae, t5 (default: all there are)"
    )
    out.add_argument(
        "--weights",
        choices=WEIGHTS,
        help="the EMA (default), or a run's newest parameters without it",
    )
    add_json(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Convert. Raises InputError on flags and files that cannot be."""
    args = parser().parse_args(argv)
    check_new(args.out)
    check_json(args.json)
    sources = [flag for flag in ("base", "relay", "unet", "vae", "t5") if getattr(args, flag)]
    if bool(args.checkpoint) == bool(sources) or bool(args.checkpoint) != bool(args.to):
        raise InputError(
            "give either --base, --relay, --unet, --vae or --t5, or --checkpoint and --to; see"
            " cv3jax convert --help"
        )
    check_flags(args)
    check_files(args)

    with waiting("loading JAX"):
        from cv3jax.weights.convert import convert_in, convert_out

    with reporting(args.json) as report:
        report(convert_out(args) if args.checkpoint else convert_in(args))
        print(json.dumps({"out": str(args.out)}))


def check_flags(args: argparse.Namespace) -> None:
    """Raise InputError on a flag that would do nothing beside the others."""
    unet = ("base", "relay", "unet")
    belongs = {
        "parts": ("checkpoint",),
        "weights": ("checkpoint",),
        "tokenizer": ("t5",),
        "text_length": ("t5",),
        "latent_scale": ("vae",),
        "dtype": (*unet, "t5"),
        "config": (*unet, "vae", "t5"),
        "head_channels": unet,
        "image_size": unet,
        "steps": unet,
        "guidance": unet,
        "prediction": unet,
        "relay_start": ("relay", "unet"),
    }
    for name, others in belongs.items():
        if getattr(args, name) not in (None, []) and not any(
            getattr(args, other) for other in others
        ):
            flag, needed = name.replace("_", "-"), " or ".join(f"--{other}" for other in others)
            raise InputError(f"--{flag} is for {needed}, and there is none; leave it out")


def check_files(args: argparse.Namespace) -> None:
    """Raise InputError on a file that is not there, and on numbers that cannot be."""
    if args.checkpoint and args.weights != "params":
        cascades.find_cascade(args.checkpoint)
    for flag in ("base", "relay", "unet", "vae", "t5", "tokenizer"):
        if (path := getattr(args, flag)) and not path.exists():
            raise InputError(f"--{flag} {path}: there is no such file or folder")
    for path in args.config:
        if not path.exists():
            raise InputError(f"--config {path}: there is no such file")
    pair(args.steps, "steps", int, 1, 1000)
    pair(args.guidance, "guidance", float, 0.0, 100.0)
