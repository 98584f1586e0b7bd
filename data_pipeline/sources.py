"""Where captioned images come from: folders, a metadata.jsonl, img2dataset tars. Every file is untrusted and read within bounds."""

import dataclasses
import json
import math
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.images import MAX_IMAGE_BYTES

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp")
MAX_TEXT_BYTES = 2**20  # of a .txt, a .json, or a line of metadata.jsonl
MAX_CAPTION = 8192  # characters
MAX_KEY = 512  # characters

# Reasons to leave an item out, as pack_report.json counts them.
NO_CAPTION, NO_IMAGE, MISSING, OUTSIDE = "no caption", "no image", "file missing", "file outside the source"
TOO_LARGE, UNDECODABLE, DUPLICATE, BAD_TEXT, BAD_TAR = "too large", "undecodable", "duplicate key", "damaged text or json", "damaged tar"
LONG_CAPTION, TOO_LONG, UNREADABLE = "caption too long", "extreme aspect ratio", "unreadable file"


@dataclasses.dataclass(frozen=True)
class Item:
    """One captioned image, not decoded yet."""

    key: str
    image: bytes
    caption: str
    url: str
    scores: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Skip:
    """One item that was left out: which, why, and a detail for the report."""

    key: str
    reason: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
    """`items` yields (Item or Skip, progress made), in an order that depends on the files alone."""

    kind: str  # "tars", "metadata.jsonl" or "folder"
    unit: str  # of progress: "B" or "image"
    total: int
    items: Iterator[tuple[Item | Skip, int]]


def open_source(path: str | Path) -> Source:
    """Recognises what is at `path`: a .tar or a folder of them, a folder with metadata.jsonl, or a folder of image + .txt.

    Raises:
        InputError: nothing there, nothing recognisable, or a metadata.jsonl that cannot be read.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".tar":
        return _tars([path])
    if not path.is_dir():
        raise InputError(f"no source at {path}: give a folder of images with captions, or one of img2dataset tars, or one .tar")
    if (path / "metadata.jsonl").is_file():
        try:
            if not (path / "metadata.jsonl").resolve().is_relative_to(path.resolve()):
                raise InputError(f"{path}/metadata.jsonl is a link to a file outside {path}; copy it there")
            total = sum(1 for _ in _lines(path / "metadata.jsonl"))
        except OSError as e:
            raise InputError(f"{path}/metadata.jsonl cannot be read ({e.strerror})") from e
        return Source("metadata.jsonl", "image", total, _read_jsonl(path))
    tars = sorted(path.glob("*.tar"))
    # `p.suffix` and not `glob("*.png")`: camera files are called .JPG
    # all but directories: a dangling link is counted when it is read, not passed over in silence
    files = sorted(p for p in path.rglob("*") if not os.path.isdir(p) and not _hidden(p.relative_to(path)))
    images = [p for p in files if p.suffix[1:].lower() in IMAGE_SUFFIXES]
    if tars and images:
        raise InputError(f"{path} holds both tars and images ({tars[0].name}, {images[0].name}); give one folder for each")
    if tars:
        return _tars(tars, path.resolve())
    if not images:
        raise InputError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)}), no .tar and no metadata.jsonl")
    texts = {p.with_suffix("") for p in files if p.suffix == ".txt"} - {p.with_suffix("") for p in images}
    return Source("folder", "image", len(images) + len(texts), _read_folder(path, images, texts))


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _tars(tars: list[Path], inside: Path | None = None) -> Source:
    sizes = {}
    for tar in tars:
        try:
            sizes[tar] = _locate(tar, inside)[1]
        except _UnusableError as e:
            sizes[tar] = e

    def items():
        for tar, size in sizes.items():
            if isinstance(size, _UnusableError):
                yield Skip(tar.name, size.reason, size.detail), 0
            else:
                yield from _read_tar(tar)

    return Source("tars", "B", sum(size for size in sizes.values() if isinstance(size, int)), items())


def _read_folder(root: Path, images: list[Path], captions_alone: set[Path]) -> Iterator[tuple[Item | Skip, int]]:
    inside = root.resolve()
    for path in sorted([*images, *captions_alone]):
        key = path.relative_to(root).as_posix() if path in captions_alone else path.relative_to(root).with_suffix("").as_posix()
        if path in captions_alone:
            yield Skip(key, NO_IMAGE), 1
            continue
        parts: dict[str, bytes] = {}
        try:
            parts["image"] = _read(path, MAX_IMAGE_BYTES, inside)
            for kind in ("txt", "json"):
                if os.path.lexists(beside := path.with_suffix(f".{kind}")) and not os.path.isdir(beside):
                    parts[kind] = _read(beside, MAX_TEXT_BYTES, inside)
            yield _item(key, parts), 1
        except _UnusableError as e:
            yield Skip(key, e.reason, e.detail), 1


def _read_jsonl(root: Path) -> Iterator[tuple[Item | Skip, int]]:
    inside = root.resolve()
    for number, line in enumerate(_lines(root / "metadata.jsonl"), 1):
        where = f"line {number}"
        try:
            fields = json.loads(line)
            name = fields["file_name"]
            path = root / name
            key = PurePosixPath(name).with_suffix("").as_posix()  # ValueError where the name is empty
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            yield Skip(where, BAD_TEXT, f"metadata.jsonl: {type(e).__name__}: {str(e)[:80]}"), 1
            continue
        fields.setdefault("caption", fields.get("text"))  # what Hugging Face's imagefolder calls it
        try:
            yield _item(key, {"image": _read(path, MAX_IMAGE_BYTES, inside)}, fields), 1
        except _UnusableError as e:
            yield Skip(key, e.reason, f"{where}: {e.detail}"), 1


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as f:
        while line := f.readline(MAX_TEXT_BYTES):
            if line.strip():
                yield line


def _read_tar(path: Path) -> Iterator[tuple[Item | Skip, int]]:
    """Streams KEY.jpg, KEY.txt, KEY.json; the files of a key lie next to each other, as webdataset requires."""
    key, parts, too_large, done = None, {}, "", 0

    def sample() -> Item | Skip:
        return Skip(key, TOO_LARGE, too_large) if too_large else _item(key, parts)

    try:
        with tarfile.open(path, "r|") as tar:
            for member in tar:
                if not member.isreg():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                if not stem:  # hidden files, as macOS puts into tars
                    continue
                member_key = f"{folder}/{stem}" if folder else stem
                if member_key != key:
                    if key is not None:
                        yield sample(), member.offset - done
                        done = member.offset
                    key, parts, too_large = member_key, {}, ""
                suffix = suffix.lower()
                kind = "image" if suffix in IMAGE_SUFFIXES else suffix
                if kind not in ("image", "txt", "json"):
                    continue
                limit = MAX_IMAGE_BYTES if kind == "image" else MAX_TEXT_BYTES
                if member.size > limit:
                    too_large = f"{path.name}: {member.name} has {member.size:,} bytes, at most {limit:,} are read"
                else:
                    parts[kind] = tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError) as e:
        # The rest of this tar is lost, and the sample that was being read with it; the other tars are not.
        yield Skip(path.name, BAD_TAR, f"after {key}: {e}"), path.stat().st_size - done
        return
    if key is None:
        yield Skip(path.name, BAD_TAR, "no files in it"), path.stat().st_size
    else:
        yield sample(), path.stat().st_size - done


class _UnusableError(Exception):
    """A file that is not read: `reason` is one of those above."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def _locate(path: Path, inside: Path | None) -> tuple[Path, int]:
    """The file that `path` names once links are followed, and its size. It must be below `inside`, an absolute directory."""
    try:
        real = path.resolve()
        if inside and not real.is_relative_to(inside):
            raise _UnusableError(OUTSIDE, path.name)
        if not os.path.isfile(real):  # a pipe or a device would block
            raise _UnusableError(MISSING, path.name)
        return real, real.stat().st_size
    except (OSError, RuntimeError, ValueError) as e:  # a RuntimeError: links in a circle; a ValueError: characters no name has
        raise _UnusableError(UNREADABLE, f"{path.name}: {str(e)[:80]}") from e


