"""report.html of an evaluation: the figures, distributions, best and worst pictures, protocol."""

import base64
import functools
import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data_pipeline.io.files import replacing

PAGE = "report.html"
HERE = Path(__file__).parent  # the directory of the template
SHOWN = 6  # best pictures of a metric, and worst ones
SIDE = 192  # of a picture on the page, pixels
BINS = 24
Rows = Sequence[Mapping[str, Any]]


class Histogram(NamedTuple):
    """A column's distribution: each bin's (share of the fullest, count, words), and its ends."""

    bars: list[tuple[float, int, str]]
    low: str
    high: str


def write_page(
    path: Path, report: Mapping[str, Any], rows: Rows, read: Callable[[int], Image.Image]
) -> None:
    """Write the page of a report to `path`; all text is escaped, and no script is in it.

    report: the content of report.json. rows: of scores.jsonl. read: returns the picture of a row by
    its number.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "interval": interval, "json": as_json}
    environment.filters |= {"score": score, "short": short, "brief": brief}
    environment.filters["brief_interval"] = functools.partial(interval, said=brief)
    pictures: dict[int, str] = {}

    def shown(numbers: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        for i in numbers:
            if i not in pictures:
                pictures[i] = thumbnail(read(i))
        return [
            {
                **rows[i],
                "picture": pictures[i],
                "told": [(c, rows[i]["scores"][c]) for c in columns],
            }
            for i in numbers
        ]

    metrics = {}
    for name, metric in report["metrics"].items():
        columns = list(metric["figures"])
        order = ranked(rows, columns) if metric["kind"] == "picture" and columns else []
        order = order if metric["better"] == "higher" else order[::-1]
        most = min(SHOWN, len(order) // 2 or len(order))
        metrics[name] = {
            **metric,
            "bars": bars(metric["figures"]),
            "histograms": {c: histogram(rows, c) for c in columns} if order else {},
            "best": shown(order[::-1][:most], columns),
            "worst": shown(order[:most], columns),
        }
    page = environment.get_template("page.html.jinja").render(
        report=report,
        metrics=metrics,
        certain=without_width(metrics),
        # the exact binomial bound of so many right ones in as many tries
        least=((1 - report["bootstrap"]["level"]) / 2) ** (1 / report["prompts"]["count"]),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        everything=json.dumps(report, indent=2, ensure_ascii=False),
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def headline(columns: Sequence[str]) -> str:
    """Return the column that stands for a metric: the one over all properties, or the first."""
    return next((name for name in columns if name.endswith(".all")), columns[0])


def ranked(rows: Rows, columns: Sequence[str]) -> list[int]:
    """Return the numbers of the rows that have a score, from the lowest to the highest.

    Equal scores are ordered by the mean of all columns, and then by their place.
    """
    first = headline(columns)

    def key(i: int) -> tuple[float, float, int]:
        values = [rows[i]["scores"][name] for name in columns]
        known = [value for value in values if value is not None]
        return rows[i]["scores"][first], sum(known) / len(known), i

    return sorted((i for i, row in enumerate(rows) if row["scores"][first] is not None), key=key)


def histogram(rows: Rows, column: str) -> Histogram:
    """Return the distribution of a column over the rows that have a score."""
    values = np.array([v for row in rows if (v := row["scores"][column]) is not None], np.float64)
    kinds = np.unique(values)
    if len(kinds) <= 2:  # right or wrong
        counts = [int((values == kind).sum()) for kind in kinds]
        words = [score(kind) for kind in kinds]
    else:
        found, edges = np.histogram(values, BINS)
        counts = found.tolist()
        words = [f"{number(a)} to {number(b)}" for a, b in itertools.pairwise(edges)]
    most = max(counts, default=1) or 1
    told = [(count / most, count, word) for count, word in zip(counts, words, strict=True)]
    return Histogram(told, score(values.min()), score(values.max()))


def bars(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """Return where each figure's low end, value and high end lie on one scale, in per cent."""
    ends = [end for figure in figures.values() for end in _ends(figure)]
    least, most = min(ends, default=0.0), max(ends, default=1.0)
    if least >= 0.0 and most <= 1.0:
        least, most = 0.0, 1.0
    span = (most - least) or 1.0
    return {
        name: tuple(100 * (end - least) / span for end in _ends(figure))
        for name, figure in figures.items()
    }


def _ends(figure: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return a figure's low end, value and high end; of one prompt there is no interval."""
    value = figure["value"]
    return (
        (value, value, value) if figure["low"] is None else (figure["low"], value, figure["high"])
    )


def number(value: float | None) -> str:
    """Return a figure with four significant digits, without an exponent where it has none."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.4g}".rstrip(".")


def interval(figure: Mapping[str, Any], said: Callable[[float], str] = number) -> str:
    """Return a figure's interval in words; – where one prompt gives none."""
    return "–" if figure["low"] is None else f"{said(figure['low'])} to {said(figure['high'])}"


def brief(value: float) -> str:
    """Return a figure with three significant digits."""
    return f"{value:.3g}"


def without_width(metrics: Mapping[str, Any]) -> bool:
    """Return whether a score in 0..1 is the same for all pictures of several prompts."""
    return any(
        figure["low"] == figure["high"] == figure["value"] in (0.0, 1.0) and figure["prompts"] > 1
        for metric in metrics.values()
        for figure in metric["figures"].values()
    )


def score(value: float | None) -> str:
    """Return a picture's score with four significant digits, and 0 and 1 without any more."""
    return "–" if value is None else f"{value:.4g}"


def short(column: str) -> str:
    """Return a column's name without that of its metric."""
    return column.partition(".")[2] or column


def as_json(value: Any) -> str:
    """Return a value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def thumbnail(image: Image.Image) -> str:
    """Return a picture in a data: address, reduced to at most SIDE pixels."""
    out, small = io.BytesIO(), image
    if max(image.size) <= SIDE:
        image.save(out, "PNG")
        kind = "png"
    else:
        small = image.copy()
        small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        small.save(out, "JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
