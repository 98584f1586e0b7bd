"""The pictures of a folder that belong to the prompts of a set: which is which, and their bytes.

`cv3jax sample --prompts` writes an index of its pictures; they are matched by it. Other folders are
matched by sorted file names, the pictures of a prompt after each other.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from cv3jax.evaluation.prompt_sets import PromptSet
from cv3jax.sampling.png_record import read_record
from data_pipeline.expansion.result import Expansion
from data_pipeline.images.decode import MAX_IMAGE_BYTES, decode_rgb, open_image
from data_pipeline.images.formats import OTHER_SUFFIXES, SUFFIXES
from data_pipeline.io import progress
from data_pipeline.io.bounded_json import OWN, ParseError, parse_json, read_bytes
from data_pipeline.io.errors import InputError, counted, raise_machine
from data_pipeline.io.regular_files import read_regular

# as `cv3jax sample` names them; its module for them imports JAX
INDEX, PLAN, SHEET = "index.jsonl", "plan.json", "contact_sheet.png"
_THREADS = 4  # that read and check pictures
_OF_PICTURE = ("prompt", "seed", "expansion", "format")  # fields of a record that vary by picture


class Entry(NamedTuple):
    """A picture's file, the number of its prompt in the set, its seed, and the expanded prompt."""

    file: str
    prompt: int
    seed: int | None = None
    expansion: Expansion | None = None


class Picture(NamedTuple):
    """A picture that was read once: its entry, the hash of its file, its size and its record.

    record: what its PNG says of how it was drawn, without prompt and seed; None where it does not.
    """

    entry: Entry
    sha256: str
    size: tuple[int, int]  # height, width
    record: dict[str, Any] | None


def check_drawn(flag: str, folder: Path) -> bool:
    """Return whether a folder has an index.

    Raises InputError where there is no such folder, or `cv3jax sample` has not drawn all of it.
    """
    if not folder.is_dir():
        raise InputError(f"{flag} {folder}: there is no such folder")
    if (folder / INDEX).exists():
        return True
    if (folder / PLAN).exists():
        raise InputError(
            f"{flag} {folder} has no {INDEX}: its pictures are not all drawn; run the same cv3jax"
            " sample again"
        )
    return False


def match(folder: Path, prompts: PromptSet, num: int | None) -> tuple[list[Entry], int]:
    """Return (the pictures of a folder in the prompts' order, pictures per prompt).

    num: pictures per prompt; None: what the folder's index has, or 1.

    Raises:
        InputError: there is no such folder, or it has another number of pictures or other prompts.
    """
    if check_drawn("--images", folder):
        return _by_index(folder, prompts, num)
    return _by_name(folder, prompts, num or 1)


