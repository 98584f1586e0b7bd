"""Test that every bad request has its status, OpenAI's body, and no effect."""

import http.client
import json

import bad_requests
import http_server
import pytest

from cv3jax.sampling.inputs import MAX_PROMPT
from cv3jax.serving.http import fields

EVERY = bad_requests.every()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    data = tmp_path_factory.mktemp("serve") / "data"
    with http_server.running(data, bounds={"pixels": 2**20}) as found:
        yield found
        assert found.engine.submitted == []


def asked(server, bad: bad_requests.Bad) -> http_server.Answer:
    """Send a request as it is, with a path that no client would write."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest(bad.method, bad.path, skip_host="Host" in bad.headers)
    for name, value in bad.headers.items():
        connection.putheader(name, value)
    if bad.body is not None:
        connection.putheader("Content-Length", str(len(bad.body)))
    connection.endheaders(bad.body)
    answer = connection.getresponse()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    found = http_server.Answer(answer.status, headers, answer.read())
    connection.close()
    return found


def test_there_are_more_than_a_hundred():
    assert len({(*bad[:2], str(bad.headers), bad.body) for bad in EVERY}) == len(EVERY) > 150


@pytest.mark.parametrize("group", ["values", "bodies", "forms", "paths"])
def test_a_bad_request_has_its_status_and_openai_s_body(server, group):
    wrong = []
    for bad in getattr(bad_requests, group)():
        answer = asked(server, bad)
        kind = answer.headers["content-type"]
        try:
            error = answer.json["error"]
        except (ValueError, KeyError, TypeError):
            wrong.append((bad[:5], answer))
            continue
        fine = (
            answer.status == bad.status
            and error.keys() == {"message", "type", "param", "code"}
            and error["code"] in (bad.code, *([error["code"]] if not bad.code else []))
            and error["param"] == bad.param
            and kind == "application/json"
            and answer.headers["x-content-type-options"] == "nosniff"
            and "default-src 'none'" in answer.headers["content-security-policy"]
            and "set-cookie" not in answer.headers
            and "Traceback" not in error["message"]
            and len(error["message"]) < 700
        )
        if not fine:
            wrong.append((bad[:3], (bad.body or b"")[:60], bad[4:], answer.status, error))
    assert wrong == []


def test_the_server_still_works_after_all_of_them(server):
    """And what was said in a prompt comes back as data alone."""
    for bad in EVERY[::7]:
        asked(server, bad)
    prompt = "<img src=x onerror=a()>\r\nA: b\x00\u202e'; drop table jobs; --"
    job = server.post("/v1/jobs", {"prompt": prompt}).json
    said = server.wait(job["id"])
    assert (said["state"], said["prompt"]) == ("done", prompt)
    answer = server.get(f"/v1/jobs/{job['id']}")
    assert answer.headers["content-type"] == "application/json"
    assert "set-cookie" not in answer.headers
    assert json.loads(answer.body)["prompt"] == prompt
    server.engine.submitted.clear()


def test_a_name_that_is_given_twice_is_found_among_many():
    """In the time of one look at each; a look at all for each would take minutes."""
    names = ", ".join(f'"name {n}": 1' for n in range(100_000))
    with pytest.raises(ValueError, match="'last' is given twice"):
        fields.read_json(f'{{{names}, "last": 1, "last": 1}}')


def test_the_longest_request_fits(server):
    """Each character is written as two escapes."""
    text = "\N{GRINNING FACE}"
    body = {"prompt": text * MAX_PROMPT, "user": text * 256, "safety_identifier": text * 256}
    assert server.post(bad_requests.DRAW, body).status == 200
    server.engine.submitted.clear()


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (bad_requests.DRAW, "POST"),
        ("/healthz", "GET, HEAD"),
        ("/v1/jobs/x", "DELETE, GET, HEAD"),
        ("/v1/jobs", "POST"),
    ],
)
def test_a_method_that_is_not_possible_names_those_that_are(server, path, allowed):
    answer = server.ask("PATCH", path)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)


def test_head_is_answered_as_get_without_a_body(server):
    for path in ("/healthz", "/v1/models", "/v1/jobs/x", "/"):
        head, get = server.ask("HEAD", path), server.get(path)
        assert (head.status, head.body) == (get.status, b"")
        assert head.headers["content-length"] == str(len(get.body))
    assert server.ask("HEAD", bad_requests.DRAW).status == 405
