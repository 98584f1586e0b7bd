"""Command lines whose mistakes are one line: a parser that raises InputError, checks before the
work, and the last resort.
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

from data_pipeline.io.errors import InputError
from data_pipeline.io.exits import line_and_code, say, say_anything

# Path makes one slash of two; the other is how ssh, scp and rsync name a place
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/|[^/@\s]+@[^/@:\s]+:[^\d\s]")


def pair(text: str | None, flag: str, kind: type, low: float, high: float) -> tuple[dict, dict]:
    """`--steps 50,12` → ({"steps": 50}, {"steps": 12}); one value serves both.

    Raises InputError outside [low, high].
    """
    if text is None:
        return {}, {}
    try:
        values = [kind(value) for value in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or not all(low <= value <= high for value in values):
        raise InputError(
            f"--{flag} {text}: give one {kind.__name__} or two with a comma, each {low}..{high}"
        )
    return {flag: values[0]}, {flag: values[-1]}


def check_name(text: str, what: str = "") -> None:
    """Refuse what is no name of a file or folder of this machine, where `what` was given as one.

    Raises:
        InputError: an address such as gs://bucket/x or me@host:x, or what a shell should have
            replaced: to the system each is the name of a folder below this one.
    """
    what = f"{what} {text}".strip()
    if _ADDRESS.match(str(text)):
        raise InputError(
            f"{what}: only a path of this machine is read and written here; copy it, or mount its"
            " store and give the path"
        )
    if str(text) == "~" or str(text).startswith("~/"):
        raise InputError(f"{what}: the shell did not replace ~ here; write the whole path")
    if not str(text).strip():
        raise InputError(f"{what or 'a path'}: is empty; give a path, . for this folder")


def local(text: str, what: str = "") -> Path:
    """A path of this machine's file systems, where `what` was given as one.

    Raises:
        InputError: see `check_name`; or libraries cannot write it.
    """
    check_name(text, what)
    what = f"{what} {text}".strip()
    if os.path.abspath(text).encode(errors="replace").decode() != os.path.abspath(text):
        raise InputError(
            f"{what}: not every byte of {os.path.abspath(text)!r} is UTF-8, as the libraries that"
            " read and write there have it; rename it"
        )
    return Path(text)


def _path(text: str) -> Path:
    """`local` for argparse, which says the flag's name itself."""
    try:
        return local(text)
    except InputError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


class Parser(argparse.ArgumentParser):
    """The parser of every command: one line for a mistake, dashes in flags, and old names.

    A wrong flag raises InputError, like all bad input, and names the nearest flag. A flag may be
    written with underscores. Flags of `type=Path` are `local`. Nothing is abbreviated.

    old: the names that flags had before, each with today's: they still work, and stderr says once
    which name to use now. positional: the flag whose value was once given without a name. others:
    whether an unknown flag, without its value, is for somebody else; `parse_known_args` returns
    those.
    """

    def __init__(
        self,
        *args: Any,
        example: str | None = None,
        old: Mapping[str, str] = MappingProxyType({}),
        positional: str | None = None,
        others: Callable[[str], bool] = lambda flag: False,
        apart: bool = False,
        **kwargs: Any,
    ):
        if example:
            kwargs["epilog"] = f"example:\n  {example}"
            kwargs["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self.register("type", Path, _path)
        self.old, self._positional = old, positional
        self._others, self._apart = others, apart

    def error(self, message: str) -> NoReturn:
        """Raise InputError: the line that argparse has for a wrong flag, and where to read more."""
        raise InputError(f"{message}; see {self.prog} --help")

    def parse_known_args(self, args=None, namespace=None):
        """Return (the values, the words that are somebody else's flags).

        Raises InputError on a flag that nobody takes, before it says which flags are missing.
        """
        argv = self._renamed(sys.argv[1:] if args is None else list(args))
        for word in _flags_of(argv):
            name = _name(word)
            if name not in self._option_string_actions and not self._others(name):
                raise InputError(self._unknown(word))
        required = self._option_string_actions.get(self._positional)
        if required is None or {self._positional, "-h", "--help"} & {*map(_name, argv)}:
            values, left = super().parse_known_args(argv, namespace)
        else:  # it may have come without its name
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
        """Return the words with today's names of flags; say on stderr which of them are old."""
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
        """Return what is wrong with an unknown flag, and which one is nearest."""
        name = _name(word)
        shown = [
            flag
            for action in self._actions
            if action.help != argparse.SUPPRESS
            for flag in action.option_strings
        ]
        start, dot, field = name.partition(".")
        if close := nearest(start if dot else name.replace("_", "-"), [*shown, *self.old]):
            close = self.old.get(close, close)
            return f"unknown flag {name}: did you mean {close}{dot}{field}? See {self.prog} --help"
        return f"unknown flag {name}; see {self.prog} --help"

    def _refuse_words(self, left: list[str]) -> None:
        """Raise InputError on a word that is no flag's value, among the flags of others."""
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
    """Return the known word that looks most like this one; None where none does."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def add_input(parser: argparse.ArgumentParser, help: str, metavar: str = "DIR") -> None:
    """Add --input, the data that a command reads."""
    parser.add_argument("--input", type=Path, required=True, metavar=metavar, help=help)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add --out, --shards and --overwrite of a command that writes a dataset in one go."""
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="the dataset's directory; appears when complete",
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
    """Add --overwrite of a command that writes a dataset."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a dataset that is already there"
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add --threads, which decode images."""
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads that decode images, in each process (default: one per core)",
    )


def run(command: Callable[[], None]) -> None:
    """Runs a program's main; what ends it becomes one line on stderr and an exit code, as under
    `cv3jax`.
    """
    say_anything()
    try:
        command()
    except (Exception, KeyboardInterrupt) as e:
        ended = line_and_code(e)
        if ended is None:
            raise
        line, code = ended
        say(line)
        sys.exit(code)
