"""Test the template for the packaged cascades, and the score of its ablation."""

import importlib
import json

import pytest
from documents import ROOT
from PIL import Image

from data_pipeline.expansion.checks import missing
from data_pipeline.expansion.template import load_template
from data_pipeline.io.errors import InputError
from data_pipeline.scenes import grammar
from data_pipeline.scenes.render import render

FOLDER = ROOT / "examples" / "expansion"


@pytest.fixture
def score(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("score")


def test_the_scenes_template_has_examples_of_the_grammar_that_pass_the_checks():
    template = load_template(FOLDER / "scenes.json")
    prompts = (FOLDER / "prompts.txt").read_text().splitlines()
    assert len(template.examples) >= 8
    layouts = set()
    for prompt, expansion in template.examples:
        layouts.add(grammar.parse(expansion)["layout"])
        assert missing(prompt, expansion) == []
        assert prompt not in prompts, "it would be no test of the model"
    assert layouts == set(grammar.LAYOUTS)
    words = {*grammar.COLOURS, *grammar.SHAPES, *grammar.SIZES, *grammar.BACKGROUNDS}
    said = " ".join(expansion for _, expansion in template.examples)
    assert sorted(words - set(said.replace(",", "").split())) == []


def test_what_a_prompt_names_is_read(score):
    assert score.named("a tiny red Ring, and two striped stars on a grey background") == (
        "grey",
        [
            {"size": "small", "colour": "red", "shape": "ring"},
            {"texture": "striped", "shape": "star"},
            {"texture": "striped", "shape": "star"},
        ],
    )
    assert score.named("a black cross") == (None, [{"shape": "cross"}])


def test_a_picture_is_right_if_it_shows_what_the_prompt_names(score, tmp_path):
    scene = grammar.sample_scene(0, 3, two=1.0)
    Image.fromarray(render(scene, 128)).save(tmp_path / "a.png")
    left, right = scene.objects
    other = next(colour for colour in grammar.COLOURS if colour not in (left.colour, right.colour))
    prompts = {
        f"a {right.shape} and a {left.size} {left.colour} {left.shape}": True,
        f"a {left.shape} and a {other} {right.shape}": False,
        f"a {left.shape}": False,
        f"{left.shape}, {right.shape}, {scene.background} background": True,
    }
    entries = [{"file": "a.png", "prompt": prompt} for prompt in prompts]
    entries.append({**entries[1], "expansion": {}})
    (tmp_path / "index.jsonl").write_text("\n".join(map(json.dumps, entries)))
    seen = score.see(render(scene, 128))
    assert {prompt: score.shows(seen, *score.named(prompt)) for prompt in prompts} == prompts
    assert not score.shows(seen, "none", score.named(next(iter(prompts)))[1])
    assert score.score(tmp_path) == {
        "as written": {"right": 2, "pictures": 4},
        "expanded": {"right": 0, "pictures": 1},
    }


def test_the_guides_run_was_made_with_this_template_and_these_prompts():
    """Whether a text is a caption of the grammar is judged again."""
    found = json.loads((ROOT / "docs" / "guides" / "expand.json").read_text())
    assert found["template_sha256"] == load_template(FOLDER / "scenes.json").sha256
    prompts = (FOLDER / "prompts.txt").read_text().splitlines()
    assert [each["prompt"] for each in found["prompts"]] == prompts
    for each in found["prompts"]:
        text = each["text"]
        assert each["fallback"] or missing(each["prompt"], text) == []
        assert each["in_grammar"] == grammatical(text), text


def grammatical(text: str) -> bool:
    try:
        grammar.parse(text)
    except InputError:
        return False
    return True
