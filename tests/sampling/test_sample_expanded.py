"""`cv3jax sample --expand`: what is drawn, what is recorded, and that a run keeps its texts."""

import functools
import json
import os

import numpy as np
import pytest
from expansion_server import MODEL, expansion_server
from painter import LINES, Painter, contents
from PIL import Image

from cv3jax.commands import sample
from cv3jax.sampling import ablation, texts
from cv3jax.sampling.expanding import Expanding
from cv3jax.sampling.inputs import Prompt
from data_pipeline.chat import rate_limit
from data_pipeline.expansion.settings import ExpandSettings
from data_pipeline.expansion.template import load_template
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.places import mark


class Words:
    """In place of a tokenizer: a token a word, and one for the end."""

    length = 40

    def count(self, text: str) -> int:
        return len(text.split()) + 1


@pytest.fixture
def expanded(paint, monkeypatch, tmp_path):
    """Return a function that runs the command with --expand, and returns its figures."""
    monkeypatch.setattr(rate_limit, "FIRST", 2000.0)
    monkeypatch.setattr("cv3jax.sampling.resumable.read_tokenizer", lambda *_: Words())

    def run(out, server, *flags, **options):
        at = ("--expand", server.url, "--expand-model", MODEL)
        cache = ("--expand-cache", str(tmp_path / "cache"))
        return paint(out, "--seed", "7", *at, *cache, *flags, **options)

    return run


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Seeing(Painter):
    """A painter that remembers what it is asked for."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seen = []

    def generate(self, prompts, seeds, **options):
        self.seen += list(zip(prompts, [int(s) for s in seeds], strict=True))
        return super().generate(prompts, seeds, **options)


def test_expansions_are_drawn_and_recorded(expanded, tmp_path, capsys):
    painter = Seeing()
    with expansion_server({LINES[3]: ["length"]}) as server:
        expanded("out", server, "--expand-fallback", painter=painter)
    index = lines_of(tmp_path / "out" / "index.jsonl")
    assert [line["prompt"] for line in index] == LINES
    for i, line in enumerate(index):
        of = line["expansion"]
        assert (of["prompt"], of["model"]) == (LINES[i], MODEL)
        assert of["template_sha256"] == load_template().sha256
        assert (LINES[i], of["text"] == LINES[i]) == (LINES[i], i == 3)
        assert of["fallback"].startswith("truncated answer") == (i == 3)
        assert (of["text"], 7 + i) in painter.seen
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["expand"]["model"] == MODEL


def test_a_resumed_run_draws_the_same_texts_and_asks_nothing_twice(expanded, tmp_path):
    with expansion_server({LINES[3]: ["length", "another text of 3"]}) as server:
        expanded("out", server, "--expand-fallback")
        before = contents(tmp_path / "out")
        asked = len(server.asked)
        assert asked == len(LINES)
        gone = sorted(name for name in before if name.endswith(".png"))[3]
        (tmp_path / "out" / gone).unlink()
        assert expanded("out", server, "--expand-fallback")["made"] == 1
        assert len(server.asked) == asked
        assert contents(tmp_path / "out") == before
        for flags in ((), ("--expand-fallback", "--expand-ablation")):
            with pytest.raises(InputError, match=r"made with other values of .*expand"):
                expanded("out", server, *flags)


def test_processes_ask_for_their_own_prompts(expanded, tmp_path):
    with expansion_server() as server:
        for i in ("0", "1"):
            flags = ("--expand-cache", str(tmp_path / i), "--process-id", i, "--num-processes", "2")
            expanded("out", server, *flags)
        assert sorted(server.asked) == sorted(LINES)
    index = lines_of(tmp_path / "out" / "index.jsonl")
    assert [line["expansion"]["prompt"] for line in index] == LINES


def test_without_a_fallback_nothing_is_drawn(expanded, tmp_path):
    painter = Painter()
    with (
        expansion_server({LINES[10]: ["empty"]}) as server,
        pytest.raises(InputError, match="no expansion of 'a drawing of 10 things'"),
    ):
        expanded("out", server, painter=painter)
    assert painter.batches == 0
    assert not list(tmp_path.glob("out/*.png"))


def test_an_ablation_draws_both_with_the_same_seeds(expanded, tmp_path):
    painter = Seeing()
    with expansion_server() as server:
        figures = expanded("out", server, "--expand-ablation", "--num", "2", painter=painter)
    assert figures["pictures"] == 4 * len(LINES)
    index = lines_of(tmp_path / "out" / "index.jsonl")
    for n, prompt in enumerate(LINES):
        four = index[4 * n : 4 * n + 4]
        assert [line["seed"] for line in four] == [7 + 2 * n, 8 + 2 * n] * 2
        assert ["expansion" in line for line in four] == [False, False, True, True]
        drawn = [prompt, prompt, four[2]["expansion"]["text"], four[2]["expansion"]["text"]]
        for line, text in zip(four, drawn, strict=True):
            assert (text, line["seed"]) in painter.seen
    sheet = np.asarray(Image.open(tmp_path / "out" / ablation.SHEET))
    assert figures["sheet"] == str(tmp_path / "out" / ablation.SHEET)
    last = -1
    for column in range(4):  # of the first prompt
        picture = np.asarray(Image.open(tmp_path / "out" / index[column]["file"]))
        found = [
            x
            for y in range(80)
            for x in range(sheet.shape[1] - 31)
            if np.array_equal(sheet[y, x : x + 32], picture[0])
        ]
        assert len(found) == 1
        assert found[0] > last
        last = found[0]


def test_the_sheet_of_an_address_is_named_by_it(expanded, tmp_path, monkeypatch):
    monkeypatch.setenv("CV3JAX_STORES", str(tmp_path))
    place = mark("s3://bucket/ablation")
    with expansion_server() as server:
        figures = expanded(f"{place.name}/work", server, "--expand-ablation")
    assert figures["sheet"] == f"s3://bucket/ablation/{ablation.SHEET}"


def test_seeds_of_an_ablation():
    expanding = Expanding(ExpandSettings("m.gguf"), load_template(), ablation=True)
    prompts = [Prompt("A fox"), Prompt("b", 5, "bee")]
    marked = expanding.marked(prompts, 3, 100)
    assert [(p.seed, p.name, p.expand) for p in marked] == [
        (100, "", False),
        (100, "a_fox_expanded", True),
        (5, "bee", False),
        (5, "bee_expanded", True),
    ]
    assert [p.seed for p in expanding.marked(prompts, 3, None)] == [None, None, 5, 5]


WRONG = [
    (("--expand-model", "m"), "--expand-model goes with --expand"),
    (("--expand-fallback",), "--expand-fallback goes with --expand"),
    (("--expand", "http://localhost:1/v1"), "needs --expand-model"),
    (("--expand", "ftp://a/v1", "--expand-model", "m"), "--expand 'ftp://a/v1': give an address"),
    (("--expand", "http://u:p@a/v1", "--expand-model", "m"), "--expand has a password"),
    (("--expand", "nothing/here"), "--expand nothing/here: give a server's address"),
    (("--expand", "URL", "--expand-template", "no.json"), "--expand-template no.json: cannot be"),
    (("--expand", "URL", "--expand-key-env", "NO_SUCH"), "--expand-key-env NO_SUCH: the environm"),
    (("--expand", "URL", "--expand-timeout", "0"), "--expand-timeout 0: give 0.01 to 3600"),
    (("--expand", "URL", "--expand-ablation", "--image", "."), "leave --image out"),
    (
        ("--expand", "URL"),
        "server runs and that http://127.0.0.1:9/v1 is its address",
    ),
]


@pytest.mark.parametrize(("flags", "said"), WRONG)
def test_wrong_flags_are_one_line_and_leave_nothing(flags, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cv3jax.sampling.few.read_tokenizer", lambda *_: Words())
    url = ("http://127.0.0.1:9/v1", "--expand-model", "m")  # where nothing listens
    flags = [word for flag in flags for word in (url if flag == "URL" else (flag,))]
    once = functools.partial(ExpandSettings, retries=0)
    monkeypatch.setattr("cv3jax.commands.expansion_flags.ExpandSettings", once)
    out = ["--checkpoint", "scenes", "--prompt", "a star", "--out", "out"]
    with pytest.raises(InputError) as e:
        sample.main([*out, *flags])
    assert said in str(e.value)
    assert "\n" not in str(e.value)
    assert os.listdir(tmp_path) == []


def test_what_is_printed_is_short(capsys):
    class Named:
        asked = 20
        model = type("Model", (), {"name": "m"})

    made = [texts.Expansion(f"p{i}", f"P{i}", "m", "", 3) for i in range(15)]
    plain = [texts.Expansion(f"q{i}", f"q{i}", "m", "", 3, "timeout") for i in range(10)]
    texts.say_expanded([*made, *plain], Named())
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "cv3jax: 15 prompts expanded by m, 5 of them kept from before"
    assert said[1:3] == [f"cv3jax: 'q{i}' is drawn as it is (timeout)" for i in range(2)]
    assert said[-1] == "cv3jax: and so are 2 more prompts"
    assert len(said) == 10
