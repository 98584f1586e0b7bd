"""Objects of one bucket below one address, by s3fs or gcsfs, with bounded tries.

A write appears whole or not at all. `replace` writes only where the object is still the one that
was read (If-Match and If-None-Match in S3, ifGenerationMatch in GCS).
"""

import errno
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from data_pipeline.io.errors import InputError, first_line
from data_pipeline.io.objects.opening import open_gs, open_s3, refusal

TRIES = 4  # of one request, beside those of the libraries themselves
WAIT = 1.0  # seconds before the second try; twice as many before each one after it
SMALL = 2**28  # bytes of an object that is read into memory
_ADDRESS = re.compile(r"(s3|gs):/+([^/]+)/*(.*?)/*\Z")  # pathlib leaves one slash of two
_FINAL = (FileNotFoundError, IsADirectoryError)
_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE)  # of this machine, not of the store
T = TypeVar("T")


class Found(NamedTuple):
    """An object's content, and what tells it from a later one of that name."""

    data: bytes
    stamp: str


class LostError(Exception):
    """Another process has written the object meanwhile."""


def address_of(path: str | Path) -> str | None:
    """Return the address in an object store that a flag's path means, or None for a local path."""
    found = _ADDRESS.match(str(path))
    return f"{found[1]}://{found[2]}/{found[3]}".rstrip("/") if found else None


