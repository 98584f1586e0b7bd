"""`cv3jax lora convert`: a LoRA file from one format into another, with the same bits.

Ranks, alphas, DoRA's magnitudes and the header's texts are kept.
"""

import dataclasses
from pathlib import Path

from cv3jax.checkpoints import cascades
from cv3jax.commands import arguments as command_line
from cv3jax.commands import lora_flags
from cv3jax.commands.lora_compare import stage_of
from cv3jax.distributed.backend import loading
from data_pipeline.io.arguments import Parser
from data_pipeline.io.figures import add_json, check_json, reporting, tell_json
from data_pipeline.io.progress import say

EXAMPLE = """cv3jax lora convert --lora teal.safetensors --to kohya --out teal_kohya.safetensors
  cv3jax lora convert --lora adapter --checkpoint scenes --to native --out teal.safetensors"""


def parser() -> Parser:
    """Return the parser of `cv3jax lora convert`."""
    made = command_line.command("lora convert", __doc__, EXAMPLE)
    lora_flags.add_lora(made, "the file or folder to convert", required=True)
    made.add_argument(
        "--to",
        choices=lora_flags.FORMATS,
        required=True,
        help=(
            "native: cv3jax's own; kohya: lora_unet_… as kohya's scripts and ComfyUI have it;"
            " diffusers: one file; peft: a folder with adapter_config.json"
        ),
    )
    made.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="the file to write, or PEFT's folder",
    )
    command_line.add_checkpoint(
        made,
        "a cascade of its model: diffusers' names depend on the UNet's sizes, which files of"
        " cv3jax have in their header",
        required=False,
    )
    lora_flags.add_stage(made, "the stage that it is for, which the new file then names")
    made.add_argument(
        "--without-text-encoder",
        action="store_true",
        help="leave out what the file has for a text encoder, which is not CogView3's",
    )
    add_json(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Convert. Raises InputError on flags and files that cannot be."""
    args = parser().parse_args(argv)
    check_json(args.json)
    (given,) = lora_flags.files(args, 1)
    lora_flags.check_out(args.out, args.to)
    if args.checkpoint:
        cascades.find_cascade(args.checkpoint)
    if args.checkpoint and args.stage:
        stage_of(args.checkpoint, args.stage)

    with loading():
        from cv3jax.adapters import formats, naming, trees

    with reporting(args.json) as report:
        texts = not args.without_text_encoder
        format, adapter = formats.read_as(given.path, given.where, text_encoder=texts)
        if args.checkpoint:
            stage = stage_of(args.checkpoint, args.stage or adapter.stage)
            adapter = trees.fitted(adapter, stage, given.where)
            sizes = {naming.SIZES: naming.Sizes.of(stage).to_json()}
            adapter = dataclasses.replace(adapter, metadata={**adapter.metadata, **sizes})
        if args.stage is not None:
            adapter = dataclasses.replace(adapter, stage=args.stage)
        formats.write(args.out, adapter, args.to)
        say(f"{args.out}: {len(adapter.layers)} layers, from {format} to {args.to}")
        report({"out": str(args.out), "from": format, "to": args.to, "layers": len(adapter.layers)})
        tell_json({"out": str(args.out)})
