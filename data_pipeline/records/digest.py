"""Which dataset this is, wherever it lies: what a copy or a moved directory shares, and no other
dataset has.
"""

import concurrent.futures
import hashlib
import json
from pathlib import Path
from typing import Any

from data_pipeline.io.errors import InputError
from data_pipeline.records.records import Record, RecordSource, open_records

SAMPLED = 64  # records that are read, evenly spread
FIELDS = ("key", "sha256", "caption", "recaption")  # of each


def dataset_content(directory: str | Path) -> dict[str, Any]:
    """What tells a dataset of records from another, as JSON: a digest of its shards' names, sizes
    and numbers of records, and one of each of some records, None of one that cannot be read.

    Raises InputError as `open_records` does.
    """
    path, records = Path(directory), open_records(directory)
    chosen = sorted({i * (len(records) - 1) // (SAMPLED - 1) for i in range(SAMPLED)})
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        sampled = list(pool.map(lambda i: _record_digest(records, i), chosen))
    return {"shards": json_digest([_sizes(path), list(records.lengths)]), "sampled": sampled}


def companion_content(directory: str | Path) -> dict[str, Any]:
    """`dataset_content` of a companion: of its shards, and of what it says that it was made of."""
    path = Path(directory)
    try:
        made_of = json.loads((path / "encoded.json").read_text())
    except (OSError, ValueError):  # who opens it says so
        made_of = None
    return {"shards": json_digest(_sizes(path)), "made_of": json_digest(made_of)}


def alike(ours: Any, theirs: Any) -> bool:
    """Whether two contents are of one dataset. Records that one of them could not read are left
    out: damage, or its repair, makes no other dataset.
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(alike(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(alike, ours, theirs))
    return ours == theirs or None in (ours, theirs)


def json_digest(value: Any) -> str:
    """A SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _sizes(path: Path) -> list[tuple[str, int]]:
    return sorted((one.name, one.stat().st_size) for one in path.glob("*.array_record-*"))


def _record_digest(records: RecordSource, i: int) -> str | None:
    try:
        record: Record = records[i]
    except InputError:
        return None
    return json_digest([record[name] for name in FIELDS])[:16]
