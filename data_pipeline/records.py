"""Captioned images on disk: ArrayRecord shards under a TFDS description, read at random without TensorFlow.

A dataset is a directory:

    dataset_info.json features.json                        what TFDS reads: tfds.builder_from_directory(dir)
    records-train.array_record-00000-of-00008 …            one tf.train.Example per record, images as they were received

It appears under its name only when it is complete: everything is written into `NAME.partial` beside it and renamed.
"""

import bisect
import concurrent.futures
import dataclasses
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import imagehash
import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from google.protobuf.message import DecodeError

from data_pipeline.errors import InputError, first_line
from data_pipeline.images import MAX_IMAGE_BYTES, MAX_PIXELS, decode_rgb, open_image, upright_size

NAME, SPLIT = "records", "train"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_OWN_FILES = re.compile(rf"\d+\.writing|{NAME}-{SPLIT}\.array_record-.*|.*\.json(\.incomplete.*)?")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEXT_FIELDS = ("caption", "recaption", "url", "key", "sha256", "phash", "scores")

FEATURES = tfds.features.FeaturesDict(
    {
        # A scalar of bytes, not features.Image: the encoded file comes back as it was received, whatever its format.
        "image": tfds.features.Tensor(shape=(), dtype=np.object_, doc="encoded png, jpeg or webp, as received"),
        "caption": tfds.features.Text(doc="the source's caption"),
        "recaption": tfds.features.Text(doc="a caption written by a model, or empty"),
        "url": tfds.features.Text(doc="where the image came from, or empty"),
        "key": tfds.features.Text(doc="stable id, unique in the dataset"),
        "width": tfds.features.Scalar(np.int64, doc="pixels, upright (EXIF orientation applied)"),
        "height": tfds.features.Scalar(np.int64, doc="pixels, upright (EXIF orientation applied)"),
        "sha256": tfds.features.Text(doc="hex digest of the image bytes"),
        "phash": tfds.features.Text(doc="64-bit perceptual hash (imagehash.phash), hex"),
        "scores": tfds.features.Text(doc="JSON: what the source gave"),
    }
)


class Record(TypedDict):
    """One captioned image; FEATURES says what each field holds."""

    image: bytes
    caption: str
    recaption: str
    url: str
    key: str
    width: int
    height: int
    sha256: str
    phash: str
    scores: str


