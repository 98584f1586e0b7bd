"""Show what each halving of steps costs: a table, a figure, and the same pictures per round."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cv3jax.reports.pictures import save_png
from cv3jax.reports.plots import draw_quality
from data_pipeline.io.errors import naming
from data_pipeline.io.files import write_json
from data_pipeline.io.progress import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPLAINED = (
    "The distance is the root mean square difference of latents from those of the full sampler,\n"
    "{full} guided steps from the same noise, averaged over the prompts. Latents have a standard\n"
    'deviation of about 1. The column "all" averages over every w.'
)


class Row(NamedTuple):
    """A sampler of so many steps: the undistilled stage, or the student of a round."""

    steps: int
    round: int | None
    distance: dict[str, float]  # w → distance, and "all"


def table(rows: list[Row], weights: list[float]) -> str:
    """Return a Markdown table that lists students beside the undistilled stage of as many steps."""
    names = [f"{w:g}" for w in weights]
    lines = [
        "| steps | sampler | " + " | ".join(f"w {name}" for name in names) + " | all |",
        "|---|---|" + "---|" * (len(names) + 1),
    ]
    for row in sorted(rows, key=lambda row: (-row.steps, row.round or 0)):
        what = "undistilled, guided" if row.round is None else f"distilled, round {row.round}"
        lines.append(
            f"| {row.steps} | {what} | "
            + " | ".join(f"{row.distance[name]:.3f}" for name in (*names, "all"))
            + " |"
        )
    return "\n".join(lines)


def figure(rows: list[Row], stage: str, full: int) -> "Figure":
    """Return a figure of distance against passes of the network, distilled and not."""
    from matplotlib.figure import Figure

    plot = Figure(figsize=(6, 4), layout="constrained")
    axes = plot.subplots()
    draw_quality(axes, [row._asdict() for row in rows], full)
    axes.set_title(f"{stage}: what each halving costs")
    axes.grid(alpha=0.3)
    return plot


def write_quality(
    workdir: Path, stage: str, full: int, rows: list[Row], weights: list[float], picture: np.ndarray
) -> None:
    """Write quality.json, quality.md, quality.png and rounds.png under `workdir`.

    The table is also printed to stderr.
    """
    write_json(
        workdir / "quality.json",
        {"stage": stage, "full": full, "rows": [row._asdict() for row in rows]},
    )
    text = table(rows, weights)
    with naming(workdir / "quality.md"):
        (workdir / "quality.md").write_text(
            f"# {stage}: quality against steps\n\n{EXPLAINED.format(full=full)}\n\n{text}\n"
        )
    with naming(workdir / "quality.png"):
        figure(rows, stage, full).savefig(workdir / "quality.png", dpi=120)
    save_png(workdir / "rounds.png", picture)
    say(text)
