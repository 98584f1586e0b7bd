"""Reading files of prompts, in the layouts in which the known sets are published.

.txt     a prompt on every line
.jsonl   an object on every line: "prompt", and if wanted "id", "category" or "tag", "seed"
         (GenEval's evaluation_metadata.jsonl)
.csv     a header with the column Prompt or Prompts, and if wanted Category and Id (DrawBench)
.tsv     the same between tabs, where quotes are letters (PartiPrompts.tsv)
.json    a list of prompts or of such objects, or the captions of MS-COCO

White space around a prompt is not part of it. Columns and fields of other names are not read.
"""

import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cv3jax.evaluation.prompt_row import NONE, PromptRow
from cv3jax.sampling.inputs import LAST_SEED, MAX_LINES, check_prompt
from data_pipeline.io.bounded_json import RECORDS, SETTINGS, ParseError, parse_json
from data_pipeline.io.errors import InputError, counted
from data_pipeline.io.regular_files import read_regular
from data_pipeline.sources.texts import TextError, decode_text, tidy

MAX_BYTES = 2**28  # captions_train2014.json of MS-COCO has 66 MB
_TEXT, _CATEGORY = ("prompt", "prompts", "text", "caption"), ("category", "categories", "tag")
_LARGE = dataclasses.replace(RECORDS, bytes=MAX_BYTES)
_LAYOUTS = ".txt, .jsonl, .csv, .tsv or .json"
Fields = Mapping[str, Any]


def read_file(path: Path) -> list[PromptRow]:
    """Return the prompts of a file, at least one, in its order.

    Raises:
        InputError: it cannot be read or is of another layout; the message has the line.
    """
    readers = {".txt": _lines, ".jsonl": _objects, ".csv": _csv, ".tsv": _tsv, ".json": _json}
    if (reader := readers.get(path.suffix.lower())) is None:
        raise InputError(f"--prompts {path}: give a {_LAYOUTS} file")
    text = _text(path)
    rows = [
        _row(where, fields, number) for number, (where, fields) in enumerate(reader(path, text))
    ]
    if not rows:
        raise InputError(f"--prompts {path} has no prompts")
    if len(rows) > MAX_LINES:
        raise InputError(f"--prompts {path} has more than {MAX_LINES:,} prompts; split it")
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise InputError(f"--prompts {path}: two prompts have the id {row.id[:40]!r}")
        seen.add(row.id)
    return rows


def read_coco(path: Path, *, num: int, seed: int) -> list[PromptRow]:
    """Return a caption of each of `num` images of MS-COCO's captions_*.json, by image id.

    The images are those with the smallest SHA-256 of "seed image_id". The caption of an image is
    its first by annotation id. Raises InputError as `read_file`, and where images are missing.
    """
    captions: dict[int, tuple[int, str]] = {}
    for number, one in enumerate(_annotations(path, _parsed(path, _text(path)))):
        known = captions.get(one["image_id"])
        if known is None or one["id"] < known[0]:
            captions[one["image_id"]] = (one["id"], _checked(path, number, one["caption"]))
    if len(captions) < num:
        raise InputError(
            f"--prompts {path} has captions of {counted(len(captions), 'image')}; {num:,} are"
            " needed"
        )
    order = sorted(captions, key=lambda i: hashlib.sha256(f"{seed} {i}".encode()).digest())
    return [PromptRow(str(i), captions[i][1]) for i in sorted(order[:num])]


def _text(path: Path) -> str:
    try:
        return decode_text(read_regular(path, MAX_BYTES))
    except (OSError, TextError) as e:
        raise InputError(f"--prompts {path}: {getattr(e, 'strerror', None) or e}") from e


def _lines(path: Path, text: str) -> Iterator[tuple[str, Fields]]:
    for number, line in _numbered(text):
        where = f"--prompts {path} line {number}"
        if not line.strip():
            raise InputError(f"{where} is blank; give a prompt on every line")
        yield where, {"prompt": line}


def _objects(path: Path, text: str) -> Iterator[tuple[str, Fields]]:
    for number, line in _numbered(text):
        where = f"--prompts {path} line {number}"
        try:
            value = parse_json(line, SETTINGS)
        except ParseError as e:
            raise InputError(f"{where} is not JSON ({e})") from e
        if not isinstance(value, dict):
            raise InputError(f'{where}: give an object such as {{"prompt": "a red fox"}}')
        yield where, value


