"""Distances between two sets of features: Fréchet, kernel (KID), precision and recall.

Each equals clean-fid's and torch-fidelity's figure; KID's arithmetic is torchmetrics' own.
"""

from typing import Any

import numpy as np

from data_pipeline.io import extras
from data_pipeline.io.errors import InputError, counted

KID: dict[str, Any] = {"kernel": "(x·y/d + 1)³", "subsets": 100, "size": 1000, "seed": 2020}
PRC: dict[str, Any] = {"neighbours": 3}


def check_features(drawn: np.ndarray, reference: np.ndarray, least: int) -> None:
    """Raise InputError unless both are [n, d] of finite numbers with n at least `least`."""
    for what, each in (("drawn", drawn), ("reference", reference)):
        if len(each) < least:
            raise InputError(
                f"the {what} set has {counted(len(each), 'picture')}, and this metric takes at"
                f" least {least}"
            )
        if not np.isfinite(each).all():
            raise InputError(
                f"the features of the {what} set are NaN or infinite; the weights are damaged"
            )


def frechet(drawn: np.ndarray, reference: np.ndarray) -> float:
    """Return the Fréchet distance of two sets of features [n, d], as float64.

    The trace of the root of the product of two covariances is the sum of the singular values of
    the product of their factors. That is exact also for fewer pictures than features, where the
    root of a singular matrix is not, and takes no more than min(n, d)² numbers.
    """
    from scipy import linalg

    a, b = (np.asarray(each, np.float64) for each in (drawn, reference))
    difference = a.mean(0) - b.mean(0)
    left, right = factor(a), factor(b)
    spread = float((left**2).sum() + (right**2).sum())
    shared = linalg.svdvals(left @ right.T).sum()
    return float(difference @ difference + spread - 2 * shared)


def factor(features: np.ndarray) -> np.ndarray:
    """Return F [min(n, d), d] with Fᵀ F the covariance of float64 features [n, d]."""
    from scipy import linalg

    made = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return linalg.qr(made, mode="r")[0][: made.shape[1]] if len(made) > made.shape[1] else made


def kid(drawn: np.ndarray, reference: np.ndarray) -> float:
    """Return the unbiased MMD² of a cubic kernel, the mean over random subsets, as torch-fidelity.

    Subsets have 1,000 pictures, or all of the smaller set where it has fewer.
    """
    torch = extras.load("torch", "the metric kid")
    from torchmetrics.image.kid import poly_mmd

    a, b = (torch.from_numpy(np.asarray(each, np.float64)) for each in (drawn, reference))
    values = [float(poly_mmd(a[i], b[j])) for i, j in subsets(len(a), len(b))]
    return float(np.mean(values))


def subsets(drawn: int, reference: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return KID's subsets of two sets of so many pictures, as the numbers of rows in each."""
    size = min(drawn, reference, KID["size"])
    if size == drawn == reference:  # every subset is the whole set
        return [(np.arange(drawn), np.arange(reference))]
    rng = np.random.RandomState(KID["seed"])
    return [
        (rng.choice(drawn, size, False), rng.choice(reference, size, False))
        for _ in range(KID["subsets"])
    ]


def precision_recall(drawn: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Return (precision, recall) by Kynkäänniemi et al. 2019.

    Precision is the share of drawn pictures that lie in a ball of the reference. A ball is round a
    picture and reaches to its third nearest neighbour in its own set. Recall is the same with the
    sets exchanged.
    """
    from scipy.spatial.distance import cdist

    a, b = (np.asarray(each, np.float64) for each in (drawn, reference))
    k = PRC["neighbours"]
    radius_a, radius_b = (np.partition(cdist(each, each), k, axis=1)[:, k] for each in (a, b))
    apart = cdist(a, b)
    precision = (apart <= radius_b[None]).any(axis=1).mean()
    recall = (apart <= radius_a[:, None]).any(axis=0).mean()
    return float(precision), float(recall)
