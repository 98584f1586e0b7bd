"""What the API returns: pictures with all that they were drawn from."""

import base64
import dataclasses
import html
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cv3jax.api.environment import value_errors
from cv3jax.reports.pictures import contact_sheet, save_png
from cv3jax.sampling.jobs import Job, slug
from cv3jax.sampling.metadata import Record
from data_pipeline.io.files import check_directory

SHOWN = 256  # pixels of a picture's longer side in a notebook


@dataclasses.dataclass(frozen=True, repr=False)
class Pictures:
    """Pictures of a call, in the order of its prompts and seeds.

    It is a sequence of PIL images: len, indexing and iteration are of `images`.
    """

    images: list[Image.Image]
    prompts: list[str]  # of each picture
    seeds: list[int]  # of each picture
    # uint8 [N, H, W, 3] by stage: "base", and with a relay "upsampled" and "relay"
    stages: dict[str, np.ndarray]
    latents: dict[str, np.ndarray]  # float32 [N, h, w, z] by stage: "base", "relay"
    settings: dict[str, Any]  # size (height, width), steps, guidance and eta of each stage, tile
    seconds: dict[str, float]  # by part: text, base, relay, vae
    _record: Record | None = None  # what their PNGs say

    def __repr__(self) -> str:
        """Return how many pictures there are, their size, prompts and seeds."""
        width, height = self.images[0].size
        prompts = list(dict.fromkeys(self.prompts))
        return (
            f"Pictures({len(self)} of {height}×{width}, prompts={prompts!r}, seeds={self.seeds!r})"
        )

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.images)

    def __getitem__(self, i: int) -> Image.Image:
        """Return picture i."""
        return self.images[i]

    def __iter__(self) -> Iterator[Image.Image]:
        """Iterate over the pictures."""
        return iter(self.images)

    def save(self, directory: str | Path, *, metadata: bool = True) -> list[Path]:
        """Write a PNG of each picture into `directory`, and return their paths.

        metadata: whether each PNG says what it was drawn from. `cv3jax sample --from-png` draws the
        picture again from that. Raises ValueError where `directory` cannot be one.
        """
        with value_errors():
            check_directory(Path(directory), "directory")
        paths = []
        for number, (image, prompt, seed) in enumerate(
            zip(self.images, self.prompts, self.seeds, strict=True)
        ):
            path = Path(directory) / f"{number:02d}_{slug(prompt)}_{seed}.png"
            record = self._record if metadata else None
            texts = {} if record is None else record.of(Job(prompt, seed, path.name))
            save_png(path, np.asarray(image), texts=texts)
            paths.append(path)
        return paths

    def _repr_png_(self) -> bytes:
        rows: dict[str, list[np.ndarray]] = {}
        for prompt, image in zip(self.prompts, self.images, strict=True):
            rows.setdefault(prompt, []).append(np.asarray(image.convert("RGB")))
        sheet = contact_sheet([np.stack(row) for row in rows.values()], rows=list(rows))
        return _png(Image.fromarray(sheet))

    def _repr_html_(self) -> str:
        cells = []
        for image, prompt, seed in zip(self.images, self.prompts, self.seeds, strict=True):
            shown = image.copy()
            if max(image.size) > SHOWN:
                shown.thumbnail((SHOWN, SHOWN))
            data = base64.b64encode(_png(shown)).decode()
            text = html.escape(prompt)
            cells.append(
                f'<figure style="display:inline-block;margin:4px;vertical-align:top;'
                f'max-width:{max(shown.width, 128)}px">'
                f'<img src="data:image/png;base64,{data}" alt="{text}">'
                f'<figcaption style="font-size:smaller">{text}<br>seed {seed}</figcaption></figure>'
            )
        taken = ", ".join(f"{part} {value:.1f} s" for part, value in self.seconds.items())
        return f"<div>{''.join(cells)}<div>{html.escape(taken)}</div></div>"


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
