"""The dialogue that leads to a new caption: a template of questions, and its messages for a record.

In CogView3 §3.1 a vision model answers questions about the image, first for a brief description,
and then combines its answers with the old caption. Here this is one chat: the image is in its first
message, each question follows all answers before it, and the answer to the last question is the new
caption. A template is a JSON file:

    {"system": "…",                      optional: the system message
     "turns": ["…", "… {caption} …"],    the questions; {caption} becomes <caption>the old
                                         caption</caption>
     "settings": {"temperature": 0.2},   optional: fields that are added to every request
     "triplet": "… {caption} …"}         optional: the question of `--triplets`
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from data_pipeline.io.bounded_json import SETTINGS, ParseError, load_json
from data_pipeline.io.errors import InputError, counted, first_line

DEFAULT = Path(__file__).with_name("dialogue.json")
# limits: bytes of the file, questions, characters of one text
MAX_BYTES, MAX_TURNS, MAX_TEXT = 64 * 1024, 20, 8000
MAX_OLD_CAPTION = 8192  # characters that are sent

_FIELDS = {"system", "turns", "settings", "triplet"}
# fields of a request that the template may not set
_OURS = ("model", "messages", "stream", "n", "max_tokens")
_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_TAGS = re.compile(r"<\s*/?\s*caption\s*>", re.IGNORECASE)
_FALLBACK_TRIPLET = "This caption came with the image: {caption} Write a new one."


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """A checked template. `settings` are fields of every request."""

    system: str
    turns: tuple[str, ...]
    settings: dict[str, Any]
    triplet: str

    def messages(self, image_url: str, caption: str, answers: list[str]) -> list[dict[str, Any]]:
        """Return the chat up to the question after `answers`, as /v1/chat/completions takes it.

        image_url: a data URL.
        """
        chat: list[dict[str, Any]] = (
            [{"role": "system", "content": self.system}] if self.system else []
        )
        for turn, question in enumerate(self.turns[: len(answers) + 1]):
            text = fill(question, caption)
            image = {"type": "image_url", "image_url": {"url": image_url}}
            chat.append(
                {
                    "role": "user",
                    "content": text if turn else [image, {"type": "text", "text": text}],
                }
            )
            if turn < len(answers):
                chat.append({"role": "assistant", "content": answers[turn]})
        return chat


def fill(text: str, caption: str) -> str:
    """Return `text` with the old caption in place of {caption}.

    The caption is untrusted: it is put between tags that it cannot close itself.
    """
    foreign = _TAGS.sub(" ", caption[:MAX_OLD_CAPTION]).strip()
    # a single pass, so that braces in a caption are not replaced
    return _PLACEHOLDER.sub(lambda _: f"<caption>{foreign}</caption>", text)


def load_dialogue(path: Path = DEFAULT) -> Dialogue:
    """Return the template in a file after checking it.

    Raises:
        InputError: the file does not exist, is too large or is not JSON, or a field is not as this
            module describes it.
    """

    def refuse(what: str) -> InputError:
        return InputError(f"--dialogue {path}: {what}; docs/guides/recaption.md shows a template")

    try:
        value = load_json(path, dataclasses.replace(SETTINGS, bytes=MAX_BYTES))
    except OSError as e:
        raise refuse(f"cannot be read ({e.strerror})") from e
    except ParseError as e:
        raise refuse(f"is not JSON ({first_line(e, 120)})") from e
    if not isinstance(value, dict) or not isinstance(value.get("turns"), list):
        raise refuse('give a JSON object with "turns", a list of questions')
    if unknown := sorted(set(value) - _FIELDS):
        raise refuse(f"unknown field {unknown[0]!r}; give some of {', '.join(sorted(_FIELDS))}")
    if not 1 <= len(value["turns"]) <= MAX_TURNS:
        raise refuse(f"{counted(len(value['turns']), 'turn')}; give 1 to {MAX_TURNS}")
    for name, text in (
        *((f"turn {i + 1}", t) for i, t in enumerate(value["turns"])),
        ("triplet", value.get("triplet", _FALLBACK_TRIPLET)),
    ):
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT:
            raise refuse(f"{name} must be a text of 1 to {MAX_TEXT:,} characters")
        if wrong := [found for found in _PLACEHOLDER.findall(text) if found != "caption"]:
            raise refuse(f"{name} has the placeholder {{{wrong[0]}}}; the only one is {{caption}}")
    if not isinstance(system := value.get("system", ""), str) or len(system) > MAX_TEXT:
        raise refuse(f"system must be a text of at most {MAX_TEXT:,} characters")
    if not isinstance(settings := value.get("settings", {}), dict):
        raise refuse("settings must be a JSON object")
    if taken := sorted(set(settings) & set(_OURS)):
        raise refuse(f"settings may not have {taken[0]!r}, which the command sets")
    try:
        json.dumps(value, allow_nan=False).encode()
        "".join([system, *value["turns"], value.get("triplet", "")]).encode()
    except ValueError as e:
        raise refuse("it has NaN or half of a surrogate pair in it; write it as plain JSON") from e
    return Dialogue(
        system, tuple(value["turns"]), settings, value.get("triplet", _FALLBACK_TRIPLET)
    )
