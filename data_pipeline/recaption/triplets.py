"""⟨image, old caption, new caption⟩ in LLaVA's format, for fine-tuning a captioner (§3.1).

    [{"id": "KEY", "image": "NAME_images/KEY.jpg", "conversations": [
        {"from": "human", "value": "<image> … the old caption …"}, {"from": "gpt", "value": "the
            new caption"}]}, …]

A line break follows <image>. Paths are relative to the file's folder, which trainers take as their
image folder.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.images.decode import open_image
from data_pipeline.images.formats import TYPES
from data_pipeline.io.errors import InputError, naming
from data_pipeline.io.files import check_file, replacing
from data_pipeline.io.staging import holding, replace_directory
from data_pipeline.recaption.dialogue import fill
from data_pipeline.records.records import Record

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class Triplets:
    """A writer of triplets, which writes them in the block of `writing`.

    Args:
        path: the JSON file; images go to NAME_images beside it, where NAME is its stem.
        question: the dialogue's question; {caption} becomes the old caption.
        overwrite: replace both where they exist.

    Raises:
        InputError: `path` cannot be written, is not a .json, or something is there (without
            `overwrite`).
        OSError: the disk is full or failing.
    """

    def __init__(self, path: Path, question: str, *, overwrite: bool = False):
        """Check that the triplets can be written."""
        check_file(path, "--triplets")
        if path.suffix.lower() != ".json":
            raise InputError(f"--triplets {path}: give a name that ends in .json")
        self.path, self.folder = path, path.with_name(f"{path.stem}_images")
        self.count = 0
        self._question = question
        self._overwrite = overwrite
        self._check()

    def _check(self) -> None:
        there = [str(place) for place in (self.path, self.folder) if place.exists()]
        if there and not self._overwrite:
            raise InputError(
                f"--triplets: {there[0]} exists already; give --overwrite to replace it, or"
                " another name"
            )

    @contextlib.contextmanager
    def writing(self) -> Iterator["Triplets"]:
        """Yield the writer; file and images are in place when the block ends, and not before."""
        with holding(self.folder, "--triplets") as self._images:
            self._check()
            with replacing(self.path, self.path.with_name(f"{self.path.name}.partial")) as place:
                with place.open("w", encoding="utf-8") as self._file:
                    yield self
                    self._file.write("\n]\n" if self.count else "[]\n")
                replace_directory(self._images, self.folder)

    def write(self, record: Record, caption: str) -> None:
        """Write the triplet of a record."""
        name = f"{file_name(record['key'])}.{TYPES[open_image(record['image']).format][1]}"
        conversation = [
            {
                "from": "human",
                "value": f"<image>\n{_words(fill(self._question, record['caption']))}",
            },
            {"from": "gpt", "value": _words(caption)},
        ]
        triplet: dict[str, Any] = {
            "id": record["key"],
            "image": f"{self.folder.name}/{name}",
            "conversations": conversation,
        }
        with naming(self.path):
            (self._images / name).write_bytes(record["image"])
            self._file.write(
                (",\n" if self.count else "[\n") + json.dumps(triplet, ensure_ascii=False)
            )
        self.count += 1


def file_name(key: str) -> str:
    """Return the name of a file for a key, which is untrusted.

    It is the key itself where that is plain; otherwise its plain characters, ~ and a hash.
    """
    if _PLAIN.fullmatch(key):
        return key
    digest = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', key)[:64]}~{digest}"


def _words(text: str) -> str:
    """Return text without image tags: trainers put an image wherever they read <image>."""
    return re.sub(r"<(image|video)>", r"\1", text, flags=re.IGNORECASE)
