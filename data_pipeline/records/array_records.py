"""Datasets of ArrayRecord shards under a TFDS description, whatever their features: written a shard
at a time, read at random.

A dataset is a directory:

    dataset_info.json features.json             what tfds.builder_from_directory(dir) reads
    NAME-train.array_record-00000-of-00008 …    one tf.train.Example per record

It appears under its name only when it is complete: everything is written into `NAME.partial` beside
it and renamed.
"""

import bisect
import concurrent.futures
import dataclasses
import errno
import itertools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from data_pipeline.io.errors import InputError, first_line

SPLIT = "train"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ShardWriter:
    """Writes one shard. A context manager; `count` records so far.

    What is at `path` before it closes is no whole shard.

    Raises:
        OSError: the disk is full, or fails.
    """

    def __init__(self, path: Path, features: tfds.features.FeaturesDict):
        self.path, self.count, self._features = path, 0, features
        # One record per chunk: training reads at random, and images do not compress further.
        self._writer = self._do(lambda: ArrayRecordWriter(str(path), "group_size:1"))

    def write(self, record: Mapping[str, Any]) -> None:
        # serialized once more: TFDS leaves the order of the fields to a hash that each process
        # draws anew
        example = tf_example_pb2.Example.FromString(self._features.serialize_example(record))
        self._do(lambda: self._writer.write(example.SerializeToString(deterministic=True)))
        self.count += 1

    def close(self) -> None:
        self._do(self._writer.close)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind, value, traceback) -> None:
        self.close()

    def _do(self, act):
        try:
            return act()
        except (OSError, RuntimeError) as e:
            # array_record's own errors are RuntimeErrors whose text ends with the system's
            code = getattr(e, "errno", None) or next(
                (n for n in _FULL if os.strerror(n) in str(e)), errno.EIO
            )
            message = (
                f"cannot be written ({os.strerror(code)}); make room there or give another"
                " directory"
            )
            raise OSError(code, message, str(self.path.parent)) from e


def shard_name(name: str, index: int, total: int) -> str:
    return f"{name}-{SPLIT}.array_record-{index:05d}-of-{total:05d}"


def describe(
    staging: Path,
    shards: Sequence[Path],
    lengths: Sequence[int],
    *,
    name: str,
    features: tfds.features.FeaturesDict,
    about: str,
) -> None:
    """Renames whole shards that lie in `staging`, in this order, and writes the description beside
    them.
    """
    size = 0
    for i, shard in enumerate(shards):
        size += shard.rename(staging / shard_name(name, i, len(shards))).stat().st_size
    write_description(staging, lengths, size, name=name, features=features, about=about)


def write_description(
    folder: Path,
    lengths: Sequence[int],
    size: int,
    *,
    name: str,
    features: tfds.features.FeaturesDict,
    about: str,
) -> None:
    """Writes what TFDS reads of a dataset whose shards have `lengths` records and `size` bytes in
    all.
    """
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder,
        dataset_name=name,
        split=SPLIT,
        filetype_suffix="array_record",
        template=_TEMPLATE,
    )
    split = tfds.core.SplitInfo(
        name=SPLIT, shard_lengths=list(lengths), num_bytes=size, filename_template=template
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=[split],
        filename_template=template,
        check_data=False,  # TFDS checks by reading through tf.data
        description=about,
    )


def publish(staging: Path, out: Path) -> None:
    """Renames `staging` to `out`, in whose place a dataset may be.

    A directory cannot be replaced in one step: the old one moves aside for the instant between the
    two renames.
    """
    old = out.with_name(f".{out.name}.replaced")
    if old.exists():  # left by a process that was killed in that instant, or after it
        shutil.rmtree(old)
    if not out.exists():
        staging.rename(out)
        return
    out.rename(old)
    staging.rename(out)
    shutil.rmtree(old)


