"""Draw pictures of the documents, each by its name.

    python benchmarks/pictures.py compile guidance distillation   # from the files of results/
    python benchmarks/pictures.py trajectory rounds   # sampled with the packaged cascades
    python benchmarks/pictures.py build_report        # `cv3jax data build`, a browser
    python benchmarks/pictures.py quickstart_report --page runs/quickstart/report.html

Writes docs/pictures/NAME.png. The cascade's drawing beside them, cascade.svg, is written by hand.
"""

import argparse
import importlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from cv3jax.cli import run_command
from cv3jax.distributed.backend import POOL_FRACTION
from cv3jax.quickstart.report_distilled import timed
from cv3jax.reports.plots import LINE, OTHER, draw_times
from data_pipeline.io.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).parents[1]
OUT, RESULTS = ROOT / "docs" / "pictures", ROOT / "benchmarks" / "results"
LARGEST = 200_000  # bytes of a picture
BY_HAND = ("cascade.svg",)
WIDTH, DPI = 6.0, 170  # inches, dots an inch: text of 10 points is 14 pixels of 600
THIRD = "#5aa9a0"  # beside LINE and OTHER; colour-blind readers can tell the three apart
STYLE = {"figure.dpi": DPI, "font.size": 10, "axes.titlesize": 10.5, "axes.spines.top": False}
STYLE |= {"axes.spines.right": False, "axes.axisbelow": True, "grid.alpha": 0.3}


def result(name: str) -> dict:
    """Return the content of a result file of the benchmarks."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def compile_memory() -> Figure:
    """Return bars of the memory a chip that each compiled step takes, up to the chip's limit."""
    made = result("compile_time")["results"]
    by_chip: dict[str, list[str]] = {}
    for key in made:
        by_chip.setdefault(key.split()[2], []).append(key)
    figure = Figure(figsize=(WIDTH, 6.6), layout="constrained")
    plots = figure.subplots(
        len(by_chip),
        1,
        gridspec_kw={"height_ratios": [len(keys) + 1.5 for keys in by_chip.values()]},
    )
    for axes, (chip, keys) in zip(plots, by_chip.items(), strict=True):
        draw_memory(axes, chip, {key: made[key] for key in keys}, made)
    plots[-1].set_xlabel("GB a chip (10⁹ bytes), up to the limit")
    handles, labels = plots[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def draw_memory(axes: "Axes", chip: str, steps: dict[str, dict], made: dict[str, dict]) -> None:
    """Draw a bar a step: its arguments, the rest of its peak, and what the run holds beside it.

    That is the other program's arguments: the encoders, or the train state.
    """
    first = next(iter(steps.values()))
    tpu = first["chip"].startswith("TPU")
    limit = first["capacity_bytes"] / 1e9 * (1.0 if tpu else POOL_FRACTION)
    for place, (key, step) in enumerate(steps.items()):
        recipe, kind, _ = key.split()
        other = made[f"{recipe} {'encode' if kind == 'train' else 'train'} {chip}"]
        parts = [
            ("its arguments", step["argument_bytes_per_chip"] / 1e9, LINE),
            (
                "temporaries, outputs, code",
                (step["peak_bytes_per_chip"] - step["argument_bytes_per_chip"]) / 1e9,
                OTHER,
            ),
            ("held beside it", other["argument_bytes_per_chip"] / 1e9, THIRD),
        ]
        start = 0.0
        for name, size, colour in parts:
            axes.barh(
                place, size, left=start, color=colour, label=None if place else name, height=0.75
            )
            start += size
        axes.text(start + limit / 90, place, f"{start:.1f}", va="center", fontsize=9)
    axes.axvline(limit, color="#222222", linewidth=1.6)
    words = (
        f"{limit:.0f} GB"
        if tpu
        else f"{100 * POOL_FRACTION:.0f} % of {limit / POOL_FRACTION:.0f} GB"
    )
    axes.set_title(f"{first['chip']}, {chip}: limit {words}", loc="left")
    axes.set_yticks(range(len(steps)), [" ".join(key.split()[:2]) for key in steps], fontsize=9)
    axes.set_xlim(0, 1.01 * limit)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def guidance() -> Figure:
    """Return a heat map a step that the teacher takes in the student's place: their distances."""
    found = result("guidance")
    names = {"none": "the student alone", "all": "all four by the teacher"}
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    plots = figure.subplots(2, 3, sharex=True, sharey=True)
    weights = [f"{w:g}" for w in found["weights"]]
    top = max(max(map(max, rows)) for rows in found["replaced"].values())
    for axes, (step, rows) in zip(plots.flat, found["replaced"].items(), strict=True):
        image = axes.imshow(rows, cmap="cividis_r", vmin=0, vmax=top)
        for i, row in enumerate(rows):
            for j, distance in enumerate(row):
                colour = "white" if distance > top / 2 else "black"
                text = f"{distance:.3f}".removeprefix("0")
                axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=9)
            nearest = row.index(min(row))
            axes.add_patch(
                Rectangle((nearest - 0.47, i - 0.47), 0.94, 0.94, fill=False, ec=OTHER, lw=2.2)
            )
        axes.set_title(names.get(step, f"step {step} by the teacher"), fontsize=9.5)
        axes.set_xticks(range(len(weights)), weights)
        axes.set_yticks(range(len(weights)), weights)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    figure.supxlabel("w of the teacher it is compared with", fontsize=10)
    figure.supylabel("w that the student is given", fontsize=10)
    figure.colorbar(image, ax=plots, label="distance of latents", shrink=0.7, aspect=30)
    return figure


