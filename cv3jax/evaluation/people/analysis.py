"""What the votes of a study say: win rates, ratings, agreement, and who failed controls."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cv3jax.evaluation.people.controls import Rater, counted_votes, raters_of, winner
from cv3jax.evaluation.people.study import ASPECTS, Study
from cv3jax.evaluation.people.votes import Vote
from cv3jax.evaluation.statistics import agreement, bradley_terry, win_rates
from data_pipeline.io.errors import InputError

BOTH = "both"  # the answers to both questions together, each a vote


def analyse(
    study: Study, votes: Sequence[Vote], *, exclude_above: float | None, level: float = 0.95
) -> dict[str, Any]:
    """Return the figures of a study, ready for JSON.

    "models", "prompts", "pairs": what was judged; "votes": how many count. "exclude_above",
    "level": as given. "raters": a row each, as controls.Rater, with "share" of failed controls.
    "aspects": of each question and of both, "pairs" [{"a", "b", "wins", "ties", "losses", "rate",
    "low", "high", "low_these", "high_these", "p", "design_effect", "prompt_icc", "rater_icc"}] with
    rates of a over b, "ratings" [{"model", "rating", "low", "high", "votes"}] or None with the
    reason in "unrated", and "agreement" {"alpha", "low", "high", "units", "ratings"}.

    Raises InputError where no vote counts.
    """
    raters = raters_of(votes, exclude_above)
    counted = counted_votes(votes, raters)
    if not counted:
        excluded = sum(rater.excluded for rater in raters)
        why = f"; all {excluded} raters are excluded" if excluded else ""
        raise InputError(f"there is no vote to analyse{why}")
    return {
        "models": list(study.models),
        "prompts": len(study.prompts),
        "pairs": len(study.pairs),
        "votes": len(counted),
        "level": level,
        "exclude_above": exclude_above,
        "raters": [_row(rater) for rater in raters],
        "aspects": {
            name: _aspect(study, counted, aspects, level)
            for name, aspects in (*((one, (one,)) for one in ASPECTS), (BOTH, tuple(ASPECTS)))
        },
    }


def _row(rater: Rater) -> dict[str, Any]:
    return {**rater._asdict(), "share": rater.share}


def _aspect(
    study: Study, votes: Sequence[Vote], aspects: tuple[str, ...], level: float
) -> dict[str, Any]:
    table = _Table(study, votes, aspects)
    found: dict[str, Any] = {"pairs": [], "ratings": None, "unrated": None}
    for first, second in sorted({tuple(pair) for pair in table.pairs.tolist()}):
        rows = (table.pairs == (first, second)).all(1)
        made = win_rates.win_rate(
            table.scores[rows], table.prompts[rows], table.raters[rows], level=level
        )
        found["pairs"].append(_rate(study.models[first], study.models[second], made))
    if len(study.models) > 2:
        try:
            made = bradley_terry.rate(
                study.models, table.pairs, table.scores, table.prompts, table.raters, level=level
            )
            found["ratings"] = [row._asdict() for row in made.rows]
        except bradley_terry.UnratedError as e:
            found["unrated"] = str(e)
    found["agreement"] = agreement.krippendorff(table.units, table.scores, level=level)._asdict()
    return found


def _rate(first: str, second: str, made: win_rates.WinRate) -> dict[str, Any]:
    return {
        "a": first,
        "b": second,
        "wins": made.wins,
        "ties": made.ties,
        "losses": made.losses,
        "rate": made.rate,
        "low": made.any.low,
        "high": made.any.high,
        "low_these": made.these.low,
        "high_these": made.these.high,
        "p": made.p,
        "design_effect": made.design_effect,
        "prompt_icc": made.prompt_icc,
        "rater_icc": made.rater_icc,
    }


class _Table:
    """Votes as arrays [n]; a vote has a row for each aspect.

    pairs: int [n, 2], the models. scores: 1 where the first won. units: what raters agree on.
    """

    def __init__(self, study: Study, votes: Sequence[Vote], aspects: tuple[str, ...]):
        names = {name: i for i, name in enumerate(sorted({vote.rater for vote in votes}))}
        rows = []
        for vote in votes:
            pair = study.pairs[vote.shown.pair]
            for number, aspect in enumerate(aspects):
                best = winner(vote, aspect)
                score = 0.5 if best is None else float(best == pair.first)
                unit = vote.shown.pair * len(aspects) + number
                rows.append((pair.first, pair.second, score, pair.prompt, names[vote.rater], unit))
        made = np.array(rows)
        self.pairs, self.scores = made[:, :2].astype(int), made[:, 2]
        self.prompts, self.raters, self.units = made[:, 3:].astype(int).T
