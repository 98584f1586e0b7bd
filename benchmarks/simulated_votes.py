"""Simulate scores and votes whose truth is known, for benchmarks/eval_statistics.py."""

from typing import NamedTuple

import numpy as np
from scipy import special

from cv3jax.evaluation.statistics.bradley_terry import SCALE

TIE = 0.4  # a lean as small as this is a tie
SIZES = {  # rows of each cluster
    "4 each": lambda rng, count: np.full(count, 4),
    "1 to 8": lambda rng, count: rng.integers(1, 9, count),
    "few large": lambda rng, count: np.minimum(1 + rng.pareto(1.5, count).astype(int), 50),
}


def normal(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Return normal scores with a share of 0.36 of their variance between clusters; mean 0."""
    return 0.6 * rng.normal(size=labels.max() + 1)[labels] + 0.8 * rng.normal(size=len(labels))


def skewed(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Return skewed scores of mean 0."""
    between = np.exp(0.5 * rng.normal(size=labels.max() + 1)) - np.exp(0.125)
    return between[labels] + rng.exponential(size=len(labels)) - 1


def binary(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Return scores of 0.4 and −0.6, of mean 0."""
    share = rng.beta(3, 2, labels.max() + 1)[labels]
    return (rng.random(len(labels)) < share) - 0.6


SCORES = {"normal": normal, "skewed": skewed, "right or wrong": binary}


class Votes(NamedTuple):
    """How votes on two models are simulated.

    prompts, raters: how many. each: votes on a prompt, of as many raters. by_prompt, by_rater:
    standard deviations of the log odds. odds: their mean. The truth is for any prompt and rater.
    """

    prompts: int
    raters: int
    each: int
    by_prompt: float
    by_rater: float
    odds: float

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return scores, prompts and raters of votes."""
        prompts = np.repeat(np.arange(self.prompts), self.each)
        raters = rng.random((self.prompts, self.raters)).argsort(1)[:, : self.each].ravel()
        lean = self.by_prompt * rng.normal(size=self.prompts)[prompts] + self.odds
        lean = lean + self.by_rater * rng.normal(size=self.raters)[raters]
        lean = lean + rng.logistic(size=len(prompts))
        return np.where(lean > TIE, 1.0, np.where(lean < -TIE, 0.0, 0.5)), prompts, raters

    @property
    def truth(self) -> float:
        """The win rate of any prompt and rater."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        lean = self.odds + np.hypot(self.by_prompt, self.by_rater) * nodes
        each = (special.expit(lean - TIE) + special.expit(lean + TIE)) / 2
        return float((weights * each).sum() / weights.sum())


STRENGTHS = np.array([150.0, 0.0, -50.0, -100.0])


def tournament(
    rng: np.random.Generator, prompts: int, raters: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs, scores, prompts and raters of votes on four models of known ratings."""
    count, models = prompts * 6, len(STRENGTHS)
    labels = np.repeat(np.arange(prompts), 6), rng.integers(raters, size=count)
    chosen = np.array([rng.permutation(models)[:2] for _ in range(count)])
    lean = (STRENGTHS + 40 * rng.normal(size=(prompts, models)))[labels[0]]
    lean = (lean + 20 * rng.normal(size=(raters, models))[labels[1]]) / SCALE
    lean = np.take_along_axis(lean, chosen, 1)
    half = np.exp((lean[:, 0] - lean[:, 1]) / 2)
    whole, at = half + 1 / half + 0.5, rng.random(count)
    scores = np.where(at < half / whole, 1.0, np.where(at < (half + 0.5) / whole, 0.5, 0.0))
    return chosen, scores, *labels
