"""Controls: whether a rater says of a pair that is shown again what they said before."""

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cv3jax.evaluation.people.study import ASPECTS, TRIAL
from cv3jax.evaluation.people.votes import FIRST, TIE, Vote


class Rater(NamedTuple):
    """What is known of a rater.

    Attributes:
        votes: on pairs, without controls.
        controls: answers on controls, of which each has as many as there are questions.
        failed: of these, answers that name the other model as the winner than before.
        changed: of these, other answers than before; ties that became wins are among them.
        first: share of the answers that are no ties, which name the left picture; None without any.
        seconds: median of the time that a pair was shown.
        excluded: whether failed / controls is above the threshold.
    """

    name: str
    votes: int
    controls: int
    failed: int
    changed: int
    first: float | None
    seconds: float
    excluded: bool

    @property
    def share(self) -> float | None:
        """The share of failed controls, or None without controls."""
        return self.failed / self.controls if self.controls else None


def winner(vote: Vote, aspect: str) -> int | None:
    """Return the number of the model that a vote names, or None for a tie."""
    answer = getattr(vote, aspect)
    if answer == TIE:
        return None
    return vote.shown.left if answer == FIRST else vote.shown.right


def raters_of(votes: Iterable[Vote], exclude_above: float | None) -> list[Rater]:
    """Return the raters who voted, by name.

    exclude_above: share of failed controls above which a rater is excluded; None: nobody is. A
    rater without controls is not.
    """
    by_rater: dict[str, dict[int, Vote]] = {}
    for vote in votes:
        by_rater.setdefault(vote.rater, {})[vote.place] = vote
    return [_rater(name, by_rater[name], exclude_above) for name in sorted(by_rater)]


def _rater(name: str, votes: dict[int, Vote], exclude_above: float | None) -> Rater:
    again = [
        (winner(vote, aspect), winner(votes[vote.shown.before], aspect))
        for vote in votes.values()
        if vote.shown.kind != TRIAL
        for aspect in ASPECTS
    ]
    failed = sum(now != before and None not in (now, before) for now, before in again)
    answers = [getattr(vote, aspect) for vote in votes.values() for aspect in ASPECTS]
    told = [answer for answer in answers if answer != TIE]
    found = Rater(
        name,
        sum(vote.shown.kind == TRIAL for vote in votes.values()),
        len(again),
        failed,
        sum(now != before for now, before in again),
        told.count(FIRST) / len(told) if told else None,
        statistics.median(vote.seconds for vote in votes.values()),
        excluded=False,
    )
    above = exclude_above is not None and found.share is not None and found.share > exclude_above
    return found._replace(excluded=above)


def counted_votes(votes: Iterable[Vote], raters: Sequence[Rater]) -> list[Vote]:
    """Return the votes that count: no controls, and of no excluded rater."""
    out = {rater.name for rater in raters if rater.excluded}
    return [vote for vote in votes if vote.shown.kind == TRIAL and vote.rater not in out]
