"""Test the server of votes over HTTP: blind, bounded, for many raters, and safe from kill -9."""

import io
import json
import urllib.error
import urllib.request

import judged_pictures
import pytest
from judged_pictures import Judged, model_of
from PIL import Image

from cv3jax.evaluation.people.votes import Votes

PROMPTS = 12


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    return judged_pictures.drawn(tmp_path_factory.mktemp("pictures"), PROMPTS, "abc")


@pytest.fixture(scope="module")
def server(flags, tmp_path_factory):
    found = Judged(flags, tmp_path_factory.mktemp("votes") / "votes.sqlite", "--controls", "0.2")
    yield found
    assert found.end() == 0


def ask(server, path, body=None, **headers):
    """Return (status, headers, body) of a plain request."""
    request = urllib.request.Request(server.address + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as e:
        return e.code, dict(e.headers), e.read()


def judge(server, token, alignment="first", quality="tie", count=1):
    for _ in range(count):
        vote = {"place": server.state(token)["place"], "seconds": 1.5}
        vote |= {"alignment": alignment, "quality": quality}
        status, state = server.post(f"/api/{token}/vote", vote)
        assert status == 200, state
    return state


def test_nothing_but_the_picture_tells_the_model(server):
    """Names, sizes, headers and metadata of both sides are alike in all pairs."""
    token = server.enter("blind")
    seen = set()
    for _ in range(PROMPTS):
        status, headers, body = ask(server, f"/api/{token}/state")
        state = json.loads(body)
        answers = [ask(server, address) for address in state["pictures"]]
        told = []
        for status, found, data in answers:
            assert status == 200
            assert b"model" not in data
            assert Image.open(io.BytesIO(data)).info == {}
            told.append({k.lower(): v for k, v in found.items() if k.lower() != "date"})
        assert told[0] == told[1]  # content-length is one of them
        assert not {"etag", "last-modified", "content-disposition"} & told[0].keys()
        assert "model" not in body.decode() + str(headers) + str(told)
        seen.add(tuple(model_of(data) for _, _, data in answers))
        judge(server, token)
    assert len(seen) >= 5  # of six ways to place three models on two sides


def test_raters_have_orders_and_places_of_their_own(server):
    ann, ben = server.enter("ann"), server.enter("ben")
    judge(server, ann, count=3)
    assert server.state(ann)["done"] == 3
    assert server.state(ben)["done"] == 0
    assert server.enter(" ann ") == ann  # goes on
    assert server.state(ann)["rater"] == "ann"
    prompts = []
    for token in (ann, ben):
        asked = [ask(server, f"/api/{token}/state?place={place}") for place in range(1)]
        prompts.append([json.loads(body)["prompt"] for _, _, body in asked])
    total = server.state(ben)["total"]
    assert total == pytest.approx(36 / 0.8, abs=2)


def test_a_vote_can_be_looked_at_and_changed(server):
    token = server.enter("changes")
    judge(server, token, "second", "first")
    state = json.loads(ask(server, f"/api/{token}/state?place=0")[2])
    assert state["answers"] == {"alignment": "second", "quality": "first"}
    vote = {"place": 0, "seconds": 0.5, "alignment": "tie", "quality": "tie"}
    assert server.post(f"/api/{token}/vote", vote)[1]["done"] == 1
    state = json.loads(ask(server, f"/api/{token}/state?place=0")[2])
    assert state["answers"] == {"alignment": "tie", "quality": "tie"}


GOOD = {"place": 0, "seconds": 1.0, "alignment": "first", "quality": "tie"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"place": 1}, "place"),
        ({"place": -1}, "place"),
        ({"place": True}, "place"),
        ({"alignment": "left"}, "alignment"),
        ({"quality": ["tie"]}, "quality"),
        ({"quality": None}, "quality"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": "1"}, "seconds"),
    ],
)
def test_wrong_votes_are_refused(server, change, param):
    token = server.enter("wrong")
    status, said = server.post(f"/api/{token}/vote", {**GOOD, **change})
    assert (status, said["error"]["param"]) == (400, param)
    assert server.state(token)["done"] == 0


def test_what_is_no_request_of_the_page_is_refused(server):
    token = server.enter("bounds")
    ahead = ask(server, f"/api/{token}/state?place=5")
    assert ahead[0] == 400
    assert ask(server, f"/picture/{token}/1/first")[0] == 200  # the next one may be fetched
    assert ask(server, f"/picture/{token}/2/first")[0] == 404
    assert ask(server, f"/picture/{token}/0/third")[0] == 404
    assert ask(server, f"/picture/{token}/x/first")[0] == 400
    assert ask(server, "/picture/nobody/0/first")[0] == 404
    assert ask(server, "/api/nobody/state")[0] == 404
    for path in (
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/votes.sqlite",
        "/docs",
        "/openapi.json",
    ):
        assert ask(server, path)[0] == 404
    json_ = {"Content-Type": "application/json"}
    assert ask(server, "/api/rater", b"{", **json_)[0] == 400
    assert ask(server, "/api/rater", b"[]", **json_)[0] == 400
    assert ask(server, "/api/rater", b'{"name":"x"}')[0] == 415  # as a form of another page
    assert ask(server, "/api/rater", b" " * 5000, **json_)[0] == 413
    for name in ("", "  ", "a" * 61, "a\nb", 5, None):
        assert server.post("/api/rater", {"name": name})[0] == 400


def test_other_pages_and_names_are_kept_out(server):
    body, kind = b'{"name":"eve"}', {"Content-Type": "application/json"}
    assert ask(server, "/api/rater", body, Origin="http://evil.example", **kind)[0] == 403
    assert ask(server, "/", Host="evil.example")[0] == 403
    status, headers, _ = ask(server, "/")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in {name.lower() for name in headers}


def test_votes_survive_kill_9_and_the_rater_goes_on(flags, tmp_path):
    votes = tmp_path / "votes.sqlite"
    first = Judged(flags, votes)
    token = first.enter("ann")
    judge(first, token, count=7)
    state = first.state(token)
    first.kill()
    second = Judged(flags, votes)
    try:
        assert second.state(token) == state
        judge(second, token)
    finally:
        assert second.end() == 0
    kept = Votes(votes)
    assert [vote.place for vote in kept.all()] == list(range(8))
    kept.close()


def test_with_links_nobody_else_votes(flags, tmp_path):
    (tmp_path / "raters.txt").write_text("ann\nben\n")
    raters = ("--raters", str(tmp_path / "raters.txt"))
    server = Judged(flags, tmp_path / "v.sqlite", *raters, "--controls", "0.01")
    try:
        assert json.loads(server.get("/api/study")) == {"closed": True}
        assert server.post("/api/rater", {"name": "ann"})[0] == 403
        server.process.send_signal(15)
        out, _ = server.process.communicate(timeout=60)
    finally:
        server.kill()
    links = dict(line.split(": ", 1) for line in out.splitlines())
    assert links.keys() == {"ann", "ben"}
    assert any("too few pairs for a control" in line for line in server.said)
    kept = Votes(tmp_path / "v.sqlite")
    for name, link in links.items():
        assert kept.rater(link.rpartition("/r/")[2]) == name
    kept.close()
