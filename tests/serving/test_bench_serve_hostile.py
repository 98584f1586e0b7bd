"""Test that `cv3jax bench-serve` takes any answer of a server, and shows no part of its key."""

import json

import pytest
import raw_server
from raw_server import reply

from cv3jax.commands import bench_serve
from cv3jax.serving.http.metrics import PREFIX
from data_pipeline.chat.secret import LEAST
from data_pipeline.io.errors import InputError

KEY = "cv3-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGH"
PICTURE = json.dumps({"data": [{"b64_json": "eA=="}]})
SAMPLE = f'{PREFIX}_engine_units_total{{lane="%s"}} %s\n'


def metrics(lane: str, value: str) -> str:
    names = ("units", "unit_rows", "unit_places", "unit_seconds")
    return "".join(SAMPLE.replace("units", name) % (lane, value) for name in names)


GOOD = {
    "/v1/capabilities": reply("200 OK", '{"model": "m", "version": "1", "engine": {"batch": 2}}'),
    "/metrics": reply("200 OK", metrics("base", "1")),
    "/v1/images/generations": reply("200 OK", PICTURE),
}
CAN, SEEN, DRAWN = GOOD
# what is odd → {path: the answer in place of the good one}
ODD = {
    "no JSON": {CAN: reply("200 OK", f"<html>{KEY}")},
    "a list": {CAN: reply("200 OK", "[]")},
    "JSON without end": {CAN: reply("200 OK", "[" * 10**5)},
    "names that are values": {CAN: reply("200 OK", '{"model": [], "version": 1, "engine": "x"}')},
    "a batch of text": {CAN: reply("200 OK", '{"engine": {"batch": "x"}}')},
    "a batch of billions": {CAN: reply("200 OK", '{"engine": {"batch": 4000000000}}')},
    "a batch below 0": {CAN: reply("200 OK", '{"engine": {"batch": -1}}')},
    "the key as the model": {CAN: reply("200 OK", json.dumps({"model": KEY}))},
    "escapes as the model": {CAN: reply("200 OK", json.dumps({"model": "\x1b[2J\u202e\n\n"}))},
    "the key in an error": {CAN: reply("401 No", json.dumps({"error": {"code": KEY}}))},
    "the key in capitals": {CAN: reply("500 No", KEY.upper())},
    "the key where it is cut": {CAN: reply("500 No", "x" * 60 + KEY)},
    "the key in a header": {CAN: b"HTTP/1.1 200 OK\r\n" + KEY.encode() + b"\r\n\r\n"},
    "the key in place of HTTP": {CAN: KEY.encode() + b" 200\r\n\r\n"},
    "a redirect to the key": {CAN: reply("302 Found", "", f"Location: http://{KEY}/")},
    "packed by the key": {CAN: reply("200 OK", "{}", f"Content-Encoding: {KEY}")},
    "no answer": {CAN: b""},
    "no metrics": {SEEN: reply("404 Not Found", f"no {KEY}")},
    "metrics that are a page": {SEEN: reply("200 OK", f'<html a="{KEY}"> {{ 1 }}')},
    "metrics of nothing": {SEEN: reply("200 OK", "")},
    "metrics that are no numbers": {SEEN: reply("200 OK", metrics("a", "NaN"))},
    "metrics that are infinite": {SEEN: reply("200 OK", metrics("a", "+Inf"))},
    "metrics that are no words": {SEEN: reply("200 OK", metrics("a", "x"))},
    "100,000 lanes": {SEEN: reply("200 OK", "".join(SAMPLE % (i, 1) for i in range(10**4)))},
    "a lane of escapes": {SEEN: reply("200 OK", metrics("\x1b[31m\u202e", "1"))},
    "pictures that are an error": {DRAWN: reply("500 No", json.dumps({"error": {"code": KEY}}))},
    "an error that is a megabyte": {
        DRAWN: reply("500 No", json.dumps({"error": {"code": KEY * 20000}}))
    },
    "an error of escapes": {DRAWN: reply("500 \x1b[31m", "\x1b]0;x\x07" * 9)},
    "pictures of text": {DRAWN: reply("200 OK", '"x"')},
    "no pictures": {DRAWN: reply("200 OK", '{"data": []}')},
    "pictures that end early": {DRAWN: reply("200 OK", PICTURE)[:-3]},
}


@pytest.mark.parametrize("odd", ODD)
def test_any_answer_ends_in_figures_or_in_one_line(odd, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("THE_KEY", KEY)
    answers = {**GOOD, **ODD[odd]}
    flags = ["--num", "2", "--warm-up", "1", "--rate", "1000", "--timeout", "20"]
    said, figures = "", tmp_path / "f.json"
    with raw_server.running(lambda path: answers[path]) as url:
        flags += ["--url", url, "--json", str(figures), "--api-key-env", "THE_KEY"]
        try:
            bench_serve.main(flags)
        except InputError as e:
            said = str(e)
            assert len(said.splitlines()) == 1
            assert len(said) < 400
    printed = capsys.readouterr()
    assert all(c == "\n" or c.isprintable() for c in printed.out + printed.err.replace("\r", ""))
    text = printed.out + printed.err + said + (figures.read_text() if figures.exists() else "")
    assert text
    parts = {KEY[i : i + LEAST].lower() for i in range(len(KEY) - LEAST + 1)}
    assert not [part for part in parts if part in text.lower()], text


def test_a_key_that_no_header_carries_is_one_line(monkeypatch, tmp_path):
    with raw_server.running(lambda path: GOOD[path]) as url:
        for key in (f"{KEY}\n", f"{KEY}\r\nX: 1", f"ü{KEY}", f" {KEY}", "\udcff" * 9):
            monkeypatch.setenv("THE_KEY", key)
            with pytest.raises(InputError, match="the API key contains") as e:
                bench_serve.main(["--url", url, "--num", "1", "--api-key-env", "THE_KEY"])
            assert KEY[:LEAST] not in str(e.value)
