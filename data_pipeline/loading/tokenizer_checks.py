"""What a tokenizer's files may hold, before a library reads them.

`tokenizers` runs the steps of tokenizer.json on every prompt, and on added tokens while it loads. A
pattern may take exponential time, a replacement may multiply the text, and an error of its Rust
code is no `Exception`. T5's tokenizers and those of `train_tokenizer` need little of that.
"""

import base64
import binascii
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.io import regular_files
from data_pipeline.io.bounded_json import RECORDS, ParseError, load_json
from data_pipeline.io.errors import InputError, first_line

_READ = (".json", ".jinja", ".model", ".txt")
_MAX_BYTES = 2**26  # of a file; that of the largest T5, with 250,000 tokens, has 2**24
_MAX_ADDED = 10_000  # tokens beside the vocabulary
_STEPS = 32  # of a normalizer, a pre-tokenizer or a decoder, nested ones too
_GROWING = 4  # replacements, each by at most so many characters
_PATTERN = 40  # characters
# after how many bytes a character of Unicode's own normal forms ends; one has 18 characters
_MAPPED = 64
# what makes a pattern more than characters, classes and one repetition
_ESCAPED = re.compile(r"\\.|\[[^\]\[]*\]", re.DOTALL)
_REPEATS = re.compile(r"[*+?{]")
_COMPLEX = re.compile(r"[()|]")


def check_files(folder: Path) -> None:
    """Raise InputError where a file of a tokenizer is too large or has what it may not."""
    # transformers reads others of these too
    regular_files.check_files(
        (path for path in folder.iterdir() if path.suffix in _READ), _MAX_BYTES
    )
    if not (path := folder / "tokenizer.json").is_file():
        return
    try:
        content = load_json(path, RECORDS)
    except ParseError as e:
        raise InputError(f"{path} is damaged: {e}; get it again") from e
    if problem := wrong_tokenizer(content):
        raise InputError(f"{path}: {problem}; give a T5 tokenizer")


def check_config(config: dict[str, Any]) -> str | None:
    """Return what is wrong with a tokenizer_config.json, or None."""
    extra, added = config.get("extra_ids", 0), config.get("added_tokens_decoder", {})
    if type(extra) is not int or not 0 <= extra <= _MAX_ADDED:
        return f"extra_ids must be 0..{_MAX_ADDED}"
    if not isinstance(added, dict) or len(added) > _MAX_ADDED:
        return f"added_tokens_decoder must be an object of at most {_MAX_ADDED} tokens"
    return None


def wrong_tokenizer(content: Any) -> str | None:
    """Return what a tokenizer.json has that it may not, or None.

    Anything else that is wrong with it is left to the library.
    """
    if not isinstance(content, dict):
        return "it is not a JSON object"
    added = content.get("added_tokens")
    if isinstance(added, list) and len(added) > _MAX_ADDED:
        return f"it adds {len(added):,} tokens, more than {_MAX_ADDED:,}"
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        steps = list(_steps(content.get(part)))
        if len(steps) > _STEPS:
            return f"its {part} has more than {_STEPS} steps"
        growing = 0
        for step in steps:
            if problem := _wrong_step(step):
                return f"its {part} {problem}"
            growing += step.get("type") in ("Replace", "Prepend", "Precompiled")
        if growing > _GROWING:
            return f"its {part} replaces text {growing} times, more than {_GROWING}"
    return None


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Raise InputError about `what` in place of any error of the block but an interruption.

    Errors of Rust code come as BaseException.
    """
    try:
        yield
    except (InputError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as e:
        raise InputError(f"{what}: {explained(e)}") from e


def explained(e: BaseException) -> str:
    """Return the first line of a library's error, in better words where they are known."""
    line = first_line(e)
    # transformers tries tiktoken last, after sentencepiece and protobuf failed on spiece.model
    if "tiktoken" in line:
        line = (
            "spiece.model is damaged, or sentencepiece and protobuf are incompatible (sentencepiece"
            " 0.2.0 and 0.2.1 work)"
        )
    return line


def _steps(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects with a type in a part of a tokenizer, at any depth."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            if "type" in one:
                yield one
            left += one.values()
        elif isinstance(one, list):
            left += one


def _wrong_step(step: dict[str, Any]) -> str | None:
    """Return what a step has that it may not, or None."""
    pattern = step.get("pattern")
    if isinstance(pattern, dict) and (regex := pattern.get("Regex")) is not None:
        plain = _ESCAPED.sub("x", regex) if isinstance(regex, str) else "("
        if _COMPLEX.search(plain) or len(_REPEATS.findall(plain)) > 1 or len(plain) > _PATTERN:
            return f"has the pattern {str(regex)[:40]!r}, and only a single repetition is allowed"
    for name in ("content", "prepend", "replacement"):
        if len(str(step.get(name, ""))) > _GROWING:
            return f"has a {name} of more than {_GROWING} characters"
    if (charsmap := step.get("precompiled_charsmap")) is not None:
        return _wrong_charsmap(charsmap)
    return None


def _wrong_charsmap(charsmap: Any) -> str | None:
    """Return why a map of characters, as sentencepiece makes it, is not one, or None.

    Its texts stand after its trie, each with a NUL at the end.
    """
    try:
        data = base64.b64decode(charsmap, validate=True)
    except (TypeError, ValueError, binascii.Error):
        return "has a map of characters that is not base64"
    trie = int.from_bytes(data[:4], "little")
    if data and (trie % 4 or len(data) < 4 + trie):
        return "has a damaged map of characters"
    if any(len(text) > _MAPPED for text in data[4 + trie :].split(b"\0")):
        return "maps a character to a long text"
    return None
