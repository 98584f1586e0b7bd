"""Check the distribution of random draws, and that every image and update has new ones."""

import numpy as np

SPREADS = 5  # standard errors: once in two million


def unlike(a: np.ndarray, b: np.ndarray) -> None:
    """Fail where two arrays of one shape go together: the correlation of independent ones is 0 to
    within its standard error.
    """
    a, b = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    assert abs(np.corrcoef(a, b)[0, 1]) < SPREADS / np.sqrt(a.size)


def new_each_time(draws: np.ndarray) -> None:
    """Fail where draws [updates, images, …] are an earlier update's or another image's."""
    unlike(draws[1:], draws[:-1])
    unlike(draws[:, 1:], draws[:, :-1])
    unlike(draws[1:, 1:], draws[:-1, :-1])


def normal(draws: np.ndarray, deviation: float = 1.0) -> None:
    """Fail where draws are not of mean 0 and that deviation."""
    error = deviation / np.sqrt(draws.size)
    assert abs(draws.mean()) < SPREADS * error
    assert abs(draws.std() - deviation) < SPREADS * error


def evenly(draws: np.ndarray, edges: np.ndarray) -> None:
    """Fail where draws leave the range of `edges`, or any of the equal bins between them has not
    its share.
    """
    counts, _ = np.histogram(draws, edges)
    assert counts.sum() == draws.size
    share = draws.size / len(counts)
    np.testing.assert_allclose(counts, share, rtol=0, atol=SPREADS * np.sqrt(share))


def share(events: np.ndarray, probability: float) -> None:
    """Fail where events are not as often as that."""
    error = np.sqrt(probability * (1 - probability) / events.size)
    assert abs(events.mean() - probability) < SPREADS * error
