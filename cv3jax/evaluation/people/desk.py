"""What a rater's browser asks for: the pair at a place, its pictures, and the vote on it."""

import contextlib
import errno
import functools
import threading
import time
import unicodedata
from collections.abc import Iterator
from typing import Any

from cv3jax.evaluation.people.pictures import Picture, pair_of
from cv3jax.evaluation.people.study import ASPECTS, Shown, Study
from cv3jax.evaluation.people.votes import FIRST, SECOND, TIE, Vote, Votes
from cv3jax.web.errors import ApiError, wrong
from data_pipeline.io.errors import InputError

ANSWERS = {"first": FIRST, "tie": TIE, "second": SECOND}
SIDES = ("first", "second")  # left and right; above and below on a phone
MOST_RATERS, MOST_NAME = 10_000, 60
MOST_SECONDS = 86_400.0
_KEPT = 24  # pairs of pictures that are kept in memory
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Desk:
    """The study, its votes and its pictures. Methods may be called from any thread, and may wait.

    They raise ApiError where a request cannot be answered.
    """

    def __init__(
        self, study: Study, votes: Votes, pictures: list[list[list[Picture]]], *, closed: bool
    ):
        """Keep the parts.

        pictures: of each model, of each prompt. closed: whether only raters with a link may vote.
        """
        self.study, self.closed = study, closed
        self._votes, self._pictures = votes, pictures
        self._names = threading.Lock()
        self._bytes = functools.lru_cache(_KEPT)(self._read)
        self._order = functools.lru_cache(256)(study.order)

    def enter(self, name: Any) -> str:
        """Return the token of the rater of a name; the same name goes on where it was."""
        if self.closed:
            raise ApiError(403, "this study takes raters by their links alone", code="closed")
        name = check_name(name)
        with self._names, _disk():
            if name not in (known := self._votes.raters()) and len(known) >= MOST_RATERS:
                raise ApiError(503, "there are too many raters", code="too_many_raters")
            return self._votes.enter(name)

    def state(self, token: str, place: int | None = None) -> dict[str, Any]:
        """Return what the page shows: the pair at a place, by default the first without a vote."""
        rater, order = self._rater(token)
        with _disk():
            done = self._votes.done(rater)
            place = done if place is None else place
            vote = self._votes.at(rater, place)
        if not 0 <= place <= done:
            raise wrong("place", f"place {place} is not yet to be judged")
        found = {"rater": rater, "total": len(order), "done": done, "place": place}
        found |= {"questions": ASPECTS, "answers": _answers(vote)}
        if place >= len(order):
            return {**found, "prompt": None}
        found["prompt"] = self.study.prompts[self.study.pairs[order[place].pair].prompt]
        found["pictures"] = _addresses(token, place)
        found["ahead"] = _addresses(token, place + 1) if place + 1 < len(order) else []
        return found

    def cast(self, token: str, given: dict[str, Any]) -> dict[str, Any]:
        """Take a vote, and return the state after it."""
        rater, order = self._rater(token)
        place = given.get("place")
        with _disk():
            done = self._votes.done(rater)
        if type(place) is not int or not 0 <= place <= min(done, len(order) - 1):
            raise wrong("place", "give a place that was shown")
        answers = [self._answer(given, aspect) for aspect in ASPECTS]
        seconds = given.get("seconds", 0.0)
        if type(seconds) not in (int, float) or not 0 <= seconds <= MOST_SECONDS:
            raise wrong("seconds", f"give a number in 0..{MOST_SECONDS:g}")
        vote = Vote(rater, place, order[place], *answers, round(float(seconds), 3), time.time())
        with _disk():
            self._votes.cast(vote)
        return self.state(token)

    def picture(self, token: str, place: int, side: str) -> bytes:
        """Return a picture at a place as PNG. The place after that of the next vote is the last."""
        rater, order = self._rater(token)
        with _disk():
            done = self._votes.done(rater)
        if side not in SIDES or not 0 <= place <= min(done + 1, len(order) - 1):
            raise ApiError(404, "there is no such picture", code="not_found")
        shown = order[place]
        try:
            first, second = self._bytes(shown.pair)
        except InputError as e:
            raise ApiError(500, "a picture's file changed or is gone", code="file_changed") from e
        model = shown.left if side == SIDES[0] else shown.right
        return first if model == self.study.pairs[shown.pair].first else second

    def _read(self, number: int) -> tuple[bytes, bytes]:
        pair = self.study.pairs[number]
        of = (self._pictures[model][pair.prompt][pair.picture] for model in pair[2:])
        return pair_of(*of)

    def _rater(self, token: str) -> tuple[str, list[Shown]]:
        with _disk():
            rater = self._votes.rater(token)
        if rater is None:
            raise ApiError(404, "this link is of no rater of this study", code="no_rater")
        return rater, self._order(rater)

    def _answer(self, given: dict[str, Any], aspect: str) -> int:
        value = given.get(aspect)
        if not isinstance(value, str) or value not in ANSWERS:
            raise wrong(aspect, f"{aspect}: give {', '.join(ANSWERS)}")
        return ANSWERS[value]


def check_name(name: Any) -> str:
    """Return a rater's name without blanks around it. Raises ApiError on what is no name."""
    plain = unicodedata.normalize("NFC", name).strip() if isinstance(name, str) else ""
    if not (1 <= len(plain) <= MOST_NAME and plain.isprintable()):
        raise wrong("name", f"give a name of 1..{MOST_NAME} letters")
    return plain


def _answers(vote: Vote | None) -> dict[str, str]:
    names = {number: name for name, number in ANSWERS.items()}
    return {} if vote is None else {aspect: names[getattr(vote, aspect)] for aspect in ASPECTS}


def _addresses(token: str, place: int) -> list[str]:
    return [f"/picture/{token}/{place}/{side}" for side in SIDES]


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    """Raise ApiError where the block's database fails."""
    try:
        yield
    except OSError as e:
        if e.errno in _FULL:
            raise ApiError(507, "the server's disk is full; try again", code="disk_full") from e
        raise ApiError(503, "the server's disk fails; try again", code="disk_failed") from e
