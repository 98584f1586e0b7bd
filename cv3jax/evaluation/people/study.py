"""A study: which pairs are judged, in which order and on which sides by each rater, and controls.

A rater's order is random, drawn from the study's seed and the rater's name, so it is the same after
every restart. A control shows a pair that the rater has judged before: a repeated one as it was, a
swapped one with its sides exchanged.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from data_pipeline.io import kept_fields
from data_pipeline.io.errors import InputError

MOST_PAIRS, MOST_EACH = 10_000_000, 10_000
_FIELDS = {
    "models": kept_fields.several("Their names.", kept_fields.text("A name."), 2, 8),
    "prompts": kept_fields.several("Texts.", kept_fields.text("A text.", 2**20), 1, MOST_PAIRS),
    "each": kept_fields.whole("Pictures of a prompt by each model.", 1, MOST_EACH),
    "pictures": kept_fields.text("SHA-256 of all files."),
    "seed": kept_fields.whole("Of orders and sides.", 0, 2**32 - 1),
    "controls": kept_fields.number("Share of a rater's pairs.", 0.0, 0.5),
    "limit": kept_fields.Kept(
        "Pairs that a rater is shown.",
        "1 or more, or null",
        lambda n: n is None or (type(n) is int and n >= 1),
    ),
}
KINDS = TRIAL, REPEATED, SWAPPED = "trial", "repeated", "swapped"
APART = 4  # pairs between a control and the pair that it shows again, where there are so many
ASPECTS = {  # name in the votes → the question
    "alignment": "Which picture shows more of what the text says?",
    "quality": "Which picture looks better?",
}


class Pair(NamedTuple):
    """Two pictures of a prompt: models first < second, and which of their pictures of it."""

    prompt: int
    picture: int
    first: int
    second: int


class Shown(NamedTuple):
    """What is at a place of a rater's order.

    pair: its number. left: the model on the left side, or above on a phone. before: the place of
    the pair that a control shows again, or None.
    """

    pair: int
    kind: str
    left: int
    right: int
    before: int | None


@dataclasses.dataclass(frozen=True)
class Study:
    """What is judged.

    Attributes:
        models: their names, two or more, of which no rater sees any.
        prompts: their texts.
        each: pictures of a prompt by each model.
        pictures: SHA-256 of all files, so that votes are not mixed with those on others.
        seed: of orders and sides.
        controls: share of a rater's pairs that are controls, 0..0.5.
        limit: pairs that a rater is shown, controls not counted; None: all.
    """

    models: tuple[str, ...]
    prompts: tuple[str, ...]
    each: int
    pictures: str
    seed: int = 0
    controls: float = 0.1
    limit: int | None = None

    def check(self) -> None:
        """Raise InputError on values that no study can have."""
        if not 0.0 <= self.controls <= 0.5:
            raise InputError(f"--controls {self.controls:g}: give a share in 0..0.5")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit}: give at least 1")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed {self.seed}: give 0..{2**32 - 1}")

    @functools.cached_property
    def pairs(self) -> list[Pair]:
        """All pairs: every two models at each picture of each prompt."""
        return [
            Pair(prompt, picture, first, second)
            for prompt in range(len(self.prompts))
            for picture in range(self.each)
            for first, second in itertools.combinations(range(len(self.models)), 2)
        ]

    def order(self, rater: str) -> list[Shown]:
        """Return what a rater is shown, from first to last."""
        random_ = random.Random(self._draw("order", rater))
        numbers = list(range(len(self.pairs)))
        random_.shuffle(numbers)
        swap = random_.random() < 0.5
        made: list[Shown] = []
        plain: list[int] = []  # places of pairs that are no controls
        owed = 0.0
        for number in numbers[: self.limit]:
            plain.append(len(made))
            made.append(self._shown(rater, number))
            owed += self.controls / (1 - self.controls)
            if owed >= 1 and len(plain) > APART:
                owed, swap = owed - 1, not swap
                made.append(_control(made, random_.choice(plain[:-APART]), swap))
        return made

    @property
    def controlled(self) -> int:
        """The controls that each rater is shown."""
        return sum(one.kind != TRIAL for one in self.order(""))

    def _shown(self, rater: str, number: int) -> Shown:
        pair = self.pairs[number]
        turned = self._draw("side", rater, number) % 2 == 1
        left, right = (pair.second, pair.first) if turned else (pair.first, pair.second)
        return Shown(number, TRIAL, left, right, None)

    def _draw(self, *what: Any) -> int:
        """Return a number that follows from the seed and from what it is for."""
        said = json.dumps([self.seed, self.pictures, *what]).encode()
        return int.from_bytes(hashlib.sha256(said).digest()[:8], "big")

    def to_json(self) -> dict[str, Any]:
        """Return all that decides what raters see and what votes mean."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Study":
        """Return the study that `to_json` wrote. Raises ValueError on other values."""
        if said := kept_fields.wrong(value, _FIELDS):
            raise ValueError(said)
        if more := value.keys() - _FIELDS.keys():
            raise ValueError(f"it has {min(more)[:40]!r} too")
        pairs = len(value["prompts"]) * value["each"] * math.comb(len(value["models"]), 2)
        if pairs > MOST_PAIRS:
            raise ValueError(f"it has more than {MOST_PAIRS:,} pairs")
        return Study(
            **{**value, "models": tuple(value["models"]), "prompts": tuple(value["prompts"])}
        )


def _control(made: Sequence[Shown], before: int, swap: bool) -> Shown:
    shown = made[before]
    if swap:
        return Shown(shown.pair, SWAPPED, shown.right, shown.left, before)
    return Shown(shown.pair, REPEATED, shown.left, shown.right, before)