def make_record(
    image: bytes,
    caption: str,
    *,
    key: str,
    recaption: str = "",
    url: str = "",
    scores: Mapping[str, Any] | None = None,
    max_bytes: int = MAX_IMAGE_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> Record:
    """Decodes the image once, so that no dataset holds one that cannot be read, and fills in size and hashes.

    Raises:
        InputError: the image is damaged, too large, or not a png, jpeg or webp.
    """
    opened = open_image(image, max_bytes=max_bytes, max_pixels=max_pixels)
    height, width = upright_size(opened)
    pixels = decode_rgb(opened)
    return Record(
        image=image,
        caption=caption,
        recaption=recaption,
        url=url,
        key=key,
        width=width,
        height=height,
        sha256=hashlib.sha256(image).hexdigest(),
        phash=str(imagehash.phash(pixels)),
        scores=json.dumps(dict(scores or {}), sort_keys=True),
    )


class RecordWriter:
    """Writes records round-robin into `shards` files. A context manager: leaving it normally publishes the dataset.

    Until then everything is in `NAME.partial`, which an exception removes and a later writer replaces, so a killed
    process leaves nothing that could be taken for a dataset. `staging` is that directory, for files that belong beside
    the records. Two processes must not write the same dataset at once.

    Raises:
        InputError: `out` exists (without `overwrite`), is something else than a dataset or no place to write, `shards` is
            not in 1..10000, a record's key came before, or nothing was written.
        OSError: the disk is full, or fails.
    """

    def __init__(self, out: str | Path, *, shards: int = 8, overwrite: bool = False):
        if not 1 <= shards <= 10_000:
            raise InputError(f"shards = {shards}: give a number in 1..10000")
        self.out = Path(out).absolute()
        self.staging = self.out.with_name(self.out.name + ".partial")
        self.count = 0
        self._shards = shards
        self._writers: list[ArrayRecordWriter] = []
        self._keys: set[str] = set()
        if self.out.exists():
            _check_replaceable(self.out, overwrite)

    def __enter__(self) -> "RecordWriter":
        try:
            if self.staging.exists():  # left behind by a killed process; unless it is somebody's own directory of that name
                if foreign := [p.name for p in self.staging.iterdir() if not _OWN_FILES.fullmatch(p.name)]:
                    raise InputError(f"{self.staging} is in the way and holds {foreign[0]!r}; move it or give another name")
                shutil.rmtree(self.staging)
            self.staging.mkdir(parents=True)
        except OSError as e:
            raise InputError(f"cannot write {self.staging} ({first_line(e, 160)}); give another directory") from e
        return self

    def __exit__(self, kind, value, traceback) -> None:
        try:
            for writer in self._writers:
                writer.close()
            if kind is None:
                self._publish()
        except (OSError, RuntimeError) as e:
            raise self._cannot_write(e) from e
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)

    def _cannot_write(self, e: Exception) -> OSError:
        # array_record's own errors are RuntimeErrors whose text ends with the system's
        code = getattr(e, "errno", None) or next((n for n in _FULL if os.strerror(n) in str(e)), errno.EIO)
        return OSError(code, f"cannot be written ({os.strerror(code)}); make room there or give another directory", str(self.staging))

    def write(self, record: Record) -> None:
        if record["key"] in self._keys:
            raise InputError(f"record key {record['key']!r} came twice for {self.out}; keys must be unique")
        self._keys.add(record["key"])
        shard = self.count % self._shards
        try:
            if shard == len(self._writers):
                # One record per chunk: training reads at random, and images do not compress further.
                self._writers.append(ArrayRecordWriter(str(self.staging / f"{shard:05d}.writing"), "group_size:1"))
            self._writers[shard].write(FEATURES.serialize_example(record))
        except (OSError, RuntimeError) as e:
            raise self._cannot_write(e) from e
        self.count += 1

    def _publish(self) -> None:
        if not self.count:
            raise InputError(f"no records for {self.out}: nothing was written (count = 0)")
        total = len(self._writers)  # fewer than asked for when there were fewer records
        lengths = [len(range(i, self.count, total)) for i in range(total)]
        template = tfds.core.ShardedFileTemplate(
            data_dir=self.staging, dataset_name=NAME, split=SPLIT, filetype_suffix="array_record", template=_TEMPLATE
        )
        size = 0
        for i in range(total):
            shard = (self.staging / f"{i:05d}.writing").rename(self.staging / f"{NAME}-{SPLIT}.array_record-{i:05d}-of-{total:05d}")
            size += shard.stat().st_size
        split = tfds.core.SplitInfo(name=SPLIT, shard_lengths=lengths, num_bytes=size, filename_template=template)
        tfds.folder_dataset.write_metadata(
            data_dir=self.staging,
            features=FEATURES,
            split_infos=[split],
            filename_template=template,
            check_data=False,  # TFDS checks by reading through tf.data
            description="Captioned images for cv3jax; images as encoded bytes.",
        )
        # A directory cannot be replaced in one step: the old one moves aside for the instant between the two renames.
        if not self.out.exists():
            self.staging.rename(self.out)
            return
        old = self.out.with_name(f"{self.out.name}.old-{os.getpid()}")
        self.out.rename(old)
        self.staging.rename(self.out)
        shutil.rmtree(old)


def _check_replaceable(out: Path, overwrite: bool) -> None:
    if not out.is_dir():
        raise InputError(f"{out} is a file; give a directory for the records")
    if not any(out.iterdir()):
        return
    if not (out / "dataset_info.json").exists():
        raise InputError(f"{out} holds files that are not a record dataset; give a new or empty directory")
    if not overwrite:
        raise InputError(f"{out} already holds records; give --overwrite to replace them, or another directory")


