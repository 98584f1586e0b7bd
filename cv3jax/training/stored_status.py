"""The status of a run whose workdir is an address, by the few small files that tell it."""

import contextlib
import fnmatch
import json
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cv3jax.checkpoints.manifest import NAME as MANIFEST
from cv3jax.training import heartbeat, status
from data_pipeline.io.bounded_json import ParseError, load_json, parse_json
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects import fetching, lease, snapshots
from data_pipeline.io.objects.store import Store, address_of

MOST = 2**30  # bytes of all files together
_FILES = (heartbeat.FILE, "run.json", "metrics.jsonl", "best.json")
_PLACES = ("", "rounds/*_steps/")


def read_any(workdir: str, now: float | None = None) -> dict[str, Any]:
    """Return the status of the run at `workdir`, a path or an address, as JSON.

    Raises InputError and OSError as `status.read_status` and `Store.read` do.
    """
    address = address_of(workdir)
    return status.read_status(workdir, now) if address is None else _read(Store(address), now)


def last_lines_of(workdir: str) -> list[dict]:
    """Return what `status.last_lines` does, of a path or an address. Raises as `read_any`."""
    address = address_of(workdir)
    if address is None:
        return status.last_lines(workdir)
    with _fetched(Store(address)) as place:
        return status.last_lines(str(place))


def _read(store: Store, now: float | None) -> dict[str, Any]:
    with _fetched(store) as place:
        _beat_of_lease(store, place / heartbeat.FILE)
        try:
            return {**status.read_status(str(place), now), "workdir": store.address}
        except InputError as e:
            raise InputError(str(e).replace(str(place), store.address)) from e


@contextlib.contextmanager
def _fetched(store: Store) -> Iterator[Path]:
    """Yield a directory with the files of a run that tell its status, for the block."""
    with tempfile.TemporaryDirectory(prefix="cv3jax-") as folder:
        place = Path(folder)
        tree = fetching.fetch(store, place, _wanted)
        if tree is None:
            raise InputError(
                f"{store.address} has no run: no {snapshots.NAME}; give the --workdir of cv3jax"
                " train, finetune or distill"
            )
        for name, about in _wanted(tree[0]).items():
            if (when := _published(about[2])) is not None:
                os.utime(place / name, (when, when))
        yield place


def _wanted(files: snapshots.Files) -> snapshots.Files:
    """Return the files that tell a status. Raises InputError where they are too large."""
    names = [f"{place}{name}" for place in _PLACES for name in _FILES]
    names += [f"{place}checkpoints/*/{MANIFEST}" for place in _PLACES]
    found = {
        name: about
        for name, about in files.items()
        if any(fnmatch.fnmatchcase(name, one) for one in names)
    }
    if (size := sum(size for size, _, _ in found.values())) > MOST:
        raise InputError(f"the run's lines of metrics have {size:,} bytes, and may have {MOST:,}")
    return found


def _published(place: str) -> float | None:
    """Return when an object was published, which its name says."""
    words = place.split("/")
    try:
        when = datetime.strptime(words[1][:15], "%Y%m%d-%H%M%S")
    except (IndexError, ValueError):
        return None
    return when.replace(tzinfo=UTC).timestamp()


def _beat_of_lease(store: Store, file: Path) -> None:
    """Let the lease, which is written more often than files are published, tell the last beat."""
    found = store.read(lease.NAME)
    if found is None or not file.exists():
        return
    try:
        held, beat = parse_json(found.data), load_json(file, nan=True)
        same = (held["process"], held["host"]) == (beat["pid"], beat["host"])
        if same and beat["beat"] < held["beat"] <= time.time() + 60:
            file.write_text(json.dumps({**beat, "beat": held["beat"]}))
    except (ParseError, ValueError, KeyError, TypeError):
        return  # `read_status` says what is damaged
