"""`cv3jax lora compare`: how alike the changes of two LoRA adapters are, layer by layer.

The relative difference is ‖ΔA − ΔB‖ / ‖ΔA‖. DoRA's magnitudes, whose effect depends on the model's
weights, are left out.
"""

from cv3jax.checkpoints import cascades
from cv3jax.commands import arguments as command_line
from cv3jax.commands import lora_flags
from cv3jax.distributed.backend import loading
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.terminal import tell

EXAMPLE = "cv3jax lora compare --lora teal.safetensors --lora teal_longer.safetensors"
SHOWN = 10  # layers, those that differ most


def parser() -> Parser:
    """Return the parser of `cv3jax lora compare`."""
    made = command_line.command("lora compare", __doc__, EXAMPLE)
    lora_flags.add_lora(made, "a file or folder; give two", required=True)
    command_line.add_checkpoint(
        made,
        "a cascade of their model; needed only where one has sgm's names and one diffusers'",
        required=False,
    )
    lora_flags.add_stage(made, "the stage of --checkpoint that they are for (default: base)")
    add_json(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Compare. Raises InputError on flags and files that cannot be."""
    args = parser().parse_args(argv)
    check_json(args.json)
    given = lora_flags.files(args, 2)
    stage = stage_of(args.checkpoint, args.stage)

    with loading():
        from cv3jax.adapters import formats, naming
        from cv3jax.adapters.measures import compared

    with reporting(args.json) as report:
        two = [formats.read(one.path, one.where) for one in given]
        if two[0].naming != two[1].naming:
            sizes = stage and naming.Sizes.of(stage)
            known = sizes or next(filter(None, (naming.sizes_in(a, "it") for a in two)), None)
            two = [
                naming.named(a, "sgm", known, one.where) for a, one in zip(two, given, strict=True)
            ]
        figures = compared(*two)
        tell("\n".join(_lines(figures)))
        report(figures)


def stage_of(checkpoint: object, name: str | None) -> object:
    """Return the description of the stage of a --checkpoint, or None without one.

    Raises InputError where it has no such stage, or --stage is given alone.
    """
    if checkpoint is None:
        if name is not None:
            raise InputError("--stage needs --checkpoint; give it, or leave --stage out")
        return None
    stages = cascades.read_cascade(checkpoint)[1].stages
    if (name or "base") not in stages:
        raise InputError(f"--checkpoint {checkpoint} has no {name or 'base'}; give another --stage")
    return stages[name or "base"]


def _lines(figures: dict) -> list[str]:
    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.4f}"

    rows = sorted(figures["layers"], key=lambda row: -(row["difference"] or 0.0))
    lines = [
        f"{len(rows)} layers in both, {len(figures['first_only'])} only in the first,"
        f" {len(figures['second_only'])} only in the second",
        f"all together: relative difference {shown(figures['difference'])}, cosine"
        f" {shown(figures['cosine'])}, norms {figures['norms'][0]:.4g} and"
        f" {figures['norms'][1]:.4g}",
    ]
    if rows:
        lines.append(f"  {'the layers that differ most':<60}{'difference':>12}{'cosine':>10}")
    for row in rows[:SHOWN]:
        lines.append(
            f"  {row['layer']:<60}{shown(row['difference']):>12}{shown(row['cosine']):>10}"
        )
    return lines
