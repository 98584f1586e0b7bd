"""The journal of a recaptioning: all answers, so that a killed run repeats no question.

It is a JSON Lines file that only grows. Its first line says what was asked of which model; a run
that asks something else is refused. Each further line is one event, which is handed to the
operating system before any question that depends on it is asked:

    {"event": "answer", "id": …, "key": …, "sha256": …, "turn": 0, "text": …,
        "attempts": 1, "tokens": [prompt, completion], "crc": …}
    {"event": "failed", "id": …, "key": …, "sha256": …, "turn": 2, "reason": …, "detail": …,
        "attempts": 6, "tokens": null, "crc": …}

`id` is a hash of key, sha256 and old caption: a record in which one of these changed is a different
one. `crc` is a CRC-32 of the line's other fields. A line that a kill left incomplete is removed at
the next start. The index in memory holds offsets and not texts: about 200 bytes per record.
"""

import dataclasses
import errno
import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

from data_pipeline.chat.answers import RETRYABLE, Answer, Failure
from data_pipeline.io import locks
from data_pipeline.io.bounded_json import parse_json
from data_pipeline.io.errors import InputError, first_line, naming
from data_pipeline.recaption.journal_lines import checked, sealed
from data_pipeline.records.records import Record

NAME = "journal.jsonl"


@dataclasses.dataclass
class Totals:
    """The counts of all requests that were answered, in this run and earlier ones.

    `unmeasured` is the number of answers without a count of tokens.
    """

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unmeasured: int = 0


def identify(record: Record) -> str:
    """Return the journal's id of a record."""
    parts = (record["key"], record["sha256"], record["caption"])
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


