"""Reading responses of /v1/chat/completions: an answer, or the reason why there is none.

The journal and the report use these reasons. A later request may succeed after those in RETRYABLE;
the others are final.
"""

import dataclasses
import re
from typing import Any

from data_pipeline.io.bounded_json import parse_json

MAX_ANSWER = 8000  # characters of one answer
MAX_CAPTION = 4000  # characters of the last answer, the caption; T5 reads about 1,000
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

# The beginning of a refusal. "I cannot see any text" and "I'm unable to tell the colour" are
# answers, so the pattern includes what is refused.
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
# The marks around the reasoning of models that reason, and around their answer. Some servers' chat
# templates contain the opening mark of the reasoning, so that the text has only the closing one.
_WORD = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)"
_OPEN = re.compile(
    rf"<(?:\w+:)?{_WORD}\s*>|◁{_WORD}▷|<\|(?:(?:begin_of|start)_)?{_WORD}\|>|\[{_WORD}\]"
    r"|<\|channel\|>\s*(?:analysis|commentary)",
    re.I,
)
_CLOSE = re.compile(
    rf"</(?:\w+:)?{_WORD}\s*>|◁/{_WORD}▷|<\|(?:end_(?:of_)?|/){_WORD}\|>|\[/{_WORD}\]"
    r"|<\|channel\|>\s*final\s*<\|message\|>",
    re.I,
)
_AROUND = re.compile(
    r"\s*(?:<(answer|caption|output)>(.*)</\1>"
    r"|<\|(?:begin_of|start)_(box|answer|solution|response)\|>(.*)<\|end_(?:of_)?\3\|>)\s*",
    re.I | re.S,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens of one response, from its `usage`."""

    prompt: int
    completion: int


@dataclasses.dataclass(frozen=True)
class Answer:
    """The text of an answer, and its tokens where they are known.

    `finished`: the server said that the model ended the answer by itself (finish_reason).
    """

    text: str
    tokens: Tokens | None = None
    finished: bool = dataclasses.field(default=True, compare=False)


@dataclasses.dataclass(frozen=True)
class Failure:
    """The reason why there is no answer (one of this module's), and a detail in one line."""

    reason: str
    detail: str = ""
    tokens: Tokens | None = None


def read_answer(body: bytes, *, last: bool) -> Answer | Failure:
    """Return the answer in the body of a response of status 200, or why there is none.

    last: the answer is the caption, one line of at most MAX_CAPTION characters.
    """
    try:
        value = parse_json(body, nan=True, surrogates=True, join=dict)
        if isinstance(value, dict) and value.get("error"):  # some gateways send errors as 200
            return Failure(MALFORMED, f"an error in place of an answer: {error_of(body)[0]}")
        choice = value["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
        if not isinstance(text, str | None):
            raise TypeError(f"content is of type {type(text).__name__}")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as e:
        return Failure(MALFORMED, one_line(f"{type(e).__name__}: {e}"))
    tokens = _tokens(value.get("usage"))
    if refusal or finish == "content_filter":
        return Failure(REFUSED, one_line(str(refusal or "content filter")), tokens)
    return judge(text or "", finish, tokens, last=last)


def judge(text: str, finish: Any, tokens: Tokens | None = None, *, last: bool) -> Answer | Failure:
    """Return the answer in a model's whole text, or why there is none.

    finish: its finish_reason, None where the server gave none. last: as for `read_answer`.
    """
    text = answer_of(text)
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
    return Answer(text, tokens, finish is not None)


def answer_of(text: str) -> str:
    """Return the answer in a model's text, without its reasoning and the marks around the answer.

    It is empty where reasoning did not end.
    """
    if ends := list(_CLOSE.finditer(text)):
        text = text[ends[-1].end() :]
    if _OPEN.match(text.lstrip()):
        return ""
    if around := _AROUND.fullmatch(text):
        text = around[2] or around[4] or ""
    return text.strip()


def error_of(body: bytes) -> tuple[str, str]:
    """Return (the message, the code) of an error response.

    Its form is OpenAI's {"error": {"message", "code", "type"}}, or vLLM's without "error".
    """
    try:
        value = parse_json(body, nan=True, surrogates=True, join=dict)
        error: Any = value.get("error", value)
        if isinstance(error, dict):
            return one_line(str(error.get("message") or error)), one_line(
                f"{error.get('code')} {error.get('type')}"
            )
        return one_line(str(error)), ""
    except (ValueError, AttributeError):
        return one_line(body[:1000].decode(errors="replace")) or "no text", ""


def one_line(text: str) -> str:
    """Return foreign text in one printable line of at most MAX_DETAIL characters."""
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
