"""Recaptioning against a server that misbehaves on schedule, and runs that are killed, stopped,
refused or left alone by it.
"""

import collections
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from caption_server import KEY, MODEL, REFUSAL, CaptionServer, answer_of, solid

from data_pipeline.cli import main
from data_pipeline.images.decode import encode_png
from data_pipeline.io.errors import InputError
from data_pipeline.recaption import answers, journal, rate_limit
from data_pipeline.recaption.endpoint import StoppedByServerError
from data_pipeline.recaption.output import REPORT
from data_pipeline.recaption.run import recaption
from data_pipeline.recaption.settings import RecaptionSettings
from data_pipeline.records.records import RecordWriter, make_record, open_records

ROOT = Path(__file__).parents[2]
COUNT, TURNS = 31, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Record i is an image of which the server reads i, with caption "old i", in shards of 11, 10
    and 10; some have a recaption.
    """
    out = tmp_path_factory.mktemp("recaption") / "d"
    with RecordWriter(out, shards=3) as writer:
        for i in range(COUNT):
            recaption = "of an earlier model" if i % 7 == 0 else ""
            writer.write(
                make_record(
                    encode_png(solid(i)),
                    f"old {i} {{x}}",
                    key=f"k/{i}",
                    recaption=recaption,
                    url=f"http://u/{i}",
                )
            )
    return out


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("dialogue") / "d.json"
    turns = ["Describe it.", "Which colours?", "Merge {caption}."]
    path.write_text(
        json.dumps(
            {"turns": turns, "settings": {"temperature": 0, "seed": 3}, "triplet": "From {caption}"}
        )
    )
    return path


@pytest.fixture(autouse=True)
def no_slow_start(monkeypatch):
    monkeypatch.setattr(rate_limit, "FIRST", 2000.0)


@pytest.fixture
def ask(data, template, tmp_path):
    """`recaption` with what all tests share, into tmp_path / "out"."""

    def call(server, *, triplets=None, retry_failed=False, overwrite=False, **changes):
        settings = RecaptionSettings(
            endpoint=getattr(server, "url", server),
            model=MODEL,
            key=KEY,
            dialogue=template,
            concurrency=8,
            timeout=20.0,
            retries=2,
            backoff=0.001,
        )
        return recaption(
            data,
            tmp_path / "out",
            dataclasses.replace(settings, **changes),
            triplets=triplets,
            retry_failed=retry_failed,
            overwrite=overwrite,
        )

    return call


def number(record):
    return int(record["key"][2:])


def lines(folder):
    """The journal's events as (record, turn, event)."""
    events = [json.loads(line) for line in (folder / journal.NAME).read_bytes().splitlines()[1:]]
    return [(number(e), e["turn"], e["event"]) for e in events]


ONCE = (
    "500",
    "503",
    "408",
    "409",
    "cut",
    "malformed",
    "error-in-200",
    "huge",
    "429",
    "slow",
    "unmeasured",
    "hang",
)
FOR_GOOD = {
    "empty": answers.EMPTY,
    "blank": answers.EMPTY,
    "truncated": answers.TRUNCATED,
    "filtered": answers.REFUSED,
    "refusal": answers.REFUSED,
    "sorry": answers.REFUSED,
    "control": answers.CONTROL,
    "400": answers.REJECTED,
    "413": answers.REJECTED,
    "422": answers.REJECTED,
}
ALWAYS = {"502": answers.SERVER, "malformed": answers.MALFORMED, "cut": answers.MALFORMED}


def test_every_record_ends_with_a_caption_or_a_reason(ask, data, tmp_path):
    kinds = [
        *((kind, True) for kind in ONCE),
        *((kind, True) for kind in FOR_GOOD),
        *((kind, False) for kind in ALWAYS),
    ]

    def schedule(record, turn, attempt):
        kind, once = kinds[record] if record < len(kinds) else ("ok", True)
        return kind if turn == record % TURNS and not (once and attempt) else "ok"

    with CaptionServer(schedule, delay=0.02) as server:
        report = ask(server, timeout=1.5, price_in=2.0, price_out=10.0)
    assert server.wrong == []
    assert server.most_at_once <= 8
    reasons = {i: (FOR_GOOD if once else ALWAYS).get(kind) for i, (kind, once) in enumerate(kinds)}
    reasons = {i: reason for i, reason in reasons.items() if reason}
    before, after = open_records(data), open_records(tmp_path / "out")
    assert after.lengths == before.lengths == (11, 10, 10)
    for old, new in zip(before, after, strict=True):
        i = number(old)
        assert new == {**old, "recaption": "" if i in reasons else answer_of(i, TURNS - 1)}
    assert report["recaptioned"] == COUNT - len(reasons)
    assert report["reasons"] == collections.Counter(reasons.values())
    assert report["requests"] == len(server.seen)
    # those that misbehave once are sent again, but for slow and unmeasured, which are answers;
    # those that always do, twice
    assert report["retries"] == len(ONCE) - 2 + 2 * len(ALWAYS)
    assert (tmp_path / "out" / REPORT).read_text() == json.dumps(
        report, indent=2, ensure_ascii=False
    ) + "\n"
    counted = [
        s for s in server.seen if s.action in {"ok", "slow", *FOR_GOOD} and not s.action.isdigit()
    ]
    assert report["tokens"] == {
        "prompt": sum(100 + s.turn for s in counted),
        "completion": 10 * len(counted),
        "unmeasured": 1,
    }
    assert report["cost"] == pytest.approx(
        (report["tokens"]["prompt"] * 2 + report["tokens"]["completion"] * 10) / 1e6
    )
    settings = {"model": MODEL, "max_tokens": 400, "temperature": 0, "seed": 3}
    assert all(
        {k: v for k, v in s.body.items() if k != "messages"} == settings for s in server.seen
    )
    last = next(s for s in server.seen if (s.record, s.turn) == (30, 2)).body["messages"]
    assert [m["content"] for m in last[1::2]] == [answer_of(30, 0), answer_of(30, 1)]
    assert last[-1]["content"] == "Merge <caption>old 30 {x}</caption>."
    # one Idempotency-Key a request, however often it is sent
    keys = collections.defaultdict(set)
    for s in server.seen:
        keys[s.record, s.turn].add(s.headers["idempotency-key"])
    assert all(len(names) == 1 for names in keys.values())
    assert len({name for names in keys.values() for name in names}) == len(keys)
    for place in tmp_path.rglob("*"):
        assert not place.is_file() or KEY.encode() not in place.read_bytes(), place


