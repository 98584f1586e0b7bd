"""What `cv3jax sample` reads: files of prompts, pictures to enlarge, and given noise."""

import hashlib
import math
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cv3jax.cascade.own_pictures import MAX_GIVEN
from data_pipeline.images.decode import MAX_IMAGE_BYTES, decode_rgb, open_image
from data_pipeline.io.bounded_json import SETTINGS, ParseError, parse_json
from data_pipeline.io.errors import InputError, first_line
from data_pipeline.io.regular_files import check_regular, open_regular

MAX_PROMPT = 4096  # characters; the encoder reads far fewer
MAX_LINE = 65_536  # bytes of a line in a file of prompts
MAX_LINES = 1_000_000
LAST_SEED = 2**32 - 1
# the name of a picture, which is a part of its file's name
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HEADER_BYTES = 2**14  # of an .npy in an .npz
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Prompt(NamedTuple):
    """A prompt, with its first picture's seed and a name for its files where they are given.

    `expand`: a language model writes it out before it is drawn.
    """

    text: str
    seed: int | None = None
    name: str = ""
    expand: bool = False


def check_prompt(text: Any) -> str | None:
    """Return what is wrong with a prompt, or None."""
    if not isinstance(text, str):
        return f"must be a string, not {type(text).__name__}"
    if len(text) > MAX_PROMPT:
        return f"has {len(text):,} characters; give at most {MAX_PROMPT:,}"
    if not text.strip():
        return f"must hold 1..{MAX_PROMPT} characters that are not all blank"
    try:
        text.encode()
    # half of a surrogate pair, which JSON can write and a shell can pass on
    except UnicodeEncodeError:
        return "has a character that is not valid Unicode"
    return None


def read_prompts(path: Path, num: int) -> tuple[list[Prompt], str]:
    """Return (the prompts of a file, one per line; the hash of its bytes).

    A line of a .jsonl is {"prompt"}, with "seed" and "name" if wanted. num: pictures of each
    prompt, for which its seeds must leave room.

    Raises:
        InputError: there is no such file, it is empty or too long, or a line is wrong; the message
            has the line's number.
    """
    prompts, found, blank = [], hashlib.sha256(), 0
    try:
        if not path.is_file():
            raise InputError(f"--prompts {path} is not a file; give one with a prompt per line")
        with path.open("rb") as file:
            for number in range(1, MAX_LINES + 2):
                if not (line := file.readline(MAX_LINE + 1)):
                    break
                found.update(line)
                where = f"--prompts {path} line {number}"
                if number > MAX_LINES:
                    raise InputError(
                        f"--prompts {path} has more than {MAX_LINES:,} lines; split it"
                    )
                if len(line) > MAX_LINE:
                    raise InputError(f"{where} is longer than {MAX_LINE:,} bytes")
                try:
                    text = (
                        line.decode("utf-8-sig" if number == 1 else "utf-8")
                        .removesuffix("\n")
                        .removesuffix("\r")
                    )
                except UnicodeDecodeError as e:
                    raise InputError(
                        f"{where} is not UTF-8: {e.reason}; save the file as UTF-8"
                    ) from e
                if not text.strip():
                    blank = blank or number  # the last lines may be blank
                    continue
                if blank:
                    raise InputError(
                        f"--prompts {path} line {blank} is blank; give a prompt on every line"
                    )
                prompts.append(
                    _parse(text, where, num) if path.suffix == ".jsonl" else Prompt(text)
                )
                if problem := check_prompt(prompts[-1].text):
                    raise InputError(f"{where}: a prompt {problem}")
    except OSError as e:
        raise InputError(f"--prompts {path}: {e.strerror or e}") from e
    if not prompts:
        raise InputError(f"--prompts {path} is empty; give one prompt per line")
    return prompts, found.hexdigest()


