"""A run's curves as one picture: losses, throughput, MFU, learning rates and gradient norms."""

import io
import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # importing it takes a second
    from matplotlib.axes import Axes

MOST = 2000  # points of a curve that are drawn
_COLOURS = ("#3b4cc0", "#d9822b", "#2a9d8f", "#b5179e", "#6c757d", "#8d6e63", "#e63946", "#577590")


class Panel(NamedTuple):
    """One pair of axes: what is drawn in it, in which unit, and whether its axis is logarithmic."""

    title: str
    unit: str
    figures: re.Pattern
    log: bool = False


PANELS = (
    Panel("training loss", "loss", re.compile("loss"), log=True),
    Panel("held-out loss by noise level", "loss", re.compile(r"heldout/loss(_t\d+)?"), log=True),
    Panel("throughput", "images/s", re.compile("images_per_second")),
    Panel("MFU", "share of the chips' peak", re.compile("mfu")),
    Panel("learning rate", "", re.compile(r"lr(/.+)?")),
    Panel("norm of the gradient", "", re.compile("grad_norm(/.+)?"), log=True),
)


def run_plot(lines: Sequence[dict], title: str) -> bytes:
    """Return the curves of lines of metrics as a PNG on a light ground.

    Figures that no line has get no axes. title: above all. Raises ValueError where there is no
    figure to draw.
    """
    from matplotlib.figure import Figure

    shown = [(panel, found) for panel in PANELS if (found := curves(lines, panel.figures))]
    if not shown:
        raise ValueError("no line has a figure to draw")
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(6.4 * columns, 3.4 * rows), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=12)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (panel, found) in zip(grid, shown, strict=False):
        _draw(axes, panel, found)
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="white", metadata={"Software": None})
    return out.getvalue()


def curves(lines: Sequence[dict], wanted: re.Pattern) -> dict[str, list[tuple[int, float]]]:
    """Return name → (step, value) pairs of the figures whose whole name matches, thinned to MOST.

    Values that are not finite are left out.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            number = isinstance(value, int | float) and abs(value) < float("inf")
            if number and wanted.fullmatch(name):
                found.setdefault(name, []).append((line["step"], float(value)))
    return {name: thinned(pairs) for name, pairs in found.items()}


def thinned(pairs: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most MOST pairs: the means of neighbours, each at its last step."""
    if len(pairs) <= MOST:
        return pairs
    ends = [round(i * len(pairs) / MOST) for i in range(MOST + 1)]
    groups = (pairs[a:b] for a, b in itertools.pairwise(ends))
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _draw(axes: "Axes", panel: Panel, found: dict[str, list[tuple[int, float]]]) -> None:
    for number, (name, pairs) in enumerate(sorted(found.items(), key=_by_number)):
        steps, values = zip(*pairs, strict=True)
        marker = "o" if len(pairs) < 30 else None
        colour = _COLOURS[number % len(_COLOURS)]
        style = ("-", "--", ":")[number // len(_COLOURS) % 3]
        axes.plot(steps, values, style, label=name, color=colour, marker=marker, ms=3, lw=1.3)
    if panel.log and all(value > 0 for pairs in found.values() for _, value in pairs):
        axes.set_yscale("log")
    axes.set_title(panel.title, fontsize=11)
    axes.set_xlabel("step")
    axes.set_ylabel(panel.unit)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.grid(alpha=0.25, which="both", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(found) > 1:
        beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        axes.legend(fontsize=8, frameon=False, **beside)


def _by_number(item: tuple[str, list]) -> tuple[str, int]:
    """Return the order of names: by their text, then by the number that they end with."""
    text, number = re.fullmatch(r"(.*?)(\d*)", item[0]).groups()
    return text, int(number or -1)
