"""A recaptioned dataset that several processes make: who writes which shard, and when it appears.

Shard k of the input belongs to part k mod N, and the processes do not communicate. Each has a
journal of its own in `OUT.recaption/part_I_of_N`. When all its records have an answer, it writes
its shards into `OUT.parts` under their final names, and then its report. The process that finds
the reports of all parts describes the dataset, and renames it to OUT.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_pipeline.chat.answers import RETRYABLE
from data_pipeline.io import locks
from data_pipeline.io.bounded_json import load_json
from data_pipeline.io.errors import InputError, counted
from data_pipeline.io.files import json_bytes, replacing
from data_pipeline.io.shares import Share
from data_pipeline.io.staging import replace_directory
from data_pipeline.recaption import journal
from data_pipeline.recaption.output import REPORT
from data_pipeline.recaption.summary import merged
from data_pipeline.records.array_records import (
    ShardWriter,
    check_replaceable,
    describe,
    shard_name,
)
from data_pipeline.records.records import ABOUT, FEATURES, NAME, Record, RecordSource
from data_pipeline.records.sizes import sizes_of, write_sizes

_JOB = "job.json"
# the last four are of a process that was killed while it published
_OWN = re.compile(
    rf"{NAME}-.*\.array_record-.*|(job|part_\d+)\.json(\.tmp.*)?|part_\d+\.writing"
    rf"|dataset_info\.json.*|features\.json.*|sizes\.npy.*|{re.escape(REPORT)}"
)
_OF_PARTS = re.compile(r"(job|part_\d+)\.json|part_\d+\.writing")


def own_rows(lengths: tuple[int, ...], share: Share) -> dict[int, range]:
    """Return the records of each shard of this share: {shard: indices in the dataset}."""
    ends = list(itertools.accumulate(lengths))
    mine = range(share.index, len(lengths), share.count)
    return {k: range(ends[k] - lengths[k], ends[k]) for k in mine}


def journal_folder(out: Path, share: Share) -> Path:
    """Return the folder of this share's journal.

    Raises:
        InputError: there are journals of another number of parts, whose answers would be lost.
    """
    folder = out.with_name(f"{out.name}.recaption")
    name = "" if share.count == 1 else f"part_{share.index}_of_{share.count}"
    counts = {1} if _has_answers(folder) else set()
    for place in folder.glob("part_*_of_*") if folder.is_dir() else ():
        found = re.fullmatch(r"part_\d+_of_(\d{1,6})", place.name, re.ASCII)
        if found and _has_answers(place):
            counts.add(int(found[1]))
    if others := sorted(counts - {share.count}):
        advice = "leave --part out" if others[0] == 1 else f"give --part I/{others[0]}"
        raise InputError(
            f"{folder} has answers of {counted(others[0], 'part')}, not {share.count}; {advice}, or"
            " another --out"
        )
    return folder / name


def _has_answers(folder: Path) -> bool:
    """Return whether the journal in a folder has more than the line of what is asked."""
    path = folder / journal.NAME
    if not path.is_file():
        return False
    with path.open("rb") as lines:
        return bool(lines.readline() and lines.readline())


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a recaptioning has in a bucket.

    Attributes:
        address: of the dataset.
        journal: the folder of the journal, which is published while it grows.
        there: the report of the dataset that is there, {} where it has none; None without dataset.
        exchange: called when `OUT.parts` has this part, to send it and to get the others.
    """

    address: str
    journal: Path
    there: dict[str, Any] | None
    exchange: Callable[["Parts"], None]

    def check(self) -> None:
        """Raise InputError where a dataset is there."""
        if self.there is not None:
            raise InputError(
                f"--out {self.address} already holds a dataset; give --overwrite to replace it, or"
                " another address"
            )


