"""The pictures of the models that are compared, and their bytes without a trace of the model.

`cv3jax sample --prompts` writes an index of its pictures, which says their order and prompts. In
other folders the order is that of the file names, the pictures of a prompt after each other.
"""

import hashlib
import io
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from cv3jax.evaluation.pictures import (
    INDEX,
    SHEET,
    check_drawn,
    decoded,
    list_pictures,
    opened,
    picture_bytes,
    read_index,
)
from data_pipeline.io import progress
from data_pipeline.io.errors import InputError, counted

_THREADS = 4
_GREY = (128, 128, 128)  # around a picture of another shape
_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"  # the last chunk of a PNG


class Picture(NamedTuple):
    """A file that held a whole picture when it was read, and the SHA-256 of its bytes."""

    path: Path
    sha256: str


def read_folder(flag: str, folder: Path, prompts: Sequence[str]) -> list[list[Picture]]:
    """Return a model's pictures of each prompt, the same number of each.

    flag: that gave the folder. Every picture is decoded once.

    Raises:
        InputError: there is no such folder, it has pictures for other prompts or another number of
            them, or a picture is damaged.
    """
    paths = _paths(flag, folder, prompts)
    each = len(paths) // len(prompts)
    if each * len(prompts) != len(paths) or not each:
        hint = (
            f" ({SHEET} is one of them: move it away)" if SHEET in {p.name for p in paths} else ""
        )
        raise InputError(
            f"{flag} {folder} has {counted(len(paths), 'picture')}{hint} for"
            f" {counted(len(prompts), 'prompt')}; give as many for each prompt, or the --prompts"
            " that were drawn"
        )
    with progress.bar(len(paths), f"read {flag}", "picture") as bar:

        def one(path: Path) -> Picture:
            data = picture_bytes(path)
            decoded(path, opened(path, data))
            bar.update()
            return Picture(path, hashlib.sha256(data).hexdigest())

        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(one, paths))
    return [found[i : i + each] for i in range(0, len(found), each)]


def _paths(flag: str, folder: Path, prompts: Sequence[str]) -> list[Path]:
    """Return the files in the order of the prompts."""
    if check_drawn(flag, folder):
        return _indexed(flag, folder, prompts)
    return [folder / name for name in list_pictures(folder)]


def _indexed(flag: str, folder: Path, prompts: Sequence[str]) -> list[Path]:
    where = f"{flag} {folder}: {INDEX}"
    named = [(entry.file, row["prompt"]) for row, entry in read_index(flag, folder)]
    each = max(len(named) // len(prompts), 1)
    for number, (_, prompt) in enumerate(named[: each * len(prompts)]):
        if prompt.strip() != prompts[number // each].strip():
            raise InputError(
                f"{where} line {number + 1} is of {prompt[:60]!r}, but --prompts has"
                f" {prompts[number // each][:60]!r} there; give the --prompts that were drawn"
            )
    return [folder / name for name, _ in named]


def pair_of(first: Picture, second: Picture) -> tuple[bytes, bytes]:
    """Return two pictures as PNG that differ in nothing but what they show.

    They have no metadata, the larger height and width of both, and files of equal size. A picture
    of another shape keeps its own, in the middle of grey. Raises InputError where a file is no
    longer the one that was read.
    """
    images = [_again(one) for one in (first, second)]
    size = tuple(max(sides) for sides in zip(*(image.size for image in images), strict=True))
    made = [_png(image, size) for image in images]
    longest = max(len(data) for data in made)
    # a chunk has 12 bytes besides its content
    return tuple(_padded(data, longest + 12 - len(data)) for data in made)


def _again(picture: Picture) -> Image.Image:
    data = picture_bytes(picture.path)
    if hashlib.sha256(data).hexdigest() != picture.sha256:
        raise InputError(f"{picture.path} changed while it was judged; start the server again")
    return decoded(picture.path, opened(picture.path, data))


def _png(image: Image.Image, size: tuple[int, int]) -> bytes:
    if image.size != size:
        image = ImageOps.pad(image, size, Image.Resampling.LANCZOS, color=_GREY)
    plain, out = Image.frombytes("RGB", size, image.tobytes()), io.BytesIO()
    plain.save(out, "PNG", compress_level=3)
    return out.getvalue()


def _padded(data: bytes, count: int) -> bytes:
    """Return a PNG with a chunk of `count` bytes, 12 or more, that says nothing."""
    kind, content = b"paDd", bytes(count - 12)
    chunk = struct.pack(">I", len(content)) + kind + content
    return data[: -len(_END)] + chunk + struct.pack(">I", zlib.crc32(kind + content)) + _END
