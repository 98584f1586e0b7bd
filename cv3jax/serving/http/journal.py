"""The journal of jobs: a SQLite database in write-ahead mode, which outlives the process.

A job is in it before its client hears that it was accepted. Each of its pictures gets a row when
its file is on the disk. Whatever ends the process, the next one draws the pictures without a row.
Each row has a digest of its fields. A changed byte is noticed when the journal is opened, by that
digest or by SQLite's own check.
"""

import contextlib
import errno
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cv3jax.serving.http.plan import Plan
from data_pipeline.io.bounded_json import parse_json
from data_pipeline.io.errors import InputError, first_line, machine_error

VERSION = 2  # version 1 has no digests
# SQLite's errors that may be gone later, as the system's; another program may lock the journal
_TRY_AGAIN = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
    sqlite3.SQLITE_LOCKED: errno.EBUSY,
}
ACCEPTED, DONE, FAILED, CANCELLED = "accepted", "done", "failed", "cancelled"
_TABLES = """
create table jobs (
    id text primary key, owner text not null, retry text, request text not null,
    plan text not null, accepted real not null, state text not null, ended real,
    message text not null default '', code text not null default '');
create unique index by_retry on jobs (owner, retry) where retry is not null;
create index by_state on jobs (state, ended);
create table pictures (
    job text not null references jobs (id) on delete cascade, number integer not null,
    file text, size integer not null, about text not null, base text,
    primary key (job, number));
create unique index by_file on pictures (file) where file is not null;
create unique index by_base on pictures (base) where base is not null;
"""
_DIGESTS = """
alter table jobs add column digest text;
alter table pictures add column digest text;
"""
_COLUMNS = {
    "jobs": "id, owner, retry, request, plan, accepted, state, ended, message, code",
    "pictures": "job, number, file, size, about, base",
}


class PictureRow(NamedTuple):
    """A picture that is drawn. `file` is its name, None where the safety check withheld it.

    `base` is the name of the base's own picture, which is kept where previews are.
    """

    number: int
    file: str | None
    size: int  # bytes
    about: dict[str, Any]  # what the answer says of it
    base: str | None = None

    @property
    def files(self) -> list[str]:
        """The names of its files."""
        return [name for name in (self.file, self.base) if name is not None]


class Row(NamedTuple):
    """A job. `retry` is the client's Idempotency-Key, and `request` the hash of what it sent."""

    id: str
    owner: str
    retry: str | None
    request: str
    plan: Plan
    accepted: float  # seconds since the epoch, as is `ended`
    state: str = ACCEPTED
    ended: float | None = None
    message: str = ""  # of a job that failed
    code: str = ""


