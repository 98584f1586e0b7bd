"""Test report.html: what it shows, and that nothing in it comes from outside or runs."""

import html.parser
import json
import re

import numpy as np
import pytest
import scored
from PIL import Image

from cv3jax.evaluation import page, run
from cv3jax.evaluation.prompt_row import PromptRow
from cv3jax.evaluation.prompt_sets import PromptSet

HOSTILE = '<img src=x onerror="alert(1)">&{{ 7 * 7 }}\u202e'


class Tags(html.parser.HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@pytest.fixture
def shown(tmp_path, monkeypatch) -> tuple[str, dict]:
    """Return a page over prompts of which one is hostile, and its report."""
    monkeypatch.setattr(run, "open_metric", scored.Metrics().open)
    rows = [PromptRow(f"p{i}", f"thing {'x' * i}", "ab"[i % 2]) for i in range(19)]
    rows.append(PromptRow("p19", HOSTILE, HOSTILE[:30]))
    scored.pictures(tmp_path / "p", 20, side=300)
    scored.pictures(tmp_path / "r", 4)
    request = scored.request(
        tmp_path / "o",
        ("mean", "far"),
        prompts=PromptSet(f"<set> {HOSTILE}", tuple(rows)),
        reference=tmp_path / "r",
    )
    report = run.evaluate(request, tmp_path / "p")
    return (tmp_path / "o" / "report.html").read_text(encoding="utf-8"), report


def test_text_from_outside_is_escaped_and_nothing_is_loaded_or_run(shown):
    text, _ = shown
    tags = Tags(text).tags
    names = {tag for tag, _ in tags}
    assert not names & {"script", "iframe", "object", "form", "link", "a", "base"}
    assert [name for _, attrs in tags for name in attrs if name.startswith("on")] == []
    assert all(attrs["src"].startswith("data:image/") for tag, attrs in tags if tag == "img")
    assert "<img src=x" not in text
    assert "{{ 7 * 7 }}" in text
    policy = next(attrs["content"] for tag, attrs in tags if "http-equiv" in attrs)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert any(attrs.get("alt") == HOSTILE for tag, attrs in tags if tag == "img")


def test_it_has_every_figure_the_categories_and_the_whole_protocol(shown):
    text, report = shown
    for metric in report["metrics"].values():
        assert metric["scoring_sha256"] in text
        for column, figure in metric["figures"].items():
            assert f">{column}</th>" in text
            assert f"<b>{page.number(figure['value'])}</b>" in text
            assert page.interval(figure) in text
    assert "The hash in the table is of this and of what was drawn." in text
    assert "mean.bin" in text
    assert report["prompts"]["sha256"] in text
    assert len(re.findall('<th scope="row">[ab]</th>', text)) == 2
    best, worst = (re.split(f"<h3>{name}</h3>", text)[1] for name in ("Best", "Worst"))
    assert best.split("<h3>Worst")[0].count("<figure") == worst.count("<figure") == page.SHOWN


def test_best_and_worst_are_by_the_first_column_or_the_one_over_all():
    def rows(*pairs):
        return [{"scores": {"m.x": x, "m.all": y}} for x, y in pairs]

    assert page.headline(["m.x", "m.all"]) == "m.all"
    assert page.headline(["m", "m.x"]) == "m"
    made = rows((1, 0), (0, 1), (1, 1), (0, 0), (1, None))
    assert page.ranked(made, ["m.x", "m.all"]) == [3, 0, 1, 2]
    assert page.ranked(made, ["m.x"])[:2] == [1, 3]


def test_a_distribution_counts_every_score_once():
    values = [0.0, 0.5, 0.5, 1.0, None]
    made = page.histogram([{"scores": {"m": value}} for value in values], "m")
    assert sum(count for _, count, _ in made.bars) == 4
    assert max(share for share, _, _ in made.bars) == 1.0
    assert (made.low, made.high) == ("0", "1")
    right = page.histogram([{"scores": {"m": value}} for value in (0.0, 1.0, 1.0)], "m")
    assert right.bars == [(0.5, 1, "0"), (1.0, 2, "1")]


def test_intervals_lie_on_one_scale():
    figures = {
        "a": {"low": 0.2, "value": 0.4, "high": 0.5},
        "b": {"low": None, "value": 1.0, "high": None},
    }
    assert page.bars(figures) == {"a": (20.0, 40.0, 50.0), "b": (100.0, 100.0, 100.0)}
    wide = {"a": {"low": -2.0, "value": 0.0, "high": 2.0}}
    assert page.bars(wide) == {"a": (0.0, 50.0, 100.0)}


def test_an_interval_without_width_is_explained(tmp_path, monkeypatch):
    made = scored.Metrics()
    monkeypatch.setattr(run, "open_metric", made.open)
    made._score = lambda images, texts: {"mean": np.ones(len(images))}
    scored.pictures(tmp_path / "p", 5)
    run.evaluate(scored.request(tmp_path / "o"), tmp_path / "p")
    text = (tmp_path / "o" / "report.html").read_text(encoding="utf-8")
    assert "an interval of no width" in text
    assert f"as low as {0.025 ** (1 / 5):.3f}" in text
    assert '<p class="ends"><span>1</span></p>' in text  # one value is not a range


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.98765, "0.9877"), (1.0, "1.000"), (-3.25, "-3.250"), (123456.0, "123456"), (None, "–")],
)
def test_a_figure_has_four_digits(value, words):
    assert page.number(value) == words


def test_pictures_are_small_and_small_ones_exact():
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    assert page.thumbnail(small).startswith("data:image/png;base64,")
    large = page.thumbnail(small.resize((2000, 1000)))
    assert large.startswith("data:image/jpeg;base64,")
    assert len(large) < 60_000


def test_the_report_is_json_that_says_how_intervals_were_made(shown):
    _, report = shown
    assert report["bootstrap"] == {
        "level": 0.95,
        "draws": 200,
        "draws_of_sets": 20,
        "seed": 0,
        "clusters": "prompts",
    }
    assert json.dumps(report)
    assert report["metrics"]["far"]["scoring"]["reference"]["count"] == 4
