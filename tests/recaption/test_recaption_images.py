"""Test what the vision model receives for each kind of image.

The file names of triplets, and the removal of a model's reasoning from its answer, are tested too.
"""

import base64
import io
import json

import numpy as np
import pytest
from odd_images import chunk, png, rgb_profile, saved
from PIL import Image

from data_pipeline.chat import answers
from data_pipeline.chat.answers import Answer, answer_of, read_answer
from data_pipeline.recaption.data_url import data_url
from data_pipeline.recaption.triplets import Triplets
from data_pipeline.records.records import make_record

RED = Image.new("RGB", (16, 16), "red")
GREY16 = Image.fromarray(np.full((16, 16), 0x8080, np.uint16))


def sent(data):
    head, _, body = data_url(data, 64).partition(";base64,")
    return head, base64.b64decode(body)


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (saved(GREY16), (128, 128, 128)),
        (png(16, 0, [b"\x80\x80"] * 2, chunk(b"tRNS", b"\x80\x80")), (255, 255, 255)),
        (saved(RED, icc_profile=rgb_profile(2.2, (1, 0, 2))), (0, 255, 0)),
        (saved(RED.convert("CMYK"), "JPEG"), (254, 0, 0)),
        (saved(RED, "AVIF"), (254, 0, 0)),
        (saved(RED, "JPEG2000"), (254, 0, 0)),
        (saved(RED, "HEIF"), (254, 0, 0)),
    ],
)
def test_what_others_would_read_otherwise_is_sent_as_training_sees_it(data, colour):
    head, body = sent(data)
    image = Image.open(io.BytesIO(body))
    assert (head, image.format, image.mode) == ("data:image/jpeg", "JPEG", "RGB")
    np.testing.assert_allclose(image.getpixel((0, 0)), colour, atol=4)


@pytest.mark.parametrize(
    ("kind", "options", "mime", "suffix"),
    [
        ("MPO", {"save_all": True, "append_images": [RED]}, "image/jpeg", "jpg"),
        ("JPEG", {}, "image/jpeg", "jpg"),
        ("WEBP", {}, "image/webp", "webp"),
        ("PNG", {}, "image/png", "png"),
        ("AVIF", {}, "image/jpeg", "avif"),
        ("JPEG2000", {}, "image/jpeg", "jp2"),
        ("HEIF", {}, "image/jpeg", "heic"),
    ],
)
def test_every_image_that_is_read_is_sent_and_written(kind, options, mime, suffix, tmp_path):
    data = saved(RED, kind, **options)
    head, body = sent(data)
    assert head == f"data:{mime}"
    assert (body == data) == (kind in ("MPO", "JPEG", "WEBP", "PNG"))
    with Triplets(tmp_path / "t.json", "old: {caption}").writing() as triplets:
        triplets.write(make_record(data, "an old one", key="k"), "a new one")
    (one,) = json.loads((tmp_path / "t.json").read_text())
    assert one["image"] == f"t_images/k.{suffix}"
    assert (tmp_path / one["image"]).read_bytes() == data


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("<think>Is it a cat?</think>A cat.", "A cat."),
        ("<think>\n\n</think>\n\nA cat.", "A cat."),
        ("Is it a cat? It is.</think>\nA cat.", "A cat."),  # the server's template opened it
        ("<THINKING>one</THINKING> A cat.", "A cat."),
        ("◁think▷Is it?◁/think▷A cat.", "A cat."),
        ("<seed:think>Is it?</seed:think>A cat.", "A cat."),
        ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>b<|END_RESPONSE|>", "b"),
        ("<scratchpad>Is it?</scratchpad >\nA cat.", "A cat."),
        ("<seed:think>Is it", ""),
        ("<|begin_of_thought|>one<|end_of_thought|>A cat.", "A cat."),
        ("<think>a</think>no<reflection>b</reflection>A cat.", "A cat."),
        ("<reasoning>it is</reasoning><answer>A cat.</answer>", "A cat."),
        ("<|begin_of_box|>A cat.<|end_of_box|>", "A cat."),
        ("[THINK]hm[/THINK]A cat.", "A cat."),
        ("<think>and it never came to an end", ""),
        ("<think>a</think>", ""),
        ("<think>a</think> <think>b", ""),
        ("<|thinking|>Is it?<|/thinking|>A cat.", "A cat."),
        ("<|channel|>analysis<|message|>Is it?<|channel|>final<|message|>A cat.", "A cat."),
        ("<|channel|>analysis<|message|>Is it", ""),
        ("A cat that would think of a <box>.", "A cat that would think of a <box>."),
        ("A sign says <think>.", "A sign says <think>."),
        ("A cat.", "A cat."),
    ],
)
def test_an_answer_is_what_comes_after_the_reasoning(said, answer):
    assert answer_of(said) == answer
    body = json.dumps({"choices": [{"message": {"content": said}, "finish_reason": "stop"}]})
    for last in (True, False):
        outcome = read_answer(body.encode(), last=last)
        assert outcome == Answer(answer) if answer else outcome.reason == answers.EMPTY


def test_a_refusal_after_reasoning_is_one():
    said = "<think>I must not.</think>I'm sorry, but I can't describe this."
    body = json.dumps({"choices": [{"message": {"content": said}, "finish_reason": "stop"}]})
    assert read_answer(body.encode(), last=True).reason == answers.REFUSED
