"""Files here and in object stores (gs://, s3://, hdfs://): whole ones read and written.

Only what has a scheme needs Beam.
"""

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

STORES = ("gs://", "s3://", "hdfs://")


def is_remote(path: str) -> bool:
    return "://" in path


def check_address(text: str, flag: str) -> None:
    """Refuse what is neither of this machine nor in a store that Beam reaches from here.

    Raises:
        InputError: see `arguments.check_name`.
    """
    if not is_remote(text):
        check_name(text, flag)
    elif not _has_store(text):
        try:
            check_name(text, flag)
        except InputError as e:
            more = f"; or an address of {', '.join(STORES)}, with Apache Beam's library for it"
            raise InputError(f"{e}{more}") from e


def _has_store(address: str) -> bool:
    if not address.lower().startswith(STORES):
        return False
    try:
        # which needs the store's library, and asks nothing of the store
        _systems().get_filesystem(address)
    except Exception:  # Beam's own, or whatever that library raises
        return False
    return not address.lower().startswith("s3://") or importlib.util.find_spec("boto3") is not None


def join(folder: str, *names: str) -> str:
    return "/".join((folder.rstrip("/"), *names))


def open_read(path: str) -> BinaryIO:
    """Opens for reading, with seek. Nothing is decompressed."""
    if not is_remote(path):
        return Path(path).open("rb")
    from apache_beam.io.filesystem import CompressionTypes

    return _systems().open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def read(path: str) -> bytes:
    with open_read(path) as file:
        return file.read()


def read_at(path: str, offset: int, size: int) -> bytes:
    with open_read(path) as file:
        file.seek(offset)
        return file.read(size)


def write(path: str, data: bytes) -> None:
    """Writes a whole file: whoever sees it sees all of it, also after the machine has lost its
    power.
    """
    if is_remote(path):
        from apache_beam.io.filesystem import CompressionTypes

        with _systems().create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write(data)
        return
    place = Path(path)
    with naming(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        # under a name of its own: several processes may write the same
        with replacing(place, Path(f"{path}.{os.getpid()}.writing"), durable=True) as unfinished:
            unfinished.write_bytes(data)


def copy(source: str, target: str) -> None:
    """Copies a file within one store, which does it by itself where it can."""
    _systems().copy([source], [target])


def upload(local: Path, path: str) -> None:
    """Moves a whole local file to `path`, in pieces where that is remote."""
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
    return bool(files(path)) if is_remote(path) else Path(path).exists()


def names(folder: str, suffix: str) -> list[str]:
    """Paths of the files in `folder` that end in `suffix`, sorted."""
    if is_remote(folder):
        return list(files(join(folder, f"*{suffix}")))
    place = Path(folder)
    return (
        sorted(str(path) for path in place.iterdir() if path.name.endswith(suffix))
        if place.is_dir()
        else []
    )


class File(NamedTuple):
    size: int  # bytes
    stamp: str  # another one when it was written anew


def files(pattern: str) -> dict[str, File]:
    """Path → what is there, of the files that fit a path or a pattern with **, *, ?, [], sorted.

    Raises:
        InputError: the file system cannot be asked.
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
            f"{pattern} cannot be listed ({first_line(e)}); is its library installed, and may you"
            " read there?"
        ) from e
    return dict(
        sorted(
            (each.path, File(each.size_in_bytes, str(each.last_updated_in_seconds)))
            for each in found
        )
    )


def remove(paths: Iterable[str]) -> None:
    """Removes files, which may be gone already."""
    paths = list(paths)
    for path in paths:
        if not is_remote(path):
            Path(path).unlink(missing_ok=True)
    if remote := [path for path in paths if is_remote(path)]:
        _systems().delete(remote)


def _systems():
    extras.load("apache_beam", "an object store")
    from apache_beam.io.filesystems import FileSystems

    return FileSystems