def check_replaceable(out: Path, overwrite: bool) -> None:
    """Raises InputError unless nothing is at `out`, or, with `overwrite`, a dataset."""
    if out.is_symlink():
        raise InputError(f"{out} is a link; give the directory that it names")
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file; give a directory for the records")
    if not any(out.iterdir()):
        return
    if not (out / "dataset_info.json").exists():
        raise InputError(
            f"{out} holds files that are not a record dataset; give a new or empty directory"
        )
    if not overwrite:
        raise InputError(
            f"{out} already holds records; give --overwrite to replace them, or another directory"
        )


class ExampleSource(Sequence):
    """Random access: `len(source)`, and `source[i]` → {feature: value}.

    Safe to read from many threads.

    `name` is the dataset's directory as given, for error messages; `lengths` are the records of
    each shard.
    """

    def __init__(self, path: Path, shards: "list[_Shard]", features: tfds.features.FeaturesDict):
        self.name = str(path)
        self.lengths = tuple(shard.take for shard in shards)
        self._shards, self._features = shards, features
        self._ends = list(itertools.accumulate(self.lengths))
        self._data = ArrayRecordDataSource(shards)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> dict[str, Any]:
        i = range(len(self))[i]  # an IndexError outside; negative counts from the end
        try:
            return self.decode(self._features.deserialize_example_np(self._data[i]))
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
            shard = bisect.bisect_right(self._ends, i)
            within = i - (self._ends[shard - 1] if shard else 0)
            what = (
                f"record {within} of {self._shards[shard].filename} is damaged"
                f" ({first_line(e, 160)})"
            )
            raise InputError(f"{what}; restore the file or pack the data again") from e

    def decode(self, example: dict[str, Any]) -> Any:
        return example

    def __repr__(self) -> str:  # grain names the source in its own messages
        return f"{type(self).__name__}({self.name!r}, {len(self)} records)"


def find_shards(path: Path, features: tfds.features.FeaturesDict, made_by: str) -> "list[_Shard]":
    """The shards of the dataset at `path`, each opened once and its number of records compared with
    the description.

    So a missing or truncated file is found here and not hours later. `made_by` is the command that
    makes such a dataset.

    Raises:
        InputError: no such directory, no dataset in it, no records, other features, or a missing or
            damaged shard.
    """
    if not path.is_dir():
        raise InputError(
            f"no records at {path}: no such directory; `{made_by} --out {path}` makes one"
        )
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
            or split["filepathTemplate"] != _TEMPLATE
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
        _Shard(path / shard_name(name, i, len(lengths)), length) for i, length in enumerate(lengths)
    ]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(_check_shard, shards))
    return shards


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A file and its number of records; the properties are what array_record asks of a "file
    instruction".
    """

    filename: Path
    take: int
    skip: int = 0

    @property
    def examples_in_shard(self) -> int:
        return self.take


def _check_shard(shard: _Shard) -> None:
    if not shard.filename.is_file():
        raise InputError(
            f"shard {shard.filename} is missing; restore the file or pack the data again"
        )
    try:
        reader = ArrayRecordReader(str(shard.filename))
        found = reader.num_records()
        reader.close()
    except RuntimeError as e:
        raise InputError(
            f"shard {shard.filename} is truncated or damaged ({first_line(e, 160)}); restore it or"
            " pack the data again"
        ) from e
    if found != shard.take:
        raise InputError(
            f"shard {shard.filename} has {found} records where dataset_info.json says {shard.take};"
            " restore it or pack again"
        )


def _read_json(path: Path, name: str) -> dict:
    try:
        value = json.loads((path / name).read_text())
    except FileNotFoundError as e:
        raise InputError(f"{path} is not a record dataset: it has no {name}") from e
    except (OSError, ValueError) as e:
        raise InputError(f"{path}/{name} is damaged: {first_line(e, 160)}") from e
    if not isinstance(value, dict):
        raise InputError(f"{path}/{name} is not a JSON object")
    return value
