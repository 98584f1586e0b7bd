"""The sheet of an ablation: pictures of prompts as written, and expanded, side by side."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cv3jax.reports.pictures import contact_sheet, save_png
from cv3jax.sampling.jobs import Job

SHEET = "ablation.png"
ROWS, COPIES = 24, 2  # prompts, and pictures of each kind
WRITTEN, EXPANDED = "as written", "expanded"


def save_ablation(out: Path, jobs: Sequence[Job], num: int) -> Path:
    """Write the sheet of an ablation beside its pictures. Returns its path.

    jobs: of each prompt `num` pictures as written, then `num` expanded. The sheet has a row for
    each of the first prompts, with pictures as written at the left and expanded at the right.
    """
    chosen = [jobs[i : i + 2 * num] for i in range(0, len(jobs), 2 * num)][:ROWS]
    copies = min(COPIES, num)
    pictures = [
        np.stack([_read(out / job.file) for job in (*pair[:copies], *pair[num : num + copies])])
        for pair in chosen
    ]
    sheet = contact_sheet(
        pictures,
        rows=[pair[0].prompt for pair in chosen],
        columns=[name for name in (WRITTEN, EXPANDED) for _ in range(copies)],
    )
    save_png(out / SHEET, sheet)
    return out / SHEET


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
