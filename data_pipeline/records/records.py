"""Datasets of captioned images: the schema of a record, a writer and a reader."""

import contextlib
import hashlib
import json
import re
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from data_pipeline.images.decode import (
    MAX_IMAGE_BYTES,
    MAX_PIXELS,
    decode_rgb,
    open_image,
    upright_size,
)
from data_pipeline.images.perceptual_hash import phash
from data_pipeline.io.bounded_json import parse_json
from data_pipeline.io.errors import InputError
from data_pipeline.io.open_files import room
from data_pipeline.io.staging import holding, replace_directory
from data_pipeline.records.array_records import ShardWriter, check_replaceable, describe
from data_pipeline.records.reading import ExampleSource, find_shards
from data_pipeline.records.sizes import write_sizes

NAME = "records"
ABOUT = "Captioned images for cv3jax; images as encoded bytes."
_TEXT_FIELDS = ("caption", "recaption", "url", "key", "sha256", "phash", "scores")
FEATURES = tfds.features.FeaturesDict(
    {
        # A scalar of bytes and not features.Image, so that the encoded file is returned as it was
        # received, in any format.
        "image": tfds.features.Tensor(
            shape=(), dtype=np.object_, doc="an encoded image, as received"
        ),
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
    """Return a record after decoding its image once; its size and hashes are filled in.

    So a dataset never holds an image that cannot be read.

    Raises:
        InputError: the image is damaged, too large, or of an unsupported format.
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
        phash=f"{phash(pixels).bits:016x}",
        scores=json.dumps(dict(scores or {}), sort_keys=True),
    )


_OWN_FILES = re.compile(
    rf"\d+\.writing|{NAME}-.*\.array_record-.*|.*\.json(\.incomplete.*)?|(sizes|repeats)\.npy.*"
)


@contextlib.contextmanager
def writing(out: Path, overwrite: bool) -> Iterator[Path]:
    """Hold the place where the dataset `out` is written until it is complete (`staging.holding`).

    Raises:
        InputError: another process holds it, it contains files that are not a dataset's, or `out`
            has appeared meanwhile.
    """
    with holding(out, own=lambda name: bool(_OWN_FILES.fullmatch(name))) as staging:
        check_replaceable(out, overwrite)
        yield staging


class RecordWriter:
    """A writer of records that distributes them round-robin over `shards` files.

    It is a context manager: leaving it without an exception publishes the dataset. Until then
    everything is in `NAME.partial`. An exception removes that directory, and a later writer
    replaces it, so a killed process leaves nothing that could be taken for a dataset. `staging` is
    that directory, for files that belong beside the records.

    Raises:
        InputError: `out` exists (without `overwrite`), is not a dataset, cannot be written, or is
            written by another process; `shards` is not in 1..10000 or exceeds the number of files
            that may be open; a record's key occurred before; or nothing was written.
        OSError: the disk is full or failing.
    """

    def __init__(self, out: str | Path, *, shards: int = 8, overwrite: bool = False):
        """Check that the dataset can be written; the context manager writes it."""
        if not 1 <= shards <= 10_000:
            raise InputError(f"shards = {shards}: give a number in 1..10000")
        if shards > room():
            raise InputError(
                f"shards = {shards}: the limit of open files allows {room()} shards at once; give"
                " fewer, or raise the limit (ulimit -n)"
            )
        self.out = Path(out).absolute()
        self.staging = self.out.with_name(self.out.name + ".partial")
        self.count = 0
        self._shards = shards
        self._writers: list[ShardWriter] = []
        self._sizes: list[array] = []  # for each shard: height and width of its records in turn
        self._keys: set[str] = set()
        self._overwrite, self._holding = overwrite, contextlib.ExitStack()
        check_replaceable(self.out, overwrite)

    def __enter__(self) -> "RecordWriter":
        """Hold the directory and return the writer."""
        self._holding.enter_context(writing(self.out, self._overwrite))
        return self

    def __exit__(self, kind, value, traceback) -> None:
        """Close the shards and publish the dataset, unless the block failed."""
        with self._holding:
            for writer in self._writers:
                writer.close()
            if kind is None:
                self._publish()

    def write(self, record: Record) -> None:
        """Add one record. Raises InputError where its key occurred before."""
        if record["key"] in self._keys:
            raise InputError(
                f"record key {record['key']!r} occurs twice in {self.out}; give each record a key"
                " of its own"
            )
        self._keys.add(record["key"])
        shard = self.count % self._shards
        if shard == len(self._writers):
            self._writers.append(ShardWriter(self.staging / f"{shard:05d}.writing", FEATURES))
            self._sizes.append(array("i"))
        self._writers[shard].write(record)
        self._sizes[shard].extend((record["height"], record["width"]))
        self.count += 1

    def _publish(self) -> None:
        """Complete the dataset and rename it to its place."""
        if not self.count:
            raise InputError(
                f"no records for {self.out}: nothing was written (count = 0); give images with"
                " captions"
            )
        paths, lengths = (
            [writer.path for writer in self._writers],
            [writer.count for writer in self._writers],
        )
        describe(self.staging, paths, lengths, name=NAME, features=FEATURES, about=ABOUT)
        write_sizes(self.staging, np.concatenate([np.asarray(sizes) for sizes in self._sizes]))
        replace_directory(self.staging, self.out)


def captions(record: Mapping[str, Any]) -> list[str]:
    """Return the source's captions of a record: `caption`, and those under "captions" in `scores`.

    Raises:
        InputError: the scores are not a JSON object.
    """
    if '"captions"' not in record.get("scores", ""):
        return [record["caption"]]
    try:
        others = parse_json(record["scores"], join=dict).get("captions")
    except (ValueError, AttributeError) as e:
        raise InputError(
            f"record {record['key']!r}: its scores are not a JSON object; pack the data again"
        ) from e
    others = others if isinstance(others, list) else []
    return [record["caption"], *(text for text in others if isinstance(text, str) and text)]


class RecordSource(ExampleSource):
    """Records for random access: `len(source)` and `source[i]` → Record.

    Safe to read from many threads.
    """

    def parse(self, example: bytes) -> Record:
        """Return the Record of a serialized example.

        TFDS's own way, by the features, takes as long as decoding a small image. Raises ValueError
        where a field is missing, of another type, or not one value.
        """
        fields = tf_example_pb2.Example.FromString(example).features.feature
        (image,) = fields["image"].bytes_list.value
        (width,) = fields["width"].int64_list.value
        (height,) = fields["height"].int64_list.value
        texts = {}
        for name in _TEXT_FIELDS:
            (text,) = fields[name].bytes_list.value
            texts[name] = text.decode()
        return Record(image=image, width=width, height=height, **texts)


def open_records(path: str | Path) -> RecordSource:
    """Open a dataset of RecordWriter, of `cv3jax data build`, or of a TFDS build with its features.

    Raises:
        InputError: see `find_shards`.
    """
    return RecordSource(Path(path), find_shards(Path(path), FEATURES, "cv3jax data pack"), FEATURES)
