"""Test what may happen at one moment: the ends of jobs, pictures, files and the server."""

import collections
import contextlib
import errno
import json
import signal
import sqlite3
import threading
import time

import http_server
import pytest
import serve_process
from test_http_openai import opened

from cv3jax.serving.http import book, journal
from cv3jax.serving.http.finishing import Finisher
from cv3jax.serving.http.journal import Journal
from cv3jax.serving.http.store import Store
from data_pipeline.io.errors import InputError


@contextlib.contextmanager
def held(monkeypatch):
    """Hold pictures back that are drawn and not written. Yields (one came, go on)."""
    came, go, finish = threading.Event(), threading.Event(), Finisher.finish

    def later(*args):
        came.set()
        go.wait()
        return finish(*args)

    monkeypatch.setattr(Finisher, "finish", later)
    try:
        yield came, go
    finally:
        go.set()


def begun(server, **more) -> dict:
    return server.post("/v1/jobs", {"prompt": "slow star", "n": 2, **more}).json


def edit(server) -> dict:
    parts = [("prompt", "slow star"), ("image", http_server.png(30, 20)), ("n", "2")]
    body, kind = http_server.form(parts)
    return server.ask("POST", "/v1/jobs", body, {"Content-Type": kind}).json


@pytest.mark.parametrize("begin", [begun, edit])
def test_a_cancel_while_a_picture_of_the_job_is_written(server, monkeypatch, begin):
    """The given picture of an edit is gone by then. No error of the disk is made of that."""
    with held(monkeypatch) as (came, go):
        job = begin(server)
        while not came.is_set():  # until the first picture is drawn, and the second one is not
            server.engine.permits.release()
            time.sleep(0.02)
        assert server.ask("DELETE", f"/v1/jobs/{job['id']}").json["state"] == "cancelled"
        go.set()
        other = server.post("/v1/images/generations", {"prompt": "a star"})
    assert other.status == 200
    assert server.get("/readyz").status == 200
    assert server.get(f"/v1/jobs/{job['id']}").json["state"] == "cancelled"
    assert b"errors_total{" not in server.get("/metrics").body
    # what was drawn of it is not kept
    while len(list((server.data / "pictures").iterdir())) != 1:
        time.sleep(0.01)
    assert list((server.data / "given").iterdir()) == []


def test_a_cancel_while_the_last_picture_is_written_comes_too_late(server, monkeypatch):
    with held(monkeypatch) as (came, go):
        job = begun(server, n=1)
        server.engine.hurry.set()
        came.wait()
        assert server.ask("DELETE", f"/v1/jobs/{job['id']}").json["state"] == "running"
        go.set()
        assert server.wait(job["id"])["state"] == "done"
    assert len(server.get(f"/v1/jobs/{job['id']}/result").json["data"]) == 1


def test_pictures_of_a_job_that_are_written_at_once_end_it_once(server, monkeypatch):
    together, finish, end, ends = threading.Barrier(4), Finisher.finish, Journal.end, []

    def at_once(*args):
        row = finish(*args)
        together.wait()
        return row

    def noted(self, job, state, *args):
        ends.append(state)
        return end(self, job, state, *args)

    monkeypatch.setattr(Finisher, "finish", at_once)
    monkeypatch.setattr(Journal, "end", noted)
    made = server.post("/v1/images/generations", {"prompt": "stars", "n": 4, "seed": 1}).json
    assert [one["seed"] for one in made["data"]] == [1, 2, 3, 4]
    assert len({one["b64_json"] for one in made["data"]}) == 4
    assert ends == [journal.DONE]


def test_a_key_that_began_a_job_finds_it_while_the_server_stops(server):
    ask = {"prompt": "slow star"}
    first = server.post("/v1/jobs", ask, Idempotency_Key="k").json
    server.loop.call_soon_threadsafe(server.stop.set)
    while server.get("/readyz").status == 200:
        time.sleep(0.01)
    assert server.post("/v1/jobs", ask, Idempotency_Key="k").json["id"] == first["id"]
    other = server.post("/v1/jobs", ask, Idempotency_Key="l")
    assert (other.status, other.code) == (503, "server_stopping")
    server.engine.hurry.set()
    server.thread.join()
    assert server.figures == {"resumed": 0, "left": 0}
    assert len(server.engine.drawn) == 1


