"""Test that resamples of distances are the distances of the resampled pictures."""

import hashlib

import numpy as np
import pytest

from cv3jax.evaluation.metrics import distances, inception, resamples
from cv3jax.evaluation.metrics.base import SetMetric
from cv3jax.evaluation.metrics.registry import open_metric

torch = pytest.importorskip("torch")
pytest.importorskip("torchmetrics")
metric_inception = pytest.importorskip("metric_inception")

WIDTH = 12


def gaussians(count, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(0.2 * seed + 5, 1 + 0.1 * seed, (count, WIDTH)).astype(np.float32)


def samples(count):
    """Return all rows, two resamples of them, and one of other length."""
    rng = np.random.default_rng(3)
    drawn = [rng.integers(count, size=size) for size in (count, count, count + 5)]
    return [np.arange(count), *drawn]


@pytest.mark.parametrize("counts", [(60, 40), (60, 8), (9, 40), (9, 8), (40, 40)])
def test_resamples_are_the_distances_of_the_pictures(counts, monkeypatch):
    """With more and with fewer pictures than features, and with subsets and without."""
    a, b = (gaussians(count, seed) for seed, count in enumerate(counts))
    monkeypatch.setitem(distances.KID, "size", 30)
    monkeypatch.setattr(resamples, "_BLOCK", 7)
    made = resamples.frechet_of_rows(a, b)
    kid = resamples.kid_of_rows(a, b)
    shares = resamples.precision_recall_of_rows(a, b)
    for rows in samples(len(a)):
        assert made(rows) == pytest.approx(distances.frechet(a[rows], b), rel=1e-6)
        assert kid(rows) == pytest.approx(distances.kid(a[rows], b), rel=1e-9, abs=1e-9)
        assert shares(rows) == distances.precision_recall(a[rows], b)


def test_large_sets_are_measured_anew_for_each_resample(monkeypatch):
    a, b = gaussians(20, 0), gaussians(15, 1)
    monkeypatch.setattr(resamples, "MOST", 100)
    for rows in samples(len(a)):
        assert resamples.kid_of_rows(a, b)(rows) == distances.kid(a[rows], b)
        found = resamples.precision_recall_of_rows(a, b)(rows)
        assert found == distances.precision_recall(a[rows], b)


def test_a_distance_without_resamples_of_its_own_has_them():
    far = SetMetric("far", "lower", {}, np.stack, lambda a, b: {"far": a.mean() - b.mean()})
    a, b = gaussians(5, 0), gaussians(5, 1)
    rows = np.array([0, 0, 3])
    assert far.resampling(a, b)(rows) == {"far": a[rows].mean() - b.mean()}


def test_the_metrics_of_inception_share_it_and_have_their_resamples(tmp_path, monkeypatch):
    path = tmp_path / inception.NETWORK.path
    metric_inception.write(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  {inception.NETWORK.path}\n")
    loaded, load = [], torch.jit.load
    monkeypatch.setattr(torch.jit, "load", lambda *a, **b: loaded.append(1) or load(*a, **b))
    inception._features.cache_clear()
    a, b = gaussians(20, 0), gaussians(15, 1)
    for name in ("fid", "kid", "prc"):
        metric = open_metric(name, tmp_path)
        for rows in samples(len(a)):
            found, wanted = metric.resampling(a, b)(rows), metric.figures(a[rows], b)
            assert found == {key: pytest.approx(value) for key, value in wanted.items()}
    assert loaded == [1]
