"""Test FID, KID, precision and recall, and FD-EffLite0 against the libraries that define them."""

import hashlib
import json
from pathlib import Path

import metric_weights as small
import numpy as np
import pytest

from cv3jax.evaluation.metrics import distances, inception
from cv3jax.evaluation.metrics.registry import open_metric
from data_pipeline.io.errors import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("torchmetrics")
metric_inception = pytest.importorskip("metric_inception")

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "metrics.json").read_text())
CLEAN, FIDELITY = GOLDEN["clean_fid"], GOLDEN["torch_fidelity"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return a directory with a small TorchScript and the user's SHA256SUMS."""
    folder = tmp_path_factory.mktemp("weights")
    path = folder / inception.NETWORK.path
    metric_inception.write(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  {inception.NETWORK.path}\n")
    return folder


@pytest.fixture(scope="module")
def features(weights):
    """Return the features of two sets of pictures, which clean-fid read from PNG files."""
    metric = open_metric("fid", weights)
    return [metric.features(small.pictures(*each)) for each in ((12, 1), (10, 2))]


def gaussians(count, seed, width=40):
    rng = np.random.default_rng(seed)
    return rng.normal(0.2 * seed, 1 + 0.1 * seed, (count, width)).astype(np.float32)


def test_features_are_those_of_clean_fid(features):
    assert [each.shape for each in features] == [(12, 2048), (10, 2048)]
    assert features[0].sum(dtype=np.float64) == pytest.approx(GOLDEN["feature"], rel=1e-5)


def test_fid_is_that_of_clean_fid_and_torch_fidelity(weights, features):
    found = open_metric("fid", weights).figures(*features)["fid"]
    assert found == pytest.approx(CLEAN["fid"], rel=1e-3)
    assert found == pytest.approx(FIDELITY["frechet_inception_distance"], rel=1e-3)


def test_kid_is_that_of_clean_fid_and_torch_fidelity(weights, features):
    kid = open_metric("kid", weights).figures
    whole = kid(features[0][:10], features[1])["kid"]  # each subset is all of both sets
    assert whole == pytest.approx(CLEAN["kid"], abs=1e-3)
    drawn = kid(*features)["kid"]  # subsets of ten of the twelve
    assert drawn == pytest.approx(FIDELITY["kernel_inception_distance_mean"], abs=1e-6)
    assert abs(whole - drawn) > 1e-4  # the subsets matter


def test_precision_and_recall_are_those_of_torch_fidelity(weights, features):
    found = open_metric("prc", weights).figures(*features)
    assert found["precision"] == pytest.approx(FIDELITY["precision"], abs=1e-6)
    assert found["recall"] == pytest.approx(FIDELITY["recall"], abs=1e-6)
    assert found["precision"] != found["recall"]


@pytest.mark.parametrize("counts", [(300, 200), (20, 200), (15, 12)])
def test_the_frechet_distance_is_that_of_torchmetrics(counts):
    """With more and with fewer pictures than features."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    a, b = (gaussians(count, seed) for seed, count in enumerate(counts))

    class Same(torch.nn.Module):
        num_features = a.shape[1]

        def forward(self, x):
            return x.double()

    theirs = FrechetInceptionDistance(feature=Same(), normalize=False, input_img_size=(40,))
    theirs.set_dtype(torch.float64)
    theirs.update(torch.from_numpy(b), real=True)
    theirs.update(torch.from_numpy(a), real=False)
    assert distances.frechet(a, b) == pytest.approx(float(theirs.compute()), rel=1e-3)


def test_distances_of_known_sets():
    a = gaussians(200, 1)
    assert distances.frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert distances.frechet(a, a + 3) == pytest.approx(9 * a.shape[1], rel=1e-5)
    assert distances.frechet(a, 2 * a) == pytest.approx(
        (a.mean(0) ** 2).sum() + a.var(0, ddof=1).sum(), rel=1e-5
    )
    assert distances.precision_recall(a, a) == (1, 1)
    assert distances.precision_recall(a, a + 100) == (0, 0)
    one_place = np.repeat(a[:1], 10, 0)
    assert distances.precision_recall(one_place, a)[0] == 1
    assert distances.precision_recall(one_place, a)[1] < 0.1


def test_torchscript_is_run_only_if_its_sha256_is_stated(tmp_path):
    path = tmp_path / inception.NETWORK.path
    metric_inception.write(path)
    with pytest.raises(InputError, match="is TorchScript, which is code") as said:
        open_metric("fid", tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest in str(said.value)
    assert inception.NETWORK.sha256 in str(said.value)
    sums = path.parent / "SHA256SUMS"
    sums.write_text(f"{digest}  {path.name}\n")
    assert open_metric("fid", tmp_path).protocol["weights"] == {inception.NETWORK.path: digest}
    sums.write_text(f"{'0' * 64}  {path.name}\n")
    with pytest.raises(InputError, match=rf"its SHA-256 is {digest}, but .*SHA256SUMS says 0000"):
        open_metric("fid", tmp_path)


def test_another_network_is_refused(tmp_path):
    path = tmp_path / inception.NETWORK.path

    def refused(match):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (path.parent / "SHA256SUMS").write_text(f"{digest}  {path.name}\n")
        with pytest.raises(InputError, match=match) as said:
            open_metric("fid", tmp_path).features(small.pictures(2))
        assert "\n" not in str(said.value)

    metric_inception.write(path, features=1024)
    refused("has 1024 features, but Inception has 2048")
    torch.jit.script(torch.nn.ReLU()).save(str(path))
    refused("is not the TorchScript of Inception")
    torch.save({"weight": torch.zeros(3)}, path)
    refused("is not the TorchScript of Inception")


def test_sets_that_are_too_small_or_not_finite_are_refused(weights):
    with pytest.raises(InputError, match=r"the drawn set has 1 picture, .* at least 2"):
        open_metric("fid", weights).figures(gaussians(1, 0), gaussians(5, 1))
    with pytest.raises(InputError, match=r"the reference set has 3 pictures, .* at least 4"):
        open_metric("prc", weights).figures(gaussians(9, 0), gaussians(3, 1))
    with pytest.raises(InputError, match="the reference set are NaN or infinite"):
        open_metric("kid", weights).figures(gaussians(9, 0), np.full((5, 40), np.nan))
