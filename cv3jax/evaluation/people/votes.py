"""The votes: a SQLite database in write-ahead mode, which outlives the process.

A vote is on the disk before its rater hears that it was taken. The study is in it too, so that the
file alone can be analysed.
"""

import contextlib
import errno
import json
import math
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cv3jax.evaluation.people.study import KINDS, TRIAL, Shown, Study
from data_pipeline.io.bounded_json import OWN, parse_json
from data_pipeline.io.errors import InputError, first_line, machine_error
from data_pipeline.io.regular_files import check_regular

VERSION, MARK = 1, 0x43563356  # pragma user_version, pragma application_id
FIRST, TIE, SECOND = -1, 0, 1  # an answer: the left picture, neither, the right one
_MAGIC = b"SQLite format 3\0"
_TRY_AGAIN = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
    sqlite3.SQLITE_LOCKED: errno.EBUSY,
}
_TABLES = f"""
pragma application_id = {MARK};
create table study (id integer primary key check (id = 1), said text not null);
create table raters (name text primary key, token text not null unique, since real not null);
create table votes (
    rater text not null references raters (name), place integer not null, pair integer not null,
    kind text not null, shown_left integer not null, shown_right integer not null, before integer,
    alignment integer not null check (alignment in (-1, 0, 1)),
    quality integer not null check (quality in (-1, 0, 1)),
    seconds real not null, at real not null, changes integer not null default 0,
    primary key (rater, place));
"""


class Vote(NamedTuple):
    """A rater's answers on a pair.

    Attributes:
        place: in the rater's order, from 0 on.
        shown: the pair, its sides, and whether it is a control.
        alignment, quality: FIRST, TIE or SECOND: the left picture, neither, the right one.
        seconds: for which the pair was shown.
        at: seconds since the epoch.
        changes: how often the rater changed the answers.
    """

    rater: str
    place: int
    shown: Shown
    alignment: int
    quality: int
    seconds: float
    at: float
    changes: int = 0


