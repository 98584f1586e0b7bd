"""The journal of an evaluation: every score that was made, so that a killed run makes none twice.

It is a JSON Lines file that only grows, and each batch is on the disk before the next begins:

    {"metric", "protocol", "file", "sha256", "prompt", "scores": {column: value}, "crc"}
    {"features", "part", "batch", "sha256", "pictures": [sha256], "crc"}

The first is of a picture; `protocol` is the hash of the metric's own protocol, so that scores of
other weights or library versions are not taken for these. The second is of a batch of features of
distances between sets, which are in a file of their own, with its hash; `features` is the hash of
what makes them. A line that a kill left
incomplete is removed at the next start.
"""

import hashlib
import io
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.io import storage
from data_pipeline.io.bounded_json import OWN, ParseError, parse_json, read_bytes
from data_pipeline.io.errors import InputError, first_line, naming
from data_pipeline.io.regular_files import read_regular

NAME, FOLDER = "journal.jsonl", "features"
FeaturesKey = tuple[str, str, int]
MAX_FEATURES = 2**30  # bytes of a batch's features
Scores = dict[str, float | None]  # by column; None: the prompt asks for nothing to measure


class Journal:
    """A journal of the directory `out`, opened or created; its directory is locked by the caller.

    Raises:
        InputError: it is damaged.
        OSError: the disk is full or failing.
    """

    def __init__(self, out: Path, *, repair: bool = True):
        """Read what is there; repair: remove an incomplete last line and incomplete files."""
        self.path, self._folder = out / NAME, out / FOLDER
        self._scores: dict[tuple[str, str, str], tuple[str, str, Scores]] = {}
        self._features: dict[tuple[str, str, int], dict[str, Any]] = {}
        try:
            data = read_bytes(self.path, OWN.bytes)
        except FileNotFoundError:
            data = b""
        except ParseError as e:
            raise InputError(f"{self.path}: {e}; give another --out") from e
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                self._add(parse_json(line))
            except (ParseError, AttributeError, KeyError, TypeError, ValueError) as e:
                raise InputError(
                    f"{self.path} line {number} is damaged ({e}); remove the file to score again"
                ) from e
        if repair and len(whole) < len(data):
            os.truncate(self.path, len(whole))
        if repair:
            for unfinished in self._folder.glob("*/*.writing"):  # of storage.write, by a kill
                unfinished.unlink(missing_ok=True)

    def known(self) -> set[str]:
        """Return the hashes of all pictures that were scored, by any metric."""
        found = {sha256 for sha256, _, _ in self._scores.values()}
        return found.union(*(line["pictures"] for line in self._features.values()))

    def scores(
        self, metric: str, protocol: str, file: str, sha256: str, prompt: str
    ) -> Scores | None:
        """Return a picture's scores of a prompt, or None.

        Raises:
            InputError: the picture had other bytes when it was scored.
        """
        known = self._scores.get((metric, protocol, file))
        if known is None:
            return None
        if known[0] != sha256:
            raise InputError(
                f"{file} has changed since it was scored (SHA-256 {sha256[:12]}…, then"
                f" {known[0][:12]}…); put it back, or give another --out"
            )
        return known[2] if known[1] == prompt else None

    def write_scores(
        self, metric: str, protocol: str, rows: Sequence[tuple[str, str, str, Scores]]
    ) -> None:
        """Add the scores of a batch: (file, its sha256, prompt, scores by column) of each."""
        names, head = ("file", "sha256", "prompt", "scores"), (metric, protocol)
        self._append(
            dict(zip(("metric", "protocol", *names), (*head, *row), strict=True)) for row in rows
        )

    def features(self, key: FeaturesKey, pictures: Sequence[str] | None) -> np.ndarray | None:
        """Return the features of a batch of pictures, [n, d], or None where they are not there.

        key: (hash of what makes them, "drawn" or the hash of a reference, number of the batch).
        pictures: the hashes of the batch's files; None: any.

        Raises:
            InputError: the batch had other pictures when it was measured, or its file is damaged.
        """
        line = self._features.get(key)
        if line is None:
            return None
        if pictures is not None and line["pictures"] != list(pictures):
            raise InputError(
                f"pictures {key[2] * len(pictures)} and following have changed since their features"
                " were taken; put them back, or give another --out"
            )
        path = self._file(key)
        try:
            data = read_regular(path, MAX_FEATURES)
        except FileNotFoundError:
            return None
        if hashlib.sha256(data).hexdigest() != line["sha256"]:
            raise InputError(f"{path} is damaged; remove it and run the same command again")
        try:
            made = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError, MemoryError) as e:  # its head may ask for any size
            raise InputError(f"{path} holds no features ({first_line(e)}); remove it") from e
        if made.ndim != 2 or made.dtype.kind != "f" or len(made) != len(line["pictures"]):
            raise InputError(f"{path} holds no features of its pictures; remove it")
        return made

    def write_features(
        self, key: FeaturesKey, pictures: Sequence[str], features: np.ndarray
    ) -> None:
        """Add the features of a batch, [n, d]."""
        out = io.BytesIO()
        np.save(out, features, allow_pickle=False)
        storage.write(str(self._file(key)), out.getvalue())
        found = hashlib.sha256(out.getvalue()).hexdigest()
        line = dict(zip(("features", "part", "batch"), key, strict=True))
        self._append([{**line, "pictures": list(pictures), "sha256": found}])

    def take_references(self, other: "Journal", drawn: str) -> None:
        """Copy the features of references that another journal has and this one lacks.

        drawn: the part of the pictures themselves, which are not copied.
        """
        for key, line in other._features.items():
            if key[1] != drawn and key not in self._features:
                made = other.features(key, None)
                if made is not None:
                    self.write_features(key, line["pictures"], made)

    def _file(self, key: FeaturesKey) -> Path:
        return self._folder / key[0][:16] / f"{key[1][:16]}_{key[2]:05d}.npy"

    def _append(self, lines: Any) -> None:
        lines = list(lines)
        text = "".join(f"{json.dumps(_sealed(line), allow_nan=False)}\n" for line in lines)
        with naming(self.path), self.path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        for line in lines:
            self._add(_sealed(line))

    def _add(self, line: Any) -> None:
        """Take over a line. Raises KeyError, TypeError or ValueError on what is none."""
        if line["crc"] != _sum(line):
            raise ValueError("its checksum is another")
        if "batch" in line:
            self._features[(line["features"], line["part"], line["batch"])] = line
        else:
            scores = {
                column: None if value is None else float(value)
                for column, value in line["scores"].items()
            }
            self._scores[(line["metric"], line["protocol"], line["file"])] = (
                line["sha256"],
                line["prompt"],
                scores,
            )


def _sealed(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "crc": _sum(line)}


def _sum(line: Mapping[str, Any]) -> int:
    fields = {name: value for name, value in line.items() if name != "crc"}
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())
