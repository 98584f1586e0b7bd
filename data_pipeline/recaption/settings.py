"""Which server and model a recaptioning asks, what for, and how fast."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from data_pipeline.io.errors import InputError
from data_pipeline.recaption.dialogue import DEFAULT


def _flag(
    default: float | None, kind: type, metavar: str, span: tuple[float, float], help: str
) -> Any:
    metadata = {"kind": kind, "metavar": metavar, "span": span, "help": help}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class RecaptionSettings:
    """What is asked of whom; the numbers among it are flags of the command, in this order.

    Attributes:
        endpoint: the server's address, up to and with /v1.
        model: as the server calls it.
        key: the API key, which is said nowhere; None: none.
        dialogue: a template, see dialogue.py.
        concurrency: dialogues at once, and so the most requests that are under way.
        rate, tokens_per_minute: the most requests and tokens a minute; None: what the server takes.
        timeout: seconds of one request from its connection to the last byte.
        retries: how often a request is sent again after an error that may pass. 429s do not count.
        max_tokens: of one answer; not sent where the dialogue's settings have
            max_completion_tokens.
        image_side: longest side of the image that is sent, pixels.
        price_in, price_out: of a million tokens in the prompt and in the answer, in any currency;
            both or neither.
        limit: only so many records, the first ones, are asked, and no dataset is written.
        backoff: seconds before the first retry; doubles from one to the next, times .5 to 1.5 by
            chance.

    Raises:
        InputError: a value out of range, by the name of its flag.
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
        "requests a minute, at most (default: as many as the server takes)",
    )
    tokens_per_minute: float | None = _flag(
        None, float, "N", (1, 1e12), "tokens a minute, at most, of prompts and answers together"
    )
    timeout: float = _flag(120.0, float, "S", (0.01, 3600), "seconds of one request")
    retries: int = _flag(5, int, "N", (0, 100), "of a request, after errors that may pass")
    max_tokens: int = _flag(400, int, "N", (1, 100_000), "of one answer")
    image_side: int = _flag(
        1024, int, "PIXELS", (16, 8192), "longest side of the images that are sent"
    )
    price_in: float | None = _flag(
        None, float, "P", (0, 1e6), "of a million tokens of prompts, for the report"
    )
    price_out: float | None = _flag(None, float, "P", (0, 1e6), "of a million tokens of answers")
    limit: int | None = _flag(
        None, int, "N", (1, 10**12), "ask for the first N records alone, and write no dataset"
    )
    backoff: float = 0.5

    def __post_init__(self):
        for field in flags():
            value, (low, high) = getattr(self, field.name), field.metadata["span"]
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise InputError(
                    f"--{field.name.replace('_', '-')} {value:g}: give a number in"
                    f" {low:g}..{high:g}"
                )
        if (self.price_in is None) != (self.price_out is None):
            raise InputError("--price-in and --price-out: give both, or neither")


def flags() -> list[dataclasses.Field]:
    """The fields that are flags of the command, in order."""
    return [field for field in dataclasses.fields(RecaptionSettings) if field.metadata]
