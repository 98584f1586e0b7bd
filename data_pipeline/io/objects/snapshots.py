"""A directory in a bucket: its files as objects, and `tree.json`, which is written last.

A reader takes only what tree.json names, and compares size and SHA-256. A file that has not changed
is carried by reference: tree.json names the object that has it already.
"""

import concurrent.futures
import hashlib
import json
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path

from data_pipeline.io.bounded_json import OWN, ParseError, load_json, parse_json
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects import places
from data_pipeline.io.objects.sent import Sent
from data_pipeline.io.objects.store import Found, Store

NAME = "tree.json"
DATA = places.FILES
_VERSION = re.compile(rf"{DATA}/\d{{8}}-\d{{6}}-[0-9a-f]{{6}}/")  # begins the names of objects
AT_ONCE = 8  # files that are sent or fetched together
TRIES = 4  # of a file that came cut or changed
COPIED = 2**20  # bytes of a file from which the store is asked to copy it by itself
MANIFEST = "manifest.json"  # of a checkpoint or a part: {"files": {name: [size, SHA-256]}}
_UNFINISHED = re.compile(r".*\.(orbax-checkpoint-tmp(-\d+)?|partial|tmp(\.\d+)?|writing)")
Files = dict[str, list]  # relative name → [size, SHA-256, object]


class MovedError(Exception):
    """A directory was being replaced while it was looked at."""


def whole(folder: Path) -> dict[str, str | None]:
    """Return {relative name: SHA-256 where it is known} of the finished files below a directory.

    Left out are symbolic links, files that are being written, and checkpoints that lack a file of
    their manifest, because they are being removed. Raises MovedError.
    """
    found: dict[str, str | None] = {}
    for place, folders, names in os.walk(folder):
        if any(name.endswith((".replaced", ".replacing")) for name in folders):
            raise MovedError
        here = Path(place)
        kept = None
        if MANIFEST in names:
            kept = _signed(here)
        if (MANIFEST in names and kept is None) or (
            here.name.isdigit() and here.parent.name == "checkpoints" and MANIFEST not in names
        ):
            folders.clear()
            continue
        folders[:] = [one for one in folders if not one.startswith(".") and not _passing(one)]
        for name in names:
            if not (name.startswith(".") or _passing(name) or (here / name).is_symlink()):
                found.setdefault(str((here / name).relative_to(folder)), None)
        for name, digest in (kept or {}).items():
            found[str((here / name).relative_to(folder))] = digest
    return found


def _passing(name: str) -> bool:
    return _UNFINISHED.fullmatch(name) is not None


def _signed(folder: Path) -> dict[str, str] | None:
    """Return the hashes of a manifest, or None where a file of it is not there."""
    try:
        files = load_json(folder / MANIFEST)["files"]
        fits = all((folder / name).stat().st_size == size for name, (size, _) in files.items())
        return {name: digest for name, (_, digest) in files.items()} if fits else None
    except (OSError, ParseError, ValueError, KeyError, TypeError):
        return None


def read_tree(store: Store) -> tuple[Files, str] | None:
    """Return (files, stamp) of what was published last, or None.

    Raises InputError where tree.json is damaged, OSError.
    """
    found = store.read(NAME)
    return None if found is None else (_files(found, store), found.stamp)


def read_begun(store: Store) -> set[str]:
    """Return which objects an upload of plain files began that may not have ended.

    Raises as `read_tree` does.
    """
    found = store.read(NAME)
    if found is None:
        return set()
    _files(found, store)
    begun = parse_json(found.data, OWN).get("begun", [])
    if not isinstance(begun, list) or not all(isinstance(name, str) for name in begun):
        raise InputError(f"{store.address}/{NAME} is damaged; restore an earlier version of it")
    return set(begun)


