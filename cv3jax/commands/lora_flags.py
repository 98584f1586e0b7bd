"""The flags that the commands with LoRA adapters share."""

import argparse
from pathlib import Path

from cv3jax.adapters.format_names import FORMATS as FORMATS
from cv3jax.adapters.given import FLAG, LoraFile, parse_all
from data_pipeline.io.errors import InputError

STAGES = ("base", "relay")
APPLIED = (
    "a LoRA adapter of any format, with its weight (default: 1; 0 leaves it out); may be given"
    " several times. STAGE is base or relay, where the file does not say it"
)


def add_lora(parser: argparse._ActionsContainer, help: str, *, required: bool = False) -> None:
    """Add --lora, an adapter; it may be given several times, and is None without the flag."""
    help = f"{help}; the file may be at an address, such as s3://bucket/teal.safetensors"
    parser.add_argument(
        FLAG, action="append", required=required, metavar="[STAGE=]FILE[:WEIGHT]", help=help
    )


def add_stage(parser: argparse._ActionsContainer, help: str, *, required: bool = False) -> None:
    """Add --stage, base or relay."""
    parser.add_argument("--stage", choices=STAGES, required=required, help=help)


def files(args: argparse.Namespace, count: int | None = None) -> list[LoraFile]:
    """Return the files of --lora for a command that applies none, so that weights mean nothing.

    count: how many there must be; None: one or more.

    Raises InputError on another number, on weights, and on files that are not there.
    """
    given = parse_all(args.lora)
    if count is not None and len(given) != count:
        raise InputError(f"{len(given)} {FLAG}: give {count}")
    if weighed := [one for one in given if one.weight != 1 or one.stage]:
        raise InputError(f"{weighed[0].where}: give the file alone, without a stage or weight")
    return given


def check_out(out: Path, format: str) -> None:
    """Raise InputError where an adapter could not be written: a file, or PEFT's folder."""
    from data_pipeline.io.files import check_file
    from data_pipeline.io.staging import check_new

    if format == "peft":
        check_new(out)
    else:
        check_file(out, "--out")
        if out.suffix != ".safetensors":
            raise InputError(f"--out {out}: give a name that ends with .safetensors")
        if out.exists():
            raise InputError(f"--out {out} exists already; give a new name")
