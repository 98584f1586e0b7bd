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

from cv3jax.evaluation.metrics import clip

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return metric_folders.write(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("name", ["aes", "hps", "hps21", "imagereward", "clip"])
def test_scores_are_those_of_the_original_library(name, folder):
    metric = metric_folders.opened(name, folder)
    prompts = small.SHORT if name == "clip" else small.PROMPTS
    scores = metric.score(small.pictures(), prompts)[name]
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, GOLDEN[name], atol=1e-4 if name != "clip" else 1e-3)
    assert np.ptp(GOLDEN[name]) > 0.02  # else it would hold nothing


class _Model:
    """OpenAI's CLIP as torchmetrics takes it: features, which transformers 5 has in a tuple."""

    def __init__(self, model):
        self.model, self.config = model, model.config

    def to(self, device):
        return self

    def get_image_features(self, pixels):
        return self.model.get_image_features(pixels).pooler_output

    def get_text_features(self, tokens, mask):
        return self.model.get_text_features(tokens, mask).pooler_output


def test_the_clip_score_is_that_of_torchmetrics(folder):
    """On the same pictures, with the processor of transformers."""
    torch = pytest.importorskip("torch")
    score = pytest.importorskip("torchmetrics.functional.multimodal").clip_score
    from transformers import CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    sizes = metric_folders.clip_l(small.write_bpe(folder / clip.FOLDER))
    model = _Model(clip.load_huggingface(folder / clip.MODEL.path, sizes))
    places = (folder / clip.FOLDER / name for name in ("vocab.json", "merges.txt"))
    processor = CLIPProcessor(CLIPImageProcessorPil(), clip.load_tokenizer(*places, sizes))
    # each prompt with each picture: some have a cosine above zero
    pairs = [(picture, prompt) for picture in small.pictures() for prompt in small.SHORT]
    theirs = [
        float(
            score(
                torch.from_numpy(np.array(picture)).permute(2, 0, 1),
                prompt,
                lambda: (model, processor),
            )
        )
        for picture, prompt in pairs
    ]
    ours = metric_folders.opened("clip", folder).score(*zip(*pairs, strict=True))["clip"]
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert np.unique(np.array(theirs).round(3)).size > 3
