"""Test `cv3jax bench-serve` against a server with an engine of squares."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import http_server
import pytest
import square_engine
import subprocesses

from cv3jax.commands import bench_serve
from cv3jax.serving.http.keys import read_keys
from cv3jax.serving.load import child
from cv3jax.web.gate import Access
from data_pipeline.io.errors import InputError

HELPERS = Path(__file__).parents[1] / "helpers"


def bench(target: Path, *flags: str) -> dict:
    """Return the figures of a run of the command."""
    bench_serve.main([*flags, "--json", str(target)])
    return json.loads(target.read_text())


def test_a_mixture_at_a_rate_is_measured(tmp_path, capsys):
    with http_server.running(tmp_path / "data") as server:
        flags = ["--url", server.address, "--rate", "200", "--num", "12", "--warm-up", "3"]
        found = bench(tmp_path / "f.json", *flags, "--mix", "4+1:1,4+1@128x192:1")
        assert len(server.engine.drawn) == 15
        asked = {order.sizes[-1] for order in server.engine.submitted}
    assert {(size.height, size.width) for size in asked} == {(128, 128), (128, 192)}
    assert (found["requests"], found["answered"], found["errors"]) == (12, 12, {})
    assert found["latency"]["all"]["count"] == 12
    assert 0 < found["latency"]["all"]["p50"] <= found["latency"]["all"]["p99"]
    out = capsys.readouterr().out
    assert "scenes: 12 requests, 200 requests per second" in out
    assert "| 4+1@128x192 |" in out


def test_saturation_keeps_requests_under_way(tmp_path, capsys):
    engine = square_engine.SquareEngine(pause=0.001)
    with http_server.running(tmp_path / "data", engine) as server:
        flags = ["--url", server.address, "--saturation", "--num", "20"]
        found = bench(tmp_path / "f.json", *flags, "--clients", "4")
        assert (found["clients"], found["rate"]) == (4, None)
        assert 0 < found["pictures_per_second"] < 1000 / 7  # a picture has seven events
        with pytest.raises(InputError, match="too few to measure"):
            bench_serve.main([*flags[:-1], "4", "--clients", "4"])
    out = capsys.readouterr().out
    assert "4 requests at a time" in out
    assert "with the end, when fewer are under way" in out


def test_refusals_and_failures_are_counted_and_have_no_latency(tmp_path, capsys):
    bounds = {"max_queue": 1}
    with http_server.running(tmp_path / "data", bounds=bounds) as server:
        server.engine.pause = 0.02
        flags = ["--url", server.address, "--rate", "1000", "--num", "10", "--warm-up", "0"]
        found = bench(tmp_path / "f.json", *flags)
    assert found["refused"] == found["errors"]["429 queue_full"] >= 1
    assert found["answered"] + found["refused"] == 10
    assert found["latency"]["default"]["count"] == found["answered"]
    assert f"{found['refused']} refused with 429" in capsys.readouterr().out


def test_a_server_with_keys_wants_one(tmp_path, monkeypatch):
    (tmp_path / "keys").write_text("me " + "k" * 40)
    access = Access(read_keys(tmp_path / "keys", None))
    with http_server.running(tmp_path / "data", access=access) as server:
        flags = ["--url", server.address, "--rate", "100", "--num", "2", "--warm-up", "0"]
        with pytest.raises(InputError, match="/v1/capabilities: 401"):
            bench_serve.main(flags)
        monkeypatch.setenv("KEY", "k" * 40)
        assert bench(tmp_path / "f.json", *flags, "--api-key-env", "KEY")["answered"] == 2
        monkeypatch.delenv("KEY")
        with pytest.raises(InputError, match="--api-key-env KEY: the environment has no such"):
            bench_serve.main([*flags, "--api-key-env", "KEY"])


def test_no_server_is_one_line():
    with pytest.raises(InputError, match=r"http://127.0.0.1:1"):
        bench_serve.main(["--url", "http://127.0.0.1:1", "--num", "1"])


def test_a_server_is_started_and_ended(tmp_path, monkeypatch):
    """The program of squares stands in for `cv3jax serve`; its flags are the same."""
    begun = []

    def command(*flags: str) -> list[str]:
        begun.append(flags)
        program = str(HELPERS / "square_server.py")
        return [sys.executable, program, "--port", "0", "--access-log", "none", *flags]

    monkeypatch.setattr(child, "command", command)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HELPERS), *sys.path]))
    flags = ["--checkpoint", "scenes", "--rate", "100", "--num", "3", "--batch", "2"]
    found = bench(tmp_path / "f.json", *flags, "--size", "128,64")
    assert found["answered"] == 3
    [flags] = begun
    workdir = Path(flags[flags.index("--workdir") + 1])
    assert flags[-4:] == ("--size", "128,64", "--batch", "2")
    assert not workdir.parent.exists()


PROGRAM = """
import sys, time
from cv3jax.serving.load.child import serving
with serving(sys.argv[1:]) as child:
    print(child.process.pid, flush=True)
    time.sleep(600)
"""


def test_a_started_server_ends_with_the_program_that_started_it(tmp_path):
    server = [sys.executable, str(HELPERS / "square_server.py"), "--port", "0"]
    server += ["--checkpoint", "scenes", "--workdir", str(tmp_path / "w")]
    path = os.pathsep.join([str(HELPERS), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *server],
        env=subprocesses.environment(PYTHONPATH=path),
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        started = int(program.stdout.readline())
        assert Path(f"/proc/{started}").exists()
        program.terminate()
        assert program.wait(60) == 128 + signal.SIGTERM
    assert not Path(f"/proc/{started}").exists()


def test_a_server_that_does_not_start_says_why(tmp_path):
    with pytest.raises(InputError, match=r"ended with code 2: .*--port 65536"):
        child.Child(child.command("--checkpoint", "scenes", "--port", "65536"))
