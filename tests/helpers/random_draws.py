"""Check the distribution of random draws, and that every image and update has new ones."""

import numpy as np

SPREADS = 5  # standard errors: once in two million


def unlike(a: np.ndarray, b: np.ndarray) -> None:
    """Fail if two arrays of one shape are correlated.

    The correlation of independent ones is 0 within its standard error.
    """
    a, b = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    assert abs(np.corrcoef(a, b)[0, 1]) < SPREADS / np.sqrt(a.size)


def new_each_time(draws: np.ndarray) -> None:
    """Fail if draws [updates, images, …] repeat an earlier update's or another image's."""
    unlike(draws[1:], draws[:-1])
    unlike(draws[:, 1:], draws[:, :-1])
    unlike(draws[1:, 1:], draws[:-1, :-1])


def normal(draws: np.ndarray, deviation: float = 1.0) -> None:
    """Fail if draws do not have mean 0 and that deviation."""
    error = deviation / np.sqrt(draws.size)
    assert abs(draws.mean()) < SPREADS * error
    assert abs(draws.std() - deviation) < SPREADS * error


def evenly(draws: np.ndarray, edges: np.ndarray) -> None:
    """Fail unless draws are uniform over the range of `edges`.

    None may leave it, and each of the equal bins between the edges must have its share.
    """
    counts, _ = np.histogram(draws, edges)
    assert counts.sum() == draws.size
    share = draws.size / len(counts)
    np.testing.assert_allclose(counts, share, rtol=0, atol=SPREADS * np.sqrt(share))


def share(events: np.ndarray, probability: float) -> None:
    """Fail if events do not have that frequency."""
    error = np.sqrt(probability * (1 - probability) / events.size)
    assert abs(events.mean() - probability) < SPREADS * error