def distillation() -> Figure:
    """Return the distance of the packaged cascades' samplers from the full one against time."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    draw_times(axes, timed(result("packaged")["samplers"]))
    axes.set_title("scenes_teacher, and scenes, distilled from it (base + relay steps)")
    axes.grid()
    return figure


def elsewhere(module: str, name: str) -> Callable:
    """Return the picture `name` of a module beside this one, which is imported when it is drawn."""
    return lambda **flags: getattr(importlib.import_module(module), name)(**flags)


PICTURES: dict[str, Callable] = {
    "compile": compile_memory,
    "guidance": guidance,
    "distillation": distillation,
    "trajectory": elsewhere("pictures_sampled", "trajectory"),
    "rounds": elsewhere("pictures_sampled", "rounds"),
    "build_report": elsewhere("pictures_pages", "build_report"),
    "quickstart_report": elsewhere("pictures_pages", "quickstart_report"),
}


def draw(name: str, out: Path, page: Path | None = None) -> Path:
    """Draw a picture of PICTURES into the folder `out` and return its path."""
    flags = {"page": page} if name == "quickstart_report" else {}
    path = out / f"{name}.png"
    out.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        made = PICTURES[name](**flags)
        if isinstance(made, Figure):  # others are Pillow's
            held = io.BytesIO()
            made.savefig(held, dpi="figure")
            made = Image.open(held)
    made = made.convert("RGB")
    made.save(path, optimize=True)
    if path.stat().st_size > LARGEST:  # 256 colours take a third of the bytes
        made.quantize(256, kmeans=2).save(path, optimize=True)
    return path


def main(argv: list[str] | None = None) -> None:
    """Draw the named pictures from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="+", choices=PICTURES, metavar="NAME", help=", ".join(PICTURES)
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="DIR", help="default: docs/pictures"
    )
    parser.add_argument(
        "--page", type=Path, metavar="HTML", help="of quickstart_report: a run's page"
    )
    args = parser.parse_args(argv)
    if "quickstart_report" in args.names and (args.page is None or not args.page.is_file()):
        raise InputError("--page: give the report.html of a finished quickstart")
    for name in args.names:
        print(draw(name, args.out, args.page))


if __name__ == "__main__":
    run_command(main)
