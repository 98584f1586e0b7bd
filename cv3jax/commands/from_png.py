"""The flags of `sample` for the record in its PNGs: leave it out, or draw a picture again by it."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.fingerprint import parts_fingerprint
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cv3jax.adapters.given import LoraFile
    from cv3jax.checkpoints.description import CascadeDescription
    from cv3jax.sampling.expanding import Expanding
    from cv3jax.sampling.metadata import Drawing


def add_from_png(what: argparse._ActionsContainer) -> None:
    """Add --from-png to the flags of which one says what to draw."""
    what.add_argument(
        "--from-png",
        type=Path,
        metavar="FILE",
        help=(
            "a PNG that this command wrote: draw it again, with its prompt, seed, size and"
            " settings, where no flag gives others"
        ),
    )


def add_no_metadata(made: Parser) -> None:
    """Add --no-metadata."""
    made.add_argument(
        "--no-metadata",
        action="store_true",
        help="leave out of the PNGs what they were made from: prompt, seed, settings, checkpoint",
    )


def fill(args: argparse.Namespace) -> "Drawing | None":
    """Return what the picture of --from-png was drawn from, or None without the flag.

    Flags that were not given get its values. Raises InputError on a file without a record, and on a
    picture that was enlarged, drawn from further files, or drawn in other types.
    """
    drawing = None
    if args.from_png is not None:
        from cv3jax.sampling.metadata import read_drawing

        drawing = read_drawing(args.from_png)
        if drawing.given:
            files = " and ".join(f"--{name.removesuffix('s')}" for name in drawing.given)
            raise InputError(
                f"--from-png {args.from_png}: it was drawn with {files}, which its record does not"
                " hold; give the command that drew it"
            )
        if (dtype := drawing.checkpoint.dtype) is not None:
            raise InputError(
                f"--from-png {args.from_png}: it was drawn in {dtype} from Python, and this command"
                " draws in the checkpoint's own types; load it there with"
                f" cv3jax.Cascade.load(..., dtype={dtype!r})"
            )
        args.prompt = [drawing.prompt]
        args.seed = drawing.seed if args.seed is None else args.seed
        args.size = "x".join(map(str, drawing.size)) if args.size is None else args.size
        args.tile = (drawing.tile or None) if args.tile is None else args.tile
    args.seed = 0 if args.seed is None else args.seed
    return drawing


def check_checkpoint(drawing: "Drawing | None", checkpoint: Path) -> None:
    """Raise InputError where another checkpoint than the picture's is to draw it again."""
    if drawing is None:
        return
    parts = ("vae", "t5", *drawing.stages)
    has = cascades.read_cascade(checkpoint)[1].parts
    found = parts_fingerprint(checkpoint, parts) if {*parts} <= {*has} else "of other parts"
    if found != (wanted := drawing.checkpoint.fingerprint):
        raise InputError(
            f"--checkpoint {checkpoint} is not the one that drew this picture (its parts have the"
            f" hash {found[:14]}, not {wanted[:14]}); give that one"
        )


def check_loras(
    drawing: "Drawing | None", given: "Sequence[LoraFile]", description: "CascadeDescription"
) -> None:
    """Raise InputError where --lora does not give the adapters that drew the picture."""
    if drawing is None:
        return
    from cv3jax.adapters.applied import applied_to

    applied = applied_to(given, description).applied
    ours = [(one.sha256, one.stage, one.weight) for one in applied if one.weight]
    wanted = drawing.checkpoint.loras
    if ours == [(one["sha256"], one["stage"], one["weight"]) for one in wanted]:
        return
    flags = " ".join(f"--lora {one['stage']}={one['file']}:{one['weight']:g}" for one in wanted)
    raise InputError(
        f"the picture of --from-png was drawn with {flags or 'no --lora'}; give the same files"
        " (SHA-256 of their layers:"
        f" {', '.join(one['sha256'][:14] for one in wanted) or 'none'})"
    )


def settings(drawing: "Drawing | None", stage: str, given: SamplerSettings) -> SamplerSettings:
    """Return a stage's settings: those that were given, else the drawing's."""
    fields = {} if drawing is None else drawing.stages.get(stage, {})
    default = SamplerSettings()
    unset = {
        name: value
        for name, value in fields.items()
        if getattr(given, name) == getattr(default, name)
    }
    return dataclasses.replace(given, **unset)


def known(drawing: "Drawing | None", expanding: "Expanding | None") -> dict:
    """Return the fields of a request that only a drawing gives: its expansion.

    There are none where the prompt is expanded anew: an ablation draws it as written, too.
    """
    if drawing is None or drawing.expansion is None or expanding is not None:
        return {}
    return {"expansions": {0: drawing.expansion}}