def start(data, server, template, out):
    """The command, in a process of its own."""
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
    command = [sys.executable, "-m", "data_pipeline.cli", "recaption", str(data), *flags]
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
        assert said.endswith("the same command goes on")
        assert "Traceback" not in err
        assert collections.Counter(server.asked()) == collections.Counter(
            (r, t) for r, t, _ in lines(tmp_path / "out.recaption")
        )
        ask(server)
    assert max(collections.Counter(server.asked()).values()) == 1
    assert len(open_records(tmp_path / "out")) == COUNT


def test_429s_are_waited_for_and_are_no_failures(ask):
    with CaptionServer(
        lambda record, turn, attempt: "429" if attempt < 3 and record % 8 == 0 else "ok",
        retry_after="0.001",
    ) as server:
        report = ask(server, retries=0)
    assert report["reasons"] == {}
    assert report["retries"] == 3 * TURNS * 4


def test_failures_can_be_asked_again(ask, data, tmp_path):
    down = True

    def schedule(record, turn, attempt):
        if record == 5 and turn == 0:
            return "sorry"
        return "503" if down and record < 4 and turn == 1 else "ok"

    with CaptionServer(schedule) as server:
        assert ask(server, retries=1)["reasons"] == {answers.REFUSED: 1, answers.SERVER: 4}
        down = False
        before = len(server.seen)
        with pytest.raises(InputError, match="already holds records"):
            ask(server)
        assert ask(server, overwrite=True)["reasons"] == {answers.REFUSED: 1, answers.SERVER: 4}
        assert len(server.seen) == before
        assert ask(server, retry_failed=True)["reasons"] == {answers.REFUSED: 1}
    assert sorted(server.asked()[before:]) == [
        (record, turn) for record in range(4) for turn in (1, 2)
    ]
    captions = {number(r): r["recaption"] for r in open_records(tmp_path / "out")}
    assert captions == {i: "" if i == 5 else answer_of(i, 2) for i in range(COUNT)}


@pytest.mark.parametrize(
    ("action", "changes", "kind", "message"),
    [
        ("ok", {"key": None}, InputError, r"does not accept the API key .*Incorrect API key: None"),
        ("ok", {"key": "sk-wrong"}, InputError, r"Incorrect API key: Bearer \*\*\*"),
        ("403", {}, InputError, "--api-key-env"),
        ("ok", {"model": "other"}, InputError, "The model `other` does not exist.*--model"),
        ("redirect", {}, InputError, "redirects to 'http://example.invalid"),
        ("402", {}, StoppedByServerError, "wants payment .*the same command goes on"),
        ("broke", {}, StoppedByServerError, "exceeded your current quota"),
        ("400", {}, InputError, r"rejected 20 requests in a row \(400: status 400\)"),
        (
            "500",
            {"retries": 0},
            StoppedByServerError,
            "gave no answer to 20 records in a row.*--retry-failed",
        ),
        (
            "sorry",
            {},
            InputError,
            rf"no record .* got a new caption: {COUNT} × refused \(such as k/\d+: {REFUSAL}",
        ),
    ],
)
def test_runs_that_lead_nowhere_end(action, changes, kind, message, ask, tmp_path):
    with CaptionServer(lambda *_: action) as server:
        with pytest.raises(kind, match=message):
            ask(server, **changes)
        assert len(server.seen) <= COUNT
        assert not (tmp_path / "out").exists()
        server.schedule = lambda *_: "ok"
        if action in ("500", "broke") or "model" in changes:
            assert ask(server, retry_failed=True)["recaptioned"] == COUNT


