"""The files of jobs: finished pictures under names that nobody guesses, and given pictures."""

import contextlib
import re
import secrets
from pathlib import Path

from data_pipeline.io.files import replacing

NAME = re.compile(r"[A-Za-z0-9_-]{32}\.(png|jpeg|webp)")
JOURNAL = "journal.sqlite"
SMALL = 2**16  # bytes of the file that tells whether a full disk has room again


class Store:
    """The folders `pictures` and `given` below a directory. Methods may be called in any thread."""

    def __init__(self, directory: Path):
        """Make the folders. Raises OSError."""
        self.directory = directory
        self._pictures, self._given = directory / "pictures", directory / "given"
        for folder in (self._pictures, self._given):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path | None:
        """Return where a picture of that name would be, or None for what is no name."""
        return self._pictures / name if NAME.fullmatch(name) else None

    def write(self, data: bytes, kind: str) -> str:
        """Write a picture and return its name. It is on the disk then. Raises OSError."""
        name = f"{secrets.token_urlsafe(24)}.{kind}"
        self._write(self._pictures / name, data)
        return name

    def read(self, name: str) -> bytes:
        """Return a picture's bytes. Raises OSError."""
        return (self._pictures / name).read_bytes()

    def write_given(self, job: str, data: bytes) -> None:
        """Keep the picture that a client gave, until its job ends. Raises OSError."""
        self._write(self._given / job, data)

    def read_given(self, job: str) -> bytes:
        """Return the picture that a job was given. Raises OSError."""
        return (self._given / job).read_bytes()

    def remove_given(self, job: str) -> None:
        """Remove the picture that a job was given, where there is one."""
        with contextlib.suppress(OSError):  # what stays is removed at the next start
            (self._given / job).unlink(missing_ok=True)

    def remove(self, names: list[str]) -> None:
        """Remove pictures."""
        for name in names:
            with contextlib.suppress(OSError):
                (self._pictures / name).unlink(missing_ok=True)

    def tidy(self, jobs: set[str], files: set[str]) -> int:
        """Remove all but these: what a process left that was killed. Returns how many files."""
        lost = [path for path in self._given.iterdir() if path.name not in jobs]
        lost += [path for path in self._pictures.iterdir() if path.name not in files]
        for path in lost:
            with contextlib.suppress(OSError):
                path.unlink()
        return len(lost)

    def try_out(self) -> None:
        """Write a small file and remove it. Raises OSError where the disk is full or fails."""
        place = self._given / ".try"
        try:
            self._write(place, bytes(SMALL))
        finally:
            place.unlink(missing_ok=True)

    def _write(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(f".{path.name}")
        with replacing(path, temporary, durable=True) as place:
            place.write_bytes(data)