def _files(found: Found, store: Store) -> Files:
    try:
        value = parse_json(found.data, OWN)
        files = value["files"]
        if value["sha256"] != digest_of(files):
            raise ValueError("its hash is of others")
        for name, (size, digest, place) in files.items():
            if not isinstance(size, int) or not isinstance(digest, str) or ".." in name.split("/"):
                raise ValueError("a file is described wrongly")
            if name.startswith("/") or not isinstance(place, str):
                raise ValueError("a file is described wrongly")
    except (ParseError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(
            f"{store.address}/{NAME} is damaged ({e}); restore an earlier version of it"
        ) from e
    return files


def publish(
    store: Store,
    folder: Path,
    digests: dict[str, str | None],
    before: tuple[Files, str] | None,
    allowed: Callable[[], None] = lambda: None,
    *,
    plain: bool = False,
    sent: Sent | None = None,
) -> tuple[Files, str]:
    """Publish the files of a directory that does not change meanwhile. Returns (files, stamp).

    digests: as `whole` returns; a file that `before` has with the same hash need not be there.
    before: what was published last. allowed: raises where this process may no longer write. plain:
    objects get their files' own names, for people and other programs; tree.json says which are
    begun. sent: what other machines have uploaded already, which is named and not uploaded again.
    What nothing names any more is removed afterwards.

    Raises:
        LostError: another process has published.
        InputError: somebody else's object has the name of a plain one; nothing is replaced.
        OSError: the store fails; what was published before remains.
    """
    old, stamp = before or ({}, None)
    version, known = places.new_version(), sent.known() if sent else {}

    def described(name: str) -> list:
        digest = digests[name]
        if digest and name in old and old[name][1] == digest:
            return old[name]
        if digest in known:
            return known[digest]
        path = folder / name
        size, digest = path.stat().st_size, digest or hash_of(path)
        if name in old and old[name][:2] == [size, digest]:
            return old[name]
        return [size, digest, name if plain else f"{version}/{name}"]

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        files = dict(zip(digests, pool.map(described, digests), strict=True))
        new = [name for name in files if files[name] is not old.get(name)]
        if before and files.keys() == old.keys() and not new:
            return before
        begun = read_begun(store) if plain and before else set()
        if plain and new:
            _check_free(store, {*new} - {place for _, _, place in old.values()} - begun)
            # until they are whole, nothing names them
            allowed()
            left = {name: about for name, about in old.items() if name not in new}
            stamp = _write(store, left, stamp, begun | {*new})
        ours = {name: files[name] for name in new if files[name] is not known.get(files[name][1])}
        send(store, folder, ours, pool, "" if plain else version)
    allowed()
    stamp = _write(store, files, stamp)
    if not plain:
        clean(store, files, sent.places() if sent else ())
    gone = begun | {place for _, _, place in old.values()}
    store.remove(sorted(gone - {place for _, _, place in files.values()}))
    return files, stamp


def _check_free(store: Store, names: set[str]) -> None:
    """Raise InputError where an object has a name that this program has not given to one there."""
    if names and (taken := sorted(names & store.sizes("").keys())):
        raise InputError(
            f"{store.address}/{taken[0]} is somebody else's object, which is not replaced; move it"
            " away and run the same command again, or give another address"
        )


def _write(store: Store, files: Files, stamp: str | None, begun: Collection[str] = ()) -> str:
    value = {"files": files, "sha256": digest_of(files)}
    value |= {"begun": sorted(begun)} if begun else {}
    return store.replace(NAME, json.dumps(value, sort_keys=True).encode(), stamp)


def send(
    store: Store,
    folder: Path,
    files: Files,
    pool: concurrent.futures.ThreadPoolExecutor,
    place: str,
) -> None:
    """Upload files until all objects below `place` have their sizes. Raises OSError."""
    large = any(size >= COPIED for size, _, _ in files.values())
    known = places.objects_near(store.address) if large else {}
    left = list(files)

    def send(name: str) -> None:
        size, digest, target = files[name]
        if (source := known.pop(digest, None)) and size >= COPIED:
            try:  # once: the object may be gone, or its bucket refuse
                store.copy(source, target)
                return
            except (OSError, InputError):
                pass
        store.upload(folder / name, target)

    for _ in range(TRIES):
        if not left:
            return
        list(pool.map(send, left))
        there = store.sizes(place)
        left = [name for name in files if there.get(files[name][2]) != files[name][0]]
    if left:
        raise OSError(5, f"{left[0]} was stored cut {TRIES} times", store.address)


def clean(store: Store, files: Files, kept: tuple[str, ...] = ()) -> None:
    """Remove the objects that no file is in: of earlier states, and of killed uploads.

    What has other names than `publish` gives is somebody else's. kept: how names begin that stay.
    """
    named = {place for _, _, place in files.values()}
    ours = filter(_VERSION.match, store.sizes(DATA))
    store.remove([name for name in ours if name not in named and not name.startswith(kept)])


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(files: Files) -> str:
    """Return the hash of what a tree names."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
