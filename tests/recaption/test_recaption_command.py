"""Test `cv3jax data recaption`: output, refusals, limited runs and resumption of journals."""

import collections
import json

import pytest
from caption_answers import KEY, MODEL, answer_of
from caption_server import CaptionServer
from recaption_runs import COUNT, TURNS, number

from data_pipeline.chat import rate_limit
from data_pipeline.cli import main
from data_pipeline.io.errors import InputError
from data_pipeline.recaption.output import REPORT
from data_pipeline.records.records import open_records


@pytest.fixture(autouse=True)
def no_slow_start(monkeypatch):
    monkeypatch.setattr(rate_limit, "FIRST", 2000.0)


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
        with pytest.raises(InputError, match=r"t\.json exists already"):
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
            "--input",
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
        assert (
            "without a new caption 1: control characters (such as k/3: a \\x1b[31mcaption)" in out
        )
        assert "\x1b" not in out
        assert json.loads((tmp_path / "f.json").read_text()) == json.loads(
            (tmp_path / "out" / REPORT).read_text()
        )
        for flags, message in (
            (["--concurrency", "0"], "--concurrency 0: give a number in 1..1024"),
            (["--rate", "nan"], "--rate nan"),
            (["--timeout", "-1"], "--timeout -1"),
            (["--price-in", "1"], "give both or neither"),
            (["--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY: the environment has no such variable"),
            (["--dialogue", str(tmp_path / "none")], "--dialogue .* cannot be read"),
            (["--out", str(data)], "is the dataset itself"),
            (["--endpoint", "localhost"], "an address like http"),
            ([], "already holds records"),
        ):
            with pytest.raises(InputError, match=message):
                main([*command, *flags])
