"""Test that a server that repeats the API key puts no part of it into any file or line."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_pipeline.chat.endpoint import parse_address
from data_pipeline.chat.secret import LEAST, Secret
from data_pipeline.cli import main
from data_pipeline.io.errors import InputError

KEY = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGH"
ESCAPED = "".join(f"\\u{ord(c):04x}" for c in KEY)


def chat(text: str) -> dict:
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}


def error(text: str) -> dict:
    return {"error": {"message": text, "type": text, "code": text}}


# what a server answers: status, headers, body
ECHOES = {
    "in the message of an error": (401, {}, error(f"Incorrect API key: {KEY}")),
    "in its second half alone": (500, {}, error(f"Incorrect API key: ...{KEY[20:]}")),
    "where the message is cut": (500, {}, error("x" * 380 + KEY)),
    "behind line breaks": (500, {}, error(f"{KEY[:15]}\n{KEY[15:]}")),
    "escaped": (400, {}, f'{{"error": {{"message": "{ESCAPED}"}}}}'.encode()),
    "as the name of a field": (400, {}, {"error": {KEY: 1}}),
    "in a page": (502, {}, f"<html>{'x' * 385}{KEY}</html>".encode()),
    "in a redirect": (307, {"Location": f"http://example.invalid/?key={KEY}"}, {}),
    "in a redirect, escaped": (307, {"Location": f"/%3Fkey%3D{KEY.replace('-', '%2D')}"}, {}),
    "in the form of packing": (200, {"Content-Encoding": KEY}, chat("a star")),
    "in an answer": (200, {}, chat(f"a star, {KEY[4:30]}, and more")),
    "in a refusal": (200, {}, chat(f"I'm sorry, but I can't assist with {KEY}.")),
    "in why it ended": (
        200,
        {},
        {"choices": [{"message": {"content": "a"}, "finish_reason": KEY}]},
    ),
    "in an error of status 200": (200, {}, error(KEY)),
    "where the credit is out": (402, {}, error(f"{KEY} has no credit")),
    "where there is no model": (404, {}, error(f"no model for {KEY}")),
}


@pytest.fixture
def echo():
    """Return a function that starts a server with one answer to every request."""
    servers = []

    def start(status: int, headers: dict[str, str], body) -> str:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()

        class Echo(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Echo))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("where", ECHOES)
def test_no_part_of_the_key_is_kept_or_shown(
    where, echo, data, template, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("THE_KEY", KEY)
    command = f"recaption --input {data} --endpoint {echo(*ECHOES[where])} --model m --limit 2"
    more = f"--out {tmp_path}/out --dialogue {template} --api-key-env THE_KEY --retries 0"
    said = ""
    try:
        main(f"{command} {more} --concurrency 1 --json {tmp_path}/figures.json".split())
    except (InputError, OSError) as e:
        said = str(e)
    printed = capsys.readouterr()
    texts = {"stdout": printed.out, "stderr": printed.err, "error": said}
    texts |= {
        str(path): path.read_bytes().decode(errors="replace")
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert any("***" in text or "part of the API key" in text for text in texts.values()), texts
    parts = {KEY[i : i + LEAST] for i in range(len(KEY) - LEAST + 1)}
    for name, text in texts.items():
        assert not [part for part in parts if part in text], name


def test_parts_of_a_key_are_hidden_and_other_text_stays():
    secret = Secret("0123456789ab")
    for text, shown in (
        ("a 0123456789ab b", "a *** b"),
        ("a 234567890123456789ab b", "a *** b"),
        ("0123456 789ab", "0123456 789ab"),
        ("01234567", "***"),
        ("", ""),
    ):
        assert secret.redact(text) == shown
    assert secret.without({"k": ["x01234567", 1, None]}) == {"k": ["x***", 1, None]}
    assert Secret("short").redact("a short text") == "a *** text"
    assert Secret(None).redact("a text") == "a text"


@pytest.mark.parametrize(
    "url",
    [
        "http://host:99999/v1",
        "http://host:0/v1",
        "http://xn--a/v1",
        "http://a..b/v1",
        f"http://{'a' * 70}.com/v1",
        f"http://{'ü' * 70}.com/v1",
        "http://xn--99999999/v1",
        "http://\udcff/v1",
        "http:///v1",
    ],
)
def test_an_address_that_is_none_is_one_line(url):
    with pytest.raises(InputError, match="--endpoint") as e:
        parse_address(url)
    assert "\n" not in str(e.value)
