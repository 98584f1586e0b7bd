"""Test recaptioning that is killed, stopped or out of disk space.

A question whose answer was recorded must not be asked again.
"""

import collections
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from caption_answers import KEY, MODEL, answer_of
from caption_server import CaptionServer
from recaption_runs import COUNT, TURNS, lines, number

from data_pipeline.chat import rate_limit
from data_pipeline.recaption import journal
from data_pipeline.records.records import open_records

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_slow_start(monkeypatch):
    monkeypatch.setattr(rate_limit, "FIRST", 2000.0)


def start(data, server, template, out):
    """Start the command in a process of its own."""
    flags = [
        "--endpoint",
        server.url,
        "--model",
        MODEL,
        "--out",
        str(out),
        "--dialogue",
        str(template),
        "--concurrency",
        "8",
    ]
    command = [sys.executable, "-m", "data_pipeline.cli", "recaption", "--input", str(data), *flags]
    environment = {
        **os.environ,
        "OPENAI_API_KEY": KEY,
        "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
    }
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_after_a_kill_nothing_that_was_written_down_is_asked_again(ask, data, template, tmp_path):
    killed = []

    def kill(answered):
        if answered == 50:
            killed.append(process.pid)
            os.kill(process.pid, signal.SIGKILL)

    with CaptionServer(latency=0.01, on_answer=kill) as server:
        process = start(data, server, template, tmp_path / "out")
        _, err = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, err
        assert not (tmp_path / "out").exists()
        first = server.asked()
        written = {(record, turn) for record, turn, _ in lines(tmp_path / "out.recaption")}
        assert 50 - 8 <= len(written) < COUNT * TURNS
        report = ask(server)
    second = server.asked()[len(first) :]
    assert not written & set(second)
    assert len(second) == len(set(second)) == COUNT * TURNS - len(written)
    assert len(set(first) & set(second)) <= 8  # what was under way: at most --concurrency
    assert report["requests"] == COUNT * TURNS
    assert [r["recaption"] for r in open_records(tmp_path / "out")] == [
        answer_of(number(r), 2) for r in open_records(data)
    ]


def test_sigterm_waits_for_what_is_paid_for(ask, data, template, tmp_path):
    with CaptionServer(
        latency=0.05, on_answer=lambda n: process.send_signal(signal.SIGTERM) if n == 30 else None
    ) as server:
        process = start(data, server, template, tmp_path / "out")
        out, err = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM, err
        assert out == ""
        said = err.splitlines()[-1]
        assert said.startswith("cv3jax: SIGTERM: ")
        assert said.endswith("run the same command to resume")
        assert "Traceback" not in err
        assert collections.Counter(server.asked()) == collections.Counter(
            (r, t) for r, t, _ in lines(tmp_path / "out.recaption")
        )
        ask(server)
    assert max(collections.Counter(server.asked()).values()) == 1
    assert len(open_records(tmp_path / "out")) == COUNT


def test_a_full_disk_loses_nothing(ask, tmp_path, monkeypatch):
    def full(file, text, write=os.write):
        if len((tmp_path / "out.recaption" / journal.NAME).read_bytes()) > 5000:
            write(file, text[:20])
            raise OSError(28, "No space left on device")
        return write(file, text)

    with CaptionServer() as server:
        with monkeypatch.context() as patch:
            patch.setattr(journal.os, "write", full)
            with pytest.raises(OSError, match="No space left") as e:
                ask(server)
        assert e.value.filename.endswith(journal.NAME)
        written = {
            (record, turn)
            for record, turn, _ in whole_lines(tmp_path / "out.recaption" / journal.NAME)
        }
        before = len(server.seen)
        assert ask(server)["recaptioned"] == COUNT
    assert written
    assert not written & set(server.asked()[before:])


def whole_lines(path):
    events = [
        json.loads(line)
        for line in path.read_bytes().splitlines(keepends=True)[1:]
        if line.endswith(b"}\n")
    ]
    return [(number(e), e["turn"], e["event"]) for e in events]
