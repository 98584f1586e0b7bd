"""Compare the files of foreign weights with the SHA-256 that their publisher gives.

It is given by the flag `--sha256 FILE=HEX`, or by a file SHA256SUMS beside the weights, as the
program sha256sum writes it. Safetensors files have no checksum of their own.
"""

import hashlib
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from cv3jax.weights import TOKENIZER_FILES
from cv3jax.weights.files import TORCH, files_of
from data_pipeline.io.errors import InputError, counted
from data_pipeline.io.progress import bar
from data_pipeline.io.regular_files import open_regular, read_regular
from data_pipeline.io.safetensors_header import check_header

SUMS = "SHA256SUMS"
_MOST = 2**20  # bytes of a SHA256SUMS
_PIECE = 2**22  # bytes
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


def parse_given(given: Iterable[str]) -> dict[str, str]:
    """Return {file name: SHA-256} of the flag's values. Raises InputError on another form."""
    found: dict[str, str] = {}
    for text in given:
        name, _, digest = text.rpartition("=")
        if not name or not _HEX.fullmatch(digest):
            raise InputError(
                f"--sha256 {text[:200]}: give FILE=HEX with the 64 hexadecimal digits of the file's"
                " SHA-256, as in u.safetensors=9f86d0…"
            )
        if found.setdefault(name, digest.lower()) != digest.lower():
            raise InputError(f"--sha256 gives {name} two different values; give one")
    return found


def compare_all(
    sources: Mapping[str, Path], tokenizer: Path | None, texts: Iterable[str]
) -> list[str]:
    """Return what was compared of all files that are imported, line by line.

    Args:
        sources: part → what its flag gave.
        tokenizer: the folder of the tokenizer; None: that of the text encoder.
        texts: the values of --sha256.

    Raises:
        InputError: a file differs, or --sha256 names a file that is not read.
    """
    given, used, lines = parse_given(texts), set(), []
    for name, path in sources.items():
        files = files_of(path, f"--{name}")
        folders = {file.parent for file in files}
        names = {"vae": ("config.json",), "t5": ("config.json", *TOKENIZER_FILES)}.get(name, ())
        if name == "t5" and tokenizer:
            folders.add(tokenizer)
        there = [folder / each for folder in sorted(folders) for each in names]
        beside = [place for place in there if place.is_file()]
        said, found = check_digests(f"--{name}", path, files, beside, given)
        lines, used = [*lines, *said], used | found
    if unknown := sorted(given.keys() - used):
        raise InputError(
            f"--sha256 {unknown[0]}: no file of that name is read; give the name of a file, or its"
            " path"
        )
    return lines


def check_digests(
    flag: str, path: Path, files: Iterable[Path], beside: Iterable[Path], given: Mapping[str, str]
) -> tuple[list[str], set[str]]:
    """Return (what was compared, line by line; the names in `given` that were used).

    Args:
        flag: the one that gave the weights, for messages.
        path: what it gave, a file or a folder.
        files: those that hold the weights.
        beside: other files that are read, which a SHA256SUMS may list.
        given: the result of `parse_given`.

    Raises:
        InputError: a file has another SHA-256, or a SHA256SUMS cannot be read.
    """
    files = list(files)
    folders = {path if path.is_dir() else path.parent, *(file.parent for file in files)}
    listed: dict[Path, tuple[str, str]] = {}
    for folder in sorted(folders):
        if (folder / SUMS).exists():
            where = str(folder / SUMS)
            listed |= {
                folder / name: (each, where) for name, each in read_sums(folder / SUMS).items()
            }
    lines, used, missing = [], set(), []
    for file in [*files, *beside]:
        wanted = [listed[file]] if file in listed else []
        for name, digest in given.items():
            if file.parts[-len(Path(name).parts) :] == Path(name).parts:
                used.add(name)
                wanted.append((digest, f"--sha256 {name}"))
        if not wanted:
            missing += [file] if listed and file in files else []
            continue
        found = digest_of(file)
        for digest, where in wanted:
            if found != digest:
                raise InputError(
                    f"{flag} {file} is damaged or another file: its SHA-256 is {found}, but {where}"
                    f" says {digest}; get it again"
                )
        lines.append(f"{flag}: {file.name} has the SHA-256 of {wanted[-1][1]}")
    if missing:
        lines.append(
            f"{flag}: {missing[0].name} is not in {SUMS} and was not compared"
            f" ({counted(len(missing), 'file')} in all)"
        )
    return lines, used


def read_sums(path: Path) -> dict[str, str]:
    """Return {name: SHA-256} of a SHA256SUMS. Raises InputError where it is none."""
    try:
        lines = read_regular(path, _MOST).decode().splitlines()
    except OSError as e:
        raise InputError(f"{path}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise InputError(f"{path} is not UTF-8; give a file that sha256sum wrote") from e
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        if not (each := _LINE.fullmatch(line)):
            raise InputError(
                f"{path}, line {number} is {line[:40]!r}; a line has 64 hexadecimal digits, two"
                " spaces and a file name, as sha256sum writes it"
            )
        found[str(Path(each[2]))] = each[1].lower()
    return found


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file of weights, in hexadecimal digits.

    Raises InputError where it is no regular file, or not what its name says.
    """
    try:
        if path.suffix == ".safetensors":  # hashing what is none may take hours
            check_header(path)
        elif path.suffix in TORCH and not zipfile.is_zipfile(path):
            raise InputError(f"{path} is not a file that torch.save of PyTorch 1.6 or newer wrote")
        found = hashlib.sha256()
        with (
            open_regular(path) as file,
            bar(path.stat().st_size, f"checking {path.name}", "B") as b,
        ):
            while piece := file.read(_PIECE):
                found.update(piece)
                b.update(len(piece))
        return found.hexdigest()
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: {getattr(e, 'strerror', None) or e}") from e
