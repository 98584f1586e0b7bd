"""Digests that identify a dataset in any place: copies have the same, other datasets do not."""

import concurrent.futures
import hashlib
import json
from pathlib import Path
from typing import Any

from data_pipeline.io.bounded_json import load_json
from data_pipeline.io.errors import InputError
from data_pipeline.records.records import Record, RecordSource
from data_pipeline.records.remote import NO_CACHE, CacheSettings, RemoteRecords, open_any
from data_pipeline.records.repeats import repeats_of

SAMPLED = 64  # records that are read, evenly spaced
FIELDS = ("key", "sha256", "caption", "recaption")  # the fields of a record in its digest


def dataset_content(directory: str | Path, cache: CacheSettings = NO_CACHE) -> dict[str, Any]:
    """Return what identifies a dataset of records, as JSON.

    It is a digest of the names, sizes and numbers of records of the shards, one digest for each of
    some records, None for a record that cannot be read, and one of the records' repeats where they
    have some. No record of a bucket is read, because its shard would be fetched; `cache` is the
    bucket's. Raises InputError as `open_any` does.
    """
    records = open_any(directory, cache)
    chosen = sorted({i * (len(records) - 1) // (SAMPLED - 1) for i in range(SAMPLED)})
    if isinstance(records, RemoteRecords):
        sizes, sampled = sorted(records.files), [None] * len(chosen)
    else:
        sizes = _sizes(Path(directory))
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            sampled = list(pool.map(lambda i: _record_digest(records, i), chosen))
    found = {"shards": json_digest([sizes, list(records.lengths)]), "sampled": sampled}
    repeats = repeats_of(records)
    return found if repeats is None else {**found, "repeats": json_digest(repeats.tolist())}


def cache_content(directory: str | Path) -> dict[str, Any]:
    """Return what identifies a feature cache: digests of its shards and of its encoded.json."""
    path = Path(directory)
    try:
        made_of = load_json(path / "encoded.json")
    except (OSError, ValueError):  # opening the cache reports the error
        made_of = None
    return {"shards": json_digest(_sizes(path)), "made_of": json_digest(made_of)}


def alike(ours: Any, theirs: Any) -> bool:
    """Return whether two contents are of one dataset.

    Records that one of them could not read are not compared: damage and its repair do not make
    another dataset.
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(alike(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(alike, ours, theirs))
    return ours == theirs or None in (ours, theirs)


def json_digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _sizes(path: Path) -> list[tuple[str, int]]:
    """Return (name, bytes) of each shard, sorted."""
    return sorted((one.name, one.stat().st_size) for one in path.glob("*.array_record-*"))


def _record_digest(records: RecordSource, i: int) -> str | None:
    """Return the digest of a record, or None where it cannot be read."""
    try:
        record: Record = records[i]
    except InputError:
        return None
    return json_digest([record[name] for name in FIELDS])[:16]
