"""The pictures that a distance between sets is measured to."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cv3jax.evaluation.pictures import Entry, Picture, examine_all, list_pictures, opener
from cv3jax.evaluation.prompt_sets import SCENES, PromptSet, held_out
from cv3jax.evaluation.protocol import digest
from cv3jax.evaluation.scoring import Source
from data_pipeline.io import progress
from data_pipeline.io.errors import InputError
from data_pipeline.scenes.render import render

RENDERED, RENDERED_SEED = 1000, 2  # scenes, of another seed than the captions


def check_reference(folder: Path | None, prompts: PromptSet, metric: str) -> None:
    """Raise InputError where a distance between sets has nothing that it is measured to."""
    if folder is None and prompts.name != SCENES:
        raise InputError(
            f"--metrics {metric} is a distance to a set of pictures; give it as --reference DIR"
        )
    if folder is not None and not folder.is_dir():
        raise InputError(f"--reference {folder}: there is no such folder")


def open_reference(
    folder: Path | None, size: tuple[int, int], known: set[str]
) -> tuple[Source, dict[str, Any]]:
    """Return (the pictures of a reference, what its protocol says of them).

    Args:
        folder: all its pictures; None: rendered held-out scenes.
        size: (height, width) of rendered scenes, which are squares.
        known: as for `pictures.examine`.

    Raises:
        InputError: there are fewer than two pictures, one is damaged, or scenes are no squares.
    """
    if folder is None:
        return _scenes(size)
    names = list_pictures(folder)
    if len(names) < 2:
        raise InputError(f"--reference {folder} has {len(names)} pictures; give two or more")
    pictures = examine_all(folder, [Entry(name, 0) for name in names], known)
    found = digest(sorted(picture.sha256 for picture in pictures))
    said = {"pictures": "folder", "count": len(pictures), "sha256": found}
    return Source(digest(said), pictures, opener(folder)), said


def _scenes(size: tuple[int, int]) -> tuple[Source, dict[str, Any]]:
    side = size[0]
    if size[1] != side:
        raise InputError(
            f"the pictures are {size[0]}×{size[1]}, and scenes are squares; give --reference DIR"
        )

    def drawn(number: int) -> np.ndarray:
        return render(held_out(RENDERED_SEED, number), side)

    pictures = []
    with progress.bar(RENDERED, "render the reference", "picture") as bar:
        for number in range(RENDERED):
            found = hashlib.sha256(drawn(number).tobytes()).hexdigest()
            pictures.append(Picture(Entry(str(number), 0), found, size, None))
            bar.update()
    said = {
        "pictures": "rendered scenes",
        "seed": RENDERED_SEED,
        "count": RENDERED,
        "side": side,
        "sha256": digest([picture.sha256 for picture in pictures]),
    }
    read = Source(digest(said), pictures, lambda one: Image.fromarray(drawn(int(one.entry.file))))
    return read, said
