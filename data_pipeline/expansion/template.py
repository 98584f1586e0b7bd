"""The template of an expansion: what is asked of the model, in a JSON file.

    {"system": "…",                           optional: the system message
     "request": "… {prompt} …",               the question; {prompt} becomes the user's prompt
     "examples": [{"prompt": "…", "expansion": "…"}],   optional: answered questions before it
     "correction": "… {problem} …",           optional: what is said to an answer that is rejected
     "settings": {"temperature": 0.01}}       optional: fields that are added to every request

The hash of the file's bytes is recorded with every expansion.
"""

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

from data_pipeline.io.bounded_json import SETTINGS, ParseError, parse_json, read_bytes
from data_pipeline.io.errors import InputError, first_line

DEFAULT = Path(__file__).with_name("template.json")
# limits: bytes of the file, examples, characters of one text, of a prompt, of a problem
MAX_BYTES, MAX_EXAMPLES, MAX_TEXT, MAX_PROMPT, MAX_PROBLEM = 64 * 1024, 20, 8000, 4096, 400
MAX_TOKENS = 300  # of an answer, where the settings have none

_FIELDS = {"system", "request", "examples", "correction", "settings"}
_OURS = ("model", "messages", "stream", "n")  # fields of a request that the template may not set
_LENGTHS = ("max_tokens", "max_completion_tokens")
_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_TAGS = re.compile(r"<\s*/?\s*prompt\s*>", re.IGNORECASE)
_CORRECTION = "That text {problem}. Write it again without this fault. Answer with the text alone."


@dataclasses.dataclass(frozen=True)
class Template:
    """A checked template. `settings` are fields of every request; `sha256` is the file's hash."""

    system: str
    request: str
    examples: tuple[tuple[str, str], ...]
    correction: str
    settings: dict[str, Any]
    sha256: str

    def messages(self, prompt: str) -> list[dict[str, str]]:
        """Return the chat that asks for an expansion of `prompt`."""
        chat = [{"role": "system", "content": self.system}] if self.system else []
        for given, expansion in self.examples:
            chat.append({"role": "user", "content": fill(self.request, given)})
            chat.append({"role": "assistant", "content": expansion})
        return [*chat, {"role": "user", "content": fill(self.request, prompt)}]

    def correct(self, answer: str, problem: str) -> list[dict[str, str]]:
        """Return the messages after a rejected answer; problem: what it does, as "lacks …"."""
        said = _PLACEHOLDER.sub(lambda _: problem[:MAX_PROBLEM], self.correction)
        return [{"role": "assistant", "content": answer}, {"role": "user", "content": said}]


def fill(text: str, prompt: str) -> str:
    """Return `text` with the prompt in place of {prompt}.

    The prompt cannot close the tags around it itself, and its own braces are not replaced.
    """
    foreign = _TAGS.sub(" ", prompt[:MAX_PROMPT]).strip()
    return _PLACEHOLDER.sub(lambda _: foreign, text)


def load_template(path: Path = DEFAULT) -> Template:
    """Return the template in a file after checking it.

    Raises:
        InputError: the file does not exist, is too large or is not JSON, or a field is not as this
            module describes it.
    """

    def refuse(what: str) -> InputError:
        return InputError(f"--expand-template {path}: {what}; docs/guides/expand.md shows one")

    def check(name: str, text: Any, *placeholders: str, least: int = 1) -> str:
        if not isinstance(text, str) or len(text) > MAX_TEXT or len(text.strip()) < least:
            raise refuse(f"{name} must be a text of {least} to {MAX_TEXT:,} characters")
        found = _PLACEHOLDER.findall(text) if placeholders else []
        if wrong := [each for each in found if each not in placeholders]:
            raise refuse(
                f"{name} has the placeholder {{{wrong[0]}}}; the only one is {{{placeholders[0]}}}"
            )
        return text

    try:
        data = read_bytes(path, MAX_BYTES)
        value = parse_json(data, SETTINGS)
    except OSError as e:
        raise refuse(f"cannot be read ({e.strerror})") from e
    except ParseError as e:
        raise refuse(f"not JSON ({first_line(e, 120)})") from e
    if not isinstance(value, dict) or "request" not in value:
        raise refuse('give a JSON object with "request", a text with {prompt} in it')
    if unknown := sorted(set(value) - _FIELDS):
        raise refuse(f"unknown field {unknown[0]!r}; give some of {', '.join(sorted(_FIELDS))}")
    request = check("request", value["request"], "prompt")
    if "{prompt}" not in request:
        raise refuse("request has no {prompt}, so the model would not see the prompt")
    examples = value.get("examples", [])
    if not isinstance(examples, list) or len(examples) > MAX_EXAMPLES:
        raise refuse(f"examples must be a list of at most {MAX_EXAMPLES}")
    for number, each in enumerate(examples, 1):
        if not isinstance(each, dict) or each.keys() != {"prompt", "expansion"}:
            raise refuse(f'example {number} must be {{"prompt": "…", "expansion": "…"}}')
        check(f"the prompt of example {number}", each["prompt"])
        check(f"the expansion of example {number}", each["expansion"])
    return Template(
        system=check("system", value.get("system", ""), least=0),
        request=request,
        examples=tuple((each["prompt"], each["expansion"]) for each in examples),
        correction=check("correction", value.get("correction", _CORRECTION), "problem"),
        settings=_settings(value.get("settings", {}), refuse),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _settings(value: Any, refuse: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise refuse("settings must be a JSON object")
    if taken := sorted(set(value) & set(_OURS)):
        raise refuse(f"settings may not have {taken[0]!r}, which the command sets")
    for name in _LENGTHS:
        if name in value and not (type(value[name]) is int and 1 <= value[name] <= 100_000):
            raise refuse(f"settings.{name} must be 1 to 100,000")
    return value if set(value) & set(_LENGTHS) else {**value, "max_tokens": MAX_TOKENS}
