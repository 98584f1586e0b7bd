"""The yield report: how much was kept and dropped, as JSON and as a page with pictures."""

import base64
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image
from tqdm import tqdm

from data_pipeline.builder.filters import EXACT, NEAR, UNSEEN
from data_pipeline.builder.inputs import read_place
from data_pipeline.builder.settings import Settings
from data_pipeline.builder.statistics import HISTOGRAMS, KEPT, Statistics, bins
from data_pipeline.images.decode import decode_rgb, open_image
from data_pipeline.io.errors import InputError
from data_pipeline.io.progress import bar
from data_pipeline.sources.items import Place

JSON_NAME, HTML_NAME = "report.json", "report.html"
_SIDE = 160  # side of the page's pictures, pixels
_TOP = 30  # sources that are listed
_TITLES = {
    "sides": "Shorter side, pixels",
    "aspects": "Width over height",
    "captions": "Caption, characters",
}


def summary(figures: Statistics) -> dict[str, Any]:
    """Return the content of report.json.

    `items` = `kept` + the sum of `dropped`. What was lost in truncated files is in none of them.
    `fields` says for each source in how many images a filter's field was read, was missing, or
    could not be understood.
    """
    told = figures.to_json()
    histograms = {
        name: {
            group: dict(zip(bins(HISTOGRAMS[name]), counts, strict=True))
            for group, counts in groups.items()
        }
        for name, groups in told["histograms"].items()
    }
    read, kept = figures.sources["read"], figures.sources[KEPT]
    sources = [
        {"source": name, "read": n, "kept": kept[name]}
        for name, n in sorted(read.items(), key=lambda kv: (-kv[1], kv[0]))[:_TOP]
    ]
    return {
        "items": figures.items,
        "kept": figures.kept,
        "kept_bytes": figures.kept_bytes,
        "dropped": dict(sorted(figures.reasons.items(), key=lambda kv: (-kv[1], kv[0]))),
        "fields": {source: _counted(fields) for source, fields in sorted(told["fields"].items())},
        "unreadable": {
            field: {"items": n, "example": told["unread"][field]}
            for field, n in told["unreadable"].items()
        },
        "broken_files": [{"file": name, "detail": detail} for name, detail in figures.broken],
        "histograms": histograms,
        "sources": sources,
        "examples": {
            reason: [{k: e[k] for k in ("key", "unit", "detail")} for e in some]
            for reason, some in told["examples"].items()
        },
    }


def _counted(fields: dict[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    names = ("read", "missing", "unreadable")
    return {
        field: {name: counts.get(name, 0) for name in names} for field, counts in fields.items()
    }


def page(figures: Statistics, settings: Settings, name: str) -> str:
    """Return report.html, one file with all pictures in it, without those of unsafe reasons."""
    report, examples = summary(figures), figures.to_json()["examples"]
    total = sum(len(some) for some in examples.values())
    with bar(total, "report", "image") as shown:
        groups = [
            (reason, _shown(reason, examples[reason], shown))
            for reason in (KEPT, *report["dropped"])
            if reason in examples
        ]
    charts = [(_TITLES[name], _bars(groups)) for name, groups in report["histograms"].items()]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    used = {k: v for k, v in vars(settings).items() if v not in (None, False)}
    return environment.get_template("report.html.jinja").render(
        name=name,
        report=report,
        groups=groups,
        charts=charts,
        kept=KEPT,
        settings=used,
        shares={reason: n / report["items"] for reason, n in report["dropped"].items()},
    )


def _shown(reason: str, examples: Iterable[dict], shown_on: tqdm) -> list[dict[str, Any]]:
    shown = []
    for example in examples:
        pictures = [
            _thumbnail(Place(**place))
            for place in (example["place"], example["twin"])
            if place and reason not in UNSEEN
        ]
        line = (
            example["detail"]
            if reason not in (KEPT, EXACT, NEAR)
            else f"{example['size']} {example['detail']}"
        )
        shown.append(
            {**example, "pictures": [picture for picture in pictures if picture], "line": line}
        )
        shown_on.update()
    return shown


def _thumbnail(place: Place) -> str | None:
    """Return a data URL, or None where the picture cannot be decoded."""
    try:
        image = decode_rgb(open_image(read_place(place)), short_side=_SIDE)
    except (InputError, OSError):
        return None
    scale = _SIDE / max(image.size)
    small = image.resize(
        [max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS
    )
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def _bars(groups: dict[str, dict[str, int]]) -> list[tuple[str, int, int, float, float]]:
    """Return (bin, read, kept, both as shares of the fullest bin), without empty outer bins."""
    rows = [(name, read, groups[KEPT][name]) for name, read in groups["read"].items()]
    filled = [i for i, row in enumerate(rows) if row[1]]
    rows = rows[filled[0] : filled[-1] + 1] if filled else []
    most = max((read for _, read, _ in rows), default=1)
    return [(name, read, kept, read / most, kept / most) for name, read, kept in rows]
