"""Test jobs: begun, looked at, fetched, cancelled, asked for twice, and left by their client."""

import base64
import http.client
import json
import threading
import time

import http_server
import pytest

from cv3jax.serving.http.finishing import Finisher
from cv3jax.serving.http.journal import Journal
from cv3jax.serving.http.keys import Keys
from cv3jax.web.gate import Access


@pytest.fixture
def server(tmp_path):
    with http_server.running(tmp_path / "data") as found:
        yield found


def test_a_job_from_its_start_to_its_result(server):
    engine = server.engine
    started = server.post("/v1/jobs", {"prompt": "slow star", "n": 2, "seed": 4})
    assert started.status == 202
    job = started.json
    assert started.headers["location"] == f"/v1/jobs/{job['id']}"
    assert started.headers["x-job-id"] == job["id"]
    assert (job["state"], job["size"], job["sizes"]) == (
        "accepted",
        "128x128",
        ["64x64", "128x128"],
    )
    assert job["settings"]["base"]["steps"] == 4
    early = server.get(f"/v1/jobs/{job['id']}/result")
    assert (early.status, early.code) == (409, "job_not_done")
    engine.hurry.set()
    done = server.wait(job["id"])
    assert (done["state"], done["eta_seconds"]) == ("done", None)
    assert [one["seed"] for one in done["pictures"]] == [4, 5]
    result = server.get(f"/v1/jobs/{job['id']}/result").json
    assert [one["seed"] for one in result["data"]] == [4, 5]
    for one, shown in zip(result["data"], done["pictures"], strict=True):
        file = server.get(shown["url"].removeprefix(server.address))
        assert file.body == base64.b64decode(one["b64_json"])
    urls = server.get(f"/v1/jobs/{job['id']}/result?response_format=url").json["data"]
    assert [one["url"] for one in urls] == [one["url"] for one in done["pictures"]]
    assert server.get(f"/v1/jobs/{job['id']}/result?response_format=x").status == 400


def test_a_job_shows_its_steps_and_previews(server):
    server.engine.pause = 0.5  # by which it reckons; "slow" does not sleep
    job = server.post("/v1/jobs", {"prompt": "slow star", "seed": 1}).json
    assert job["eta_seconds"] == 3.5  # four steps, the base's picture, a step, the last picture
    seen = []
    for count in range(6):
        server.engine.permits.release()
        while len(server.engine._open[f"{job['id']}.0"][2]) != 6 - count:
            time.sleep(0.001)
        while (said := server.get(f"/v1/jobs/{job['id']}").json)["pictures"][0] in seen:
            time.sleep(0.001)
        assert (said["state"], said["eta_seconds"]) == ("running", (6 - count) * 0.5)
        seen.append(said["pictures"][0])
    steps = [(one["stage"], one["relay_pass"], one["step"], one["steps"]) for one in seen]
    base = [("base", 0, done, 4) for done in (1, 2, 3, 4, 4)]
    assert steps == [*base, ("relay", 1, 1, 1)]
    previews = [one["preview"] for one in seen]
    assert len({*previews}) == 6
    assert all(one.startswith("data:image/png;base64,") for one in previews)
    server.engine.hurry.set()
    done = server.wait(job["id"])
    assert (done["state"], done["pictures"][0]["preview"]) == ("done", None)


def test_an_edit_as_a_job(server):
    body, kind = http_server.form(
        [("prompt", "red"), ("image", http_server.png(30, 20)), ("seed", "3"), ("n", "2")]
    )
    job = server.ask("POST", "/v1/jobs", body, {"Content-Type": kind}).json
    assert (job["kind"], job["size"], job["n"]) == ("edit", "60x40", 2)
    assert server.wait(job["id"])["state"] == "done"


def test_cancel_ends_a_job_before_its_next_step(server):
    job = server.post("/v1/jobs", {"prompt": "slow star", "n": 3}).json
    other = server.post("/v1/jobs", {"prompt": "slow moon"}).json
    gone = server.ask("DELETE", f"/v1/jobs/{job['id']}").json
    assert (gone["state"], gone["error"]["code"]) == ("cancelled", "job_cancelled")
    again = server.ask("DELETE", f"/v1/jobs/{job['id']}").json
    assert again["state"] == "cancelled"
    server.engine.hurry.set()
    assert server.wait(other["id"])["state"] == "done"  # it alone is drawn
    assert server.engine.drawn == [f"{other['id']}.0"]
    result = server.get(f"/v1/jobs/{job['id']}/result")
    assert (result.status, result.code) == (409, "job_cancelled")
    kept = server.ask("DELETE", f"/v1/jobs/{other['id']}").json
    assert kept["state"] == "done"


def test_who_waits_for_a_cancelled_job_is_told(server):
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    client.request(
        "POST",
        "/v1/images/generations",
        json.dumps({"prompt": "slow star"}),
        {"Content-Type": "application/json"},
    )
    while not server.engine.submitted:
        time.sleep(0.01)
    id = server.engine.submitted[0].id.partition(".")[0]
    server.ask("DELETE", f"/v1/jobs/{id}")
    answer = client.getresponse()
    assert (answer.status, answer.headers["X-Job-Id"]) == (409, id)
    assert json.loads(answer.read())["error"]["code"] == "job_cancelled"


