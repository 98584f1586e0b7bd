"""`cv3jax convert`: released weights in, trained weights out."""

import argparse
from pathlib import Path
from typing import Any

from cv3jax.checkpoints import cascades
from cv3jax.commands import arguments as command_line
from cv3jax.distributed.backend import loading
from cv3jax.weights import BESIDE, SCALE, TARGETS, WEIGHTS
from data_pipeline.io.arguments import Parser, pair, stored
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json, check_json, reporting, tell_json
from data_pipeline.io.objects.fetched import fetched
from data_pipeline.io.objects.outputs import check_out, dataset
from data_pipeline.io.objects.store import address_of
from data_pipeline.io.staging import check_new

EXAMPLE = """cv3jax convert --base base/transformer --relay relay/transformer \\
      --vae sdxl_vae.safetensors --t5 t5-v1_1-xxl --out cogview3
  cv3jax convert --t5 s3://bucket/t5-v1_1-xxl --vae sdxl_vae.safetensors --out s3://bucket/encoders
  cv3jax convert --checkpoint runs/relay --to sat --out relay_for_sat
  cv3jax convert --checkpoint cogview3 --to diffusers --out cogview3-diffusers"""


def parser() -> Parser:
    """Return the parser of `cv3jax convert`."""
    made = command_line.command("convert", __doc__, EXAMPLE)
    command_line.add_out(made, "the directory to make; it appears when it is complete", stores=True)
    into = made.add_argument_group(
        "import: PyTorch files to a checkpoint directory; give any of these. Files and folders may"
        " be at addresses, such as s3://bucket/sdxl_vae.safetensors"
    )
    into.add_argument(
        "--base",
        type=stored,
        metavar="U",
        help="UNet of the base stage: a SAT folder, its .pt, or .safetensors",
    )
    into.add_argument("--relay", type=stored, metavar="U", help="UNet of the relay stage")
    into.add_argument(
        "--unet",
        type=stored,
        metavar="U",
        help=(
            "a UNet by itself; it is a relay's if --config is a relay's or --relay-start is given,"
            " and a base's otherwise"
        ),
    )
    into.add_argument(
        "--vae",
        type=stored,
        metavar="V",
        help="autoencoder: a file in sgm's naming, or a diffusers AutoencoderKL folder",
    )
    into.add_argument(
        "--t5",
        type=stored,
        metavar="T",
        help="text encoder: a Hugging Face T5 v1.1 folder with its tokenizer",
    )
    into.add_argument(
        "--tokenizer",
        type=stored,
        metavar="FOLDER",
        help="the tokenizer's files (default: beside the text encoder)",
    )
    into.add_argument(
        "--config",
        type=stored,
        action="append",
        default=[],
        metavar="YAML",
        help="YAML configuration that came with the weights; may be given twice, for base and"
        " relay",
    )
    into.add_argument(
        "--sha256",
        action="append",
        default=[],
        metavar="FILE=HEX",
        help="the SHA-256 that a file must have; may be given several times. A file SHA256SUMS"
        " beside the weights is read by itself",
    )
    into.add_argument(
        "--head-channels",
        type=int,
        metavar="N",
        help="channels of an attention head (default: 64, if all widths are multiples of it)",
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
        help="T_r, the timestep (of 1000) where the relay starts (default: 500; the released"
        " 1-step relay: 200)",
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
            "type in which UNets and text encoder compute (default: float32; the autoencoder always"
            " computes in float32)"
        ),
    )
    out = made.add_argument_group("export: a checkpoint to PyTorch files")
    out.add_argument(
        "--checkpoint",
        type=stored,
        metavar="DIR",
        help="a cascade directory, or a run's --workdir, whose newest checkpoint is exported if it"
        " has no cascade yet; here or at an address",
    )
    out.add_argument(
        "--to",
        choices=TARGETS,
        help="sat: the release's files; diffusers: a pipeline's folders and code; safetensors: the"
        " release's tensor names in safetensors files",
    )
    out.add_argument(
        "--parts",
        metavar="P,Q",
        help="parts to export, of base, relay, vae, t5 (default: all that the checkpoint has)",
    )
    out.add_argument(
        "--weights",
        choices=WEIGHTS,
        help="ema: averaged weights (default); params: the newest weights of a run, without"
        " averaging",
    )
    add_json(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Convert. Raises InputError on flags and files that cannot be."""
    args = parser().parse_args(argv)
    if address_of(args.out) is None:
        check_new(args.out)
    check_out(args.out)
    check_json(args.json)
    sources = [flag for flag in ("base", "relay", "unet", "vae", "t5") if getattr(args, flag)]
    if bool(args.checkpoint) == bool(sources) or bool(args.checkpoint) != bool(args.to):
        raise InputError(
            "to import, give --base, --relay, --unet, --vae or --t5; to export, give --checkpoint"
            " and --to; see cv3jax convert --help"
        )
    check_flags(args)
    check_files(args)

    with loading():
        from cv3jax.weights.convert import convert_in, convert_out

    def make(out: Path) -> dict[str, Any]:
        given = argparse.Namespace(**{**vars(args), "out": out})
        return convert_out(given) if args.checkpoint else convert_in(given)

    with reporting(args.json) as report:
        report(dataset(args.out, make, vars(args), overwrite=None))
        tell_json({"out": address_of(args.out) or str(args.out)})


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
        "sha256": (*unet, "vae", "t5"),
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
            raise InputError(f"--{flag} needs {needed}; give it, or leave --{flag} out")


def check_files(args: argparse.Namespace) -> None:
    """Raise InputError on a file that is not there, and on numbers that cannot be.

    What is at an address is fetched, after the rest was looked at. Raises OSError where it fails.
    """
    if args.checkpoint and args.weights != "params":
        cascades.find_cascade(args.checkpoint)
    pair(args.steps, "steps", int, 1, 1000)
    pair(args.guidance, "guidance", float, 0.0, 100.0)
    weights = ("base", "relay", "unet", "vae", "t5", "tokenizer")
    given = [(f"--{flag}", path) for flag in weights if (path := getattr(args, flag))]
    for flag, path in [*given, *(("--config", path) for path in args.config)]:
        if address_of(path) is None and not path.exists():
            what = "file" if flag == "--config" else "file or folder"
            raise InputError(f"{flag} {path}: there is no such {what}")
    for flag, path in given:
        setattr(args, flag.removeprefix("--"), fetched(path, flag, BESIDE))
    args.config = [fetched(path, "--config") for path in args.config]