def _read(path: Path, limit: int, inside: Path) -> bytes:
    real, size = _locate(path, inside)
    if size > limit:
        raise _UnusableError(TOO_LARGE, f"{path.name} has {size:,} bytes, at most {limit:,} are read")
    try:
        return real.read_bytes()
    except OSError as e:
        raise _UnusableError(UNREADABLE, f"{path.name}: {e.strerror}") from e


def _item(key: str, parts: dict[str, bytes], fields: dict[str, Any] | None = None) -> Item | Skip:
    """Puts one item together. The .txt is the caption; without one, the "caption" of the json is."""
    if len(key) > MAX_KEY:
        return Skip(key[:80] + "…", BAD_TEXT, f"name of {len(key)} characters, at most {MAX_KEY}")
    if "image" not in parts:
        return Skip(key, NO_IMAGE)
    try:
        if fields is None:
            fields = json.loads(parts["json"]) if "json" in parts else {}
        text = parts["txt"].decode() if "txt" in parts else fields.get("caption")
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
        return Skip(ascii(key), BAD_TEXT, str(e)[:80])
    return Item(key, parts["image"], caption, url, _scores(fields))


def _scores(fields: dict[str, Any]) -> dict[str, float]:
    """The numbers the source gave (similarity, aesthetic, pwatermark, punsafe, …), but not sizes: those are measured."""

    def is_score(name: str, value: Any) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) < 1e300 and math.isfinite(value) and not name.endswith(("width", "height"))

    return {str(k)[:64]: v for k, v in list(fields.items())[:256] if is_score(k, v)}
