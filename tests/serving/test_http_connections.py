"""Test slow, half-open and malformed connections with real sockets."""

import contextlib
import json
import socket
import time

import http_server
import pytest

STAR = b'{"prompt": "a star"}'
BOUNDS = {
    "header_seconds": 1.0,
    "body_seconds": 1.0,
    "idle_seconds": 1.0,
    "write_seconds": 1.0,
    "connections": 40,
    "body": 2**18,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    log = str(folder / "log")
    with http_server.running(folder / "data", bounds=BOUNDS, log=log) as found:
        yield found


def connected(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def read_all(client: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    found = b""
    while part := client.recv(65536):
        found += part
    return found


def head(length: int | None = None, path: str = "/v1/images/generations") -> bytes:
    size = "" if length is None else f"Content-Length: {length}\r\n"
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{size}\r\n"
    ).encode()


def refused(data: bytes) -> tuple[int, str]:
    """Return (status, code) of the only answer in `data`."""
    first, _, body = data.partition(b"\r\n\r\n")
    assert data.count(b"HTTP/1.1 ") == 1, data
    return int(first.split()[1]), json.loads(body)["error"]["code"]


def test_a_connection_that_says_nothing_is_closed(server):
    assert read_all(connected(server)) == b""


def test_a_header_that_does_not_end_is_refused(server):
    client = connected(server)
    client.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nX: ")
    assert refused(read_all(client)) == (408, "request_timeout")


def test_a_body_that_does_not_end_is_refused(server):
    client = connected(server)
    client.sendall(head(len(STAR)) + STAR[:5])
    assert refused(read_all(client)) == (408, "request_timeout")


def test_a_body_that_comes_a_byte_at_a_time_is_refused(server):
    client = connected(server)
    client.sendall(head(10_000))
    client.settimeout(0.02)
    found = b""
    # a byte that comes after the server's close is answered by a reset, behind the refusal
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while not found:
            with contextlib.suppress(TimeoutError):
                client.sendall(b" ")
                found = client.recv(65536)
    client.settimeout(60)
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            found += part
    assert refused(found) == (408, "request_timeout")


def test_an_idle_connection_is_closed_after_its_answer(server):
    client = connected(server)
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert read_all(client).startswith(b"HTTP/1.1 200")


def test_a_second_header_on_a_connection_has_its_time_too(server):
    client = connected(server)
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert client.recv(65536).startswith(b"HTTP/1.1 200")
    client.sendall(b"GET /healthz HT")
    assert refused(read_all(client)) == (408, "request_timeout")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50,  # TLS
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nA b: c\r\n\r\n",
        head(5).replace(b"5", b"-5") + STAR,
        head(5).replace(b"5", b"5, 6") + STAR,
        head().replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"zz\r\n",
    ],
)
def test_what_is_not_http_is_refused(server, data):
    client = connected(server)
    client.sendall(data)
    assert refused(read_all(client)) == (400, "invalid_http")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"a" * 20_000 + b"\r\n\r\n",
    ],
)
def test_a_large_header_is_refused(server, data):
    """Whether it comes at once, or is cut before it is whole."""
    client = connected(server)
    client.sendall(data)
    assert refused(read_all(client)) in ((431, "header_too_large"), (400, "invalid_http"))


def test_a_body_and_a_length_that_differ_smuggle_nothing(server):
    """Both lengths are given: the second request is no request."""
    second = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    client = connected(server)
    both = head(len(second)).replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.sendall(both + b"0\r\n\r\n" + second)
    assert refused(read_all(client)) == (400, "invalid_http")


def test_a_body_that_is_too_large_is_refused_and_the_answer_arrives(server):
    for announced in (True, False):
        client = connected(server)
        large = b" " * (2**18 + 1)
        if announced:
            client.sendall(head(len(large)) + large)
        else:
            chunked = head().replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.sendall(chunked + f"{len(large):x}\r\n".encode() + large + b"\r\n0\r\n\r\n")
        assert refused(read_all(client)) == (413, "body_too_large")


def test_a_body_of_gigabytes_is_refused_by_its_header(server):
    client = connected(server)
    client.sendall(head(10**10).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    assert refused(read_all(client)) == (413, "body_too_large")


def test_a_client_that_leaves_in_its_body_is_no_error(server):
    before = server.get("/metrics").body
    client = connected(server)
    client.sendall(head(len(STAR)) + STAR[:5])
    client.close()
    while b'cv3jax_refused_total{kind="client_left"}' not in server.get("/metrics").body:
        time.sleep(0.01)
    assert b'errors_total{kind="program"}' not in before + server.get("/metrics").body


def test_a_client_that_does_not_read_is_left(server):
    """Its answer fills the system's buffers; the job is done and the connection is gone."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", server.port))
    get = b"GET /v1/capabilities HTTP/1.1\r\nHost: localhost\r\n\r\n"
    try:
        while True:  # until the server stops reading, and then stops waiting
            client.sendall(get * 200)
    except ConnectionError:
        pass
    assert server.get("/healthz").status == 200


def test_connections_are_bounded(server):
    clients = [connected(server) for _ in range(60)]
    answers = [read_all(client) for client in clients]
    over = [answer for answer in answers if answer]
    assert over
    assert {refused(answer) for answer in over} == {(503, "overloaded")}
    assert server.get("/healthz").status == 200


def test_what_is_refused_before_it_is_a_request_is_logged_and_counted(server):
    def count(code: bytes) -> float:
        name = b'cv3jax_refused_total{kind="%s"} ' % code
        found = [line for line in server.get("/metrics").body.splitlines() if name in line]
        return float(found[0].rpartition(b" ")[2]) if found else 0.0

    log = server.data.parent / "log"
    before, lines = {code: count(code) for code in (b"invalid_http", b"request_timeout")}, []
    for data in (b"GET /secret\r\n\r\n", b"GET /secret HTTP/1.1\r\nHost: "):
        client = connected(server)
        client.sendall(data)
        read_all(client)
    assert {code: count(code) - old for code, old in before.items()} == dict.fromkeys(before, 1.0)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    refusals = [line for line in lines if line["route"] == "none"][-2:]
    assert [(one["status"], one["code"], one["client"]) for one in refusals] == [
        (400, "invalid_http", "127.0.0.1"),
        (408, "request_timeout", "127.0.0.1"),
    ]
    assert 0.5 < refusals[1]["seconds"] < 60
    assert "secret" not in log.read_text()
