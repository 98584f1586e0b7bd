"""Random access to datasets of ArrayRecord shards with any features.

array_records.py describes these datasets and writes them.
"""

import bisect
import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError

from data_pipeline.io.bounded_json import load_json
from data_pipeline.io.errors import InputError, first_line, machine_error
from data_pipeline.records import check_records
from data_pipeline.records.array_records import SPLIT, TEMPLATE, shard_name
from data_pipeline.records.shard_readers import ShardReaders, count_records

CHECKED = 1024  # shards that are opened when a dataset is


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file and its number of records."""

    path: Path
    length: int


class ExampleSource(Sequence):
    """A dataset for random access: `len(source)`, and `source[i]` → {feature: value}.

    Safe to read from many threads. An OSError means that the machine fails, not that a record is
    damaged.

    `name` is the dataset's directory as given, for error messages; `lengths` are the numbers of
    records of the shards. `counted` is what the loader has found of the records' sizes.
    """

    def __init__(
        self,
        path: Path | str,
        shards: list[Shard],
        features: tfds.features.FeaturesDict,
        fetch: Callable[[int], object] | None = None,
    ):
        """Open the shards of the dataset at `path`.

        fetch: called with the number of a shard before it is opened, where its file may not be
            there.
        """
        self.name = str(path)
        self.lengths = tuple(shard.length for shard in shards)
        self._shards, self._features = shards, features
        self.counted: dict[Any, Any] = {}
        self._ends = list(itertools.accumulate(self.lengths))
        self._readers = ShardReaders([shard.path for shard in shards], fetch)

    def __len__(self) -> int:
        """Return the number of records."""
        return self._ends[-1]

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Return record i. Raises InputError where it is damaged."""
        i = range(len(self))[i]  # raises IndexError outside; a negative i counts from the end
        shard = bisect.bisect_right(self._ends, i)
        within = i - (self._ends[shard - 1] if shard else 0)
        try:
            example = self._readers.read(shard, within)
            return self.parse(example)
        # array_record raises RuntimeError or IndexError on damaged chunks. DecodeError and KeyError
        # come from bytes that are not one of our examples, and TypeError from the None that a
        # truncated shard can yield.
        except (
            RuntimeError,
            IndexError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            DecodeError,
        ) as e:
            what = (
                f"record {within} of {self._shards[shard].path} is damaged ({first_line(e, 160)})"
            )
            raise InputError(f"{what}; restore the file or pack the data again") from e

    def parse(self, example: bytes) -> Any:
        """Return the record of a serialized example."""
        return self.decode(self._features.deserialize_example_np(example))

    def decode(self, example: dict[str, Any]) -> Any:
        """Return the record of an example; subclasses convert it."""
        return example

    def __repr__(self) -> str:
        """Return the text by which grain names the source in its own messages."""
        return f"{type(self).__name__}({self.name!r}, {len(self)} records)"


def find_shards(path: Path, features: tfds.features.FeaturesDict, made_by: str) -> list[Shard]:
    """Return the shards of the dataset at `path`, after they were looked for and opened.

    So a missing or truncated file is found now and not hours later. Of more than CHECKED shards, so
    many are opened, evenly spaced: the index of a large shard takes milliseconds to read.

    made_by: the command that makes such a dataset.

    Raises:
        InputError: there is no such directory, it holds no dataset, no records or other features,
            or a shard is missing or damaged.
        OSError: the machine fails.
    """
    check_records(path, made_by)
    shards = described_shards(path, str(path), features)
    names = {entry.name for entry in os.scandir(path)}
    for shard in shards:
        if shard.path.name not in names:
            raise InputError(
                f"shard {shard.path} is missing; restore the file or pack the data again"
            )
    count = len(shards)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        opened = {i * count // min(count, CHECKED) for i in range(min(count, CHECKED))}
        list(pool.map(_check_shard, [shards[i] for i in sorted(opened)]))
    return shards


def described_shards(path: Path, shown: str, features: tfds.features.FeaturesDict) -> list[Shard]:
    """Return the shards that the description of a dataset lists; they are not looked for.

    path: the directory of the description. shown: the dataset's name in messages. Raises InputError
    and OSError as `find_shards` does.
    """
    info = _read_json(path, "dataset_info.json")
    # TFDS would import the classes that features.json names, so only its field names are read.
    described = _read_json(path, "features.json")
    try:
        missing = sorted(set(features) - set(described["featuresDict"]["features"]))
    except (KeyError, TypeError) as e:
        raise InputError(
            f"{shown}/features.json is not a TFDS description of features; pack the data again"
        ) from e
    if missing:
        raise InputError(
            f"{shown}/features.json lacks {', '.join(missing)}; a record has {', '.join(features)};"
            " pack the data again"
        )
    try:
        split = next(s for s in info["splits"] if s["name"] == SPLIT)
        lengths = [int(n) for n in split["shardLengths"]]
        name = info["name"]
        if (
            info["fileFormat"] != "array_record"
            or split["filepathTemplate"] != TEMPLATE
            or Path(name).name != name
            or min(lengths) < 0
        ):
            raise ValueError("file format, names or lengths")
    except (StopIteration, KeyError, ValueError, TypeError) as e:
        raise InputError(
            f"{shown}/dataset_info.json does not describe an array_record split {SPLIT!r}"
            f" ({first_line(e, 160)}); pack the data again"
        ) from e
    if not sum(lengths):
        raise InputError(
            f"{shown} holds no records (count = 0); pack it again from images with captions"
        )
    return [
        Shard(path / shard_name(name, i, len(lengths)), length) for i, length in enumerate(lengths)
    ]


def _check_shard(shard: Shard) -> None:
    """Raise InputError unless the shard has as many records as the description says."""
    try:
        found = count_records(shard.path)
    except RuntimeError as e:
        raise InputError(
            f"shard {shard.path} is truncated or damaged ({first_line(e, 160)}); restore the file"
            " or pack the data again"
        ) from e
    if found != shard.length:
        raise InputError(
            f"shard {shard.path} has {found} records where dataset_info.json says {shard.length};"
            " restore the file or pack the data again"
        )


def _read_json(path: Path, name: str) -> dict:
    """Return the object in a JSON file of a dataset."""
    try:
        value = load_json(path / name)
    except FileNotFoundError as e:
        raise InputError(
            f"{path} is not a record dataset: it has no {name}; give a directory of records,"
            " such as `cv3jax data pack` makes of pictures"
        ) from e
    except (OSError, ValueError) as e:
        raise (
            machine_error(e, path / name)
            or InputError(
                f"{path}/{name} is damaged: {first_line(e, 160)}; restore the file or pack the data"
                " again"
            )
        ) from e
    if not isinstance(value, dict):
        raise InputError(
            f"{path}/{name} is not a JSON object; restore the file or pack the data again"
        )
    return value
