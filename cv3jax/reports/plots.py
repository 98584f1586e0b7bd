"""Pictures and curves for a page: data: addresses, and SVG in the page's own font and colours."""

import base64
import contextlib
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image

from data_pipeline.io.errors import counted

if TYPE_CHECKING:  # importing it takes a second
    from matplotlib.axes import Axes

QUANTITIES = {"loss": "loss (no unit)", "psnr": "PSNR of training batches (dB)"}
_INK = "#012345"  # replaced by the page's text colour, light or dark
LINE, _FAINT, OTHER = "#6475f5", "#7c8cf8", "#d9822b"  # visible on both


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
                color=LINE,
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
    """Draw the distance from `full` steps against the passes of the network, distilled and not.

    Passes stand for time: a guided step takes two, a distilled one is conditioned on w and needs
    one.

    rows: of a quality.json. Large points are the mean over all w, faint ones each w by itself.
    """
    for what, passes, style, colour, some in (
        ("undistilled, guided", 2, "o--", OTHER, [r for r in rows if r["round"] is None]),
        ("distilled", 1, "s-", LINE, [r for r in rows if r["round"] is not None]),
    ):
        if not some:
            continue
        at = [passes * row["steps"] for row in some]
        means = [row["distance"]["all"] for row in some]
        for x, row in zip(at, some, strict=True):
            each = [distance for w, distance in row["distance"].items() if w != "all"]
            axes.plot([x] * len(each), each, style[0], color=colour, alpha=0.3, markersize=4)
        axes.plot(at, means, style, color=colour, label=what)
        for x, mean, row in zip(at, means, some, strict=True):
            note(axes, (x, mean), counted(row["steps"], "step"))
    counts = sorted({row["steps"] * (2 if row["round"] is None else 1) for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xticks([], minor=True)
    axes.margins(x=0.15)
    axes.set(
        xlabel="passes of the network a picture: what the time goes by",
        ylabel=f"distance from {full} steps, latents",
    )
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


class Timed(NamedTuple):
    """A sampler in `draw_times`.

    milliseconds: of denoising one picture. distance: of its pictures from the full sampler's.
    """

    label: str
    distilled: bool
    milliseconds: float
    distance: float


def times_plot(samplers: list[Timed]) -> Markup:
    """Return the inline SVG of `draw_times`."""
    pieces: list[Markup] = []
    with drawn(pieces) as axes:
        draw_times(axes, samplers)
    return pieces[0]


def draw_times(axes: "Axes", samplers: list[Timed]) -> None:
    """Draw the distance of the pictures against the time they take: a point a sampler."""
    from matplotlib.ticker import LogLocator, NullLocator

    for what, marker, colour, some in (
        ("undistilled", "o", OTHER, [one for one in samplers if not one.distilled]),
        ("distilled", "s", LINE, [one for one in samplers if one.distilled]),
    ):
        axes.plot(
            [one.milliseconds for one in some],
            [one.distance for one in some],
            marker,
            color=colour,
            label=what,
        )
    last = max((one.milliseconds for one in samplers), default=1.0)
    for one in samplers:  # those of both kinds may be near one another, the last near the edge
        place = (-8 if one.milliseconds > last / 2 else 8, -13 if one.distilled else 6)
        note(axes, (one.milliseconds, one.distance), one.label, place)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.15, y=0.12)
    axes.set(
        xlabel="denoising a picture, ms (log scale)",
        ylabel="distance from the full sampler, 0..1",
    )
    axes.legend(frameon=False)


def note(
    axes: "Axes", point: tuple[float, float], text: str, place: tuple[float, float] = (7, 5)
) -> None:
    """Write a small text beside a point of the data.

    place: how many points of type to the right of it and above it.
    """
    axes.annotate(
        text,
        point,
        place,
        textcoords="offset points",
        ha="left" if place[0] > 0 else "right",
        fontsize="small",
    )