class Votes:
    """The votes in a file. Every method may be called from any thread, and may wait.

    Raises OSError where the disk is full or fails.
    """

    def __init__(self, path: Path, study: Study | None = None):
        """Open the votes at `path`, or make them for a study.

        study: None reads the one in the file, which must be there. Raises InputError where the file
        is none of ours, or is of another study.
        """
        self._path, self._lock = path, threading.RLock()
        if study is None or path.exists():
            _check_file(path)
        with self._naming():
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("pragma busy_timeout = 10000")
            self._db.execute("pragma trusted_schema = off")
            version = self._db.execute("pragma user_version").fetchone()[0]
            mark = self._db.execute("pragma application_id").fetchone()[0]
            kinds = [row[0] for row in self._db.execute("select type from sqlite_master")]
            other = (version, mark) != (VERSION, MARK) and (study is None or version or kinds)
            if other or not {*kinds} <= {"table", "index"}:  # a view or a trigger is code
                raise InputError(f"--votes {path} has no votes of this program; give another file")
            if study is not None:
                self._db.execute("pragma journal_mode = wal")
                self._db.execute("pragma synchronous = full")
                if version == 0:
                    made = f"begin; {_TABLES} pragma user_version = {VERSION}; commit;"
                    self._db.executescript(made)
        self.study = self._study(study)

    def _study(self, study: Study | None) -> Study:
        with self._naming():
            if study is not None:
                self._db.execute(
                    "insert or ignore into study values (1, ?)", (json.dumps(study.to_json()),)
                )
            row = self._db.execute("select said from study").fetchone()
        try:
            kept = Study.from_json(parse_json(row[0], OWN))
        except (TypeError, ValueError) as e:  # ParseError is one
            raise InputError(f"--votes {self._path} is damaged ({e}); give a backup") from e
        if study is not None and kept != study:
            raise InputError(f"--votes {self._path} {_difference(kept, study)}; give another file")
        return kept

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def enter(self, name: str) -> str:
        """Return the token of a rater, who is added where the name is new."""
        with self._changing() as db:
            token = secrets.token_urlsafe(18)
            db.execute("insert or ignore into raters values (?, ?, ?)", (name, token, time.time()))
            return db.execute("select token from raters where name = ?", (name,)).fetchone()[0]

    def rater(self, token: str) -> str | None:
        """Return the name of the rater with a token, or None."""
        with self._lock, self._naming():
            row = self._db.execute("select name from raters where token = ?", (token,)).fetchone()
        return row and row[0]

    def raters(self) -> list[str]:
        """Return the names of all raters, in the order in which they came."""
        with self._lock, self._naming():
            return [row[0] for row in self._db.execute("select name from raters order by rowid")]

    def cast(self, vote: Vote) -> None:
        """Write a vote; a second one of the rater at the same place replaces the first."""
        with self._changing() as db:
            db.execute(
                "insert into votes values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0) on conflict do"
                " update set alignment = excluded.alignment, quality = excluded.quality,"
                " changes = changes + (alignment <> excluded.alignment or quality <>"
                " excluded.quality)",
                (vote.rater, vote.place, *vote.shown, *vote[3:7]),
            )

    def done(self, rater: str) -> int:
        """Return how many places of a rater's order have votes; they are the first ones."""
        with self._lock, self._naming():
            return self._db.execute(
                "select count(*) from votes where rater = ?", (rater,)
            ).fetchone()[0]

    def at(self, rater: str, place: int) -> Vote | None:
        """Return a rater's vote at a place, or None."""
        found = self._select("where rater = ? and place = ?", rater, place)
        return found[0] if found else None

    def all(self) -> list[Vote]:
        """Return all votes, by rater and place."""
        found = self._select("order by rater, place")
        places = {(vote.rater, vote.place) for vote in found}
        if any(
            vote.shown.kind != TRIAL and (vote.rater, vote.shown.before) not in places
            for vote in found
        ):
            raise InputError(f"--votes {self._path} is damaged (a vote is gone); give a backup")
        return found

    def _select(self, where: str, *values: object) -> list[Vote]:
        with self._lock, self._naming():
            rows = self._db.execute(
                "select rater, place, pair, kind, shown_left, shown_right, before, alignment,"
                f" quality, seconds, at, changes from votes {where}",
                values,
            ).fetchall()
        found = [Vote(*row[:2], Shown(*row[2:7]), *row[7:]) for row in rows]
        for vote in found:
            if said := wrong_vote(self.study, vote):
                raise InputError(f"--votes {self._path} is damaged ({said}); give a backup")
        return found

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._naming():
            self._db.execute("begin immediate")
            try:
                yield self._db
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Raise the system's error in place of SQLite's, and InputError on a damaged file."""
        try:
            yield
        except sqlite3.Error as e:
            code = _TRY_AGAIN.get(getattr(e, "sqlite_errorcode", 0) & 0xFF)
            if code is not None:
                raise OSError(code, first_line(e), str(self._path)) from e
            if failed := machine_error(e, self._path):
                raise failed from e
            raise InputError(f"--votes {self._path} cannot be used ({first_line(e)})") from e


def wrong_vote(study: Study, vote: Vote) -> str | None:
    """Return what is wrong with a vote that a file has, or None: its study cannot have it."""
    shown, pairs = vote.shown, study.pairs
    whole = all(type(n) is int for n in (vote.place, *vote[3:5], vote.changes, shown.pair))
    if not (whole and isinstance(vote.rater, str) and 0 <= shown.pair < len(pairs)):
        return "a vote is on no pair"
    if (shown.left, shown.right) not in (pairs[shown.pair][2:], pairs[shown.pair][:1:-1]):
        return "a vote is on other models than its pair has"
    before = None if shown.kind == TRIAL else shown.before
    if shown.kind not in KINDS or (before is None) != (shown.kind == TRIAL):
        return "a vote is of no kind"
    if before is not None and not (type(before) is int and 0 <= before < vote.place):
        return "a control shows nothing that was shown before"
    times = (vote.seconds, vote.at)
    if not all(type(n) in (int, float) and math.isfinite(n) for n in times):
        return "a vote has no time"
    return None


def _check_file(path: Path) -> None:
    """Raise InputError where there is no file, or one of another kind."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
    except OSError as e:
        raise machine_error(e, path) or InputError(f"--votes {path}: {e.strerror}") from e
    if head not in (_MAGIC, b""):
        raise InputError(f"--votes {path} is no SQLite file; give another file")


def _difference(kept: Study, given: Study) -> str:
    """Return in which way votes are of another study."""
    if kept.models != given.models:
        return f"compares {', '.join(kept.models)}"
    if kept.prompts != given.prompts or kept.each != given.each:
        return f"has votes on {len(kept.prompts)} other prompts, or on other numbers of pictures"
    if kept.pictures != given.pictures:
        return "has votes on other pictures of the same names"
    for name in ("seed", "controls", "limit"):
        if getattr(kept, name) != getattr(given, name):
            return f"was begun with --{name} {getattr(kept, name)}"
    return "is of another study"
