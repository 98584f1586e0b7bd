"""The passes of a build in sequence: scan, decide, write, publish.

Each resumes where a killed build stopped.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apache_beam import Create, ParDo, Reshuffle
from apache_beam.options.pipeline_options import PipelineOptions

from data_pipeline.builder import inputs, publish, report
from data_pipeline.builder.beam import run, workers
from data_pipeline.builder.blocklist import read_blocked
from data_pipeline.builder.checks import check_bad, check_figures
from data_pipeline.builder.inputs import Unit
from data_pipeline.builder.scan import Scan
from data_pipeline.builder.select import decide
from data_pipeline.builder.settings import BuildSettings
from data_pipeline.builder.workspace import DECIDE, DECIDED, PLAN, SCAN, SHARDS, Work
from data_pipeline.builder.write import WriteShard
from data_pipeline.images.perceptual_hash import band_count
from data_pipeline.io import locks, storage
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_length
from data_pipeline.records.array_records import check_replaceable

VERSION = 2  # version of the passes' files: a build with files of another version starts over


def build(
    units: list[Unit],
    out: str,
    settings: BuildSettings,
    options: PipelineOptions,
    *,
    overwrite: bool,
) -> dict[str, Any]:
    """Build the dataset `out` from `units`; return report.json, with {"seconds": {pass: s}}.

    Until the end, OUT.build holds what is done so far. A later build of the same inputs uses it,
    and uses its scan also where only filters have changed.

    Raises:
        InputError: `out` exists, too much of the input is bad, a filter's field cannot be
            understood or is missing everywhere, nothing is left, or the inputs change meanwhile.
        OSError: something could not be written.
    """
    work = Work(out.rstrip("/") + ".build")
    filters = settings.filters
    blocked = read_blocked(filters.blocked_sources) if filters.blocked_sources else ()
    plan = _plan(units, settings)
    with _alone(work), _claimed(out):
        if not overwrite and _published(out, plan):
            _remove(work)
            return {**Work(out).read(report.JSON_NAME), "seconds": {}}
        if not storage.is_remote(out):
            check_replaceable(Path(out), overwrite)
        elif storage.exists(storage.join(out, "dataset_info.json")):
            if not overwrite:
                raise InputError(
                    f"{out} already holds records; give --overwrite to replace them, or another"
                    " directory"
                )
            storage.remove(storage.names(out, ""))
        _keep_what_fits(work, plan)
        seconds: dict[str, float] = {}
        with _timed(seconds, "scan"):
            _scan(work, units, settings, options)
            items = check_bad(work, units, settings.max_bad_fraction)
        with _timed(seconds, "decide"):
            if work.read(DECIDED) != plan or len(
                work.done(DECIDE, "gz") & work.done(DECIDE, "json")
            ) < len(units):
                work.clear(DECIDE)
                run(
                    options,
                    lambda p: decide(
                        p,
                        units,
                        work,
                        filters,
                        blocked,
                        bands=band_count(items),
                        metadata=list(settings.metadata),
                        join_on=settings.join_on,
                    ),
                    ("decide", len(units), "unit", lambda: len(work.done(DECIDE, "gz"))),
                )
                work.write(DECIDED, plan)
        figures = publish.merged(work, len(units))
        check_figures(figures, settings)
        with _timed(seconds, "write"):
            groups = inputs.groups(units, settings.shard_bytes)
            _write(work, units, groups, options)
        with _timed(seconds, "report"):
            told = report.summary(figures)
            files = {
                report.JSON_NAME: publish.as_bytes(told),
                report.HTML_NAME: report.page(figures, filters, Path(out).name).encode(),
                publish.BUILD: publish.as_bytes(
                    {
                        **plan,
                        "settings": vars(filters),
                        "inputs": sorted({unit.path for unit in units}),
                    }
                ),
            }
            publish.finish(work, out, len(groups), files)
        _remove(work)
    return {**told, "seconds": seconds}


def _plan(units: list[Unit], settings: BuildSettings) -> dict[str, Any]:
    filters = settings.filters
    tables = [
        [path, *file]
        for pattern in settings.metadata
        for path, file in storage.files(pattern).items()
    ]
    return {
        "version": VERSION,
        "units": inputs.fingerprint(units),
        "scan": [filters.max_bytes, filters.max_pixels],
        "filters": filters.fingerprint(),
        "metadata": [settings.join_on, *tables],
        "shard_bytes": settings.shard_bytes,
    }


def _published(out: str, plan: dict) -> bool:
    """Return whether `out` is what this build would make: it was killed after publishing."""
    told = Work(out).read(publish.BUILD)
    return isinstance(told, dict) and {name: told.get(name) for name in plan} == plan


def _keep_what_fits(work: Work, plan: dict) -> None:
    """Remove files of an earlier, killed build that this one cannot use."""
    old = work.read(PLAN) or {}
    same = {name: old.get(name) == plan[name] for name in plan}
    if not (same["version"] and same["units"] and same["scan"]):
        work.clear(SHARDS, DECIDE, SCAN)
    elif not all(same.values()):
        work.clear(SHARDS, DECIDE)
    work.write(PLAN, plan)


def _scan(work: Work, units: list[Unit], settings: BuildSettings, options: PipelineOptions) -> None:
    done = work.done(SCAN, "gz")
    pending = [(number, unit) for number, unit in enumerate(units) if number not in done]
    if not pending:
        return
    threads = settings.threads or max(1, (os.cpu_count() or 1) // workers(options))
    doing = Scan(work, settings.filters.max_bytes, settings.filters.max_pixels, threads)
    run(
        options,
        lambda p: p | Create(pending) | Reshuffle() | ParDo(doing),
        ("scan", *_progress(units, lambda: work.done(SCAN, "gz"))),
    )


def _write(work: Work, units: list[Unit], groups: list[range], options: PipelineOptions) -> None:
    done = work.done(SHARDS, "json")
    pending = [
        (number, [(unit, units[unit]) for unit in group])
        for number, group in enumerate(groups)
        if number not in done
    ]
    if not pending:
        return

    def written() -> set[int]:
        return {unit for group in work.done(SHARDS, "json") for unit in groups[group]}

    run(
        options,
        lambda p: p | Create(pending) | Reshuffle() | ParDo(WriteShard(work)),
        ("write", *_progress(units, written)),
    )


def _progress(units: list[Unit], done) -> tuple[int, str, Any]:
    unit = "B" if all(unit.kind in (inputs.TAR, inputs.PARQUET) for unit in units) else "file"
    sizes = [each.size if unit == "B" or each.parts else 1 for each in units]
    return sum(sizes), unit, lambda: sum(sizes[number] for number in done())


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 2)


@contextmanager
def _alone(work: Work) -> Iterator[None]:
    """Keep a second build out of the same directory, where it is on a local file system."""
    if storage.is_remote(work.folder):
        yield
        return
    folder = Path(work.folder)
    check_length(folder, "--out")
    try:
        if folder.exists() and not (folder / "lock").exists() and any(folder.iterdir()):
            raise InputError(
                f"{folder} exists and does not belong to a build; move it, or give another --out"
            )
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as e:
        raise InputError(f"{folder} cannot be created ({e.strerror}); give another --out") from e
    with lock:
        if not locks.take(lock.fileno(), folder / "lock"):
            raise InputError(
                f"{folder} belongs to a running build; wait for it, or give another --out"
            )
        for left in folder.glob("writing-*"):
            shutil.rmtree(left, ignore_errors=True)
        try:
            yield
        finally:
            # the build was refused before it did anything
            if folder.exists() and [path.name for path in folder.iterdir()] == ["lock"]:
                shutil.rmtree(folder)


@contextmanager
def _claimed(out: str) -> Iterator[None]:
    """Keep all other writers of datasets away from `out`, where it is on a local file system."""
    if storage.is_remote(out):
        yield
        return
    with locks.hold(Path(f"{out.rstrip('/')}.partial"), "--out"):
        yield


def _remove(work: Work) -> None:
    work.clear(SHARDS, DECIDE, SCAN)
    if not storage.is_remote(work.folder):
        shutil.rmtree(work.folder)
