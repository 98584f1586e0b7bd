"""How many votes tell a win rate from one half.

A vote scores 1, 0.5 or 0. With a share τ of ties its variance is r (1 − r) − τ / 4 at a win rate
r: ties make it smaller. Votes on one prompt, or of one rater, are alike by an intraclass
correlation ρ. With m votes a prompt and k a rater, as many independent votes are fewer by the
design effect 1 + (m − 1) ρ(prompt) + (k − 1) ρ(rater).
"""

import dataclasses
import math

from data_pipeline.io.errors import InputError

MOST = 10_000_000


@dataclasses.dataclass(frozen=True)
class Design:
    """A comparison of two models by votes.

    Attributes:
        prompts, raters: how many there are; every rater may vote on each prompt.
        ties: share of the votes that are ties, 0..1.
        prompt_icc, rater_icc: intraclass correlation of votes on one prompt and of one rater, 0..1.
        level: of the interval that is to leave out one half.
    """

    prompts: int
    raters: int
    ties: float = 0.2
    prompt_icc: float = 0.1
    rater_icc: float = 0.02
    level: float = 0.95

    def check(self) -> None:
        """Raise InputError on values that no design can have."""
        for name in ("prompts", "raters"):
            if not 1 <= getattr(self, name) <= MOST:
                raise InputError(f"--num-{name} {getattr(self, name)}: give 1..{MOST:,}")
        for name, most in (("ties", 0.99), ("prompt_icc", 1.0), ("rater_icc", 1.0)):
            value = getattr(self, name)
            if not 0.0 <= value <= most:
                raise InputError(f"--{name.replace('_', '-')} {value:g}: give 0..{most:g}")
        if not 0.5 <= self.level < 1.0:
            raise InputError(f"--level {self.level:g}: give a number from 0.5 on, below 1")

    def design_effect(self, votes: float) -> float:
        """Return how many of so many votes tell as much as an independent one."""
        more = max(votes / self.prompts - 1, 0.0) * self.prompt_icc
        return 1.0 + more + max(votes / self.raters - 1, 0.0) * self.rater_icc

    def power(self, votes: float, rate: float) -> float:
        """Return the probability that the interval of so many votes leaves out one half.

        It is on the side of the true rate. The test is that of `win_rates`.
        """
        from scipy import stats  # flags are checked without it

        freedom = self._freedom(votes)
        variance = (rate * (1 - rate) - self.ties / 4) / votes * self.design_effect(votes)
        if variance <= 0:
            return 1.0
        t = stats.t.ppf((1 + self.level) / 2, freedom)
        return float(stats.nct.sf(t, freedom, abs(rate - 0.5) / math.sqrt(variance)))

    def _freedom(self, votes: float) -> float:
        """Return the degrees of freedom of the test: Satterthwaite's, as `win_rates` has them."""
        parts, few = 1 / max(votes - 1, 1), votes
        for all_, icc in ((self.prompts, self.prompt_icc), (self.raters, self.rater_icc)):
            count = min(all_, votes)
            parts += (1 + (votes / count - 1) * icc) ** 2 / max(count - 1, 1)
            few = min(few, count)
        return max(self.design_effect(votes) ** 2 / parts, few - 1, 1)


def check(rate: float, power: float, design: Design) -> None:
    """Raise InputError on values that no plan can have."""
    design.check()
    if not 0.5 < rate <= 1.0 - design.ties / 2:
        raise InputError(
            f"--rate {rate:g}: with ties {design.ties:g} give a win rate above 0.5, at most"
            f" {1 - design.ties / 2:g}"
        )
    if not 0.05 < power < 1.0:
        raise InputError(f"--power {power:g}: give a number above 0.05, below 1, such as 0.8")


def votes_needed(rate: float, power: float, design: Design) -> int | None:
    """Return the least votes that tell a win rate from 0.5 with such a power; None: no number.

    Every rater votes on each prompt at most once. Raises InputError on values out of range.
    """
    check(rate, power, design)
    most = design.prompts * design.raters
    if design.power(most, rate) < power:
        return None
    low, high = 2, most
    while low < high:
        middle = (low + high) // 2
        if design.power(middle, rate) >= power:
            high = middle
        else:
            low = middle + 1
    return low


def rate_told(power: float, votes: int, design: Design) -> float | None:
    """Return the least win rate above 0.5 that so many votes tell from it; None: none."""
    from scipy import optimize

    most = 1.0 - design.ties / 2
    if design.power(votes, most) < power:
        return None
    return float(optimize.brentq(lambda rate: design.power(votes, rate) - power, 0.5, most))