class Store:
    """What is below an address."""

    def __init__(self, address: str, *, tries: int = TRIES):
        """Open the store.

        Raises InputError where the library for it is not installed, or there are no credentials.
        """
        self.address, self._tries = address, tries
        self._s3 = address.startswith("s3://")
        self._fs = open_s3(address) if self._s3 else open_gs(address)
        self._bucket, _, self._root = address.partition("://")[2].partition("/")

    def read(self, name: str) -> Found | None:
        """Return an object of at most SMALL bytes, or None where there is none.

        Raises InputError where it is larger, OSError.
        """

        def get() -> Found:
            place = self._place(name)
            # the stamp comes first: if the object is replaced between the two, `replace` refuses
            about = self._fs.info(place)
            if about["size"] > SMALL:
                raise InputError(
                    f"{self.address}/{name} has {about['size']:,} bytes, and may have {SMALL:,}"
                )
            data = self._fs.cat_file(place)
            if len(data) != about["size"]:  # cut, or replaced meanwhile
                raise OSError(errno.EIO, f"{len(data):,} of {about['size']:,} bytes came")
            return Found(data, self._stamp(about))

        try:
            return self._tried(name, get)
        except FileNotFoundError:
            return None

    def replace(self, name: str, data: bytes, stamp: str | None) -> str:
        """Write an object where it still has `stamp` (None: where there is none).

        Returns its new stamp. Raises LostError, InputError where there is no such bucket, OSError.
        """

        def put() -> str:
            return self._put_s3(name, data, stamp) if self._s3 else self._put_gs(name, data, stamp)

        try:
            return self._tried(name, put)
        except FileNotFoundError as e:
            if stamp is not None:
                raise LostError(name) from e
            raise InputError(f"{self.address}: there is no such bucket; make it first") from e
        except LostError:
            # the answer to an earlier try may have been lost
            if (found := self.read(name)) and found.data == data:
                return found.stamp
            raise

    def upload(self, path: Path, name: str) -> None:
        """Write a file as an object. Raises OSError."""
        self._tried(name, lambda: self._fs.put_file(str(path), self._place(name)))

    def download(self, name: str, path: Path) -> None:
        """Write an object to a file. Raises OSError; FileNotFoundError where there is none."""
        self._tried(name, lambda: self._fs.get_file(self._place(name), str(path)))

    def copy(self, source: str, name: str) -> None:
        """Have the store copy an object of the full address `source`. Raises OSError."""
        place = source.partition("://")[2]
        self._tried(name, lambda: self._fs.cp_file(place, self._place(name)))

    def sizes(self, folder: str) -> dict[str, int]:
        """Return {name: bytes} of all objects below a folder, or "" for all. Raises OSError."""
        return {name: size for name, (size, _) in self.stamps(folder).items()}

    def stamps(self, folder: str) -> dict[str, tuple[int, str]]:
        """Return {name: (bytes, stamp)} of all objects below a folder, or "" for all.

        Raises OSError. The stamp of an object changes when it is written anew.
        """
        start = self._place(folder)

        def listed() -> dict[str, tuple[int, str]]:
            found = self._fs.find(start, detail=True)
            return {
                folder + path[len(start) :].lstrip("/" * (not folder)): (
                    int(about["size"]),
                    self._stamp(about),
                )
                for path, about in found.items()
            }

        try:
            return self._tried(folder or self.address, listed)
        except FileNotFoundError:
            return {}

    def some(self, start: str, most: int) -> dict[str, tuple[int, str]]:
        """Return `stamps` of the first objects whose names begin so: at most `most` of a thousand.

        Raises OSError. Unlike `stamps`, it takes one request, however many objects there are.
        """
        skipped = len(f"{self._root}/") if self._root else 0
        prefix = self._place(start)[len(self._bucket) + 1 :]

        def listed() -> dict[str, tuple[int, str]]:
            if self._s3:
                found = self._fs.call_s3(
                    "list_objects_v2", Bucket=self._bucket, Prefix=prefix, MaxKeys=most
                ).get("Contents", [])
                return {x["Key"][skipped:]: (int(x["Size"]), x["ETag"]) for x in found}
            found = self._fs.call(
                "GET", "b/{}/o", self._bucket, prefix=prefix, maxResults=most, json_out=True
            ).get("items", [])
            return {x["name"][skipped:]: (int(x["size"]), x["generation"]) for x in found}

        try:
            return self._tried(start, listed)
        except FileNotFoundError:
            return {}

    def remove(self, names: list[str]) -> None:
        """Remove objects; those that are gone are no error. Raises OSError."""
        for name in names:
            try:
                self._tried(name, lambda name=name: self._fs.rm_file(self._place(name)))
            except FileNotFoundError:
                continue

    def _place(self, name: str) -> str:
        return "/".join(part for part in (self._bucket, self._root, name) if part)

    def _stamp(self, about: dict[str, Any]) -> str:
        return str(about["ETag"] if self._s3 else about["generation"])

    def _put_s3(self, name: str, data: bytes, stamp: str | None) -> str:
        key = "/".join(part for part in (self._root, name) if part)
        only = {"IfNoneMatch": "*"} if stamp is None else {"IfMatch": stamp}
        try:
            answer = self._fs.call_s3("put_object", Bucket=self._bucket, Key=key, Body=data, **only)
        except FileExistsError as e:
            raise LostError(name) from e
        except Exception as e:
            code = getattr(e, "response", {}).get("Error", {}).get("Code", "")
            if code in ("PreconditionFailed", "412") or "pre-condition" in str(e):
                raise LostError(name) from e
            raise
        return str(answer["ETag"])

    def _put_gs(self, name: str, data: bytes, stamp: str | None) -> str:
        key = "/".join(part for part in (self._root, name) if part)
        try:
            answer = self._fs.call(
                "POST",
                f"{self._fs._location}/upload/storage/v1/b/{self._bucket}/o",
                uploadType="media",
                name=key,
                ifGenerationMatch="0" if stamp is None else stamp,
                data=data,
                headers={"Content-Type": "application/octet-stream"},
                json_out=True,
            )
        except FileExistsError as e:  # what gcsfs makes of a failed precondition
            raise LostError(name) from e
        return str(answer["generation"])

    def _tried(self, name: str, act: Callable[[], T]) -> T:
        """Return `act()`, tried again with growing waits where the store fails."""
        wait = WAIT
        for left in reversed(range(self._tries)):
            try:
                return act()
            except (LostError, *_FINAL):
                raise
            except Exception as e:  # of whichever library reaches that store
                if isinstance(e, OSError) and e.errno in _OURS:
                    raise
                if refused := refusal(e, self.address, name):
                    raise refused from (None if refused is e else e)
                if not left:
                    line = f"{name}: the store failed {self._tries} times ({first_line(e)})"
                    raise OSError(errno.EIO, line, self.address) from e
            time.sleep(wait)
            wait *= 2
        raise AssertionError("there is at least one try")