def beginnings(path: Path, lines: int) -> set[str]:
    """Return the hashes that `read_prompts` gives for a file of the first `lines` lines of `path`.

    There is one for each way in which the last of them may have ended.
    """
    found = hashlib.sha256()
    with path.open("rb") as file:
        for _ in range(lines - 1):
            found.update(file.readline(MAX_LINE))
        last = file.readline(MAX_LINE).rstrip(b"\r\n")
    hashes = set()
    for end in (b"", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n"):
        one = found.copy()
        one.update(last + end)
        hashes.add(one.hexdigest())
    return hashes


def _parse(text: str, where: str, num: int) -> Prompt:
    """Return the prompt in a line of a .jsonl."""
    try:
        entry = parse_json(text, SETTINGS)
    except ParseError as e:
        raise InputError(f'{where} is not JSON ({first_line(e)}); give {{"prompt": "..."}}') from e
    if (
        not isinstance(entry, dict)
        or "prompt" not in entry
        or entry.keys() - {"prompt", "seed", "name"}
    ):
        found = (
            (", ".join(n if n.isprintable() else repr(n) for n in sorted(entry))[:80] or "nothing")
            if isinstance(entry, dict)
            else f"a value of type {type(entry).__name__}"
        )
        raise InputError(
            f'{where} has {found}; give {{"prompt": "...", "seed": 0, "name": "..."}}, where seed'
            " and name are optional"
        )
    seed, name = entry.get("seed"), entry.get("name", "")
    if seed is not None and (type(seed) is not int or not 0 <= seed <= LAST_SEED + 1 - num):
        raise InputError(f"{where}: seed {str(seed)[:40]}: must be 0..{LAST_SEED + 1 - num}")
    if name != "" and not (isinstance(name, str) and NAME.fullmatch(name)):
        raise InputError(
            f"{where}: name {str(name)[:40]!r}: give letters, digits, dots, dashes and underscores,"
            " at most 100"
        )
    return Prompt(entry["prompt"], seed, name)


def read_images(paths: list[Path], multiple: int) -> np.ndarray:
    """Return pictures of one size as uint8 [N, H, W, 3].

    Raises InputError on other pictures, and where a side is not a multiple of `multiple`.
    """
    images: dict[Path, np.ndarray] = {}
    for path in dict.fromkeys(paths):  # one for all prompts is read once
        try:
            with open_regular(path, MAX_IMAGE_BYTES) as file:
                image = np.asarray(decode_rgb(open_image(file.read(MAX_IMAGE_BYTES + 1))))
        except OSError as e:
            raise InputError(f"--image {path}: {e.strerror or e}") from e
        except InputError as e:
            raise InputError(f"--image {path}: {e}") from e
        height, width = image.shape[:2]
        if height % multiple or width % multiple or max(height, width) > MAX_GIVEN:
            right = (
                f"give a picture whose sides are multiples of {multiple}, at most {MAX_GIVEN};"
                " cv3jax upscale takes any size"
            )
            raise InputError(f"--image {path} is {height}×{width} (height×width); {right}")
        if image.shape != (first := next(iter(images.values()), image)).shape:
            raise InputError(
                f"--image {path} is {height}×{width}, but the first is"
                f" {first.shape[0]}×{first.shape[1]}; give pictures of one size"
            )
        images[path] = image
    return np.stack([images[path] for path in paths])


def read_noise(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return standard normal noise from an .npz as float32.

    The file must have float arrays of exactly these names and shapes [N, h, w, z]. Raises
    InputError.
    """
    wanted = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as file:
            names = {name.removesuffix(".npy") for name in file.namelist()}
            if names != shapes.keys():
                raise InputError(
                    f"--noise {path} holds {', '.join(sorted(names)[:8]) or 'nothing'}; it takes"
                    f" {wanted}"
                )
            for name, shape in shapes.items():
                # the largest type has 16 bytes; what is packed may be far smaller than it says
                if file.getinfo(f"{name}.npy").file_size > 16 * math.prod(shape) + _HEADER_BYTES:
                    raise InputError(
                        f"--noise {path}: {name} unpacks to"
                        f" {file.getinfo(f'{name}.npy').file_size:,} bytes; it takes {wanted}"
                    )
                with file.open(f"{name}.npy") as member:  # before any of its values are unpacked
                    found, _, dtype = _HEADERS[np.lib.format.read_magic(member)](member)
                if found != shape or dtype.kind != "f":
                    raise InputError(
                        f"--noise {path}: {name} is {dtype} {list(found)}; it takes {wanted}, of"
                        " floating-point numbers"
                    )
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name].astype(np.float32) for name in shapes}
    # KeyError: another version of .npy; RuntimeError: members that are encrypted or packed in a way
    # that zipfile does not know
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as e:
        raise InputError(
            f"--noise {path} is not an .npz of numbers:"
            f" {getattr(e, 'strerror', None) or first_line(e)}; it takes {wanted}"
        ) from e
    if wild := [name for name, value in arrays.items() if not np.isfinite(value).all()]:
        raise InputError(
            f"--noise {path}: {wild[0]} has values that are not finite; it takes {wanted}, standard"
            " normal"
        )
    return arrays
