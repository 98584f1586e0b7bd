"""A captioned image as a source gives it, not decoded yet, and the reasons to leave one out.

Every file is untrusted.
"""

import dataclasses
from typing import Any

from data_pipeline.images import formats
from data_pipeline.images.decode import MAX_IMAGE_BYTES
from data_pipeline.sources.fields import read_fields
from data_pipeline.sources.texts import TextError, decode_text, parse_json, tidy

IMAGE_SUFFIXES, OTHER_SUFFIXES = formats.SUFFIXES, formats.OTHER_SUFFIXES
MAX_TEXT_BYTES = 2**20  # limit for a .txt, a .json, or a line of metadata.jsonl
MAX_CAPTION = 8192  # characters
MAX_KEY = 512  # characters
_DETAIL = 2048  # characters of a detail for the report
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
TOO_COSTLY = "too costly"  # to decode
# the format's name follows
UNSUPPORTED, LINKED, SECOND = "unsupported format", "linked folder", "second image of a name"


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of an image's bytes: `size` bytes at `offset` of a file.

    In a parquet file, `offset` is the row and `size` is -1.
    """

    file: str
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class Item:
    """One captioned image, not decoded yet.

    Attributes:
        others: further captions, where the source has several.
        unreadable: field → the value that cannot be understood (fields.py).
    """

    key: str
    image: bytes
    caption: str
    url: str
    scores: dict[str, float | str]
    place: Place
    others: tuple[str, ...] = ()
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Skip:
    """One item that was left out: its key, the reason, and a detail for the report."""

    key: str
    reason: str
    detail: str = ""
    lost: int = 0  # bytes of a file that could not be read

    def __post_init__(self):
        """Bound the texts, and escape what is not UTF-8 in them."""
        # a name from JSON may hold half a surrogate pair, and one from a file system any bytes
        for field, most in (("key", MAX_KEY), ("detail", _DETAIL)):
            text = getattr(self, field)
            text = text if len(text) <= most else f"{text[: most - 1]}…"
            object.__setattr__(self, field, text.encode(errors="backslashreplace").decode())


@dataclasses.dataclass(frozen=True)
class Image:
    """The encoded bytes of an image, and their place."""

    data: bytes
    place: Place


def make_item(
    key: str, image: Image | None, texts: dict[str, bytes], fields: dict[str, Any] | None = None
) -> Item | Skip:
    """Return the Item of one key, or the Skip that says why there is none.

    The caption is the text file; without one, the captions of the fields.

    Args:
        key: the name of the item in its source.
        image: the image file, or None where there is none.
        texts: the bytes of the files "txt" and "json" where they exist.
        fields: what to use in place of the json.
    """
    if len(key) > MAX_KEY:
        return Skip(key[:80] + "…", BAD_TEXT, f"name of {len(key)} characters, at most {MAX_KEY}")
    if image is None:
        return Skip(key, NO_IMAGE)
    try:
        key.encode()  # a file name may have any bytes
        if fields is None:
            fields = parse_json(texts["json"]) if "json" in texts else {}
        if not isinstance(fields, dict):
            return Skip(key, BAD_TEXT, "the JSON is not an object")
        told = read_fields(fields)
        captions, unreadable = told.captions, dict(told.unreadable)
        if "txt" in texts:
            captions = (tidy(decode_text(texts["txt"])),)
            unreadable.pop("caption", None)
    except TextError as e:
        return Skip(key, BAD_TEXT, str(e))
    except ValueError as e:
        return Skip(key, BAD_TEXT, f"{type(e).__name__}: {str(e)[:80]}")
    if "caption" in unreadable:
        return Skip(key, BAD_TEXT, f"{unreadable['caption']} is not text")
    captions = tuple(filter(None, captions))
    if not captions:
        return Skip(key, NO_CAPTION)
    fitting = [caption for caption in captions if len(caption) <= MAX_CAPTION]
    if not fitting:
        return Skip(key, LONG_CAPTION, f"{len(captions[0]):,} characters, at most {MAX_CAPTION:,}")
    first, *others = fitting
    return Item(
        key, image.data, first, told.url, told.scores, image.place, tuple(others), unreadable
    )


def record_scores(
    scores: dict[str, float | str], others: tuple[str, ...]
) -> dict[str, float | str | list[str]]:
    """Return what a record keeps under `scores`: those of the source, and its further captions."""
    return {**scores, "captions": list(others)} if others else scores


def too_large(name: str, size: int, limit: int) -> str:
    """Return the detail of a Skip for a file that is too large."""
    return f"{name} has {size:,} bytes; the limit is {limit:,}"


def limit_of(kind: str) -> int:
    """Return the most bytes that a file may have: "image", or any other kind, which is text."""
    return MAX_IMAGE_BYTES if kind == "image" else MAX_TEXT_BYTES