class Journal:
    """The jobs below a directory. Every method may be called from any thread, and may wait.

    Raises OSError where the disk is full or fails.
    """

    def __init__(self, path: Path):
        """Open the journal at `path`, or make it. Raises InputError where it is none of ours."""
        self._path, self._lock = path, threading.RLock()
        with self._naming():
            # one transaction at a time, begun by hand
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = full")
            self._db.execute("pragma foreign_keys = on")
            version = self._db.execute("pragma user_version").fetchone()[0]
            new = {0: _TABLES + _DIGESTS, 1: _DIGESTS}.get(version)
            if new is not None:
                self._db.executescript(f"begin; {new} pragma user_version = {VERSION}; commit;")
            elif version != VERSION:
                raise InputError(
                    f"{path} is a journal of version {version}, and this program reads {VERSION};"
                    " give another --workdir"
                )
            self._check()

    def _check(self) -> None:
        """Raise InputError where the journal is not as it was written."""
        found = self._db.execute("pragma integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise self._damaged(" ".join(found.split())[:80])
        for table, columns in _COLUMNS.items():
            for *row, digest in self._db.execute(f"select {columns}, digest from {table}"):
                if digest not in (None, _digest(row)):  # none: of version 1
                    raise self._damaged(f"a row of its {table} differs from what was written")

    def _damaged(self, said: str) -> InputError:
        return InputError(
            f"{self._path} is damaged: {said}; give another --workdir, or move the journal and the"
            " pictures beside it away"
        )

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def add(self, row: Row) -> None:
        """Write a job that is accepted."""
        plan = json.dumps(row.plan.to_json())
        with self._changing() as db:
            db.execute(
                "insert into jobs values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, null)",
                (*row[:4], plan, *row[5:]),
            )
            _sign(db, "jobs", "id = ?", row.id)

    def add_picture(self, job: str, picture: PictureRow) -> None:
        """Write that a picture of a job is drawn. One that is already written stays."""
        with self._changing() as db:
            added = db.execute(
                "insert or ignore into pictures values (?, ?, ?, ?, ?, ?, null)",
                (job, *picture[:3], json.dumps(picture.about), picture.base),
            )
            if added.rowcount == 1:
                _sign(db, "pictures", "job = ? and number = ?", job, picture.number)

    def end(self, job: str, state: str, now: float, message: str = "", code: str = "") -> bool:
        """Write how a job ended; one that ended before stays so. Returns whether it was written."""
        with self._changing() as db:
            changed = db.execute(
                "update jobs set state = ?, ended = ?, message = ?, code = ?"
                " where id = ? and state = ?",
                (state, now, message, code, job, ACCEPTED),
            )
            if changed.rowcount != 1:
                return False
            _sign(db, "jobs", "id = ?", job)
            return True

    def find(self, job: str) -> Row | None:
        """Return a job, or None."""
        return next(iter(self._rows("id = ?", job)), None)

    def whole(self, job: str) -> tuple[Row, list[PictureRow]] | None:
        """Return a job and its drawn pictures as they are at one moment, or None."""
        with self._lock:
            row = self.find(job)
            return None if row is None else (row, self.pictures(job))

    def find_retry(self, owner: str, retry: str) -> Row | None:
        """Return the job that an owner's Idempotency-Key began, or None."""
        return next(iter(self._rows("owner = ? and retry = ?", owner, retry)), None)

    def unfinished(self) -> list[Row]:
        """Return the jobs that did not end, in the order in which they were accepted."""
        return self._rows("state = ? order by accepted, rowid", ACCEPTED)

    def pictures(self, job: str) -> list[PictureRow]:
        """Return the drawn pictures of a job by number."""
        with self._reading() as db:
            found = db.execute(
                "select number, file, size, about, base from pictures where job = ?"
                " order by number",
                (job,),
            ).fetchall()
        with self._understanding():
            return [PictureRow(*row[:3], parse_json(row[3], nan=True), row[4]) for row in found]

    def has_file(self, file: str) -> bool:
        """Return whether a picture of that name is kept."""
        with self._reading() as db:
            found = db.execute("select 1 from pictures where file = ? or base = ?", (file, file))
            return found.fetchone() is not None

    def old_files(self, before: float) -> list[str]:
        """Return the names of the files of the jobs that ended before a time."""
        old = "select id from jobs where state != ? and ended < ?"
        with self._reading() as db:
            files = db.execute(
                f"select file, base from pictures where job in ({old})", (ACCEPTED, before)
            ).fetchall()
        return [name for row in files for name in row if name is not None]

    def forget(self, before: float) -> None:
        """Remove the jobs that ended before a time."""
        with self._changing() as db:
            db.execute("delete from jobs where state != ? and ended < ?", (ACCEPTED, before))

    def known(self) -> tuple[set[str], set[str]]:
        """Return the ids of all jobs that did not end, and the names of all files."""
        with self._reading() as db:
            jobs = db.execute("select id from jobs where state = ?", (ACCEPTED,)).fetchall()
            files = db.execute("select file, base from pictures").fetchall()
        return {job for (job,) in jobs}, {name for row in files for name in row} - {None}

    def _rows(self, where: str, *values: Any) -> list[Row]:
        with self._reading() as db:
            found = db.execute(
                f"select {_COLUMNS['jobs']} from jobs where {where}", values
            ).fetchall()
        with self._understanding():
            plans = [Plan.from_json(parse_json(row[4], nan=True)) for row in found]
        return [Row(*row[:4], plan, *row[5:]) for row, plan in zip(found, plans, strict=True)]

    @contextlib.contextmanager
    def _understanding(self) -> Iterator[None]:
        """Raise InputError where a row is not what this class has written."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError) as e:
            raise InputError(
                f"{self._path} is damaged: a job in it cannot be read ({first_line(e, 80)}); give"
                " another --workdir"
            ) from e

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._naming():
            yield self._db

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Yield the database in a transaction, which is on the disk when the block ends."""
        with self._reading() as db:
            db.execute("begin immediate")
            try:
                yield db
                db.execute("commit")
            except BaseException:
                # where a write failed for want of room, SQLite has rolled back already
                if db.in_transaction:
                    db.execute("rollback")
                raise

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Raise what the disk is to blame for as OSError, and a damaged journal as InputError."""
        try:
            yield
        except sqlite3.IntegrityError:  # a name that is taken
            raise
        except sqlite3.OperationalError as e:
            # Python's own errors of this type, of a text that is not UTF-8, have no code
            if code := _TRY_AGAIN.get(getattr(e, "sqlite_errorcode", 0) & 0xFF):
                raise OSError(code, os.strerror(code), str(self._path)) from e
            raise machine_error(e, self._path) or InputError(f"{self._path}: {e}") from e
        except (sqlite3.DatabaseError, UnicodeError) as e:  # the latter of a damaged schema
            raise InputError(
                f"{self._path} is no journal, or damaged ({first_line(e)}); give another --workdir"
            ) from e


def _digest(row: Sequence[Any]) -> str:
    """Return the digest of a row's fields, as SQLite returns them."""
    return hashlib.sha256(json.dumps(list(row), default=repr).encode()).hexdigest()[:32]


def _sign(db: sqlite3.Connection, table: str, where: str, *key: Any) -> None:
    """Write the digest of a row that was just written."""
    row = db.execute(f"select {_COLUMNS[table]} from {table} where {where}", key).fetchone()
    db.execute(f"update {table} set digest = ? where {where}", (_digest(row), *key))
