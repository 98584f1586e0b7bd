"""The parser of every command, its shared flags, and checks of paths before the work.

A mistake on the command line becomes one line: the parser raises InputError, and `run` prints it.
"""

import argparse
import difflib
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from data_pipeline.io import library_words
from data_pipeline.io.errors import InputError
from data_pipeline.io.exits import line_and_code, printing, say, say_anything

# Path makes one slash of two; the second form is how ssh, scp and rsync name a place
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/|[^/@\s]+@[^/@:\s]+:[^\d\s]")


def pair(text: str | None, flag: str, kind: type, low: float, high: float) -> tuple[dict, dict]:
    """Parse `--steps 50,12` into ({"steps": 50}, {"steps": 12}); a single value serves both.

    Raises InputError for a value outside [low, high], or for any other number of values.
    """
    if text is None:
        return {}, {}
    try:
        values = [kind(value) for value in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or not all(low <= value <= high for value in values):
        name = "whole number" if kind is int else "number"
        raise InputError(
            f"--{flag} {text}: give one {name}, or two separated by a comma, each in"
            f" {low:g}..{high:g}"
        )
    return {flag: values[0]}, {flag: values[-1]}


def one(text: str | None, flag: str, kind: type, low: float, high: float) -> dict:
    """Parse `--steps 10` into {"steps": 10}. Raises InputError for anything else, as `pair`."""
    if text is not None and "," in text:
        name = "whole number" if kind is int else "number"
        raise InputError(f"--{flag} {text}: give one {name}; the relay is the only stage here")
    return pair(text, flag, kind, low, high)[0]


def check_name(text: str, what: str = "") -> None:
    """Raise InputError unless `text` can name a file or a folder of this machine.

    what: the flag or field that `text` was given for; messages begin with it.

    Raises:
        InputError: `text` is an address such as gs://bucket/x or me@host:x, is empty, or begins
            with a ~ that the shell should have replaced. The system would take each of them for the
            name of a folder below this one.
    """
    what = f"{what} {text}".strip()
    if _ADDRESS.match(str(text)):
        raise InputError(
            f"{what}: this must be a path on this machine; copy the files here, or mount their"
            " store, and give that path"
        )
    if str(text) == "~" or str(text).startswith("~/"):
        raise InputError(f"{what}: the shell did not replace ~ here; write the full path")
    if not str(text).strip():
        raise InputError(
            f"{what}: the path is empty; give one, or . for this folder".removeprefix(": ")
        )


def local(text: str, what: str = "") -> Path:
    """Return `text` as a path on this machine.

    what: the flag or field that `text` was given for.

    Raises:
        InputError: see `check_name`; or the absolute path is not valid UTF-8, which libraries need.
    """
    check_name(text, what)
    what = f"{what} {text}".strip()
    if os.path.abspath(text).encode(errors="replace").decode() != os.path.abspath(text):
        raise InputError(
            f"{what}: the path {os.path.abspath(text)!r} is not valid UTF-8, which the libraries"
            " that read and write there need; rename the folder"
        )
    return Path(text)


def stored(text: str) -> Path:
    """Return a path here, or an s3:// or gs:// that `address_of` knows again, for argparse."""
    return Path(text) if re.match("(s3|gs)://[^/]", text) else _path(text)


def _path(text: str) -> Path:
    """Return `local` for argparse, which adds the flag's name to a message itself."""
    try:
        return local(text)
    except InputError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


class Parser(argparse.ArgumentParser):
    """The parser of every command: one-line errors, flags with dashes, and old names of flags.

    A wrong flag raises InputError, as all bad input does, and the message names the nearest flag. A
    flag may be written with underscores, but not abbreviated. Flags of `type=Path` are parsed by
    `local`.

    old: former names of flags, each with its present name. They still work, and one line on stderr
    per name says which to use. positional: the flag whose value was formerly given without a name.
    others: returns whether another parser takes an unknown flag; `parse_known_args` returns those
    flags. hint: returns what an unknown flag may mean, or "". apart: whether another parser's flag
    may be followed by its value as a word of its own.
    """

    def __init__(
        self,
        *args: Any,
        example: str | None = None,
        old: Mapping[str, str] = MappingProxyType({}),
        positional: str | None = None,
        others: Callable[[str], bool] = lambda flag: False,
        hint: Callable[[str], str] = lambda flag: "",
        apart: bool = False,
        **kwargs: Any,
    ):
        """Create the parser. The class describes its own arguments; the rest are argparse's."""
        if example:
            kwargs["epilog"] = f"example:\n  {example}"
            kwargs["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self.register("type", Path, _path)
        self.old, self._positional = old, positional
        self._others, self._hint, self._apart = others, hint, apart

    def error(self, message: str) -> NoReturn:
        """Raise InputError with argparse's message about a wrong flag, and name --help."""
        raise InputError(f"{message}; see {self.prog} --help")

    def parse_known_args(self, args=None, namespace=None):
        """Return (the parsed values, the words that are for another parser).

        Raises InputError on an unknown flag before it says which required flags are missing.
        """
        argv = self._renamed(sys.argv[1:] if args is None else list(args))
        for word in _flags_of(argv):
            name = _name(word)
            if name not in self._option_string_actions and not self._others(name):
                raise InputError(self._unknown(word))
        required = self._option_string_actions.get(self._positional)
        if required is None or {self._positional, "-h", "--help"} & {*map(_name, argv)}:
            values, left = super().parse_known_args(argv, namespace)
        else:  # its value may have come without its name
            required.required = False
            try:
                values, left = super().parse_known_args(argv, namespace)
            finally:
                required.required = True
            if not left:
                self.error(f"the following arguments are required: {self._positional}")
            say(f"give {left[0]} as {self._positional} {left[0]}; without the flag it still works")
            try:
                setattr(values, required.dest, self._get_values(required, [left.pop(0)]))
            except argparse.ArgumentError as e:
                self.error(str(e))
        self._refuse_words(left)
        return values, left

    def _renamed(self, argv: list[str]) -> list[str]:
        """Return the words with the present names of flags; say on stderr which of them are old."""
        today, said = [], set()
        for index, word in enumerate(argv):
            name, equals, value = word.partition("=")
            dashed = name.replace("_", "-")
            if word == "--":
                return today + argv[index:]
            if name.startswith("--") and name not in self._option_string_actions:
                if dashed in self._option_string_actions:
                    name = dashed
                elif dashed in self.old:
                    if dashed not in said:
                        said.add(dashed)
                        say(f"{name} is called {self.old[dashed]} now; the old name still works")
                    name = self.old[dashed]
            today.append(f"{name}{equals}{value}")
        return today

    def _unknown(self, word: str) -> str:
        """Return the message for an unknown flag, with the nearest known one."""
        name = _name(word)
        shown = [
            flag
            for action in self._actions
            if action.help != argparse.SUPPRESS
            for flag in action.option_strings
            if flag != "--help"  # which the message names in any case
        ]
        start, dot, field = name.partition(".")
        if hint := self._hint(name):
            return f"unknown flag {name}: {hint}. See {self.prog} --help"
        if close := nearest(start if dot else name.replace("_", "-"), [*shown, *self.old]):
            close = self.old.get(close, close)
            return f"unknown flag {name}: did you mean {close}{dot}{field}? See {self.prog} --help"
        return f"unknown flag {name}; see {self.prog} --help"

    def _refuse_words(self, left: list[str]) -> None:
        """Raise InputError on a word that is not the value of any flag."""
        before = ""
        for word in left:
            if not word.startswith("--") and not (before and self._apart):
                right = f": write {before}={word}" if before else ""
                self.error(f"unknown argument {word}{right}")
            before = word if word.startswith("--") and "=" not in word else ""


def _name(word: str) -> str:
    """Return a flag without its value."""
    return word.partition("=")[0]


def _flags_of(argv: Sequence[str]) -> Iterator[str]:
    """Yield the words that argparse takes for flags of more than one letter."""
    for word in itertools.takewhile(lambda each: each != "--", argv):
        if word.startswith("--") and " " not in _name(word):
            yield word


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like `word`, or None where none is."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def add_input(parser: argparse.ArgumentParser, help: str, metavar: str = "DIR") -> None:
    """Add --input, the data that a command reads."""
    parser.add_argument("--input", type=Path, required=True, metavar=metavar, help=help)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add --out, --shards and --overwrite to a command that writes a dataset at one go."""
    parser.add_argument(
        "--out",
        type=stored,
        required=True,
        metavar="DIR",
        help="the dataset's directory, or an address: s3://bucket/data or gs://bucket/data; it"
        " appears when the dataset is complete",
    )
    parser.add_argument(
        "--shards",
        type=int,
        default=8,
        metavar="N",
        help="ArrayRecord files (default: %(default)s)",
    )
    add_overwrite(parser)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add --overwrite to a command that writes a dataset."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a dataset that is already there"
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add --threads, the number of threads that decode images."""
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads that decode images, in each process (default: one per core)",
    )


def run(command: Callable[[], None]) -> None:
    """Run a program's `main`; turn an exception into one line on stderr and an exit code.

    The line and the code are those of `cv3jax`. An exception that is a bug is raised again.
    """
    say_anything()
    library_words.make_visible()
    with printing():
        try:
            command()
        except BrokenPipeError:  # of stdout
            raise
        except (Exception, KeyboardInterrupt) as e:
            ended = line_and_code(e)
            if ended is None:
                raise
            line, code = ended
            say(line)
            sys.exit(code)
