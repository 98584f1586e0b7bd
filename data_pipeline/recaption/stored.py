"""Recaptioning into a bucket: a dataset's address in place of its directory.

Beside the dataset `OUT` are `OUT.recaption`, the journals, and `OUT.parts`, what several processes
have done of it. Each is published under the names that it has on a disk. A process works in a
directory of its machine, so the same command resumes on another one.
"""

import functools
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from data_pipeline.io.bounded_json import OWN, parse_json
from data_pipeline.io.errors import InputError, counted
from data_pipeline.io.objects import fetching, lease, snapshots
from data_pipeline.io.objects.outputs import dataset, output
from data_pipeline.io.objects.places import mark
from data_pipeline.io.objects.store import Store, address_of
from data_pipeline.io.progress import say
from data_pipeline.io.shares import Share
from data_pipeline.recaption.output import REPORT
from data_pipeline.recaption.parts import Parts, Stored
from data_pipeline.recaption.run import WHOLE, recaption
from data_pipeline.recaption.settings import RecaptionSettings

_PART = re.compile(r"part_\d{1,6}_of_(\d{1,6})", re.ASCII)
_LOOK = 1.0  # seconds between two looks whether another process has published


def recaption_any(
    data: str | Path,
    out: Path,
    settings: RecaptionSettings,
    *,
    triplets: Path | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
    share: Share = WHOLE,
) -> dict[str, Any]:
    """Do as `recaption` does, where `out` may be an address.

    The last of several processes fetches what the others have made, and publishes all of it.
    Raises as `recaption` does; InputError where another process has the same part.
    """
    data, address = address_of(data) or data, address_of(out)
    given = {"triplets": triplets, "share": share, "retry_failed": retry_failed}
    if address is None:
        return recaption(data, out, settings, overwrite=overwrite, **given)
    if address == data:
        raise InputError(f"--out {address} is the dataset itself; give another address")
    if address.count("/") < 3:
        raise InputError(f"--out {address}: this is a whole bucket; give an address in it")
    journals, store = f"{address}.recaption", Store(address)
    _check_journals(journals, share)
    tree = snapshots.read_tree(store)
    there = (_report(store) or {}) if tree and tree[0] else None
    replaces = overwrite or (retry_failed and bool(there))
    name = f"part_{share.index}_of_{share.count}"
    own = journals if share.count == 1 else f"{journals}/{name}"
    work = mark(f"{address}.parts/{name}") / "recaption" / address.rpartition("/")[2]
    with output(own) as journal:
        stored = Stored(address, journal, there, functools.partial(_exchange, address))
        if share.count == 1 and settings.limit is None and not replaces:
            stored.check()
        shutil.rmtree(work, ignore_errors=True)  # of a killed process; the journal has the answers
        work.parent.mkdir(parents=True, exist_ok=True)
        report = recaption(data, work, settings, overwrite=replaces, stored=stored, **given)
        if settings.limit is None and work.is_dir():
            report = _publish(store, work, report, replaces)
            shutil.rmtree(work.parent, ignore_errors=True)
    return report


def _check_journals(address: str, share: Share) -> None:
    """Raise InputError where there are journals of another number of parts."""
    above, _, name = address.rpartition("/")
    found = (each.split("/")[1:] for each in Store(above).some(f"{name}/", 1000))
    counts = {1 if len(each) == 1 else int(of[1]) for each in found if (of := _count(each))}
    if others := sorted(counts - {share.count}):
        advice = "leave --part out" if others[0] == 1 else f"give --part I/{others[0]}"
        raise InputError(
            f"{address} has answers of {counted(others[0], 'part')}, not {share.count}; {advice},"
            " or another --out"
        )


def _count(names: list[str]) -> Any:
    return _PART.fullmatch(names[0]) if len(names) > 1 else names == ["journal.jsonl"]


def _report(store: Store, name: str = REPORT) -> dict[str, Any] | None:
    """Return the report of what is published there, or None where there is none."""
    tree = snapshots.read_tree(store)
    found = store.read(name) if tree and name in tree[0] else None
    value = parse_json(found.data, OWN) if found else None
    return value if isinstance(value, dict) else None


def _exchange(address: str, parts: Parts) -> None:
    """Send this process's part to the bucket, and get the others: all of them, or their reports."""
    index, count = parts.share
    places = [f"{address}.parts/part_{i}_of_{count}" for i in range(count)]
    with output(places[index]) as sent:
        for path in parts.own():
            (sent / path.name).unlink(missing_ok=True)
            os.link(path, sent / path.name)
    others = {i: Store(places[i]) for i in range(count) if i != index}
    reports = {i: _report(store, f"part_{i}.json") for i, store in others.items()}
    if all(one and one.get("job") == parts.job for one in reports.values()):
        say(f"cv3jax: fetching {address}.parts")
        for i, store in others.items():
            fetching.fetch(store, parts.place, functools.partial(_but, f"part_{i}.json"))
    for i, store in others.items():
        if reports[i]:
            fetching.fetch(store, parts.place, functools.partial(_only, f"part_{i}.json"))


def _but(name: str, files: snapshots.Files) -> snapshots.Files:
    return {each: about for each, about in files.items() if each not in (name, "job.json")}


def _only(name: str, files: snapshots.Files) -> snapshots.Files:
    return {name: files[name]} if name in files else {}


def _publish(store: Store, work: Path, report: dict, replaces: bool) -> dict[str, Any]:
    """Publish the dataset at `work`, unless another process of the job does. Returns the report."""

    def move(place: Path) -> dict[str, Any]:
        place.parent.mkdir(parents=True, exist_ok=True)
        os.rename(work, place)
        return report

    job, said = report.get("job"), False
    while True:
        there = _report(store)
        if job and there == report:
            break
        try:
            dataset(Path(store.address), move, [job, report], overwrite=replaces)
            break
        except InputError:
            if not (job and (lease.held(store) or _report(store) == report)):
                raise
        if not said:
            say(f"cv3jax: another process publishes {store.address}; this one waits for it")
        said = True
        time.sleep(_LOOK)
    for i in range(report.get("parts", 0)):
        done = Store(f"{store.address}.parts/part_{i}_of_{report['parts']}")
        done.remove(sorted(done.sizes("")))
    return report