class RecordSource(Sequence):
    """Random access: `len(source)` and `source[i]` → Record. Safe to read from many threads.

    `name` is the dataset's directory as given, for error messages.
    """

    def __init__(self, path: Path, shards: "list[_Shard]"):
        self.name = str(path)
        self._shards = shards
        self._ends = list(itertools.accumulate(shard.take for shard in shards))
        self._data = ArrayRecordDataSource(shards)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> Record:
        i = range(len(self))[i]  # an IndexError outside; negative counts from the end
        try:
            example = FEATURES.deserialize_example_np(self._data[i])
            fields = {k: example[k].decode() for k in _TEXT_FIELDS}
            return Record(image=example["image"], width=int(example["width"]), height=int(example["height"]), **fields)
        # array_record says RuntimeError (or IndexError) about damaged chunks; protobuf's DecodeError and a missing field
        # come from bytes that are not one of our examples, a TypeError from the None that a truncated shard can yield.
        except (RuntimeError, IndexError, ValueError, KeyError, TypeError, AttributeError, DecodeError) as e:
            shard = bisect.bisect_right(self._ends, i)
            within = i - (self._ends[shard - 1] if shard else 0)
            what = f"record {within} of {self._shards[shard].filename} is damaged ({first_line(e, 160)})"
            raise InputError(f"{what}; restore the file or pack the data again") from e

    def __repr__(self) -> str:  # grain names the source in its own messages
        return f"RecordSource({self.name!r}, {len(self)} records)"


def open_records(path: str | Path) -> RecordSource:
    """Opens a dataset that RecordWriter, or a TFDS build with the same features, has written.

    Every shard is opened once and its number of records compared with the description, so a missing or truncated file is
    found here and not hours later.

    Raises:
        InputError: no such directory, no dataset in it, no records, other features, or a missing or damaged shard.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"no records at {path}: no such directory; `cv3jax data pack --out {path}` makes one")
    info = _read_json(path, "dataset_info.json")
    # TFDS would import the classes that features.json names, so only its field names are read.
    features = _read_json(path, "features.json")
    try:
        missing = sorted(set(FEATURES) - set(features["featuresDict"]["features"]))
    except (KeyError, TypeError) as e:
        raise InputError(f"{path}/features.json is not a TFDS description of features") from e
    if missing:
        raise InputError(f"{path}/features.json has no {', '.join(missing)}; a record has {', '.join(FEATURES)}")
    try:
        split = next(s for s in info["splits"] if s["name"] == SPLIT)
        lengths = [int(n) for n in split["shardLengths"]]
        name = info["name"]
        if info["fileFormat"] != "array_record" or split["filepathTemplate"] != _TEMPLATE or Path(name).name != name or min(lengths) < 0:
            raise ValueError("file format, names or lengths")
    except (StopIteration, KeyError, ValueError, TypeError) as e:
        raise InputError(f"{path}/dataset_info.json describes no array_record split {SPLIT!r} ({first_line(e, 160)})") from e
    if not sum(lengths):
        raise InputError(f"{path} holds no records (count = 0); pack it again from images with captions")
    count = len(lengths)
    shards = [_Shard(path / f"{name}-{SPLIT}.array_record-{i:05d}-of-{count:05d}", length) for i, length in enumerate(lengths)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(_check_shard, shards))
    return RecordSource(path, shards)


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A file and its number of records; the properties are what array_record asks of a "file instruction"."""

    filename: Path
    take: int
    skip: int = 0

    @property
    def examples_in_shard(self) -> int:
        return self.take


def _check_shard(shard: _Shard) -> None:
    if not shard.filename.is_file():
        raise InputError(f"shard {shard.filename} is missing; restore the file or pack the data again")
    try:
        reader = ArrayRecordReader(str(shard.filename))
        found = reader.num_records()
        reader.close()
    except RuntimeError as e:
        raise InputError(f"shard {shard.filename} is truncated or damaged ({first_line(e, 160)}); restore it or pack the data again") from e
    if found != shard.take:
        raise InputError(f"shard {shard.filename} has {found} records where dataset_info.json says {shard.take}; restore it or pack again")


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
