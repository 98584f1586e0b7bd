"""The paper's filter by source: a list of substrings that no image's URL may contain (§3.1)."""

import re
import unicodedata
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from data_pipeline.io.errors import InputError
from data_pipeline.io.regular_files import open_regular
from data_pipeline.sources.texts import TextError, decode_text, tidy

_MAX_FILE = 2**24  # bytes
# characters of a substring, as it is written and as it is compared. NFKC makes one character into
# up to 18, and pyahocorasick frees its tree by recursion: a word of a million letters overflows the
# stack, which ends the process with SIGSEGV
_MAX_LINE = 2000
# a label of a host has at most 63 characters; decoding a long one takes quadratic time
_PUNYCODE = re.compile(r"xn--([a-z0-9-]{1,59})(?![a-z0-9-])")
# matches lines that are not part of a URL but belong to other kinds of lists: patterns, hosts
# files, rules of ad blockers and name servers, rows of a table (no host has a comma), JSON and YAML
_OTHER_LIST = re.compile(
    r".*[\s\"<>\\^`{|}*]|@@|['\[]|(\w+://)?[^/?]*[,;]|(address|server|local)=/"
)
_COMMENT = re.compile(r"(^|\s)#.*")
# characters that browsers ignore in the name of a host, or read as its dot
_UNSEEN = {0x3002: ".", **dict.fromkeys(map(ord, "\t\n\r\u00ad\u200b\u200c\u200d\u2060\ufeff"))}


def plain_url(url: str) -> str:
    """Return one spelling of a URL or of a part of one.

    Percent and punycode are decoded, full-width forms are folded, letters are lower case, and
    invisible characters are removed.
    """
    text = unicodedata.normalize("NFKC", urllib.parse.unquote(url)).translate(_UNSEEN).casefold()
    return unicodedata.normalize("NFC", _PUNYCODE.sub(_decode, text)).casefold()


def _decode(match: re.Match[str]) -> str:
    try:
        return match[1].encode().decode("punycode")
    except (UnicodeError, ValueError):  # not punycode: it stays as it is
        return match[0]


def read_blocked(path: str | Path) -> tuple[str, ...]:
    """Return the substrings of a list file, one per line, sorted.

    Empty lines are left out, and so is a comment: a # at the beginning of a line or after a space,
    and what follows.

    Raises:
        InputError: the file does not exist, is too large, is not text or is empty, or a line
            belongs to another kind of list or is too long.
    """
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise InputError(
                f"{path} is larger than {_MAX_FILE:,} bytes; give a shorter list of blocked sources"
            )
        lines = [tidy(_COMMENT.sub("", line)) for line in decode_text(data).splitlines()]
    except OSError as e:
        raise InputError(
            f"the list of blocked sources {path} cannot be read ({e.strerror}); give a readable"
            " file"
        ) from e
    except TextError as e:
        raise InputError(f"the list of blocked sources {path}: {e}") from e
    for number, line in enumerate(lines, 1):
        if _OTHER_LIST.match(line):
            raise InputError(
                f"the list of blocked sources {path}, line {number}: {line[:60]!r} is not part of a"
                " URL but a rule of another kind of list; give the part of the URL alone, such as"
                " bad.example, and write a space as %20"
            )
        if len(line) > _MAX_LINE or len(plain_url(line)) > _MAX_LINE:
            raise InputError(
                f"the list of blocked sources {path}, line {number}: {line[:60]!r}… has more than"
                f" {_MAX_LINE:,} characters; give a shorter part of the URL"
            )
    blocked = {plain for line in lines if (plain := plain_url(line))}
    if not blocked:
        raise InputError(
            f"the list of blocked sources {path} is empty; give one substring per line, or leave"
            " the filter out"
        )
    return tuple(sorted(blocked))


def blocker(blocked: tuple[str, ...]) -> Callable[[str], str | None]:
    """Return a function from a URL to a substring of `blocked` that it contains, or None.

    It is as fast for a hundred thousand substrings as for one (Aho-Corasick).
    """
    if not blocked:
        return lambda url: None
    from ahocorasick import Automaton

    automaton = Automaton()
    for each in blocked:
        automaton.add_word(each, each)
    automaton.make_automaton()
    return lambda url: next((each for _, each in automaton.iter(plain_url(url))), None)
