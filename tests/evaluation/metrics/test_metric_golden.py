"""Test the metrics of pictures against their original libraries, on small random checkpoints.

tests/golden/make_metrics.py ran those libraries.
"""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("ftfy")

import metric_folders
import metric_weights as small

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return metric_folders.write(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("name", ["aes", "hps", "hps21", "imagereward", "clip"])
def test_scores_are_those_of_the_original_library(name, folder):
    metric = metric_folders.opened(name, folder)
    scores = metric.score(small.pictures(), small.PROMPTS)[name]
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, GOLDEN[name], atol=1e-4 if name != "clip" else 1e-3)
    assert np.ptp(GOLDEN[name]) > 0.02  # else it would hold nothing
