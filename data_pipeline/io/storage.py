"""Reading and writing whole files on this machine and in object stores (gs://, s3://, hdfs://).

Only addresses with a scheme need Beam.
"""

import functools
import glob
import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data_pipeline.io import extras
from data_pipeline.io.arguments import check_name
from data_pipeline.io.errors import InputError, first_line, naming
from data_pipeline.io.files import replacing
from data_pipeline.io.regular_files import open_regular

STORES = ("gs://", "s3://", "hdfs://")


def is_remote(path: str) -> bool:
    """Return whether `path` is an address with a scheme."""
    return "://" in path


def check_address(text: str, flag: str) -> None:
    """Raise InputError unless `text` is a path here or an address that Beam can reach.

    Raises:
        InputError: see `arguments.check_name`.
    """
    if not is_remote(text):
        check_name(text, flag)
    elif not has_store(text):
        try:
            check_name(text, flag)
        except InputError as e:
            more = f"; or give an address of {', '.join(STORES)} and install Beam's library for it"
            raise InputError(f"{e}{more}") from e


def has_store(address: str) -> bool:
    """Return whether the libraries for an address's store are installed."""
    if not address.lower().startswith(STORES):
        return False
    try:
        # this needs the store's library, but does not contact the store
        _systems().get_filesystem(address)
    except Exception:  # Beam's own, or whatever that library raises
        return False
    return not address.lower().startswith("s3://") or importlib.util.find_spec("boto3") is not None


def join(folder: str, *names: str) -> str:
    """Return the path of `names` in `folder`, which may be an address."""
    return "/".join((folder.rstrip("/"), *names))


def open_read(path: str) -> BinaryIO:
    """Open a file for reading, with seek. Nothing is decompressed."""
    if not is_remote(path):
        return open_regular(path)
    from apache_beam.io.filesystem import CompressionTypes

    return _systems().open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def read(path: str) -> bytes:
    """Return a file's bytes."""
    with open_read(path) as file:
        return file.read()


def read_at(path: str, offset: int, size: int) -> bytes:
    """Return up to `size` bytes of a file from `offset`."""
    with open_read(path) as file:
        file.seek(offset)
        return file.read(size)


def write(path: str, data: bytes) -> None:
    """Write a whole file: a reader sees all of it or nothing, even after a power failure."""
    if is_remote(path):
        from apache_beam.io.filesystem import CompressionTypes

        with _systems().create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write(data)
        return
    place = Path(path)
    with naming(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        # under a name of this process, because several may write the same file
        with replacing(place, Path(f"{path}.{os.getpid()}.writing"), durable=True) as unfinished:
            unfinished.write_bytes(data)


def copy(source: str, target: str) -> None:
    """Copy a file within one store, which does so itself where it can."""
    _systems().copy([source], [target])


def upload(local: Path, path: str) -> None:
    """Move a whole local file to `path`, in pieces where that is remote."""
    if not is_remote(path):
        with naming(path), local.open("rb") as file:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            os.fsync(file.fileno())
            local.replace(path)
        return
    from apache_beam.io.filesystem import CompressionTypes

    with (
        local.open("rb") as source,
        _systems().create(path, compression_type=CompressionTypes.UNCOMPRESSED) as target,
    ):
        while piece := source.read(2**23):
            target.write(piece)
    local.unlink()


def exists(path: str) -> bool:
    """Return whether there is a file at `path`; on this machine, also a folder."""
    return bool(files(path)) if is_remote(path) else Path(path).exists()


def names(folder: str, suffix: str) -> list[str]:
    """Return the paths of the files in `folder` that end in `suffix`, sorted."""
    if is_remote(folder):
        return list(files(join(folder, f"*{suffix}")))
    place = Path(folder)
    return (
        sorted(str(path) for path in place.iterdir() if path.name.endswith(suffix))
        if place.is_dir()
        else []
    )


class File(NamedTuple):
    """The size of a file, and a stamp that shows whether it was written anew."""

    size: int  # bytes
    stamp: str  # changes when the file is written anew


def files(pattern: str) -> dict[str, File]:
    """Return {path: File} of the files that match `pattern`, sorted.

    pattern: a path, or a pattern with **, *, ? and [].

    Raises:
        InputError: the store cannot be listed.
    """
    if not is_remote(pattern):
        paths = (
            [Path(pattern)]
            if Path(pattern).is_file()
            else [Path(path) for path in glob.glob(pattern, recursive=True)]
        )
        return dict(
            sorted(
                (str(path), File(path.stat().st_size, str(path.stat().st_mtime_ns)))
                for path in paths
                if path.is_file()
            )
        )
    try:
        found = _systems().match([pattern])[0].metadata_list
    except Exception as e:  # of whichever library reaches that store
        raise InputError(
            f"{pattern} cannot be listed ({first_line(e)}); check that the store's library is"
            " installed and that you may read there"
        ) from e
    return dict(
        sorted(
            (each.path, File(each.size_in_bytes, str(each.last_updated_in_seconds)))
            for each in found
        )
    )


def remove(paths: Iterable[str]) -> None:
    """Remove files; those that are gone already are no error."""
    paths = list(paths)
    for path in paths:
        if not is_remote(path):
            Path(path).unlink(missing_ok=True)
    if remote := [path for path in paths if is_remote(path)]:
        _systems().delete(remote)


def _systems():
    """Return Beam's FileSystems. Raises InputError where Beam is not installed."""
    extras.load("apache_beam", "an object store")
    return _with_options()


@functools.cache
def _with_options():
    """Return Beam's FileSystems, with empty options if no pipeline set any: S3 needs some."""
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    if FileSystems._pipeline_options is None:  # a worker has its pipeline's
        FileSystems.set_options(PipelineOptions([]))
    return FileSystems
