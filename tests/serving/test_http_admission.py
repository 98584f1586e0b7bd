"""Test what is refused for want of time, room, keys or permits, and what each refusal says."""

from pathlib import Path

import http_server
import pytest

from cv3jax.serving.http.keys import Bucket, Keys, read_keys
from cv3jax.web.gate import Access
from data_pipeline.io.errors import InputError

STAR, SLOW = {"prompt": "a star"}, {"prompt": "slow star"}
DRAW = "/v1/images/generations"


def test_a_request_that_would_wait_too_long(tmp_path):
    with http_server.running(tmp_path / "data", bounds={"max_wait": 10.0}) as server:
        server.engine.estimate = 25.2
        alone = server.post("/v1/jobs", STAR)  # waiting would not help
        assert (alone.status, alone.code) == (400, "takes_too_long")
        server.engine.estimate = 5.0
        job = server.post("/v1/jobs", SLOW)
        assert job.status == 202
        server.engine.estimate = 25.2
        late = server.post(DRAW, STAR)
        assert (late.status, late.code) == (429, "server_busy")
        assert late.headers["retry-after"] == "16"
        assert late.json["error"]["type"] == "rate_limit_error"
        assert len(server.engine.submitted) == 1
        server.engine.hurry.set()
        server.engine.estimate = 0.0
        server.wait(job.json["id"])
        assert server.post(DRAW, STAR).status == 200


def test_an_order_that_the_engine_cannot_estimate_is_refused_as_such(tmp_path):
    """Such as one of more steps than a stage has times."""

    def refuse(orders):
        raise InputError("900 steps for the relay stage: give 1..500 steps")

    with http_server.running(tmp_path / "data") as server:
        server.engine.seconds = refuse
        answer = server.post(DRAW, STAR)
        assert (answer.status, answer.code) == (400, "cannot_be_drawn")
        assert answer.json["error"]["message"] == "900 steps for the relay stage: give 1..500 steps"
        assert server.engine.submitted == []


def test_the_queue_is_bounded(tmp_path):
    with http_server.running(tmp_path / "data", bounds={"max_queue": 3}) as server:
        first = server.post("/v1/jobs", {**SLOW, "n": 2}).json
        full = server.post("/v1/jobs", {**SLOW, "n": 2})
        assert (full.status, full.code) == (429, "queue_full")
        assert int(full.headers["retry-after"]) >= 1
        assert server.post("/v1/jobs", SLOW).status == 202
        server.ask("DELETE", f"/v1/jobs/{first['id']}")  # which makes room
        assert server.post("/v1/jobs", {**SLOW, "n": 2}).status == 202


def test_requests_at_once_are_bounded(tmp_path):
    import http.client
    import json

    with http_server.running(tmp_path / "data", bounds={"requests": 2}) as server:
        waiting = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(2)]
        for number, one in enumerate(waiting, 1):
            one.request("POST", DRAW, json.dumps(SLOW), {"Content-Type": "application/json"})
            while len(server.engine.submitted) < number:
                pass
        more = server.get("/v1/models")
        assert (more.status, more.code) == (503, "overloaded")
        assert more.headers["retry-after"] == "1"
        # a busy server is not dead
        assert [server.get(path).status for path in ("/healthz", "/readyz")] == [200, 200]
        server.engine.hurry.set()
        assert [one.getresponse().status for one in waiting] == [200, 200]
        assert server.get("/v1/models").status == 200


def test_without_a_key_nothing_is_told(tmp_path):
    keys = Keys([("ann", "secret-of-ann-0001", None), ("bob", "secret-of-bob-0001", None)])
    with http_server.running(tmp_path / "data", access=Access(keys)) as server:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "secret-of-ann-0001"},
            {"Authorization": "Basic secret-of-ann-0001"},
            {"Authorization": "Bearer secret-of-ann-000"},
            {"Authorization": "Bearer " + "x" * 5000},
        ):
            for path in ("/v1/models", "/v1/capabilities", "/metrics", "/v1/jobs/x"):
                answer = server.get(path, **headers)
                assert (answer.status, answer.code) == (401, "invalid_api_key")
                assert answer.headers["www-authenticate"] == "Bearer"
            assert server.post(DRAW, STAR, **headers).status == 401
        for path in ("/healthz", "/readyz", "/"):
            assert server.get(path).status == 200
        assert server.openai("secret-of-bob-0001").models.list().data
        assert server.get("/metrics", Authorization="bearer secret-of-ann-0001").status == 200
        assert server.engine.submitted == []


def test_a_key_has_its_rate(tmp_path):
    keys = Keys([("ann", "secret-of-ann-0001", 2.0), ("bob", "secret-of-bob-0001", None)])
    with http_server.running(tmp_path / "data", access=Access(keys)) as server:
        ann, bob = ({"Authorization": f"Bearer secret-of-{name}-0001"} for name in ("ann", "bob"))
        assert [server.post(DRAW, STAR, **ann).status for _ in range(3)] == [200, 200, 429]
        over = server.post(DRAW, STAR, **ann)
        assert over.code == "rate_limit_exceeded"
        assert 1 <= int(over.headers["retry-after"]) <= 30
        assert server.get("/v1/models", **ann).status == 200  # looking is free
        assert server.post(DRAW, STAR, **bob).status == 200


def test_a_bucket_refills():
    now = [0.0]
    bucket = Bucket(6.0, lambda: now[0])
    assert [bucket.take() for _ in range(7)] == [0.0] * 6 + [10.0]
    now[0] = 9.0
    assert bucket.take() == pytest.approx(1.0)
    now[0] = 10.5
    assert bucket.take() == 0.0
    now[0] = 1e6
    assert [bucket.take() for _ in range(7)][-1] > 0  # no more than a minute's worth


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no key"),
        ("# only a comment\n\n", "has no key"),
        ("ann", "line 1: give a line for each"),
        ("ann short", "line 1: a key has 16 to 512"),
        ("ok secret-of-ann-0001\nann secret-of-ann-0002 fast", "line 2: requests per minute"),
        ("ann secret-of-ann-0001 0", "requests per minute"),
        ("a/b secret-of-ann-0001", "give a line for each"),
        ("ann secret-of-ann-0001\nann secret-of-ann-0002", "two equal names"),
        ("ann secret-of-ann-0001\nbob secret-of-ann-0001", "two equal keys"),
    ],
)
def test_files_of_keys_that_cannot_be(tmp_path, text, said):
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as e:
        read_keys(path, None)
    assert "secret" not in str(e.value).replace(str(path), "")
    with pytest.raises(InputError, match=r"the environment's CV3JAX_SERVE_KEYS"):
        read_keys(None, text)


def test_keys_come_from_a_file_or_the_environment(tmp_path):
    assert read_keys(None, None) is None
    path = tmp_path / "keys"
    path.write_text("# of the team\nann secret-of-ann-0001 60\n")
    assert read_keys(path, "bob secret-of-bob-0001").owner(b"Bearer secret-of-ann-0001") == "ann"
    assert read_keys(None, "bob secret-of-bob-0001").owner(b"Bearer secret-of-bob-0001") == "bob"
    with pytest.raises(InputError, match="No such file"):
        read_keys(Path("nope"), None)
