"""Test the metrics that work at once: FD-EffLite0, OCR and the judge. No socket may be opened."""

import socket

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

pytest.importorskip("torch")
pytest.importorskip("rapidocr")
pytest.importorskip("efficientnet_lite_pytorch")

import metric_folders
import metric_weights as small

from cv3jax.evaluation.metrics import ocr
from cv3jax.evaluation.metrics.registry import METRICS, open_metric
from data_pipeline.io.errors import InputError
from data_pipeline.scenes import grammar
from data_pipeline.scenes.render import render


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fail on any socket."""

    def refuse(*args, **kwargs):
        raise AssertionError("a metric opened a socket")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.fixture(scope="module")
def reader():
    return open_metric("ocr", None)


def sign(text):
    picture = Image.new("RGB", (256, 256), "white")
    font = ImageFont.load_default(36)
    ImageDraw.Draw(picture).text((16, 90), text, fill=(20, 20, 90), font=font)
    return picture


def scenes(count, textured=0.0):
    made = [grammar.sample_scene(3, i, split="heldout", textured=textured) for i in range(count)]
    return made, [grammar.caption(each) for each in made]


def test_no_metric_opens_a_socket(tmp_path):
    """Also those with weights, from files."""
    folder = metric_folders.write(tmp_path)
    for name in ("aes", "hps", "imagereward", "clip"):
        scores = metric_folders.opened(name, folder).score(small.pictures(1), small.PROMPTS[:1])
        assert np.isfinite(scores[name]).all()


def test_fdlite_tells_blurred_pictures_from_sharp_ones():
    metric = open_metric("fdlite", None)
    made, _ = scenes(8)
    pictures = [Image.fromarray(render(each, 64)) for each in made]
    blurred = [each.resize((8, 8)).resize((64, 64)) for each in pictures]
    sharp = metric.features(pictures)
    assert sharp.shape == (8, 1280)
    assert sharp.min() >= 0  # of ReLU6
    near = metric.figures(sharp[:4], sharp[4:])["fdlite"]
    far = metric.figures(metric.features(blurred[:4]), sharp[4:])["fdlite"]
    assert metric.figures(sharp, sharp)["fdlite"] == pytest.approx(0, abs=1e-6)
    assert far > 1.2 * near > 0
    assert "fid" not in metric.figures(sharp, sharp)


def test_ocr_reads_what_is_written(reader):
    prompt = 'a poster with the words "BLUE MOON" on it'
    pictures = [sign("Blue Moon"), sign("BLUE SOON"), Image.new("RGB", (32, 32))]
    scores = reader.score(pictures, [prompt] * 3)["ocr"]
    assert scores.tolist() == [1, pytest.approx(1 - 1 / 9), 0]  # in any case of letters


def test_ocr_leaves_out_prompts_without_quoted_text(reader):
    assert np.isnan(reader.score([sign("HELLO")], ["a sign that says hello"])["ocr"]).all()
    assert "no score" in reader.excluded


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ('"A" and “B c” and «D», 「E」', ["A", "B c", "D", "E"]),
        ("it's a dog's life", []),
        ("a sign says 'don't stop' in red", ["don't stop"]),
        ("a sign says \u2018stop\u2019, it\u2019s red", ["stop"]),
        ('an empty "" and a blank " "', []),
        ("the dogs' bowl and the cats' bowl", []),
    ],
)
def test_quotations_are_found(prompt, texts):
    assert ocr.quotations(prompt) == texts


def test_the_share_is_of_all_quoted_characters():
    assert ocr.share(["abcd"], "xx abcd yy") == 1
    assert ocr.share(["abcd"], "abxd") == 0.75
    assert ocr.share(["abcd"], "") == 0
    assert ocr.share(["abcd", "ef"], "ABCD") == pytest.approx(4 / 6)
    assert ocr.share(["ﬁ"], "fi") == 1  # NFKC


@pytest.mark.parametrize(("side", "textured"), [(64, 0.0), (128, 1.0)])
def test_the_judge_accepts_renders_and_rejects_others(side, textured):
    metric = open_metric("judge", None)
    made, captions = scenes(6, textured)
    pictures = [Image.fromarray(render(each, side)) for each in made]
    right = metric.score(pictures, captions)
    assert set(right) >= {"judge.all", "judge.count", "judge.colour"}
    assert ("judge.detail" in right) == (side >= 128)
    assert all(values.tolist() == [1] * 6 for values in right.values())
    turned = metric.score(pictures[1:] + pictures[:1], captions)
    assert turned["judge.all"].mean() < 0.5


def test_the_judge_takes_scenes_only():
    metric = open_metric("judge", None)
    with pytest.raises(InputError, match="takes pictures and captions of scenes") as said:
        metric.score([Image.new("RGB", (64, 64))], ["a photo of a cat"])
    assert "\n" not in str(said.value)
    with pytest.raises(InputError, match="takes pictures and captions of scenes"):
        metric.score([Image.new("RGB", (64, 40))], scenes(1)[1])


def test_what_works_without_weights_says_so():
    offline = [name for name, spec in METRICS.items() if not spec.needs]
    assert offline == ["fdlite", "ocr", "judge", "named"]