def test_a_failed_job_says_why_and_ends_its_other_pictures(server):
    job = server.post("/v1/jobs", {"prompt": "fail", "n": 2}).json
    said = server.wait(job["id"])
    assert (said["state"], said["error"]["code"]) == ("failed", "drawing_failed")
    assert said["error"]["message"] == "the values are not finite"
    assert server.get(f"/v1/jobs/{job['id']}/result").status == 500


@pytest.mark.parametrize(("part", "does"), [(Finisher, "finish"), (Journal, "add_picture")])
def test_a_picture_that_cannot_be_kept_fails_its_job(part, does, server, monkeypatch):
    def broken(*args):
        raise TypeError("a fault of the program")

    monkeypatch.setattr(part, does, broken)
    answer = server.post("/v1/images/generations", {"prompt": "a star", "stream": True})
    assert "the picture was drawn and could not be kept" in answer.body.decode()
    assert "a fault" not in answer.body.decode()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_loses_nothing(server, stream):
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    client.request(
        "POST",
        "/v1/images/generations",
        json.dumps({"prompt": "slow star", "stream": stream}),
        {"Content-Type": "application/json", "Idempotency-Key": "mine"},
    )
    if stream:
        assert client.getresponse().headers["X-Job-Id"].startswith("job_")
    while not server.engine.submitted:
        time.sleep(0.01)
    client.sock.close()
    server.engine.hurry.set()
    id = server.engine.submitted[0].id.partition(".")[0]
    assert server.wait(id)["state"] == "done"
    asked = {"prompt": "slow star", "stream": stream}
    again = server.post("/v1/images/generations", asked, Idempotency_Key="mine")
    assert (again.status, again.headers["x-job-id"]) == (200, id)
    assert len(server.engine.drawn) == 1


def test_the_same_idempotency_key_begins_one_job(server):
    asked = {"prompt": "a star"}
    first = server.post("/v1/jobs", asked, Idempotency_Key="k").json
    again = server.post("/v1/jobs", asked, Idempotency_Key="k").json
    other = server.post("/v1/jobs", asked, Idempotency_Key="l").json
    assert first["id"] == again["id"] != other["id"]
    clash = server.post("/v1/jobs", {"prompt": "a moon"}, Idempotency_Key="k")
    assert (clash.status, clash.code) == (409, "idempotency_key_reused")
    server.wait(other["id"])
    assert len(server.engine.submitted) == 2


def test_what_was_kept_long_enough_is_gone(tmp_path):
    with http_server.running(tmp_path / "data", bounds={"keep": 3.0}) as server:
        job = server.post("/v1/jobs", {"prompt": "a star"}).json
        server.wait(job["id"])
        while (gone := server.get(f"/v1/jobs/{job['id']}")).status == 200:
            url = gone.json["pictures"][0]["url"]
        assert (gone.status, gone.code) == (404, "job_not_found")
        while list((tmp_path / "data" / "pictures").iterdir()):
            time.sleep(0.05)
        assert server.get(url.removeprefix(server.address)).code == "file_not_found"


def test_jobs_of_other_keys_are_not_there(tmp_path):
    keys = Keys([("a", "a" * 20, None), ("b", "b" * 20, None)])
    with http_server.running(tmp_path / "data", access=Access(keys)) as server:
        mine, theirs = ({"Authorization": f"Bearer {name * 20}"} for name in "ab")
        job = server.post("/v1/jobs", {"prompt": "a star"}, **mine).json
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/result")):
            answer = server.ask(method, f"/v1/jobs/{job['id']}{path}", None, theirs)
            assert (answer.status, answer.code) == (404, "job_not_found")
        done = server.wait(job["id"], **mine)
        # a picture's name is a secret, so that a page can show it
        assert server.get(done["pictures"][0]["url"].removeprefix(server.address)).status == 200


def test_the_same_key_twice_at_once_begins_one_job(server, monkeypatch):
    """The second request finds the first one's job in the journal before the engine has it."""
    written, go = threading.Event(), threading.Event()
    add = Journal.add

    def slowly(self, row):
        add(self, row)
        written.set()
        go.wait()

    monkeypatch.setattr(Journal, "add", slowly)
    answers = []

    def ask() -> None:
        path = "/v1/images/generations"
        answers.append(server.post(path, {"prompt": "a star"}, Idempotency_Key="twice"))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    threads[0].start()
    written.wait()
    threads[1].start()
    asked = b'cv3jax_requests_total{route="/v1/models",status="200"}'
    server.get("/v1/models")  # the server is not held up meanwhile
    assert asked in server.get("/metrics").body
    go.set()
    for thread in threads:
        thread.join()
    assert [one.status for one in answers] == [200, 200]
    assert len({one.headers["x-job-id"] for one in answers}) == 1
    assert len(server.engine.drawn) == 1


def test_a_job_is_looked_at_whole_or_not_at_all(server, monkeypatch):
    """It may be forgotten between two questions to the journal."""
    job = server.post("/v1/jobs", {"prompt": "a star"}).json
    server.wait(job["id"])
    find, forgetting = Journal.find, []

    def then_forgotten(self, id):
        found = find(self, id)
        forgetting.append(threading.Thread(target=self.forget, args=(time.time() + 9,)))
        forgetting[-1].start()
        return found

    monkeypatch.setattr(Journal, "find", then_forgotten)
    said = server.get(f"/v1/jobs/{job['id']}").json
    assert said["pictures"][0]["url"]
    forgetting[0].join()
    assert server.get(f"/v1/jobs/{job['id']}").code == "job_not_found"
