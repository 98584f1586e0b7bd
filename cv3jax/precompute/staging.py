"""A feature cache in the making: which process encodes which shard, and when it gets its name.

Shard k belongs to process k mod N, and the processes do not communicate. Complete shards are in
`OUT.partial` under their final names, beside the `encoded.json` that identifies them. An unfinished
shard is made again from its first record. The process that finds all shards complete describes the
dataset and renames it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from cv3jax import recipes
from data_pipeline.io import locks
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import replacing
from data_pipeline.io.staging import check_renamable, replace_directory
from data_pipeline.records.array_records import describe, shard_name
from data_pipeline.records.feature_cache import ABOUT, FEATURES, IDENTITY, NAME, read_identity
from data_pipeline.records.shard_readers import count_records


def partial(out: Path) -> Path:
    """Return the directory that holds the shards until all are complete."""
    return out.with_name(out.name + ".partial")


def shard_path(out: Path, k: int, identity: dict[str, Any]) -> Path:
    """Return the path of shard k until all are complete."""
    return partial(out) / shard_name(NAME, k, len(identity["records"]["lengths"]))


def complete(out: Path, identity: dict[str, Any]) -> bool:
    """Return whether `out` is the dataset that `identity` describes."""
    return (
        (out / "dataset_info.json").is_file()
        and (out / IDENTITY).is_file()
        and read_identity(out) == identity
    )


def begin(out: Path, identity: dict[str, Any], overwrite: bool) -> None:
    """Prepare `OUT.partial` for shards of `identity`; those that exist are kept.

    Raises:
        InputError: `out` is something else, or there are shards of another identity, which
            `overwrite` would replace.
    """
    _check_free(out, identity, overwrite)
    staging = partial(out)
    check_renamable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    # the second lock keeps out a process that writes another dataset there; it is held until this
    # one is begun, which others then see
    with locks.wait(_lock(out)), locks.hold(staging, "--out"):
        if not complete(out, identity):  # another process may have finished it meanwhile
            _check_free(out, identity, overwrite)
        present = {path.name for path in staging.iterdir()}
        if IDENTITY in present:
            changed = recipes.differences(identity, read_identity(staging))
            if not changed:
                return
            if not overwrite:
                raise InputError(
                    f"{staging} was begun with other values of {', '.join(changed)}; give those"
                    " values, or --overwrite to start over"
                )
            for path in staging.glob(f"{NAME}-*"):
                path.unlink()
        elif foreign := sorted(name for name in present if not name.startswith(".")):
            raise InputError(
                f"{staging} exists and holds {foreign[0]!r}, which is not of a feature cache; move"
                " it, or give another --out"
            )
        # a name that a process which begins anew does not take for a foreign file
        with replacing(staging / IDENTITY, staging / f".{IDENTITY}") as temporary:
            temporary.write_text(json.dumps(identity, indent=1, sort_keys=True) + "\n")


def _check_free(out: Path, identity: dict[str, Any], overwrite: bool) -> None:
    if (out / IDENTITY).is_file():
        if not overwrite:
            changed = ", ".join(recipes.differences(identity, read_identity(out)))
            raise InputError(
                f"--out {out} was encoded with other values of {changed}; give --overwrite to"
                " replace it, or another --out"
            )
    elif out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(
            f"--out {out} holds something other than a feature cache; give a new or empty directory"
        )


def missing(out: Path, identity: dict[str, Any]) -> list[int]:
    """Return the shards that are missing or not complete."""
    return [
        k
        for k, length in enumerate(identity["records"]["lengths"])
        if not is_whole(shard_path(out, k, identity), length)
    ]


def is_whole(path: Path, length: int) -> bool:
    """Return whether `path` is a shard of so many records.

    ArrayRecord writes its index last, so the index proves it.
    """
    if not path.is_file():
        return False
    try:
        return count_records(path) == length
    except RuntimeError:  # array_record raises it on a file that is no shard
        return False


def finish(out: Path, identity: dict[str, Any]) -> list[int]:
    """Give the dataset its name where the shards of all processes are complete.

    Returns the shards that are missing.
    """
    with locks.wait(_lock(out)):
        if complete(out, identity):  # another process may have finished it meanwhile
            return []
        lacking = missing(out, identity)
        if not lacking:
            staging, lengths = partial(out), identity["records"]["lengths"]
            # locks that processes hold until they end, after their share is done
            for place in staging.glob(".*"):
                shutil.rmtree(place, ignore_errors=True)
            paths = [shard_path(out, k, identity) for k in range(len(lengths))]
            describe(staging, paths, lengths, name=NAME, features=FEATURES, about=ABOUT)
            replace_directory(staging, out)
    return lacking


def _lock(out: Path) -> Path:
    """Return the lock file beside `out`, for which the other processes wait.

    On a file system without locks nobody waits. Of two processes that end at once one then fails,
    and its command continues when it is given again.
    """
    return out.with_name(f".{out.name}.lock")
