"""Test that a server that repeats the API key puts no part of it into any file or line."""

import base64
import html
import json
import logging

import pytest
import raw_server
from raw_server import chunked, reply

from data_pipeline.chat.endpoint import Endpoint, parse_address
from data_pipeline.chat.secret import LEAST, Secret
from data_pipeline.cli import main
from data_pipeline.io.errors import InputError

KEY = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGH"
ESCAPED = "".join(f"\\u{ord(c):04x}" for c in KEY)


def chat(text: str) -> dict:
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}


def error(text: str) -> dict:
    return {"error": {"message": text, "type": text, "code": text}}


def percent(text: str) -> str:
    return "".join(f"%{ord(c):02X}" for c in text)


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


FOUR = [KEY[i : i + 4] for i in range(0, len(KEY), 4)]
BODY = json.dumps(error(f"Incorrect API key: {KEY}")).encode()
# what a server answers: status, body, headers
ECHOES = {
    "in the message of an error": ("401 No", error(f"Incorrect API key: {KEY}")),
    "in its second half alone": ("500 No", error(f"Incorrect API key: ...{KEY[20:]}")),
    "where the message is cut": ("500 No", error("x" * 380 + KEY)),
    "behind line breaks": ("500 No", error(f"{KEY[:15]}\n{KEY[15:]}")),
    "escaped": ("400 No", f'{{"error": {{"message": "{ESCAPED}"}}}}'),
    "as the name of a field": ("400 No", {"error": {KEY: 1}}),
    "in a page": ("502 No", f"<html>{'x' * 385}{KEY}</html>"),
    "in a redirect": ("307 No", {}, f"Location: http://example.invalid/?key={KEY}"),
    "in a redirect, escaped": ("307 No", {}, f"Location: /%3Fkey%3D{KEY.replace('-', '%2D')}"),
    "in the form of packing": ("200 OK", chat("a star"), f"Content-Encoding: {KEY}"),
    "in an answer": ("200 OK", chat(f"a star, {KEY[4:30]}, and more")),
    "in a refusal": ("200 OK", chat(f"I'm sorry, but I can't assist with {KEY}.")),
    "in why it ended": (
        "200 OK",
        {"choices": [{"message": {"content": "a"}, "finish_reason": KEY}]},
    ),
    "in an error of status 200": ("200 OK", error(KEY)),
    "where the credit is out": ("402 No", error(f"{KEY} has no credit")),
    "where there is no model": ("404 No", error(f"no model for {KEY}")),
    "in capitals": ("401 No", error(KEY.upper())),
    "in small letters, as a host": ("307 No", {}, f"Location: https://{KEY.lower()}.invalid/"),
    "in percents": ("307 No", {}, f"Location: /?key={percent(KEY)}"),
    "in percents of percents": ("307 No", {}, f"Location: /?key={percent(percent(KEY))}"),
    "in base 64": ("401 No", error(f"Authorization: Basic {coded(f'user:{KEY}')}")),
    "in base 64 of URLs": ("401 No", error(coded(f"?{KEY}?").replace("+", "-"))),
    "in hexadecimal": ("500 No", error(f"sent {KEY.encode().hex()}")),
    "in hexadecimal, apart": ("500 No", error(f"sent {KEY.encode().hex(' ')}")),
    "escaped within a page": ("502 No", f'<pre>{{\\"key\\": \\"{ESCAPED}\\"}}'),
    "in entities": ("502 No", "".join(f"&#{ord(c)};" for c in KEY)),
    "in entities of hexadecimal": ("502 No", "".join(f"&#x{ord(c):x};" for c in KEY)),
    "in a page, escaped": ("502 No", html.escape(f"<a href='?{KEY}'>")),
    "on lines of four": ("500 No", error("\n".join(FOUR))),
    "on escaped lines of four": ("502 No", "log: " + "\\n".join(FOUR)),
    "with invisible blanks": ("500 No", error("\u200b".join(FOUR))),
    "in a dump of the environment": ("500 No", error(f"HOME=/\nTHE_KEY={KEY}\nLANG=C")),
    "in a traceback": (
        "500 No",
        f'Traceback:\n  File "x.py"\n    key = "{KEY}"\nKeyError: {KEY!r}',
    ),
    "in a chunked answer": chunked("401 No", [BODY[i : i + 5] for i in range(0, len(BODY), 5)]),
    "in what a pause is": ("503 No", error(KEY), f"Retry-After: {KEY}"),
    "in the status": ("500 " + KEY, f"{KEY}"),
    "in a header's name": b"HTTP/1.1 200 OK\r\n" + KEY.encode() + b" \x00: 1\r\n\r\n",
    "in place of HTTP": KEY.encode() + b"\r\n\r\n",
    "in a length": b"HTTP/1.1 200 OK\r\nContent-Length: " + KEY.encode() + b"\r\n\r\n",
    "in a size of a chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + KEY.encode() + b"\r\n"
    ),
    "twice in itself": ("401 No", error(KEY[:20] + KEY + KEY[20:])),
    "in a list of calls": (
        "200 OK",
        {"choices": [{"message": {"content": [{"text": KEY}]}, "finish_reason": "stop"}]},
    ),
    "half a surrogate after it": ("401 No", error(KEY + "\ud800")),
}
# the answers in which a library says nothing of what the server sent
UNTOLD = {"in a length", "in a list of calls", "in the form of packing", "in place of HTTP"}
UNTOLD |= {"in a header's name", "in a size of a chunk"}


