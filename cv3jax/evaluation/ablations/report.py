"""report.html of an ablation, and a sheet of pictures of each group."""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cv3jax.evaluation.ablations.columns import columns_of, signed
from cv3jax.evaluation.drawing import FOLDER
from cv3jax.evaluation.page import brief, interval, number, thumbnail
from cv3jax.evaluation.reports import Report
from cv3jax.reports.pictures import contact_sheet, save_png
from data_pipeline.io.files import replacing

PAGE, SHEETS = "report.html", "sheets"
HERE = Path(__file__).parent  # the directory of the template
SHOWN = 4  # prompts of a group whose pictures are shown


def write_report(out: Path, content: Mapping[str, Any], reports: Mapping[str, Report]) -> None:
    """Write report.html, and sheets/GROUP.png of each group, into `out`.

    content: of report.json. reports: by the names of the variants' folders. All text is escaped.
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
    environment.filters |= {
        "number": number,
        "signed": signed,
        "interval": lambda figure: interval(figure, said=brief),
    }
    groups, inline = {}, {}
    for name, group in content["groups"].items():
        rows = _pictures(out, name, group, reports)
        for path in itertools.chain.from_iterable(paths for _, paths in rows):
            if path not in inline:
                with Image.open(path) as image:
                    inline[path] = thumbnail(image.convert("RGB"))
        groups[name] = {**group, "columns": columns_of(group), "rows": rows}
    page = environment.get_template("report.html.jinja").render(
        groups=groups,
        bootstrap=content["bootstrap"],
        inline=inline,
        style=Markup((HERE.parent / "page.css").read_text(encoding="utf-8")),
    )
    with replacing(out / PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")


def slug(name: str) -> str:
    """Return a group's name as that of a file."""
    return re.sub(r"\W+", "_", name).strip("_")


def _pictures(
    out: Path, name: str, group: Mapping[str, Any], reports: Mapping[str, Report]
) -> list[tuple[str, list[Path]]]:
    """Return (prompt, the picture of each variant) of the first prompts, and write their sheet."""
    variants = {
        title: reports[Path(one["folder"]).name] for title, one in group["variants"].items()
    }
    if not variants:
        return []
    per_prompt: dict[int, list[Path]] = {}
    texts: dict[int, str] = {}
    for report in variants.values():
        for row in report.rows:
            if row["copy"] == 0 and row["number"] < SHOWN:
                place = report.folder / FOLDER / row["file"]
                per_prompt.setdefault(row["number"], []).append(place)
                texts[row["number"]] = row["prompt"]
    rows = [(texts[i], per_prompt[i]) for i in sorted(per_prompt)]
    pictures = [[_read(path) for path in paths] for _, paths in rows]
    if len({each.shape for row in pictures for each in row}) == 1:
        sheet = contact_sheet(
            [np.stack(row) for row in pictures],
            rows=[text for text, _ in rows],
            columns=[*variants],
        )
        save_png(out / SHEETS / f"{slug(name)}.png", sheet)
    return rows


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