def _by_index(folder: Path, prompts: PromptSet, num: int | None) -> tuple[list[Entry], int]:
    where = f"--images {folder}: {INDEX}"
    found = read_index("--images", folder)
    rows, entries = [row for row, _ in found], [entry for _, entry in found]
    wanted = prompts.prompts
    each = num or max(len(rows) // len(wanted), 1)
    _check_count(f"{where} lists", len(rows), len(wanted), each)
    for i, row in enumerate(rows):
        if row["prompt"].strip() != wanted[i // each].text:
            raise InputError(
                f"{where} line {i + 1} is of {row['prompt'][:60]!r}, but the set has"
                f" {wanted[i // each].text[:60]!r} there; give the --prompts that were drawn"
            )
    return [entry._replace(prompt=i // each) for i, entry in enumerate(entries)], each


def read_index(flag: str, folder: Path) -> list[tuple[dict[str, Any], Entry]]:
    """Return each line of a folder's index with its picture. Raises InputError on damage."""
    where = f"{flag} {folder}: {INDEX}"
    try:
        lines = read_bytes(folder / INDEX, OWN.bytes).splitlines()
        return [(row, _entry(row)) for row in map(parse_json, lines)]
    except OSError as e:
        raise_machine(e, folder / INDEX)
        raise InputError(f"{where}: {e.strerror}") from e
    except (ParseError, InputError, KeyError, TypeError) as e:
        raise InputError(f"{where} is damaged ({e}); draw the pictures again") from e


def _entry(row: Any) -> Entry:
    """Return what a line of an index says. Raises KeyError, TypeError or InputError on others."""
    file, prompt, seed = row["file"], row["prompt"], row["seed"]
    if not (isinstance(file, str) and isinstance(prompt, str) and type(seed) is int):
        raise TypeError("a field is of another type")
    if Path(file).name != file:
        raise InputError("a file of another folder")
    told = row.get("expansion")
    return Entry(file, 0, seed, None if told is None else Expansion.from_json(told))


def _by_name(folder: Path, prompts: PromptSet, num: int) -> tuple[list[Entry], int]:
    names = list_pictures(folder)
    hint = f" ({SHEET} is one of them: move it away)" if SHEET in names else ""
    _check_count(f"--images {folder} has", len(names), len(prompts.prompts), num, hint)
    return [Entry(name, i // num) for i, name in enumerate(names)], num


def list_pictures(folder: Path) -> list[str]:
    """Return the names of the pictures in a folder, sorted, without hidden ones.

    Pictures of formats that cannot be read are among them, so that they are not left out silently.
    """
    known = {*SUFFIXES, *OTHER_SUFFIXES}
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix[1:].lower() in known and not path.name.startswith(".")
    )


def _check_count(what: str, found: int, prompts: int, num: int, hint: str = "") -> None:
    if found != prompts * num:
        raise InputError(
            f"{what} {counted(found, 'picture')}{hint}, and {counted(prompts, 'prompt')} with"
            f" {num} each need {prompts * num:,}; give --num, or the --prompts that were drawn"
        )


def examine(
    folder: Path, entries: Sequence[Entry], prompts: PromptSet, known: set[str]
) -> list[Picture]:
    """Return the pictures of a set, as `examine_all`, with what their records say.

    Raises:
        InputError: a picture is missing, damaged, or of another prompt by its own record.
    """
    return [_told(folder, picture, prompts) for picture in examine_all(folder, entries, known)]


def examine_all(folder: Path, entries: Sequence[Entry], known: set[str]) -> list[Picture]:
    """Return the pictures, each read from its file and decoded once.

    known: hashes of files that were decoded before, so that they need not be again.

    Raises:
        InputError: a picture is missing or damaged.
    """
    with progress.bar(len(entries), "read", "picture") as bar, ThreadPoolExecutor(_THREADS) as pool:

        def one(entry: Entry) -> Picture:
            path = folder / entry.file
            data = picture_bytes(path)
            found = hashlib.sha256(data).hexdigest()
            image = opened(path, data)
            size, record = image.size[::-1], _record(path) if image.format == "PNG" else None
            if found not in known:
                size = decoded(path, image).size[::-1]
            bar.update()
            return Picture(entry, found, size, record)

        return list(pool.map(one, entries))


def _told(folder: Path, picture: Picture, prompts: PromptSet) -> Picture:
    """Return a picture with what its record says, without the fields of this picture alone."""
    entry, record, path = picture.entry, picture.record, folder / picture.entry.file
    if record is None:
        return picture
    wanted = prompts.prompts[entry.prompt].text
    if str(record.get("prompt")).strip() != wanted:
        raise InputError(
            f"{path} was drawn of {str(record.get('prompt'))[:60]!r}, but the set has"
            f" {wanted[:60]!r} in its place; give the --prompts that were drawn"
        )
    if entry.seed is None:
        entry = entry._replace(seed=_seed(record), expansion=_expansion(path, record))
    rest = {name: value for name, value in record.items() if name not in _OF_PICTURE}
    return picture._replace(entry=entry, record=rest)


def _seed(record: dict[str, Any]) -> int | None:
    return record["seed"] if type(record.get("seed")) is int else None


def _expansion(path: Path, record: dict[str, Any]) -> Expansion | None:
    if (told := record.get("expansion")) is None:
        return None
    try:
        return Expansion.from_json(told)
    except InputError as e:
        raise InputError(f"{path}: its record is damaged ({e})") from e


def _record(path: Path) -> dict[str, Any] | None:
    """Return the record in a PNG, or None where it has none of ours."""
    try:
        return read_record(path)
    except InputError:
        return None
    except ValueError as e:
        raise InputError(f"{path}: its record is damaged ({e})") from e


def opener(folder: Path) -> Callable[[Picture], Image.Image]:
    """Return the function that reads a picture again, as RGB.

    It raises InputError where the file is no longer the one that was examined.
    """

    def read(picture: Picture) -> Image.Image:
        path = folder / picture.entry.file
        data = picture_bytes(path)
        if hashlib.sha256(data).hexdigest() != picture.sha256:
            raise InputError(f"{path} changed while it was scored; run the same command again")
        return decoded(path, opened(path, data))

    return read


def picture_bytes(path: Path) -> bytes:
    """Return the bytes of a picture's file. Raises InputError where there is none."""
    try:
        return read_regular(path, MAX_IMAGE_BYTES)
    except OSError as e:
        raise_machine(e, path)
        raise InputError(f"{path}: {e.strerror}; every picture is needed") from e


def opened(path: Path, data: bytes) -> Image.Image:
    """Return the picture in a file's bytes, not yet decoded. Raises InputError as `decoded`."""
    try:
        return open_image(data)
    except InputError as e:
        raise InputError(f"{path}: {e}; every picture is needed") from e


def decoded(path: Path, image: Image.Image) -> Image.Image:
    """Return a picture of `opened` as RGB. Raises InputError where it is damaged."""
    try:
        return decode_rgb(image)
    except InputError as e:
        raise InputError(f"{path}: {e}; every picture is needed") from e
