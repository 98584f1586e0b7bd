"""Files and folders of a bucket that a command reads whole, fetched to this machine's disk."""

import concurrent.futures
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from data_pipeline.io import locks
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects import fetching, reading, snapshots
from data_pipeline.io.objects.places import mark
from data_pipeline.io.objects.store import Store, address_of
from data_pipeline.io.progress import say

MOST = 999  # objects of a folder; a store lists a thousand at a time
Objects = dict[str, tuple[int, str]]  # name in the store → bytes, stamp


def fetched(
    path: str | Path, flag: str, beside: Iterable[str] = (), inside: Sequence[str] = ()
) -> Path:
    """Return `path`, or of an address where this machine has what is there: a file or a folder.

    What is here already is not fetched again. Of what a command of cv3jax published, the SHA-256 of
    each file is compared, and of other objects the size and that none changed meanwhile.

    Args:
        path: a path, or the address of an object or of all objects below it.
        flag: the flag that gave it, for messages.
        beside: names of files that are fetched too where they lie beside the address of a file.
        inside: what is fetched of a folder, where it has it; none: all of it.

    Raises:
        InputError: nothing is at the address, it has more than MOST objects that are to be fetched,
            or what it has does not fit on the disk.
        OSError: the store fails.
    """
    address = address_of(path)
    if address is None:
        return Path(path)
    folder, _, name = address.rpartition("/")
    if folder.endswith("/"):
        raise InputError(
            f"{flag} {address}: this is a whole bucket; give the address of a file or folder in it"
        )
    key, fetch = _published(address, beside, inside) or _plain(
        Store(folder), name, beside, inside, flag
    )
    own = f"file-{_digest(name)[:8]}-"
    base = mark(folder)
    with locks.wait(base / "reading.lock"):
        place = base / f"{own}{_digest(key)[:16]}"
        if not place.exists():
            partial = base / f"{own}new.partial"
            shutil.rmtree(partial, ignore_errors=True)  # of a killed process
            say(f"cv3jax: fetching {address}")
            fetch(partial)
            partial.replace(place)
        reading.hold(place)
        reading.prune(base, place, f"{own}*")
    return place / name


def _published(
    address: str, beside: Iterable[str], inside: Sequence[str]
) -> tuple[object, Callable[[Path], object]] | None:
    """Return (what tells it from later files, how to fetch it), or None.

    None where no tree.json at the address or above it names anything there.
    """
    name = address.rpartition("/")[2]
    root, below = address, ""
    while not root.endswith("/"):
        store = Store(root)
        tree = snapshots.read_tree(store)

        def wanted(files: snapshots.Files, below: str = below) -> snapshots.Files:
            if below in files:
                folder = below.rpartition("/")[0]
                near = {each: f"{folder}/{each}".lstrip("/") for each in (name, *beside)}
                return {each: files[place] for each, place in near.items() if place in files}
            start = f"{below}/" if below else ""
            found = {x.removeprefix(start): files[x] for x in files if x.startswith(start)}
            chosen = found.keys() & {*inside} if inside else found
            return {f"{name}/{each}": found[each] for each in chosen}

        if tree and (files := wanted(tree[0])):
            return files, functools.partial(fetching.fetch, store, wanted=wanted)
        root, _, last = root.rpartition("/")
        below = f"{last}/{below}" if below else last
    return None


def _plain(
    store: Store, name: str, beside: Iterable[str], inside: Sequence[str], flag: str
) -> tuple[object, Callable[[Path], object]]:
    """Return (what tells the objects from later ones, how to fetch them).

    Raises InputError as `fetched` does.
    """

    def alone(each: str) -> Objects:
        return {x: about for x, about in store.some(each, 1).items() if x == each}

    def listed() -> Objects:
        if found := alone(name):
            return {**found, **{x: about for each in beside for x, about in alone(each).items()}}
        if inside:
            return {x: about for each in inside for x, about in alone(f"{name}/{each}").items()}
        found = store.some(f"{name}/", MOST + 1)
        if len(found) > MOST:
            raise InputError(
                f"{flag} {store.address}/{name} has more than {MOST} objects; give the address of"
                " one file or of a smaller folder"
            )
        return {each: about for each, about in found.items() if not each.endswith("/")}

    objects = listed()
    if not objects:
        having = f" with {' or '.join(inside)}" if inside else ""
        raise InputError(
            f"{flag} {store.address}/{name}: there is no such object, and no folder{having}; check"
            " the address"
        )
    for each in objects:
        if not {"", ".", ".."}.isdisjoint(each.split("/")):
            raise InputError(
                f"{flag} {store.address}/{each}: the name of this object is no path of files;"
                " rename it"
            )

    def fetch(partial: Path) -> None:
        fetching.check_room(store, partial, sum(size for size, _ in objects.values()))
        with concurrent.futures.ThreadPoolExecutor(snapshots.AT_ONCE) as pool:
            list(pool.map(lambda each: _get(store, partial, each, objects[each][0]), objects))
        if listed() != objects:
            raise InputError(
                f"{flag} {store.address}/{name} was changed while it was fetched; run the same"
                " command again"
            )

    return objects, fetch


def _get(store: Store, folder: Path, name: str, size: int) -> None:
    """Write an object below a folder. Raises InputError where other than `size` bytes came."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(snapshots.TRIES):
        store.download(name, path)
        if (came := path.stat().st_size) == size:
            return
    raise InputError(
        f"{store.address}/{name}: {came:,} of {size:,} bytes came, {snapshots.TRIES} times; check"
        " the object"
    )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
