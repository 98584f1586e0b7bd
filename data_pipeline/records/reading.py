"""Datasets of ArrayRecord shards, whatever their features, read at random. array_records.py says
what they are, and writes them.
"""

import bisect
import concurrent.futures
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError

from data_pipeline.io.errors import InputError, first_line, machine_error
from data_pipeline.records import check_records
from data_pipeline.records.array_records import SPLIT, TEMPLATE, shard_name
from data_pipeline.records.shard_readers import ShardReaders, count_records


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file and its number of records."""

    path: Path
    length: int


class ExampleSource(Sequence):
    """Random access: `len(source)`, and `source[i]` → {feature: value}.

    Safe to read from many threads. An OSError is the machine's, which no record is to blame for.

    `name` is the dataset's directory as given, for error messages; `lengths` are the records of
    each shard.
    """

    def __init__(self, path: Path, shards: list[Shard], features: tfds.features.FeaturesDict):
        self.name = str(path)
        self.lengths = tuple(shard.length for shard in shards)
        self._shards, self._features = shards, features
        self._ends = list(itertools.accumulate(self.lengths))
        self._readers = ShardReaders([shard.path for shard in shards])

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> dict[str, Any]:
        i = range(len(self))[i]  # an IndexError outside; negative counts from the end
        shard = bisect.bisect_right(self._ends, i)
        within = i - (self._ends[shard - 1] if shard else 0)
        try:
            example = self._readers.read(shard, within)
            return self.decode(self._features.deserialize_example_np(example))
        # array_record says RuntimeError (or IndexError) about damaged chunks; protobuf's
        # DecodeError and a missing field come from bytes that are not one of our examples, a
        # TypeError from the None that a truncated shard can yield.
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

    def decode(self, example: dict[str, Any]) -> Any:
        return example

    def __repr__(self) -> str:  # grain names the source in its own messages
        return f"{type(self).__name__}({self.name!r}, {len(self)} records)"


def find_shards(path: Path, features: tfds.features.FeaturesDict, made_by: str) -> list[Shard]:
    """The shards of the dataset at `path`, each opened once and its number of records compared with
    the description.

    So a missing or truncated file is found here and not hours later. `made_by` is the command that
    makes such a dataset.

    Raises:
        InputError: no such directory, no dataset in it, no records, other features, or a missing or
            damaged shard.
        OSError: the machine fails.
    """
    check_records(path, made_by)
    info = _read_json(path, "dataset_info.json")
    # TFDS would import the classes that features.json names, so only its field names are read.
    described = _read_json(path, "features.json")
    try:
        missing = sorted(set(features) - set(described["featuresDict"]["features"]))
    except (KeyError, TypeError) as e:
        raise InputError(f"{path}/features.json is not a TFDS description of features") from e
    if missing:
        raise InputError(
            f"{path}/features.json has no {', '.join(missing)}; a record has {', '.join(features)}"
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
            f"{path}/dataset_info.json describes no array_record split {SPLIT!r}"
            f" ({first_line(e, 160)})"
        ) from e
    if not sum(lengths):
        raise InputError(
            f"{path} holds no records (count = 0); pack it again from images with captions"
        )
    shards = [
        Shard(path / shard_name(name, i, len(lengths)), length) for i, length in enumerate(lengths)
    ]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(_check_shard, shards))
    return shards


def _check_shard(shard: Shard) -> None:
    if not shard.path.is_file():
        raise InputError(f"shard {shard.path} is missing; restore the file or pack the data again")
    try:
        found = count_records(shard.path)
    except RuntimeError as e:
        raise InputError(
            f"shard {shard.path} is truncated or damaged ({first_line(e, 160)}); restore it or"
            " pack the data again"
        ) from e
    if found != shard.length:
        raise InputError(
            f"shard {shard.path} has {found} records where dataset_info.json says {shard.length};"
            " restore it or pack again"
        )


def _read_json(path: Path, name: str) -> dict:
    try:
        value = json.loads((path / name).read_text())
    except FileNotFoundError as e:
        raise InputError(f"{path} is not a record dataset: it has no {name}") from e
    except (OSError, ValueError) as e:
        raise (
            machine_error(e, path / name)
            or InputError(f"{path}/{name} is damaged: {first_line(e, 160)}")
        ) from e
    if not isinstance(value, dict):
        raise InputError(f"{path}/{name} is not a JSON object")
    return value
