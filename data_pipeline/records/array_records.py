"""Writing datasets of ArrayRecord shards with a TFDS description, one shard at a time.

The features may be any. reading.py reads these datasets. A dataset is a directory:

    dataset_info.json features.json             what tfds.builder_from_directory(dir) reads
    NAME-train.array_record-00000-of-00008 …    one tf.train.Example per record

It appears under its name only when it is complete: everything is written into `NAME.partial` beside
it, which is then renamed.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from data_pipeline.io.errors import InputError, machine_error
from data_pipeline.io.files import check_length
from data_pipeline.io.staging import check_renamable

SPLIT = "train"
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


class ShardWriter:
    """A writer of one shard, as a context manager; `count` is the number of records so far.

    The file at `path` is not a complete shard before the writer closes.

    Raises:
        OSError: the disk is full or failing.
    """

    def __init__(self, path: Path, features: tfds.features.FeaturesDict):
        """Open the shard at `path` for records with these features."""
        self.path, self.count, self._features = path, 0, features
        # One record per chunk: training reads at random, and images do not compress further.
        self._writer = self._do(lambda: ArrayRecordWriter(str(path), "group_size:1"))

    def write(self, record: Mapping[str, Any]) -> None:
        """Add one record."""
        # serialized again, because TFDS orders the fields by a hash that differs between processes
        example = tf_example_pb2.Example.FromString(self._features.serialize_example(record))
        self._do(lambda: self._writer.write(example.SerializeToString(deterministic=True)))
        self.count += 1

    def close(self) -> None:
        """Complete the shard."""
        self._do(self._writer.close)

    def __enter__(self) -> "ShardWriter":
        """Return the writer."""
        return self

    def __exit__(self, kind, value, traceback) -> None:
        """Complete the shard."""
        self.close()

    def _do(self, act):
        """Call `act`; raise its error as an OSError with the dataset's directory."""
        try:
            return act()
        except (OSError, RuntimeError) as e:
            # array_record raises RuntimeErrors, whose text contains the system's error
            failed = machine_error(e, self.path)
            code = failed.errno if failed else getattr(e, "errno", None) or errno.EIO
            advice = (
                "" if code == errno.EMFILE else "; free some disk space, or give another directory"
            )
            message = f"cannot be written ({os.strerror(code)}){advice}"
            raise OSError(code, message, str(self.path.parent)) from e


def shard_name(name: str, index: int, total: int) -> str:
    """Return the file name of a shard of `total`."""
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
    """Rename the complete `shards` in `staging`, in this order, and write their description."""
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
    """Write the files that TFDS reads about a dataset.

    lengths: the number of records of each shard. size: the bytes of all shards.
    """
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder,
        dataset_name=name,
        split=SPLIT,
        filetype_suffix="array_record",
        template=TEMPLATE,
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


def check_replaceable(out: Path, overwrite: bool) -> None:
    """Raise InputError where a dataset could not appear at `out`.

    Something may be there only if it is a dataset and `overwrite` is set.
    """
    check_length(out, "--out")
    if out.is_symlink():
        raise InputError(f"{out} is a link; give the directory that it points to")
    check_renamable(out)
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