def _csv(path: Path, text: str) -> Iterator[tuple[str, Fields]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        for cells in reader:
            rows.append((reader.line_num, cells))
    except csv.Error as e:
        raise InputError(f"--prompts {path} line {reader.line_num}: {e}") from e
    yield from _table(path, rows)


def _tsv(path: Path, text: str) -> Iterator[tuple[str, Fields]]:
    yield from _table(path, ((number, line.split("\t")) for number, line in _numbered(text)))


def _table(path: Path, rows: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[str, Fields]]:
    """Yield the rows under a header, whose names are compared in small letters."""
    header: list[str] = []
    for number, cells in rows:
        where = f"--prompts {path} line {number}"
        if not header:
            header = [cell.strip().lower() for cell in cells]
            if not set(_TEXT) & set(header):
                raise InputError(
                    f"{where}: its header has no column Prompt; it has"
                    f" {', '.join(header)[:80] or 'nothing'}"
                )
            continue
        if len(cells) != len(header):
            raise InputError(
                f"{where} has {counted(len(cells), 'cell')}, and the header {len(header)}"
            )
        yield where, dict(zip(header, cells, strict=True))


def _json(path: Path, text: str) -> Iterator[tuple[str, Fields]]:
    value = _parsed(path, text)
    if isinstance(value, dict) and "annotations" in value:
        value = [
            {"prompt": one["caption"], "id": str(one["id"])} for one in _annotations(path, value)
        ]
    if not isinstance(value, list):
        raise InputError(f"--prompts {path}: give a list of prompts, or MS-COCO's captions")
    for number, one in enumerate(value):
        where = f"--prompts {path} entry {number}"
        if not isinstance(one, (str, dict)):
            raise InputError(f"{where}: give a text or an object with a prompt")
        yield where, one if isinstance(one, dict) else {"prompt": one}


def _parsed(path: Path, text: str) -> Any:
    try:
        return parse_json(text, _LARGE)
    except ParseError as e:
        raise InputError(f"--prompts {path} is not JSON ({e})") from e


def _annotations(path: Path, value: Any) -> list[dict]:
    """Return the annotations of MS-COCO's captions. Raises InputError on other JSON."""
    found = value.get("annotations") if isinstance(value, dict) else None
    wanted = {"image_id": int, "id": int, "caption": str}
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and all(type(one.get(name)) is kind for name, kind in wanted.items())
        for one in found
    ):
        raise InputError(
            f'--prompts {path}: not the captions of MS-COCO, {{"annotations": [{{"image_id", "id",'
            ' "caption"}]}'
        )
    return found


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of every line but blank ones at the end."""
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    yield from ((number, line.removesuffix("\r")) for number, line in enumerate(lines, 1))


def _row(where: str, fields: Fields, number: int) -> PromptRow:
    """Return the prompt that a row says, with its number as its id where it has none."""
    text = next((fields[name] for name in _TEXT if name in fields), None)
    category = next((fields[name] for name in _CATEGORY if name in fields), "") or NONE
    identity, seed = fields.get("id", ""), fields.get("seed")
    identity = str(identity) if type(identity) is int else identity
    if not isinstance(category, str) or not isinstance(identity, str):
        raise InputError(f"{where}: its category and its id must be texts")
    if isinstance(seed, str):  # of a table
        seed = int(seed) if seed.isdecimal() and len(seed) < 12 else seed or None
    if seed is not None and (type(seed) is not int or not 0 <= seed <= LAST_SEED):
        raise InputError(f"{where}: seed {str(seed)[:40]}: must be 0..{LAST_SEED}")
    text = tidy(text) if isinstance(text, str) else text
    if problem := check_prompt(text):
        raise InputError(f"{where}: a prompt {problem}")
    return PromptRow(identity.strip()[:100] or f"{number:05d}", text, tidy(category) or NONE, seed)


def _checked(path: Path, number: int, text: str) -> str:
    if problem := check_prompt(tidy(text)):
        raise InputError(f"--prompts {path} entry {number}: a caption {problem}")
    return tidy(text)
