"""The settings of a recaptioning: the server, the model, the questions and the rate."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from data_pipeline.chat.rate_limit import MAX_WAIT
from data_pipeline.io.errors import InputError
from data_pipeline.recaption.dialogue import DEFAULT


def _flag(
    default: float | None, kind: type, metavar: str, span: tuple[float, float], help: str
) -> Any:
    metadata = {"kind": kind, "metavar": metavar, "span": span, "help": help}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class RecaptionSettings:
    """The settings of a recaptioning; the numeric ones are flags of the command, in this order.

    Attributes:
        endpoint: the server's address, including /v1.
        model: the server's name of the model.
        key: the API key, which is never shown; None: none.
        dialogue: a template, see dialogue.py.
        concurrency: dialogues at once, and so the most requests in flight.
        rate, tokens_per_minute: the most requests and tokens per minute; None: what the server
            takes.
        timeout: seconds for one request, from its connection to the last byte.
        max_wait: the longest pause that a server gets which asks for one (Retry-After), seconds.
        retries: how often a request is sent again after an error that may not recur. 429s do not
            count.
        max_tokens: the most tokens of one answer; not sent where the dialogue's settings have
            max_completion_tokens.
        image_side: longest side of the image that is sent, pixels.
        price_in, price_out: the price of a million tokens in prompts and in answers, in any
            currency; both or neither.
        limit: ask only for this many records, the first ones, and write no dataset.
        backoff: seconds before the first retry; it doubles from one to the next, times a random
            factor of 0.5 to 1.5.

    Raises:
        InputError: a value is out of range; the message has the name of its flag.
    """

    endpoint: str
    model: str
    key: str | None = dataclasses.field(default=None, repr=False)
    dialogue: Path = DEFAULT
    concurrency: int = _flag(32, int, "N", (1, 1024), "dialogues at once")
    rate: float | None = _flag(
        None,
        float,
        "N",
        (1e-3, 1e9),
        "the most requests per minute (default: as many as the server takes)",
    )
    tokens_per_minute: float | None = _flag(
        None, float, "N", (1, 1e12), "the most tokens per minute, in prompts and answers together"
    )
    timeout: float = _flag(120.0, float, "S", (0.01, 3600), "seconds for one request")
    max_wait: float = _flag(
        MAX_WAIT,
        float,
        "S",
        (0, 1e6),
        "the longest pause that a server's Retry-After gets, seconds",
    )
    retries: int = _flag(5, int, "N", (0, 100), "retries of a request after transient errors")
    max_tokens: int = _flag(400, int, "N", (1, 100_000), "the most tokens of one answer")
    image_side: int = _flag(
        1024, int, "PIXELS", (16, 8192), "longest side of the images that are sent"
    )
    price_in: float | None = _flag(
        None, float, "P", (0, 1e6), "price of a million tokens in prompts, for the report"
    )
    price_out: float | None = _flag(
        None, float, "P", (0, 1e6), "price of a million tokens in answers"
    )
    limit: int | None = _flag(
        None, int, "N", (1, 10**12), "ask only for the first N records, and write no dataset"
    )
    backoff: float = 0.5

    def __post_init__(self):
        """Check the values."""
        for field in flags():
            value, (low, high) = getattr(self, field.name), field.metadata["span"]
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise InputError(
                    f"--{field.name.replace('_', '-')} {value:g}: give a number in"
                    f" {low:g}..{high:g}"
                )
        if (self.price_in is None) != (self.price_out is None):
            raise InputError("--price-in and --price-out: give both or neither")


def flags() -> list[dataclasses.Field]:
    """Return the fields that are flags of the command, in order."""
    return [field for field in dataclasses.fields(RecaptionSettings) if field.metadata]
