"""A captioned image as a source gives it, not decoded yet, and the reasons why one is left out.

Every file is untrusted.
"""

import dataclasses
import json
import math
from typing import Any

from data_pipeline.images.decode import MAX_IMAGE_BYTES

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp")
MAX_TEXT_BYTES = 2**20  # of a .txt, a .json, or a line of metadata.jsonl
MAX_CAPTION = 8192  # characters
MAX_KEY = 512  # characters
_TAGS = ("nsfw", "language", "license")  # text worth keeping beside the scores
# Reasons to leave an item out, as reports count them.
NO_CAPTION, NO_IMAGE, MISSING, OUTSIDE = (
    "no caption",
    "no image",
    "file missing",
    "file outside the source",
)
TOO_LARGE, UNDECODABLE, DUPLICATE, BAD_TEXT, BAD_TAR = (
    "too large",
    "undecodable",
    "duplicate key",
    "damaged text or json",
    "damaged tar",
)
LONG_CAPTION, TOO_LONG, UNREADABLE = "caption too long", "extreme aspect ratio", "unreadable file"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an image's bytes lie: `size` bytes at `offset` of a file, or, of a parquet file, row
    `offset` (size -1).
    """

    file: str
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class Item:
    """One captioned image, not decoded yet."""

    key: str
    image: bytes
    caption: str
    url: str
    scores: dict[str, float | str]
    place: Place


@dataclasses.dataclass(frozen=True)
class Skip:
    """One item that was left out: which, why, and a detail for the report."""

    key: str
    reason: str
    detail: str = ""
    lost: int = 0  # bytes of a file that could not be gone through

    def __post_init__(self):
        # a name from JSON may hold half a surrogate pair, one from a file system any bytes: not
        # UTF-8
        for field in ("key", "detail"):
            object.__setattr__(
                self, field, getattr(self, field).encode(errors="backslashreplace").decode()
            )


@dataclasses.dataclass(frozen=True)
class Image:
    data: bytes
    place: Place


def make_item(
    key: str, image: Image | None, texts: dict[str, bytes], fields: dict[str, Any] | None = None
) -> Item | Skip:
    """From the files of one key: the image, and "txt" and "json" where they exist.

    `fields` stand for the json where given.

    The text file is the caption; without one, the "caption" of the fields is.
    """
    if len(key) > MAX_KEY:
        return Skip(key[:80] + "…", BAD_TEXT, f"name of {len(key)} characters, at most {MAX_KEY}")
    if image is None:
        return Skip(key, NO_IMAGE)
    try:
        if fields is None:
            fields = json.loads(texts["json"]) if "json" in texts else {}
        text = texts["txt"].decode() if "txt" in texts else fields.get("caption")
    except (ValueError, RecursionError, AttributeError) as e:
        return Skip(key, BAD_TEXT, f"{type(e).__name__}: {str(e)[:80]}")
    if not isinstance(fields, dict):
        return Skip(key, BAD_TEXT, "the json is not an object")
    caption = text.strip() if isinstance(text, str) else ""
    if not caption:
        return Skip(key, NO_CAPTION)
    if len(caption) > MAX_CAPTION:
        return Skip(key, LONG_CAPTION, f"{len(caption):,} characters, at most {MAX_CAPTION:,}")
    url = fields.get("url")
    url = url[:2048] if isinstance(url, str) else ""
    try:
        "".join((key, caption, url)).encode()
    except UnicodeEncodeError as e:  # JSON may hold half a surrogate pair, a file name any bytes
        return Skip(key, BAD_TEXT, str(e)[:80])
    return Item(key, image.data, caption, url, scores_of(fields), image.place)


def scores_of(fields: dict[str, Any]) -> dict[str, float | str]:
    """The numbers the source gave (similarity, aesthetic, pwatermark, punsafe, …) and a few tags,
    but not sizes: those are measured.
    """

    def keeps(name: str, value: Any) -> bool:
        if isinstance(value, str):
            return name.lower() in _TAGS and len(value) <= 64 and value.isprintable()
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return (
            number
            and abs(value) < 1e300
            and math.isfinite(value)
            and not name.endswith(("width", "height"))
        )

    return {str(k)[:64]: v for k, v in list(fields.items())[:256] if keeps(str(k), v)}


def too_large(name: str, size: int, limit: int) -> str:
    return f"{name} has {size:,} bytes, at most {limit:,} are read"


def limit_of(kind: str) -> int:
    """Bytes at most of a file: "image", or anything else, which is text."""
    return MAX_IMAGE_BYTES if kind == "image" else MAX_TEXT_BYTES
