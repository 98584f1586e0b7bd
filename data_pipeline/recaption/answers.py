"""What a response of /v1/chat/completions is worth: an answer to go on with, or the reason why
there is none.

Reasons are what the journal and the report call them. Those in RETRYABLE may be gone another time;
the others are the answer.
"""

import dataclasses
import json
import re
from typing import Any

MAX_ANSWER = 8000  # characters of one answer
MAX_CAPTION = 4000  # of the last one, the caption; T5 reads some 1,000
MAX_DETAIL = 400

REFUSED, EMPTY, TRUNCATED, TOO_LONG = (
    "refused",
    "empty answer",
    "truncated answer",
    "answer too long",
)
CONTROL, REJECTED, UNREADABLE = "control characters", "request rejected", "unreadable image"
UNREACHABLE, TIMEOUT, SERVER, MALFORMED, LIMITED = (
    "no connection",
    "timeout",
    "server error",
    "malformed response",
    "rate limited",
)
RETRYABLE = frozenset({UNREACHABLE, TIMEOUT, SERVER, MALFORMED, LIMITED})

# How a refusal begins. "I cannot see any text" and "I'm unable to tell the colour" are answers, so
# what is refused counts too.
_CANNOT = (
    r"(?:can\s?not|can['’]?t|won['’]?t|will not|(?:am|['’]m) (?:not able|unable) to|(?:am|['’]m)"
    r" not comfortable)"
)
_TO_HELP = (
    r"(?:assist|help|comply|fulfil|provide|describe|caption|process|discuss|engage|continue"
    r"|generate|create|do that|answer)"
)
_REFUSAL = re.compile(
    rf"\W*(?:(?:i['’]?m|i am) (?:very |so |really )?sorry\b|sorry,? (?:but )?i\b|i"
    rf" apologi[sz]e\b|as an ai\b"
    rf"|(?:unfortunately,? )?i {_CANNOT} (?:\w+ ){{0,2}}?{_TO_HELP}|(?:unfortunately,? )?i['’]m"
    rf" (?:not able|unable) to {_TO_HELP})",
    re.IGNORECASE,
)
# What models that reason say before their answer, and what they put around it. Some servers' chat
# templates have opened the first already, so that only its end is in the text.
_WORD = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)"
_OPEN = re.compile(
    rf"\s*(?:<(?:\w+:)?{_WORD}\s*>|◁{_WORD}▷|<\|(?:begin_of|start)_{_WORD}\|>|\[{_WORD}\])", re.I
)
_CLOSE = re.compile(
    rf"</(?:\w+:)?{_WORD}\s*>|◁/{_WORD}▷|<\|end_(?:of_)?{_WORD}\|>|\[/{_WORD}\]", re.I
)
_AROUND = re.compile(
    r"\s*(?:<(answer|caption|output)>(.*)</\1>"
    r"|<\|(?:begin_of|start)_(box|answer|solution|response)\|>(.*)<\|end_(?:of_)?\3\|>)\s*",
    re.I | re.S,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Of one response, as its `usage` says; None where it says nothing."""

    prompt: int
    completion: int


@dataclasses.dataclass(frozen=True)
class Answer:
    text: str
    tokens: Tokens | None = None


@dataclasses.dataclass(frozen=True)
class Failure:
    """`reason` is one of the module's; `detail` says more, in one line."""

    reason: str
    detail: str = ""
    tokens: Tokens | None = None


def read_answer(body: bytes, *, last: bool) -> Answer | Failure:
    """Judges the body of a response of status 200.

    `last`: the answer is the caption, one line of at most MAX_CAPTION characters.
    """
    try:
        value = json.loads(body)
        if isinstance(value, dict) and value.get("error"):  # some gateways say 200 all the same
            return Failure(MALFORMED, f"an error in place of an answer: {error_of(body)[0]}")
        choice = value["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
        if not isinstance(text, str | None):
            raise TypeError(f"content is a {type(text).__name__}")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as e:
        return Failure(MALFORMED, one_line(f"{type(e).__name__}: {e}"))
    tokens = _tokens(value.get("usage"))
    text = answer_of(text or "")
    if refusal or finish == "content_filter":
        return Failure(REFUSED, one_line(str(refusal or "content filter")), tokens)
    if finish == "length":
        return Failure(TRUNCATED, one_line(text), tokens)
    if finish not in ("stop", "eos", "end_turn", "stop_sequence", None):
        return Failure(MALFORMED, one_line(f"finish_reason {finish!r}"), tokens)
    if not text:
        return Failure(EMPTY, "", tokens)
    if _REFUSAL.match(text):
        return Failure(REFUSED, one_line(text), tokens)
    if _CONTROL.search(text):
        return Failure(CONTROL, one_line(text), tokens)
    if _lone_surrogate(text):
        return Failure(MALFORMED, "half a surrogate pair", tokens)
    text = " ".join(text.split()) if last else text
    if len(text) > (most := MAX_CAPTION if last else MAX_ANSWER):
        return Failure(
            TOO_LONG, f"{len(text):,} characters, at most {most:,}: {one_line(text[:80])}", tokens
        )
    return Answer(text, tokens)


def answer_of(text: str) -> str:
    """What a model says when it has thought: without its reasoning, and what stands around the
    rest; empty where it did not come to an end of that.
    """
    if ends := list(_CLOSE.finditer(text)):
        text = text[ends[-1].end() :]
    elif _OPEN.match(text):
        return ""
    if around := _AROUND.fullmatch(text):
        text = around[2] or around[4] or ""
    return text.strip()


def error_of(body: bytes) -> tuple[str, str]:
    """What an error response says, and its code, of OpenAI's form {"error": {"message", "code",
    "type"}} or vLLM's without "error".
    """
    try:
        value = json.loads(body)
        error: Any = value.get("error", value)
        if isinstance(error, dict):
            return one_line(str(error.get("message") or error)), one_line(
                f"{error.get('code')} {error.get('type')}"
            )
        return one_line(str(error)), ""
    except (ValueError, AttributeError, RecursionError):
        return one_line(body[:1000].decode(errors="replace")) or "no text", ""


def one_line(text: str) -> str:
    """Foreign text for a message or a report: printable, one line, at most MAX_DETAIL
    characters.
    """
    return "".join(c if c.isprintable() else "?" for c in " ".join(text[: 4 * MAX_DETAIL].split()))[
        :MAX_DETAIL
    ]


def _tokens(usage: Any) -> Tokens | None:
    if not isinstance(usage, dict):
        return None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    return Tokens(*counts) if all(type(n) is int and 0 <= n < 2**40 for n in counts) else None


def _lone_surrogate(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)