def forms(key: str) -> set[str]:
    """Return what no text may have: parts of a key as it is and as it is encoded."""
    hexadecimal = key.encode().hex()
    windows = {key.lower()[i : i + LEAST] for i in range(len(key) - LEAST + 1)}
    windows |= {hexadecimal[i : i + 2 * LEAST] for i in range(0, len(hexadecimal) - 15, 2)}
    windows |= {percent(key[i : i + LEAST]).lower() for i in range(len(key) - LEAST + 1)}
    for before in ("", "x", "xx"):
        middle = coded(before + key)[4:-4].lower()
        windows |= {middle[i : i + 16] for i in range(len(middle) - 15)}
    return windows


@pytest.mark.parametrize("where", ECHOES)
def test_no_part_of_the_key_is_kept_or_shown(
    where, data, template, tmp_path, capsys, caplog, monkeypatch
):
    monkeypatch.setenv("THE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    answer = ECHOES[where]
    if not isinstance(answer, bytes):
        status, body, *headers = answer
        body = body if isinstance(body, str) else json.dumps(body)
        answer = reply(status, body, *headers)
    more = f"--out {tmp_path}/out --dialogue {template} --api-key-env THE_KEY --retries 0"
    said = ""
    with raw_server.running(lambda path: answer) as url:
        command = f"recaption --input {data} --endpoint {url}/v1 --model m --limit 2 --timeout 20"
        try:
            main(f"{command} {more} --concurrency 1 --json {tmp_path}/figures.json".split())
        except (InputError, OSError) as e:
            said = str(e)
    printed = capsys.readouterr()
    texts = {"stdout": printed.out, "stderr": printed.err, "error": said, "log": caplog.text}
    texts |= {
        str(path): path.read_bytes().decode(errors="replace")
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    told = any("***" in text or "part of the API key" in text for text in texts.values())
    assert told or where in UNTOLD, texts
    for name, text in texts.items():
        plain = "".join(text.split()).lower()
        assert not [part for part in forms(KEY) if part in plain], (name, text)


def test_parts_of_a_key_are_hidden_and_other_text_stays():
    secret = Secret("0123456789ab")
    for text, shown in (
        ("a 0123456789ab b", "a *** b"),
        ("a 234567890123456789ab b", "a *** b"),
        ("0123456 789ab", "***"),
        ("0123456x789ab", "0123456x789ab"),
        ("a 0123456789AB b", "a *** b"),
        ("%30123456%2537, %41", "***, %41"),
        (r"\u0030\\u00311\x32 &#51;&#x34;", r"\u0030\\u00311\x32 &#51;&#x34;"),
        (r"\u0030\\u0031\x32 &#51;&#x34;567", "***"),
        ("303132333435363738", "***"),
        ("01234567", "***"),
        ("", ""),
    ):
        assert secret.redact(text) == shown
    assert secret.without({"k": ["x01234567", 1, None]}) == {"k": ["x***", 1, None]}
    assert Secret("short").redact("a short text") == "a *** text"
    assert Secret(None).redact("a text") == "a text"
    # a square of the number of marks would be hours
    for marks in ("\\", "%", "%25", "&#", "&#x0", "\\u00", "&#0"):
        text = marks * (2**20 // len(marks))
        assert secret.redact(text) == text


@pytest.mark.parametrize(
    ("key", "text", "shown"),
    [
        pytest.param(key, text, shown, id=name)
        for name, key, text, shown in (
            ("short", "s3cret", "a s3cret, a S3CRET", "a ***, a S3CRET"),
            ("short, of signs", ".*", "a.*b", "a***b"),
            ("of signs", r"a.*[b]+(c)?^$|d", r"<a.*[b]+(c)?^$|d>", "<***>"),
            (
                "of signs, none of them there",
                r"a.*[b]+(c)?^$|d",
                "aaaabbbbcccc d",
                "aaaabbbbcccc d",
            ),
            ("with escapes", r"ab%41\ncd&#66;efgh", r"<ab%41\ncd&#66;efgh>", "<***>"),
            ("of escapes", "%41%42%43%44", "<%41%42%43%44>", "<***>"),
            ("of line breaks", r"\n\n\n\n", r"<\n\n\n\n>", "<***>"),
            ("with a blank", "pass word one", "<pass word one>", "<***>"),
            ("with a line break at its end", "0123456789\n", "<0123456789>", "<***>"),
            ("of one character", "a" * 12, "aaaaaaa aaaaaaa", "***"),
            ("a part of a longer one", "0123456789", "<xx0123456789yy>", "<xx***yy>"),
            ("a longer one than is there", "xx0123456789yy", "<0123456789>", "<***>"),
            ("another alphabet", "ключ-0123456", "<ключ-0123456>", "<***>"),
            ("in an answer of marks", "0123456789ab", "***0123456789ab***", "*********"),
            ("with small and large", "AbCdEfGhIj", "<aBcDeFgHiJ>", "<***>"),
            ("none", None, "a text", "a text"),
            ("empty", "", "a text", "a text"),
        )
    ],
)
def test_keys_of_every_form_are_hidden(key, text, shown):
    secret = Secret(key)
    assert secret.redact(text) == shown
    assert secret.without({text: [text, 1]}) == {shown: [shown, 1]}
    assert secret.redact("x" * 5000) == "x" * 5000


def test_a_key_of_another_server_or_of_before_is_hidden_by_its_own_secret_alone():
    old, new = Secret("sk-old-0123456789"), Secret("sk-new-0123456789")
    assert old.redact("sk-old-0123456789 sk-new-0123456789") == "*** sk-new***"
    assert new.redact(old.redact("sk-old-0123456789 sk-new-0123456789")) == "*** sk-new***"


def test_a_key_in_place_of_the_variable_s_name_is_not_shown(data, template, tmp_path):
    for key in (KEY, "hf_AbCdEfGhIjKlMnOp", "0123456789abcdef0123456789abcdef", "a\x1b[31mb"):
        command = f"recaption --input {data} --endpoint http://127.0.0.1:9/v1 --model m"
        more = ["--out", f"{tmp_path}/out", "--dialogue", str(template), "--api-key-env", key]
        with pytest.raises(InputError, match=r"--api-key-env \*\*\*: the environment has no") as e:
            main([*command.split(), *more])
        assert key[:4] not in str(e.value)


def test_a_key_in_the_address_is_not_shown():
    endpoint = Endpoint(f"http://{KEY.lower()}.invalid/{KEY}/v1", key=KEY, timeout=1, connections=1)
    assert endpoint.url == "http://***.invalid/***/v1"
    assert (
        Endpoint("http://local/v1", key="local", timeout=1, connections=1).url == "http://local/v1"
    )


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
