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
    factors = [(each - each.mean(0)) / np.sqrt(len(each) - 1) for each in (a, b)]
    spread = sum(float((each**2).sum()) for each in factors)
    left, right = (
        linalg.qr(each, mode="r")[0][: each.shape[1]] if len(each) > each.shape[1] else each
        for each in factors
    )
    shared = linalg.svdvals(left @ right.T).sum()
    return float(difference @ difference + spread - 2 * shared)


def kid(drawn: np.ndarray, reference: np.ndarray) -> float:
    """Return the unbiased MMD² of a cubic kernel, the mean over random subsets, as torch-fidelity.

    Subsets have 1,000 pictures, or all of the smaller set where it has fewer.
    """
    torch = extras.load("torch", "the metric kid")
    from torchmetrics.image.kid import poly_mmd

    a, b = (torch.from_numpy(np.asarray(each, np.float64)) for each in (drawn, reference))
    size = min(len(a), len(b), KID["size"])
    if size == len(a) == len(b):  # every subset is the whole set
        return float(poly_mmd(a, b))
    rng = np.random.RandomState(KID["seed"])
    values = [
        float(poly_mmd(a[rng.choice(len(a), size, False)], b[rng.choice(len(b), size, False)]))
        for _ in range(KID["subsets"])
    ]
    return float(np.mean(values))


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
