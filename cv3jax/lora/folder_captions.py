"""Captions and repeats of the pictures of a folder: from .txt files, and from folders' names.

A folder `10_red_teapot` says that its pictures occur ten times in an epoch, and names them "red
teapot" where they have no .txt files. A folder `red_teapot` names them alone. An underscore in a
name stands for a blank. A number that begins with 0, as in `00_symbols`, is an order of folders: it
says nothing of repeats, and is no part of the caption. What counts is the folder that a picture
lies in, not those above it. The folder that is given as a whole counts where its name begins with a
number and its pictures have no .txt files.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cv3jax.lora.picture_settings import MOST_REPEATS, PictureSettings
from data_pipeline.io.errors import InputError
from data_pipeline.sources.folders import UnusableError, beside_of, list_files, read_text
from data_pipeline.sources.items import MAX_CAPTION
from data_pipeline.sources.texts import TextError, decode_text, tidy

NAMED = 3  # pictures that a message names
MOST_PICTURES = 100_000
_NUMBERED = re.compile(r"(\d+)_(.*)", re.DOTALL)


class Captioned(NamedTuple):
    """A picture's file, its caption, and how often it occurs in an epoch."""

    path: Path
    caption: str
    repeats: int


def is_packed(pictures: Path) -> bool:
    """Return whether a folder holds records of `cv3jax data pack`."""
    return (pictures / "dataset_info.json").is_file()


def listed(root: Path, settings: PictureSettings) -> tuple[list[Captioned], list[Path]]:
    """Return the pictures below a folder with their captions, and the .txt files without one.

    No picture is read. Raises InputError where there is none, or as `captioned` does.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(f"--pictures {root} {what}; give a folder of pictures with captions")
    pictures, alone = list_files(root)
    if not pictures:
        raise InputError(f"--pictures {root} has no pictures; give a folder that has some")
    if len(pictures) > MOST_PICTURES:
        raise InputError(
            f"--pictures {root} has {len(pictures):,} pictures, and may have {MOST_PICTURES:,};"
            " pack them with cv3jax data pack, and give --config.data.path"
        )
    return captioned(root, pictures, settings), sorted(alone)


def captioned(root: Path, pictures: Sequence[Path], settings: PictureSettings) -> list[Captioned]:
    """Return the pictures with captions and repeats, in order.

    root: the folder that is given; its own name is a caption only with caption_from = folder, or
    where it begins with a number, as 10_red_teapot, and no .txt is beside its pictures.

    Raises:
        InputError: pictures have no caption, a .txt cannot be used, or its folder's number is not
            1..MOST_REPEATS.
        OSError: the machine fails.
    """
    texts = {path: beside_of(path, "txt") for path in pictures}
    with_texts = {path.parent for path, text in texts.items() if text}
    found, missing, source_of_all = [], [], settings.caption_from
    named = source_of_all == "folder" or (
        source_of_all == "auto" and root not in with_texts and _is_named(root)
    )
    for path in pictures:
        above = path.parent == root and not named
        repeats, words = (None, "") if above else _of_name(path.parent)
        source = source_of_all
        if source == "auto":
            source = "txt" if above or path.parent in with_texts else "folder"
        if source == "txt":
            if texts[path] is None:
                missing.append(path)
                continue
            caption = _first_line(texts[path], root)
        elif not (caption := words):
            raise InputError(
                f"{path} has no caption: the name of its folder has no words; name it as in"
                " 10_red_teapot, or give pictures.caption_from=txt and .txt files"
            )
        caption = _triggered(caption, settings.trigger)
        if len(caption) > MAX_CAPTION:
            raise InputError(
                f"{path}: its caption has {len(caption):,} characters; give at most {MAX_CAPTION:,}"
            )
        found.append(Captioned(path, caption, repeats or settings.repeats))
    if missing:
        raise InputError(_without(missing, len(pictures)))
    return found


def _without(missing: list[Path], count: int) -> str:
    """Return the message about pictures without a caption."""
    first, each = missing[0], "it" if len(missing) == 1 else "them"
    if len(missing) == 1:
        said = f"{first} has no caption: there is no {first.with_suffix('.txt').name} beside it"
    else:
        more = ", …" if len(missing) > NAMED else ""
        named = ", ".join(str(path) for path in missing[:NAMED]) + more
        said = f"{len(missing):,} of {count:,} pictures have no .txt with a caption: {named}"
    return (
        f"{said}; write one beside {each}, or put {each} into a folder that has no .txt and whose"
        " name is the caption, such as 10_red_teapot"
    )


def _is_named(root: Path) -> bool:
    """Return whether the name of the folder that is given begins as 10_red_teapot does."""
    try:
        numbered = _NUMBERED.fullmatch(root.resolve().name)
        return bool(numbered and _of_name(root)[1])
    except InputError:  # 2024_holiday is no number of repeats
        return False


def _of_name(folder: Path) -> tuple[int | None, str]:
    """Return (the repeats that a folder's name gives, or None, and its words)."""
    name, repeats = folder.resolve().name, None
    numbered = _NUMBERED.fullmatch(name)
    if numbered:
        digits, name = numbered.groups()
        ordering = len(digits) > 1 and digits.startswith("0")
        if len(digits) > 9 or not (ordering or 1 <= int(digits) <= MOST_REPEATS):
            raise InputError(
                f"{folder}: its name says that its pictures occur {digits[:20]} times in an epoch;"
                f" give a number in 1..{MOST_REPEATS}, or a name without one"
            )
        repeats = None if ordering else int(digits)
    return repeats, tidy(" ".join(name.replace("_", " ").split()))


def _first_line(text: Path, root: Path) -> str:
    """Return the first line of a picture's .txt."""
    try:
        lines = tidy(decode_text(read_text(text, root.resolve()))).splitlines()
    except TextError as e:
        raise InputError(f"{text}: {e}") from e
    except UnusableError as e:
        raise InputError(f"{text}: {e.reason} ({e.detail})") from e
    if not lines or not (line := tidy(lines[0])):
        raise InputError(f"{text} is empty; write the picture's caption into its first line")
    return line


def _triggered(caption: str, trigger: str) -> str:
    """Return the caption with the trigger before it, once."""
    starts = f"{caption} ".casefold().startswith(f"{trigger} ".casefold())
    return caption if not trigger or starts else f"{trigger} {caption}"
