"""What an expansion must keep of a prompt: quoted text, numbers, and names.

Quoted text must stand in the expansion letter by letter. A number must stand there in digits or in
words. A word with a capital letter counts as a name, and so does one with letters and digits. At
the beginning of a sentence every word has a capital, so there a word counts that is not one of
`_OPENERS`, and its plural or singular does as well. Names in scripts other than the Latin one are
not checked, because an English expansion transliterates them.
"""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.io.bounded_json import load_json

_OPEN, _CLOSE = "\N{LEFT SINGLE QUOTATION MARK}", "\N{RIGHT SINGLE QUOTATION MARK}"
_QUOTED = re.compile(
    r"\"([^\"]+)\"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»|「([^」]+)」|『([^』]+)』"
    # not an apostrophe inside or at the end of a word
    rf"|(?<!\w)['{_OPEN}](?=\S)(.+?)(?<=\S)['{_CLOSE}](?!\w)"
)
_APOSTROPHES = re.compile(f"[{_OPEN}{_CLOSE}`]")
# of "Anna's", "I'm", "They're"; of "Don't" nothing is left
_SHORTENED = re.compile(r"'(?:s|m|d|ll|re|ve)$|^.*n't$", re.IGNORECASE)
_HYPHENS = re.compile(r"[\u2010-\u2014]")
_WORD = re.compile(rf"\w+(?:['{_CLOSE}\-]\w+)*")
_SENTENCE = re.compile(r"(?:^|[.!?:;\n])[^\w]*$")
_NUMERAL = re.compile(r"(?<![\w.,])\d+(?:[.,:/]\d+)*(?!\w)")
_COUNTED = re.compile(r"\d+-[^\W\d]+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_WORDS = load_json(Path(__file__).with_name("words.json"))
_UNITS = {word: value for value, word in enumerate(_WORDS["units"])}
_TENS = {word: 10 * value for value, word in enumerate(_WORDS["tens"], 2)}
_TIMES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6}
_JOINS = {*_TIMES, "and"}
_NUMBER_WORDS = {*_UNITS, *_TENS, *_TIMES}
# words of an expansion that say a number, too
_SAYS = {
    1: {"a", "an", "single", "lone", "the"},
    2: {"pair", "couple", "both", "twin", "twins", "duo"},
    3: {"trio"},
    4: {"quartet"},
}
# small words, which titles write with a capital, and words with which prompts begin
_OPENERS = frozenset(_WORDS["openers"])


def missing(prompt: str, text: str) -> list[str]:
    """Return what of `prompt` its expansion `text` lacks, in the prompt's order; empty: nothing.

    Quoted text is returned with quotation marks around it.
    """
    lacking = []
    plain = _plain(text)
    for quoted in _quotations(prompt):
        if not _stands(_plain(quoted), plain):
            lacking.append(f'"{quoted}"')
    rest = _QUOTED.sub(lambda found: " " * len(found[0]), prompt)
    have, words = set(_numbers(text)), set(_loose(text).split())
    for number in dict.fromkeys(_numbers(rest)):
        if number not in have and not (
            number.isdecimal() and _SAYS.get(int(number), set()) & words
        ):
            lacking.append(number)
    loose = _loose(text)
    for name, strict in _names(rest).items():
        wanted = _loose(name)
        if not (_stands(wanted, loose) or (not strict and _inflected(wanted, words))):
            lacking.append(name)
    return lacking


def _quotations(prompt: str) -> list[str]:
    """Return the texts in quotation marks, without a full stop or comma at their end."""
    texts = [next(filter(None, found.groups())) for found in _QUOTED.finditer(prompt)]
    return [text for each in texts if (text := each.strip().rstrip(".,;"))]


def _names(prompt: str) -> dict[str, bool]:
    """Return the words that count as names: word → whether it must stand there as it is."""
    names: dict[str, bool] = {}
    for found in _WORD.finditer(prompt):
        word = _SHORTENED.sub("", _APOSTROPHES.sub("'", found[0]))
        if len(word) < 2 or not _latin(word) or not any(map(str.isalpha, word)):
            continue
        if any(map(str.isdigit, word)):
            if not _COUNTED.fullmatch(word):  # "3-legged" is checked as a number
                names[word] = True
            continue
        small = word.casefold() in _OPENERS or word.casefold().split("-")[0] in _NUMBER_WORDS
        if not word[0].isupper() and word[1:] == word[1:].lower():
            continue
        if small and not (word.isupper() and not prompt.isupper()):
            continue
        inside = word[1:] != word[1:].lower() and not prompt.isupper()
        strict = inside or not (_SENTENCE.search(prompt[: found.start()]) or prompt.isupper())
        names[word] = strict or names.get(word, False)
    return names


def _numbers(text: str) -> Iterator[str]:
    """Yield the numbers of a text in digits, also those that it has in words."""
    yield from (found[0] for found in _NUMERAL.finditer(_THOUSANDS.sub("", text)))
    words = re.findall(r"[^\W\d_]+|[^\w\s-]", text.casefold())
    value: int | None = None
    for place, word in enumerate([*words, "."]):
        before = words[place - 1] if place else ""
        if word in _UNITS and value is not None and (before in _TENS or before in _JOINS):
            value += _UNITS[word]
        elif word in _TENS and value is not None and before in _JOINS:
            value += _TENS[word]
        elif word in _TIMES:
            value = (1 if value is None else value) * _TIMES[word]
        elif word == "and" and value is not None and before in _TIMES:
            continue
        else:
            if value is not None:
                yield str(value)
            value = _UNITS.get(word, _TENS.get(word))


def _plain(text: str) -> str:
    """Return a text with one kind of blank, hyphen and apostrophe; capitals stay."""
    text = unicodedata.normalize("NFKC", text)
    text = _HYPHENS.sub("-", _APOSTROPHES.sub("'", text))
    return " ".join(text.split())


def _loose(text: str) -> str:
    """Return the words of a text in small letters, parted also at hyphens and before units."""
    text = re.sub(r"'s\b", "", _plain(text).casefold())
    text = re.sub(r"(?<=\d)(?=[^\W\d_])|(?<=[^\W\d_])(?=\d)", " ", text)
    return " ".join(re.findall(r"\w+(?:'\w+)*", text))


def _stands(part: str, text: str) -> bool:
    """Return whether a text has `part` in it, not as a part of longer words."""
    return bool(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text))


def _inflected(word: str, words: set[str]) -> bool:
    """Return whether another form of a word is there: its plural or singular."""
    stem = re.sub(r"(?:ies|es|s|y)$", "", word) if len(word) > 3 else word
    return any(re.fullmatch(rf"{re.escape(stem)}(?:ies|es|s|y|e)?", other) for other in words)


def _latin(word: str) -> bool:
    return all(not c.isalpha() or "LATIN" in unicodedata.name(c, "") for c in word)
