"""`cv3jax lora inspect`: what is in a LoRA file, of any format.

Its format, ranks, alphas and norms by layer, what it was made for, and its header.
"""

from typing import Any

from cv3jax.commands import arguments as command_line
from cv3jax.commands import lora_flags
from cv3jax.distributed.backend import loading
from data_pipeline.io.arguments import Parser
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.terminal import tell, visible

EXAMPLE = """cv3jax lora inspect --lora teal.safetensors
  cv3jax lora inspect --lora teal.safetensors --layers --json teal.json"""
SHOWN = 200  # characters of a text of the header


def parser() -> Parser:
    """Return the parser of `cv3jax lora inspect`."""
    made = command_line.command("lora inspect", __doc__, EXAMPLE)
    lora_flags.add_lora(made, "the file or folder; may be given several times", required=True)
    made.add_argument(
        "--layers", action="store_true", help="print a line for each layer, not for each kind"
    )
    add_json(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Print what the files hold. Raises InputError on files that cannot be read."""
    args = parser().parse_args(argv)
    check_json(args.json)
    given = lora_flags.files(args)

    with loading():
        from cv3jax.adapters import formats, naming
        from cv3jax.adapters.digest import digest_of
        from cv3jax.adapters.measures import by_kind, counted_ranks, layers_of

    with reporting(args.json) as report:
        found = []
        for one in given:
            format, adapter = formats.read_as(one.path, one.where)
            rows = layers_of(adapter)
            sizes = naming.sizes_in(adapter, one.where)
            value = {
                "file": str(one.address or one.path),
                "format": format,
                "naming": adapter.naming,
                "stage": adapter.stage,
                "rslora": adapter.rslora,
                "unet": sizes and naming.as_fields(sizes),
                "ranks": counted_ranks(rows),
                "parameters": sum(row["parameters"] for row in rows),
                "sha256": digest_of(adapter),
                "metadata": dict(adapter.metadata),
                "layers": rows,
            }
            tell("\n".join(_lines(value, rows if args.layers else None, by_kind(rows))))
            found.append(value)
        report({"files": found})


def _lines(
    value: dict[str, Any], rows: list[dict[str, Any]] | None, kinds: list[dict[str, Any]]
) -> list[str]:
    """Return the lines on a file. rows: its layers, to be printed; None: its kinds are."""
    many = len(value["layers"])
    ranks = ", ".join(f"{rank} ({n})" for rank, n in value["ranks"].items())
    dora = sum(row["dora"] for row in value["layers"])
    idle = sum(not row["changes"] for row in value["layers"])
    scale = "alpha / √rank (rsLoRA)" if value["rslora"] else "alpha / rank"
    unet = value["unet"]
    sizes = (
        f"a UNet of {unet['channels']} × {unet['channel_mult']} channels, depth {unet['depth']}"
        if unet
        else "unknown, the header does not say"
    )
    lines = [
        f"{value['file']}: {value['format']}, {many} layers, {value['parameters']:,} parameters",
        f"  made for: {value['stage'] or 'a stage that it does not name'}; {sizes}",
        f"  ranks (layers): {ranks}; scale {scale}; DoRA in {dora} layers",
        f"  layers that change nothing: {idle}",
    ]
    if rows is None:
        lines += [f"  {'kind':<32}{'layers':>7}{'ranks':>10}{'norm of the change':>20}"]
        for one in kinds:
            low, high = one["ranks"][0], one["ranks"][-1]
            span = str(low) if low == high else f"{low}..{high}"
            lines.append(f"  {one['kind']:<32}{one['layers']:>7}{span:>10}{one['norm']:>20.4g}")
    else:
        lines += [f"  {'layer':<64}{'rank':>6}{'alpha':>9}{'norm':>11}"]
        lines += [
            f"  {one['layer']:<64}{one['rank']:>6}{one['alpha']:>9.4g}{one['norm']:>11.4g}"
            for one in rows
        ]
    for name, text in sorted(value["metadata"].items()):
        lines.append(f"  {visible(name, SHOWN)}: {visible(text, SHOWN)}")
    return lines
