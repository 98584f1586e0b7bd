"""Test recaptioning against a server with scheduled faults.

Each record ends with a caption or a reason. Failures are asked again. Runs without success end.
"""

import collections
import json
import socket

import pytest
from caption_answers import KEY, MODEL, REFUSAL, answer_of, solid
from caption_server import CaptionServer
from recaption_runs import COUNT, TURNS, lines, number

from data_pipeline.chat import answers, rate_limit
from data_pipeline.chat.endpoint import StoppedByServerError
from data_pipeline.images.decode import encode_png
from data_pipeline.io.errors import InputError
from data_pipeline.recaption.output import REPORT
from data_pipeline.recaption.run import recaption
from data_pipeline.recaption.settings import RecaptionSettings
from data_pipeline.records.records import RecordWriter, make_record, open_records


@pytest.fixture(autouse=True)
def no_slow_start(monkeypatch):
    monkeypatch.setattr(rate_limit, "FIRST", 2000.0)


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


def test_429s_are_waited_for_and_are_no_failures(ask):
    with CaptionServer(
        lambda record, turn, attempt: "429" if attempt < 3 and record % 8 == 0 else "ok",
        retry_after="0.001",
    ) as server:
        report = ask(server, retries=0)
    assert report["reasons"] == {}
    assert report["retries"] == 3 * TURNS * 4


@pytest.mark.parametrize("far", ["inf", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_pause_without_end_is_bounded_and_said(far, ask, capsys):
    with CaptionServer(
        lambda record, turn, attempt: "429" if attempt < 2 and record == 8 else "ok",
        retry_after=far,
    ) as server:
        assert ask(server, max_wait=0.01)["reasons"] == {}
    said = [line for line in capsys.readouterr().err.splitlines() if "asks for a pause" in line]
    assert len(said) == 1
    assert said[0].endswith("the next request goes out after 0.01 s")


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
        ("402", {}, StoppedByServerError, "asks for payment .*run the same command to resume"),
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
        pytest.raises(InputError, match=r"1 × timeout .*no complete response within 0\.2 s"),
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
        with pytest.raises(
            InputError, match=r"no connection to http://127.*check that the server runs"
        ):
            ask(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", retries=0)
    assert lines(tmp_path / "out.recaption") == []
