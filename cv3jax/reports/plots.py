"""Pictures and curves for a page: data: addresses, and SVG in the page's own font and colours."""

import base64
import contextlib
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from PIL import Image

if TYPE_CHECKING:  # importing it takes a second
    from matplotlib.axes import Axes

QUANTITIES = {"loss": "loss (no unit)", "psnr": "PSNR of training batches (dB)"}
_INK = "#012345"  # replaced by the page's text colour, light or dark
_LINE, _FAINT, _OTHER = "#6475f5", "#7c8cf8", "#d9822b"  # visible on both


def png_uri(image: np.ndarray) -> str:
    """Return uint8 [H, W, 3] as a PNG in a data: address."""
    out = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(out, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


@contextlib.contextmanager
def drawn(pieces: list[Markup]) -> Iterator["Axes"]:
    """Yield axes to draw on, and afterwards append their inline SVG to `pieces`."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "text.color": _INK,
            "axes.edgecolor": _INK,
            "axes.labelcolor": _INK,
            "xtick.color": _INK,
            "ytick.color": _INK,
            "font.size": 11,
        }
    ):
        figure = Figure(figsize=(5.4, 3.1), layout="constrained")
        axes = figure.subplots()
        yield axes
        axes.grid(alpha=0.18, color=_INK, which="both", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(
        r"<metadata>.*?</metadata>",
        "",
        out.getvalue()[out.getvalue().index("<svg") :],
        flags=re.DOTALL,
    )
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', svg, count=1
    )
    pieces.append(Markup(re.sub(r'<g id="[^"]*"', "<g", svg).replace(_INK, "currentColor")))


def plot(lines: list[dict], key: str) -> Markup:
    """Return inline SVG of `key` over the steps, with its running mean."""
    step, value = np.array(
        [(line["step"], line[key]) for line in lines if key in line], np.float64
    ).T
    pieces: list[Markup] = []
    with drawn(pieces) as axes:
        width = max(len(value) // 15, 1)  # of the running mean, in points
        axes.plot(step, value, color=_FAINT, alpha=0.45 if width > 1 else 1.0, linewidth=1.4)
        if width > 1:
            axes.plot(
                np.convolve(step, np.ones(width) / width, "valid"),
                np.convolve(value, np.ones(width) / width, "valid"),
                color=_LINE,
                linewidth=2.2,
            )
        axes.set(xlabel="optimizer steps", ylabel=QUANTITIES[key])
        if key == "loss" and (value > 0).all():
            axes.set(yscale="log", ylabel=f"{QUANTITIES[key]}, log scale")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}" if value.max() < 5 * value.min() else "")
    return pieces[0]


def quality_plot(rows: list[dict], full: int) -> Markup:
    """Return the inline SVG of `draw_quality`."""
    pieces: list[Markup] = []
    with drawn(pieces) as axes:
        draw_quality(axes, rows, full)
    return pieces[0]


def draw_quality(axes: "Axes", rows: list[dict], full: int) -> None:
    """Draw the distance from `full` steps against the steps, distilled and not.

    rows: of a quality.json.
    """
    for what, some, style, colour in (
        ("undistilled, guided", [row for row in rows if row["round"] is None], "o--", _OTHER),
        ("distilled", [row for row in rows if row["round"] is not None], "s-", _LINE),
    ):
        if some:
            axes.plot(
                [row["steps"] for row in some],
                [row["distance"]["all"] for row in some],
                style,
                color=colour,
                label=what,
            )
    counts = sorted({row["steps"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xticks([], minor=True)
    axes.invert_xaxis()
    axes.set(xlabel="steps", ylabel=f"distance from {full} steps, latents")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
