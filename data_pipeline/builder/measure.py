"""The facts of an image: what the first pass measures once, and all later decisions use.

No pixels are kept with them.
"""

import dataclasses
import gzip
import hashlib
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from data_pipeline.images.bounds import TooCostlyError
from data_pipeline.images.decode import (
    TooLargeError,
    decode_rgb,
    is_animated,
    open_image,
    upright_size,
)
from data_pipeline.images.formats import UnsupportedError
from data_pipeline.images.perceptual_hash import phash
from data_pipeline.io import storage
from data_pipeline.io.bounded_json import OWN, parse_json
from data_pipeline.io.errors import InputError
from data_pipeline.sources.items import (
    TOO_COSTLY,
    TOO_LARGE,
    UNDECODABLE,
    UNSUPPORTED,
    Item,
    Place,
    Skip,
)

BOMB = "decompression bomb"
_WORD = re.compile(r"\w+")
_DETAIL, _EXCERPT = 300, 160  # characters


@dataclasses.dataclass(frozen=True)
class Facts:
    """The facts of an item of a unit.

    `problem` is the reason why it cannot be used at all, or empty; with a problem, the fields from
    width on are not measured.
    """

    ordinal: int  # in its unit
    key: str
    problem: str = ""
    detail: str = ""
    url: str = ""
    scores: dict[str, float | str] = dataclasses.field(default_factory=dict)
    place: Place | None = None
    bytes: int = 0  # size of the image; for a truncated file, the bytes that are lost
    sha256: str = ""  # of the image's bytes
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)  # Item.unreadable
    text: str = ""  # a digest of captions, URL and scores
    caption: int = 0  # characters of the first caption
    excerpt: str = ""  # the beginning of the caption, for the report
    repetition: float = 0.0  # share of the caption's words that occurred before in it
    others: list[list[float]] = dataclasses.field(default_factory=list)  # both for other captions
    width: int = 0  # upright
    height: int = 0
    animated: bool = False
    contrast: float = 0.0  # the most varied colour channel's standard deviation, of 255
    pixels: str = ""  # digest of size and RGB pixels
    phash: int = 0
    weak: str = ""  # perceptual_hash.Hash.weak, hex


def look(item: Item | Skip, ordinal: int, max_bytes: int, max_pixels: int) -> Facts:
    """Return the facts of an item after decoding it."""
    if isinstance(item, Skip):
        return Facts(
            ordinal, item.key, item.reason.replace(" ", "_"), item.detail[:_DETAIL], bytes=item.lost
        )
    known = Facts(
        ordinal,
        item.key,
        url=item.url,
        scores=item.scores,
        unreadable=item.unreadable,
        place=item.place,
        bytes=len(item.image),
        sha256=hashlib.sha256(item.image).hexdigest(),
        text=text_digest(item),
        caption=len(item.caption),
        excerpt=item.caption[:_EXCERPT],
        repetition=_repetition(item.caption),
        others=[[len(caption), _repetition(caption)] for caption in item.others],
    )
    try:
        opened = open_image(item.image, max_bytes=max_bytes, max_pixels=max_pixels)
        height, width = upright_size(opened)
        animated = is_animated(opened)
        image = decode_rgb(opened)
    except TooLargeError as e:
        problem = TOO_LARGE if len(item.image) > max_bytes else BOMB
        return dataclasses.replace(
            known, problem=problem.replace(" ", "_"), detail=str(e)[:_DETAIL]
        )
    except TooCostlyError as e:
        return dataclasses.replace(known, problem=TOO_COSTLY.replace(" ", "_"), detail=str(e))
    except UnsupportedError as e:
        problem = f"{UNSUPPORTED} {e.kind}".replace(" ", "_")
        return dataclasses.replace(known, problem=problem, detail=str(e))
    except InputError as e:
        return dataclasses.replace(known, problem=UNDECODABLE, detail=str(e)[:_DETAIL])
    found = phash(image)
    small = np.asarray(image.resize((32, 32), Image.Resampling.BOX), np.float32)
    return dataclasses.replace(
        known,
        width=width,
        height=height,
        animated=animated,
        contrast=round(float(small.std((0, 1)).max()), 3),
        pixels=_digest(image),
        phash=found.bits,
        weak=found.weak.hex(),
    )


def _repetition(caption: str) -> float:
    words = [word.lower() for word in _WORD.findall(caption)]
    return round(1 - len(set(words)) / len(words), 4) if words else 0.0


def text_digest(item: Item) -> str:
    """Return a digest of an item's key, captions, URL and scores."""
    told = [item.key, item.caption, item.url, item.scores, *item.others]
    told = json.dumps(told, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _digest(image: Image.Image) -> str:
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()[:32]


def row_of(facts: Facts) -> dict:
    """Return the facts as a row, whose values are shared with them."""
    return {**vars(facts), "place": facts.place and vars(facts.place)}


def pack_rows(rows: Iterable[dict]) -> bytes:
    """Return rows as gzipped JSON lines; the same rows give the same bytes.

    The bytes of several calls, one after the other, are the rows of all of them.
    """
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0, compresslevel=3) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=True, separators=(",", ":")).encode() + b"\n")
    return out.getvalue()


def write_rows(path: str, rows: Iterable[dict]) -> None:
    """Write rows as `pack_rows` returns them."""
    storage.write(path, pack_rows(rows))


def read_rows(path: str) -> Iterator[dict]:
    """Yield the rows that `write_rows` wrote."""
    with storage.open_read(path) as file, gzip.GzipFile(fileobj=file) as lines:
        for line in lines:
            yield parse_json(line, OWN, nan=True, surrogates=True)


def read_facts(path: str) -> Iterator[Facts]:
    """Yield the facts that `write_rows` wrote, without the header."""
    for row in itertools.islice(read_rows(path), 1, None):
        place = row.pop("place")
        yield Facts(**row, place=place and Place(**place))