def test_a_request_is_not_accepted_when_the_server_stopped_meanwhile(server):
    asked, go = threading.Event(), threading.Event()

    def slow(orders):
        asked.set()
        go.wait()
        return 0.0

    server.engine.seconds = slow
    answers = []
    client = threading.Thread(target=lambda: answers.append(begun(server)))
    client.start()
    asked.wait()
    server.loop.call_soon_threadsafe(server.stop.set)
    while not any("stopping" in line for line in server.said):
        time.sleep(0.01)
    go.set()
    client.join()
    server.thread.join()
    assert answers[0]["error"]["code"] == "server_stopping"
    kept = Journal(server.data / "journal.sqlite")
    assert kept.unfinished() == []
    kept.close()


def test_a_job_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    """It would count as waiting for ever, and the queue would be full."""
    with http_server.running(tmp_path / "data", bounds={"max_queue": 1}) as server:
        with monkeypatch.context() as patched:
            patched.setattr(Journal, "add", broken)
            assert server.post("/v1/jobs", {"prompt": "a star"}).status == 500
        slow = server.post("/v1/jobs", {"prompt": "slow star"})
        assert (slow.status, slow.json["ahead"]) == (202, 0)


def test_an_end_that_cannot_be_written_keeps_nobody_waiting(server, monkeypatch):
    monkeypatch.setattr(Journal, "end", broken)
    assert server.post("/v1/images/generations", {"prompt": "a star"}).status == 200
    assert b'errors_total{kind="finishing"} 1.0' in server.get("/metrics").body


def broken(*args):
    raise InputError("the journal is damaged")


def test_a_sweep_that_fails_is_not_the_last_one(tmp_path, monkeypatch):
    calls, forget = collections.Counter(), Journal.forget

    def once_broken(*args):
        calls["forget"] += 1
        return broken() if calls["forget"] < 3 else forget(*args)

    monkeypatch.setattr(Journal, "forget", once_broken)
    with http_server.running(tmp_path / "data", bounds={"keep": 0.5}) as server:
        server.post("/v1/images/generations", {"prompt": "a star"})
        while list((server.data / "pictures").iterdir()):
            time.sleep(0.01)
    assert calls["forget"] >= 3


def test_a_file_that_is_swept_away_while_it_is_asked_for(server, monkeypatch):
    url = server.post(
        "/v1/images/generations", {"prompt": "a star", "response_format": "url"}
    ).json["data"][0]["url"]
    read = Store.read

    def too_late(self, name):
        self.remove([name])
        return read(self, name)

    monkeypatch.setattr(Store, "read", too_late)
    gone = server.get(url.removeprefix(server.address))
    assert (gone.status, gone.code) == (404, "file_not_found")
    made = server.post("/v1/images/generations", {"prompt": "a star"})
    assert (made.status, made.code) == (404, "file_not_found")
    stream = server.post("/v1/images/generations", {"prompt": "a star", "stream": True})
    (line,) = [line for line in stream.body.decode().splitlines() if line.startswith("data: ")]
    assert json.loads(line.removeprefix("data: "))["error"]["code"] == "file_not_found"


def test_a_journal_that_another_program_locks_is_an_error_of_the_disk(tmp_path):
    path = tmp_path / "journal.sqlite"
    kept = Journal(path)
    kept._db.execute("pragma busy_timeout = 10")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(OSError, match="busy") as e:
        kept.end("job_a", journal.DONE, 1.0)
    assert e.value.errno == errno.EBUSY
    assert book.disk_error(e.value).status == 503
    other.execute("rollback")
    assert kept.end("job_a", journal.DONE, 1.0) is False
    kept.close()


def test_two_signals_end_a_server_that_draws(tmp_path):
    server = serve_process.Process(tmp_path / "data", "--drain", "600", pause=0.2)
    id = server.ask("/v1/jobs", {"prompt": "a star", "n": 10})["id"]
    server.process.send_signal(signal.SIGTERM)
    server.until("stopping")
    began = time.monotonic()
    code, said = server.end(signal.SIGTERM)
    assert (code, "Traceback" in said, "1 job left for the next start" in said) == (0, False, True)
    assert time.monotonic() - began < 30
    again = serve_process.Process(tmp_path / "data", pause=0.0)
    while (job := again.ask(f"/v1/jobs/{id}"))["state"] in ("accepted", "running"):
        time.sleep(0.01)
    assert job["state"] == "done"
    sizes = {opened(one["b64_json"]).size for one in again.ask(f"/v1/jobs/{id}/result")["data"]}
    assert sizes == {(128, 128)}
    again.end(signal.SIGTERM)