def test_a_server_that_never_answers(ask):
    with (
        CaptionServer(lambda *_: "hang") as server,
        pytest.raises(InputError, match=r"1 × timeout .*no whole response within 0\.2 s"),
    ):
        ask(server, limit=1, timeout=0.2, retries=1)
    assert server.asked() == [(server.seen[0].record, 0)] * 2


def test_an_image_that_cannot_be_read_costs_nothing(template, tmp_path):
    whole = make_record(encode_png(solid(1)), "old", key="k/1")
    with RecordWriter(tmp_path / "d", shards=1) as writer:
        writer.write({**whole, "key": "k/0", "image": whole["image"][:40]})
        writer.write(whole)
    with CaptionServer() as server:
        report = recaption(
            tmp_path / "d",
            tmp_path / "out",
            RecaptionSettings(server.url, MODEL, key=KEY, dialogue=template),
        )
    assert (report["reasons"], report["requests"], report["retries"]) == (
        {answers.UNREADABLE: 1},
        TURNS,
        0,
    )
    assert [r["recaption"] for r in open_records(tmp_path / "out")] == ["", answer_of(1, 2)]


def test_nobody_there(ask, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(InputError, match=r"no connection to http://127.*is the server up"):
            ask(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", retries=0)
    assert lines(tmp_path / "out.recaption") == []


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


def test_a_limited_run_makes_triplets_and_no_dataset(ask, data, tmp_path):
    records = list(open_records(data))
    path, third = tmp_path / "t.json", number(records[2])
    with CaptionServer(
        lambda record, turn, attempt: "sorry" if record == third else "ok"
    ) as server:
        report = ask(server, limit=5, triplets=path)
        assert (report["records"], report["recaptioned"]) == (5, 4)
        assert not (tmp_path / "out").exists()
        assert json.loads((tmp_path / "out.recaption" / REPORT).read_text()) == report
        kept = [records[i] for i in (0, 1, 3, 4)]
        triplets = json.loads(path.read_text())
        assert [t["id"] for t in triplets] == [r["key"] for r in kept]
        for triplet, record in zip(triplets, kept, strict=True):
            assert (tmp_path / triplet["image"]).read_bytes() == record["image"]
            assert triplet["conversations"] == [
                {"from": "human", "value": f"<image>\nFrom <caption>{record['caption']}</caption>"},
                {"from": "gpt", "value": answer_of(number(record), 2)},
            ]
        with pytest.raises(InputError, match=r"t\.json is there already"):
            ask(server, triplets=path)
        with pytest.raises(InputError, match=r"ends in \.json"):
            ask(server, triplets=tmp_path / "t.jsonl")
        assert ask(server, triplets=path, overwrite=True)["recaptioned"] == COUNT - 1
    assert (
        len(json.loads(path.read_text()))
        == len(list((tmp_path / "t_images").iterdir()))
        == COUNT - 1
    )
    assert max(collections.Counter(server.asked()).values()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "out",
        "out.recaption",
        "t.json",
        "t_images",
    ]


def test_the_same_journal_serves_no_other_model(ask, tmp_path):
    with CaptionServer() as server:
        ask(server, limit=2)
        with pytest.raises(InputError, match="max_tokens 400 where this run has 50"):
            ask(server, max_tokens=50)
        assert ask(server, max_tokens=50, overwrite=True)["requests"] == COUNT * TURNS
    assert len(server.seen) == (COUNT + 2) * TURNS


def test_the_command(data, template, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with CaptionServer(lambda record, turn, attempt: "control" if record == 3 else "ok") as server:
        command = [
            "recaption",
            str(data),
            "--endpoint",
            server.url,
            "--model",
            MODEL,
            "--out",
            str(tmp_path / "out"),
        ]
        prices = ["--price-in", "1", "--price-out", "2"]
        main(
            [
                *command,
                "--dialogue",
                str(template),
                "--api-key-env",
                "MY_KEY",
                *prices,
                "--json",
                str(tmp_path / "f.json"),
            ]
        )
        out = capsys.readouterr().out
        assert f"30 of 31 records have a new caption, in {tmp_path / 'out'}" in out
        assert f"{len(server.seen)} requests, 0 of them retries; " in out
        assert "; cost 0.0" in out
        assert "without a new caption 1: control characters (such as k/3: a ?[31mcaption)" in out
        assert "\x1b" not in out
        assert json.loads((tmp_path / "f.json").read_text()) == json.loads(
            (tmp_path / "out" / REPORT).read_text()
        )
        for flags, message in (
            (["--concurrency", "0"], "--concurrency 0: give a number in 1..1024"),
            (["--rate", "nan"], "--rate nan"),
            (["--timeout", "-1"], "--timeout -1"),
            (["--price-in", "1"], "give both, or neither"),
            (["--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY: no such variable"),
            (["--dialogue", str(tmp_path / "none")], "--dialogue .* cannot be read"),
            (["--out", str(data)], "is the dataset itself"),
            (["--endpoint", "localhost"], "an address like http"),
            ([], "already holds records"),
        ):
            with pytest.raises(InputError, match=message):
                main([*command, *flags])