class Parts:
    """The dataset `out` in the making, seen by the process of one share.

    Args:
        out: the dataset's directory, which appears when all parts are done.
        content: what identifies the input (`dataset_content`).
        source: the input.
        share: the share of this process.
        asked: what the answers depend on; all parts must have the same.
        stored: what is in a bucket, where `out` is of an address.

    Raises:
        InputError: there are fewer shards than processes.
    """

    def __init__(
        self,
        out: Path,
        content: dict[str, Any],
        source: RecordSource,
        share: Share,
        asked: dict[str, Any],
        stored: Stored | None = None,
    ):
        """Store the settings; `begin` makes the directory."""
        self.out, self.source, self.share = out, source, share
        self._stored = stored
        self._replaces, self._round = False, 0
        self.place = out.with_name(f"{out.name}.parts")
        self.rows = own_rows(source.lengths, share)
        if not self.rows:
            raise InputError(
                f"--part {share.index}/{share.count}: the dataset has {len(source.lengths)} shards,"
                " and each process takes whole ones; give at most as many parts as shards"
            )
        job = {"asked": asked, "parts": share.count, "data": content}
        self.job = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
        self._report = self.place / f"part_{share.index}.json"

    def complete(self) -> dict[str, Any] | None:
        """Return the report of `out` where that is the dataset of this job, or None."""
        if self._stored and self._stored.there and self._stored.there.get("job") == self.job:
            return self._stored.there
        if not (self.out / REPORT).is_file():
            return None
        report = load_json(self.out / REPORT)
        if not (isinstance(report, dict) and report.get("job") == self.job):
            return None
        for path in self.out.iterdir():  # left by a process that was killed after it published
            if _OF_PARTS.fullmatch(path.name):
                path.unlink(missing_ok=True)
        return report

    def begin(self, replaces: bool, again: bool) -> dict[str, Any] | None:
        """Make `OUT.parts`, and return the report where this part or all of them are done already.

        The process has its journal, so that no other one writes this part. replaces: a dataset at
        `out` is replaced. again: this part is made again if it is done.

        Raises:
            InputError: `out` is there, or `OUT.parts` is of another job or of something else.
        """
        self._replaces = replaces
        self.place.parent.mkdir(parents=True, exist_ok=True)
        with locks.wait(self._lock()):
            if not replaces and (whole := self.complete()):
                return whole
            check_replaceable(self.out, replaces)
            if self._stored and not replaces:
                self._stored.check()
            self.place.mkdir(exist_ok=True)
            names = sorted(path.name for path in self.place.iterdir())
            if foreign := [name for name in names if not _OWN.fullmatch(name)]:
                raise InputError(
                    f"{self.place} holds {foreign[0]!r}, which this command did not write; move it,"
                    " or give another --out"
                )
            if _JOB in names and load_json(self.place / _JOB) != self.job:
                if not replaces:
                    raise InputError(
                        f"{self.place} was begun with another model, dialogue, input or number of"
                        " parts; give those, another --out, or --overwrite"
                    )
                names = [path.unlink() for path in self.place.iterdir()] and []
            if _JOB not in names:
                with replacing(self.place / _JOB) as temporary:
                    temporary.write_bytes(json_bytes(self.job))
            if again and self._report.is_file():
                self._round = self.report().get("round", 0) + 1
                self._report.unlink()
        return self.report() if self._report.is_file() else None

    @contextlib.contextmanager
    def shard(self, k: int) -> Iterator[ShardWriter]:
        """Yield the writer of shard k, which gets its name when the block ends without an error."""
        path = self.place / f"part_{self.share.index}.writing"
        with ShardWriter(path, FEATURES) as writer:
            yield writer
        path.rename(self.place / shard_name(NAME, k, len(self.source.lengths)))

    def records(self, k: int) -> Iterator[Record]:
        """Yield the input's records of shard k."""
        for index in self.rows[k]:
            yield self.source[index]

    def report(self) -> dict[str, Any]:
        """Return the report of this part."""
        return load_json(self._report)

    def done(self, report: dict[str, Any]) -> None:
        """Write the report of this part, whose shards are all there."""
        with replacing(self._report) as temporary:
            temporary.write_bytes(json_bytes({**report, "job": self.job, "round": self._round}))

    def own(self) -> list[Path]:
        """Return the files of this part, which is done: its shards, then its report."""
        count = len(self.source.lengths)
        return [*(self.place / shard_name(NAME, k, count) for k in self.rows), self._report]

    def _lacking(self) -> list[int]:
        """Return the parts without a report of this job, or with failures that others asked again.

        A round is one --retry-failed. A part whose failures may not recur belongs to the last one.
        """
        paths = [self.place / f"part_{i}.json" for i in range(self.share.count)]
        found = [load_json(path) if path.is_file() else {} for path in paths]
        found = [one if one.get("job") == self.job else {} for one in found]
        last = max(one.get("round", 0) for one in found)
        return [
            i
            for i, one in enumerate(found)
            if not one or (one["round"] < last and not RETRYABLE.isdisjoint(one["reasons"]))
        ]

    def finish(self) -> tuple[dict[str, Any] | None, list[int]]:
        """Publish the dataset where all parts are done.

        Returns:
            (The report of the whole dataset, or None; the parts that are not done.)

        Raises:
            InputError: no record has a new caption, or something else is at `out` now.
        """
        if self._stored and self.place.is_dir():
            self._stored.exchange(self)
        with locks.wait(self._lock()):
            if not self.place.is_dir():  # another process has published it meanwhile
                return self.complete(), []
            if lacking := self._lacking():
                return None, lacking
            check_replaceable(self.out, self._replaces)
            paths = [self.place / f"part_{i}.json" for i in range(self.share.count)]
            report = {
                **merged([load_json(path) for path in paths]),
                "parts": self.share.count,
                "job": self.job,
                "journal": f"{self._stored.address if self._stored else self.out}.recaption",
            }
            del report["round"]
            if not report["recaptioned"]:
                raise InputError(
                    f"no record got a new caption: {', '.join(report['reasons'])}; see all reasons"
                    f" in the journals below {report['journal']}"
                )
            lengths = self.source.lengths
            shards = [self.place / shard_name(NAME, k, len(lengths)) for k in range(len(lengths))]
            describe(self.place, shards, lengths, name=NAME, features=FEATURES, about=ABOUT)
            write_sizes(self.place, sizes_of(self.source))
            (self.place / REPORT).write_bytes(json_bytes(report))
            replace_directory(self.place, self.out)
            self.complete()  # removes what is of the parts alone
        return report, []

    def _lock(self) -> Path:
        """Return the lock file beside `out`, for which the other processes wait."""
        return self.out.with_name(f".{self.out.name}.lock")
