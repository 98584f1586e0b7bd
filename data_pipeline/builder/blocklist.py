"""The paper's filter on where an image comes from: a list of substrings that no URL may have
(CogView3 §3.1).
"""

import re
import unicodedata
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from data_pipeline.io.errors import InputError
from data_pipeline.sources.texts import TextError, decode_text, tidy

_MAX_FILE = 2**24  # bytes
_PUNYCODE = re.compile(r"xn--([a-z0-9-]+)")
# what no part of a URL is, but lines of other kinds of lists are: patterns, hosts files, rules of
# ad blockers and name servers, rows of a table (no host has a comma), JSON and YAML
_OTHER_LIST = re.compile(
    r".*[\s\"<>\\^`{|}*]|@@|['\[]|(\w+://)?[^/?]*[,;]|(address|server|local)=/"
)
_COMMENT = re.compile(r"(^|\s)#.*")
# what browsers leave out of a host's name or read as its dot
_UNSEEN = {0x3002: ".", **dict.fromkeys(map(ord, "\t\n\r\u00ad\u200b\u200c\u200d\u2060\ufeff"))}


def plain_url(url: str) -> str:
    """One spelling of a URL or a part of one: percent and punycode decoded, full-width forms
    folded, lower case, without characters that show nothing.
    """
    text = unicodedata.normalize("NFKC", urllib.parse.unquote(url)).translate(_UNSEEN).casefold()
    return unicodedata.normalize("NFC", _PUNYCODE.sub(_decode, text)).casefold()


def _decode(match: re.Match[str]) -> str:
    try:
        return match[1].encode().decode("punycode")
    except (UnicodeError, ValueError):  # only looks like it: stays as it is
        return match[0]


def read_blocked(path: str | Path) -> tuple[str, ...]:
    """The substrings of a list: a line each, sorted; empty lines and what follows a # at a line's
    beginning or after a space are left out.

    Raises:
        InputError: no such file, too large, no text, nothing in it, or a line of another kind of
            list.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise InputError(
                f"{path} is larger than {_MAX_FILE:,} bytes; give a shorter list of blocked sources"
            )
        lines = [tidy(_COMMENT.sub("", line)) for line in decode_text(data).splitlines()]
    except OSError as e:
        raise InputError(f"the list of blocked sources {path} cannot be read ({e.strerror})") from e
    except TextError as e:
        raise InputError(f"the list of blocked sources {path}: {e}") from e
    for number, line in enumerate(lines, 1):
        if _OTHER_LIST.match(line):
            raise InputError(
                f"the list of blocked sources {path}, line {number}: {line[:60]!r} is a rule of"
                " another kind of list, and no part of a URL; give the part alone, bad.example, and"
                " in it a blank as %20"
            )
    blocked = {plain for line in lines if (plain := plain_url(line))}
    if not blocked:
        raise InputError(
            f"the list of blocked sources {path} is empty; give a substring a line, or leave the"
            " filter off"
        )
    return tuple(sorted(blocked))


def blocker(blocked: tuple[str, ...]) -> Callable[[str], str | None]:
    """url → a substring of `blocked` that it has, or None.

    As fast for a hundred thousand as for one (Aho-Corasick).
    """
    if not blocked:
        return lambda url: None
    from ahocorasick import Automaton

    automaton = Automaton()
    for each in blocked:
        automaton.add_word(each, each)
    automaton.make_automaton()
    return lambda url: next((each for _, each in automaton.iter(plain_url(url))), None)
