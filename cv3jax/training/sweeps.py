"""What the runs of a sweep reached: a table, and their losses in one plot.

The loss of a run is the mean of its last tenth, which is compared between runs of one objective
alone. Figures of evaluations, such as the held-out loss, are those of the last one.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cv3jax.training.evaluations import FIELD
from cv3jax.training.metrics import read_lines

TENTH = 0.1
METRICS = "metrics.jsonl"


class Result(NamedTuple):
    """What a run has reached.

    Attributes:
        name: of its folder.
        step: its last logged step; 0: none.
        loss: the mean of the last tenth of its lines; NaN: none.
        seconds: of all its sittings.
        figures: of its last evaluation.
        curve: (step, loss) of all its lines.
    """

    name: str
    step: int
    loss: float
    seconds: float
    figures: Mapping[str, float]
    curve: Sequence[tuple[int, float]]


def result_of(workdir: Path) -> Result:
    """Return what the run in `workdir` has reached. Of a distillation it is the last round."""
    rounds = sorted((workdir / "rounds").glob("*/"), key=lambda place: place.name.zfill(4))
    place = next((one for one in reversed(rounds) if (one / METRICS).is_file()), workdir)
    lines = read_lines(place / METRICS)
    trained = [line for line in lines if isinstance(line.get("loss"), int | float)]
    evaluated = [line for line in lines if FIELD in line]
    last = trained[-max(1, round(TENTH * len(trained))) :]
    mean = sum(line["loss"] for line in last) / len(last) if last else math.nan
    figures = evaluated[-1] if evaluated else {}
    return Result(
        workdir.name,
        max((int(line["step"]) for line in lines), default=0),
        mean,
        float(trained[-1].get("seconds", math.nan)) if trained else math.nan,
        {
            name: float(value)
            for name, value in figures.items()
            if name not in ("step", FIELD) and isinstance(value, int | float)
        },
        [(int(line["step"]), float(line["loss"])) for line in trained],
    )


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table, in their order."""
    names = list(dict.fromkeys(name for one in results for name in one.figures))
    head = ("point", "step", "loss", *names, "seconds")
    rows = [
        (
            one.name,
            f"{one.step:,}" if one.step else "not begun",
            _number(one.loss),
            *(_number(one.figures.get(name, math.nan)) for name in names),
            "–" if math.isnan(one.seconds) else f"{one.seconds:,.0f}",
        )
        for one in results
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        filled = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join(filled)} |"

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])


def draw(results: Sequence[Result], path: Path) -> None:
    """Write a PNG with the loss of every run over its steps. Raises OSError."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for one in results:
            if one.curve:
                axes.plot(*zip(*_smooth(one.curve), strict=True), label=one.name, linewidth=1.6)
        axes.set(xlabel="optimizer steps", ylabel="loss, running mean")
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(fontsize=8, frameon=False)
        figure.savefig(path, dpi=150, metadata={"Software": None})


def _smooth(curve: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """Return the means of the curve over a fifteenth of its points each."""
    width = max(1, len(curve) // 15)
    windows = [curve[i : i + width] for i in range(len(curve) - width + 1)]
    return [
        (sum(step for step, _ in one) / width, sum(loss for _, loss in one) / width)
        for one in windows
    ]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


def to_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the results without their curves, as JSON has them; what is missing is null."""
    return [
        {
            "point": one.name,
            "step": one.step,
            "loss": None if math.isnan(one.loss) else one.loss,
            "seconds": None if math.isnan(one.seconds) else one.seconds,
            "figures": dict(one.figures),
        }
        for one in results
    ]