class Journal:
    """A journal, opened or created. A context manager; only one process can hold it.

    Args:
        folder: the folder of the journal.
        asked: what the answers depend on: {"model", "dialogue", …}, stored in the first line.
        turns: the number of questions of the dialogue.
        retry_failed: forget failures that a later request may not have; the answers before them
            stay.
        overwrite: rename a journal of other questions to journal.jsonl.old-N.

    Raises:
        InputError: the journal is of other questions (without `overwrite`), in use, or damaged, or
            the folder cannot be written.
        OSError: the disk is full or failing.
    """

    def __init__(
        self,
        folder: Path,
        asked: dict[str, Any],
        *,
        turns: int,
        retry_failed: bool = False,
        overwrite: bool = False,
    ):
        """Open or create the journal and read its index."""
        self.path = folder / NAME
        self.totals = Totals()
        # in the form that will be read: tuples are lists
        asked = parse_json(json.dumps(asked), nan=True)
        self._turns, self._retry_failed = turns, retry_failed
        self._ended: dict[bytes, int] = {}  # id → offset of the line that ended its dialogue
        self._going: dict[bytes, list[int]] = {}  # id → offsets of its answers so far
        self._dirty = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
        except OSError as e:
            raise InputError(
                f"{self.path} cannot be written ({e.strerror or first_line(e, 160)}); give another"
                " --out"
            ) from e
        try:
            found, answers = self._header()
            if found not in (None, asked):
                if answers and not overwrite:
                    raise InputError(
                        f"{self.path} belongs to another run ({_difference(found, asked)}); give"
                        " another --out, or --overwrite"
                    )
                if answers:
                    self._move_aside()
                # without answers, for example after a mistyped model, the journal starts anew
                os.ftruncate(self._file, 0)
            self._load(asked)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> "Journal":
        """Return the journal."""
        return self

    def __exit__(self, kind, value, traceback) -> None:
        """Write everything to the disk and close the file."""
        try:
            self.sync()
        finally:
            os.close(self._file)

    def answers(self, identity: str) -> list[str]:
        """Return the answers so far of a dialogue that has not ended, in order."""
        return [
            self._read(offset)["text"] for offset in self._going.get(bytes.fromhex(identity), [])
        ]

    def ended(self, identity: str) -> bool:
        """Return whether a dialogue has ended."""
        return bytes.fromhex(identity) in self._ended

    def result(self, identity: str) -> Answer | Failure | None:
        """Return how a dialogue ended: the caption, or why there is none; None while it has not."""
        if (offset := self._ended.get(bytes.fromhex(identity))) is None:
            return None
        line = self._read(offset)
        return (
            Answer(line["text"])
            if line["event"] == "answer"
            else Failure(line["reason"], line["detail"])
        )

    def write(
        self, record: Record, identity: str, turn: int, outcome: Answer | Failure, attempts: int
    ) -> None:
        """Append the result of a request.

        When this returns, the operating system has it, and killing the process cannot lose it.
        """
        line: dict[str, Any] = {
            "event": "answer" if isinstance(outcome, Answer) else "failed",
            "id": identity,
            "key": record["key"],
            "sha256": record["sha256"],
            "turn": turn,
        }
        line |= (
            {"text": outcome.text}
            if isinstance(outcome, Answer)
            else {"reason": outcome.reason, "detail": outcome.detail}
        )
        tokens = [outcome.tokens.prompt, outcome.tokens.completion] if outcome.tokens else None
        line |= {"attempts": attempts, "tokens": tokens}
        self._note(line, self._append(sealed(line)), forgiving=False)

    def sync(self) -> None:
        """Flush what was written to the disk, in case the machine goes down."""
        if self._dirty:
            self._dirty = False
            with naming(self.path):
                os.fsync(self._file)

    def _open(self) -> int:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if not locks.take(file, self.path):
                raise InputError(
                    f"{self.path} is in use by another process; wait for it, or give another --out"
                )
        except BaseException:
            os.close(file)
            raise
        return file

    def _move_aside(self) -> None:
        places = (self.path.with_name(f"{NAME}.old-{n}") for n in itertools.count(1))
        self.path.rename(next(place for place in places if not place.exists()))
        os.close(self._file)
        self._file = self._open()

    def _header(self) -> tuple[dict[str, Any] | None, bool]:
        """Return (the first line's content, None where it is incomplete; whether others follow)."""
        with self.path.open("rb") as lines:
            first, second = lines.readline(), lines.readline()
        if not first.endswith(b"\n"):
            return None, False
        try:
            begin = parse_json(first, nan=True)
            if not isinstance(begin, dict) or not isinstance(begin.get("asked"), dict):
                raise ValueError("it does not say what was asked")
        except ValueError as e:
            raise self._damaged(1) from e
        return begin["asked"], bool(second)

    def _load(self, asked: dict[str, Any]) -> None:
        end = 0
        with self.path.open("rb") as lines:
            for number, text in enumerate(lines, 1):
                if not text.endswith(b"\n"):  # a kill left it incomplete
                    break
                try:
                    if number > 1:
                        line = checked(parse_json(text, surrogates=True), self._turns)
                        self._note(line, end, forgiving=self._retry_failed)
                except ValueError as e:
                    raise self._damaged(number) from e
                end += len(text)
        os.ftruncate(self._file, end)
        self._end = end
        if not end:
            self._append({"event": "begin", "asked": asked})

    def _damaged(self, number: int) -> InputError:
        return InputError(
            f"{self.path}, line {number} is damaged; restore the file, or remove that line to ask"
            " its question again"
        )

    def _note(self, line: dict[str, Any], offset: int, *, forgiving: bool) -> None:
        """Add an event to the index.

        forgiving: a failure that may not recur does not end its dialogue.
        """
        identity, turn = bytes.fromhex(line["id"]), line["turn"]
        if line["event"] == "failed":
            if not (forgiving and line["reason"] in RETRYABLE):
                self._ended[identity] = offset
        elif turn == self._turns - 1:
            self._ended[identity] = offset
            self._going.pop(identity, None)
        else:
            self._ended.pop(identity, None)  # it failed before and was asked again
            self._going[identity] = [*self._going.get(identity, [])[:turn], offset]
        self.totals.requests += line["attempts"]
        self.totals.retries += max(0, line["attempts"] - 1)
        if line["tokens"]:
            self.totals.prompt_tokens += line["tokens"][0]
            self.totals.completion_tokens += line["tokens"][1]
        elif line["event"] == "answer":
            self.totals.unmeasured += 1

    def _append(self, line: dict[str, Any]) -> int:
        data, offset = json.dumps(line).encode() + b"\n", self._end
        with naming(self.path):
            while data:  # a full disk takes a part and refuses the rest
                written = os.write(self._file, data)
                data, self._end = data[written:], self._end + written
        self._dirty = True
        return offset

    def _read(self, offset: int) -> dict[str, Any]:
        data = b""
        while b"\n" not in data:
            if not (more := os.pread(self._file, 8192, offset + len(data))):
                raise OSError(errno.EIO, "became shorter while it was in use", str(self.path))
            data += more
        return parse_json(data[: data.index(b"\n")], surrogates=True)


def _difference(found: dict[str, Any], asked: dict[str, Any]) -> str:
    names = [name for name in sorted({*found, *asked}) if found.get(name) != asked.get(name)]
    shown = [
        f"{name} {found.get(name)!r} where this run has {asked.get(name)!r}"
        for name in names
        if name != "dialogue"
    ]
    return ", ".join(shown + (["another dialogue"] if "dialogue" in names else []))
