"""Files here and in object stores (gs://, s3://, hdfs://): whole ones read and written. Only what has a scheme needs Beam."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from data_pipeline.errors import InputError, first_line, naming


def is_remote(path: str) -> bool:
    return "://" in path


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
    """Writes a whole file: whoever sees it sees all of it, also after the machine has lost its power."""
    if is_remote(path):
        from apache_beam.io.filesystem import CompressionTypes

        with _systems().create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write(data)
        return
    place, unfinished = Path(path), Path(f"{path}.{os.getpid()}.writing")
    with naming(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(place)


def upload(local: Path, path: str) -> None:
    """Moves a whole local file to `path`, in pieces where that is remote."""
    if not is_remote(path):
        with naming(path), local.open("rb") as file:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            os.fsync(file.fileno())
            local.replace(path)
        return
    from apache_beam.io.filesystem import CompressionTypes

    with local.open("rb") as source, _systems().create(path, compression_type=CompressionTypes.UNCOMPRESSED) as target:
        while piece := source.read(2**23):
            target.write(piece)
    local.unlink()


def sizes(pattern: str) -> dict[str, int]:
    """Path → bytes of the files that fit a pattern with *, ?, [], sorted.

    Raises:
        InputError: the file system cannot be asked.
    """
    if not is_remote(pattern):
        import glob

        files = (Path(path) for path in glob.glob(pattern))
        return dict(sorted((str(path), path.stat().st_size) for path in files if path.is_file()))
    try:
        found = _systems().match([pattern])[0].metadata_list
    except Exception as e:  # of whichever library reaches that store
        raise InputError(f"{pattern} cannot be listed ({first_line(e)}); is its library installed, and may you read there?") from e
    return dict(sorted((each.path, each.size_in_bytes) for each in found))


def remove(paths: Iterable[str]) -> None:
    """Removes files, which may be gone already."""
    paths = list(paths)
    for path in paths:
        if not is_remote(path):
            Path(path).unlink(missing_ok=True)
    if remote := [path for path in paths if is_remote(path)]:
        _systems().delete(remote)


def _systems():
    try:
        from apache_beam.io.filesystems import FileSystems
    except ImportError as e:
        raise InputError("object stores need Apache Beam: pip install 'cv3jax[data]'") from e
    return FileSystems
