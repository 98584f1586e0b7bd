"""Test that large pictures do not hold the event loop up, which answers everybody."""

import base64
import functools
import threading
import time

import http_server
import pytest

from cv3jax.serving.http import encoding, given
from cv3jax.serving.http.finishing import Finisher
from cv3jax.serving.http.reading import Given

DRAW, EDIT = "/v1/images/generations", "/v1/images/edits"


@pytest.fixture
def threads(monkeypatch):
    """Return the threads in which each function ran whose time grows with pictures, by name."""
    seen: dict[str, set[threading.Thread]] = {}

    def watch(holder, name):
        function = getattr(holder, name)

        @functools.wraps(function)
        def watched(*args, **more):
            if name != "digest" or args[0].image is not None:  # that of a text is short
                seen.setdefault(name, set()).add(threading.current_thread())
            return function(*args, **more)

        monkeypatch.setattr(holder, name, watched)

    for name in ("base64_of", "encode", "enlarged"):
        watch(encoding, name)
    for name in ("finish", "partial"):
        watch(Finisher, name)
    for name in ("size_of", "layers_of", "restored"):
        watch(given, name)
    watch(Given, "digest")
    return seen


def test_pictures_are_encoded_beside_the_loop(server, threads):
    made = server.post(DRAW, {"prompt": "stars", "n": 2}).json
    assert base64.b64decode(made["data"][1]["b64_json"])[1:4] == b"PNG"
    assert {"base64_of", "finish"} <= threads.keys()
    stream = {"prompt": "stars", "stream": True, "partial_images": 3, "size": "64x64"}
    assert server.post(DRAW, stream).body.count(b"event: image_generation") == 4
    assert "partial" in threads
    body, kind = http_server.form([("prompt", "red"), ("image", http_server.png(30, 20))])
    assert server.ask("POST", EDIT, body, {"Content-Type": kind}).status == 200
    assert {"size_of", "layers_of", "restored", "digest"} <= threads.keys()
    job = server.post("/v1/jobs", {"prompt": "slow star"}).json
    threads.pop("base64_of")
    server.engine.permits.release()
    while server.get(f"/v1/jobs/{job['id']}").json["pictures"][0]["preview"] is None:
        time.sleep(0.01)
    assert "base64_of" in threads
    server.engine.hurry.set()
    server.wait(job["id"])
    threads.pop("base64_of")
    assert server.get(f"/v1/jobs/{job['id']}/result").status == 200
    assert "base64_of" in threads
    assert server.thread not in set().union(*threads.values())


def test_others_are_answered_while_all_threads_encode(server, monkeypatch):
    """Threads that write pictures are not those that ask the journal."""
    finish, go = Finisher.finish, threading.Event()

    def slow(*args):
        go.wait()
        return finish(*args)

    monkeypatch.setattr(Finisher, "finish", slow)
    job = server.post("/v1/jobs", {"prompt": "stars", "n": 10}).json
    while len(server.engine.drawn) < 10:
        time.sleep(0.01)
    assert server.get("/v1/jobs/job_of_nobody").code == "job_not_found"
    other = server.post("/v1/jobs", {"prompt": "a star"})
    assert other.status == 202
    assert server.get(f"/v1/jobs/{other.json['id']}").status == 200
    go.set()
    assert server.wait(job["id"])["state"] == server.wait(other.json["id"])["state"] == "done"
