"""Test `cv3jax ablate`: variants by group, their differences, what is left out and what resumes."""

import json

import numpy as np
import pytest
import scored
from painter import LINES, Painter
from PIL import Image

from cv3jax import recipes
from cv3jax.commands import ablate
from cv3jax.evaluation import compare_sets, run
from cv3jax.evaluation.ablations.columns import columns_of
from cv3jax.evaluation.ablations.variants import Variant, by_group
from cv3jax.evaluation.metrics.registry import METRICS, Spec
from cv3jax.evaluation.prompt_row import PromptRow
from cv3jax.evaluation.prompt_sets import PromptSet, open_set
from cv3jax.evaluation.reports import read_report
from cv3jax.sampling import resumable
from data_pipeline.io.errors import InputError, StoppedError

RECIPE = """
from cv3jax.configs.evaluation import scenes_ablations

def get_config(variant=""):
    c = scenes_ablations.get_config(variant)
    c.checkpoint, c.prompts, c.limit, c.size = {checkpoint!r}, {prompts!r}, 6, "64"
    c.metrics = ("mean",)
    return c

def sweep():
{points}
"""
POINTS = """
    yield {"group": "steps", "name": "<b>8</b>", "base.steps": 8}
    yield {"group": "steps", "name": "4", "base.steps": 4}
    yield {"group": "form", "name": "eight", "base.steps": 8}
    yield {"group": "form", "name": "paper", "base.form": "paper"}
    yield {"group": "blur", "name": "linear", "base.steps": 8}
    yield {"group": "blur", "name": "exp", "trained": "schedule.blur=exp"}
    yield {"group": "expansion", "name": "off"}
    yield {"group": "expansion", "name": "on", "expand.on": True}
"""


class Shades(Painter):
    """Draw pictures that are the brighter the more steps of the base they have."""

    def generate(self, prompts, seeds, *, base, relay, **options) -> dict[str, np.ndarray]:
        self.batches += 1
        self.stop(self.batches)
        shade = 10 * (base.steps or 2) + 5 * (base.form == "paper")
        noise = np.random.default_rng(seeds[0]).integers(0, 40, (len(seeds), 64, 64, 3), np.uint8)
        return {"base": noise + np.uint8(shade)}


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Return a function that runs the command with a cheap metric and a painter for a cascade."""
    (tmp_path / "p.txt").write_text("\n".join(LINES))
    for module in (run, compare_sets):
        monkeypatch.setattr(module, "open_metric", scored.Metrics().open)
    monkeypatch.setitem(METRICS, "mean", Spec("mean", "Mean", "picture"))
    monkeypatch.setitem(METRICS, "far", Spec("far", "Far", "set"))
    monkeypatch.setattr(resumable, "choose_mesh", lambda text, count: None)

    def call(*argv: str, points: str = POINTS, painter: Painter | None = None) -> tuple[str, dict]:
        painter = painter or Shades()
        monkeypatch.setattr(resumable, "load", lambda *args: painter)
        recipe = RECIPE.format(
            checkpoint="scenes_teacher",
            prompts=str(tmp_path / "p.txt"),
            points=points,
        )
        (tmp_path / "mine.py").write_text(recipe)
        out, figures = tmp_path / "o", tmp_path / "figures.json"
        given = ["--config", str(tmp_path / "mine.py"), "--out", str(out), "--draws", "200"]
        capsys.readouterr()
        ablate.main([*given, "--batch", "6", "--json", str(figures), *argv])
        return capsys.readouterr().out, json.loads(figures.read_text())

    return call


def test_each_variant_is_compared_with_the_first_of_its_group(command, tmp_path):
    painter = Shades()
    text, found = command(painter=painter)
    assert painter.batches == 4  # three settings that groups share, and two that one has
    assert found == json.loads((tmp_path / "o" / "report.json").read_text())
    steps = found["groups"]["steps"]
    assert steps["reference"] == "<b>8</b>"
    assert "differences" not in steps["variants"]["<b>8</b>"]
    four = steps["variants"]["4"]
    assert four["differences"]["mean"]["difference"] == pytest.approx(-40)
    assert four["differences"]["mean"]["low"] == pytest.approx(-40)
    assert four["distance"]["value"] == pytest.approx(40 / 255)
    rows = read_report(tmp_path / "o" / four["folder"]).rows
    assert [row["prompt"] for row in rows] == [row.text for row in _first(tmp_path, 6)]
    assert four["figures"]["mean"]["value"] == pytest.approx(
        np.mean([row["scores"]["mean"] for row in rows])
    )
    paper = found["groups"]["form"]["variants"]["paper"]
    assert paper["differences"]["mean"]["difference"] == pytest.approx(205 - 80)
    assert "steps:\nvariant " in text
    assert "-40*" in text


def _first(tmp_path, count: int) -> tuple[PromptRow, ...]:
    return open_set(str(tmp_path / "p.txt"), None, count).prompts


def test_what_is_not_there_is_left_out_and_said(command, tmp_path):
    text, found = command()
    blur = found["groups"]["blur"]
    assert [*blur["variants"]] == ["linear"]
    assert "--config.runs" in blur["left_out"]["exp"]
    assert "give one as --config.expand.where" in found["groups"]["expansion"]["left_out"]["on"]
    assert "exp was left out: it needs a training run of its own" in text
    page = (tmp_path / "o" / "report.html").read_text(encoding="utf-8")
    assert "<b>exp</b> was left out: it needs a training run" in page
    _, found = command(f"--config.runs={tmp_path}")
    assert found["groups"]["blur"]["left_out"]["exp"] == (
        f"{tmp_path}/schedule.blur=exp has no run that has ended"
    )
    with pytest.raises(InputError, match="the group 'a' has no reference: x: it needs a training"):
        command(
            points="""
    yield {"group": "a", "name": "x", "trained": "schedule.blur=exp"}
    yield {"group": "a", "name": "y"}
"""
        )


def test_a_run_that_was_stopped_draws_only_what_is_missing(command, tmp_path):
    class Stops(Shades):
        def generate(self, *args, **options):
            if self.batches == 2:
                raise StoppedError(15, "killed")
            return super().generate(*args, **options)

    with pytest.raises(StoppedError):
        command(painter=Stops())
    painter = Shades()
    _, found = command(painter=painter)
    assert painter.batches == 2
    report = (tmp_path / "o" / "report.json").read_bytes()
    painter = Shades()
    assert command(painter=painter)[1] == found
    assert painter.batches == 0
    assert (tmp_path / "o" / "report.json").read_bytes() == report
    with pytest.raises(InputError, match="holds pictures made with other values of seed"):
        command("--config.seed=5")


def test_the_page_has_every_group_its_pictures_and_no_foreign_tags(command, tmp_path):
    command("--groups", "steps; form")
    page = (tmp_path / "o" / "report.html").read_text(encoding="utf-8")
    assert "<h2>steps</h2>" in page
    assert "<h2>form</h2>" in page
    assert "<h2>blur</h2>" not in page
    assert "&lt;b&gt;8&lt;/b&gt;" in page
    assert "<b>8</b>" not in page
    assert page.count("data:image/png;base64,") == 2 * 2 * 4
    assert 'class="sure">Δ -40.0 (' in page or 'class="sure">Δ -40 (' in page
    with Image.open(tmp_path / "o" / "sheets" / "steps.png") as sheet:
        assert sheet.width > 2 * 64
        assert sheet.height > 4 * 64


def test_a_table_has_what_stands_for_a_metric_and_what_differs():
    def of(**values) -> dict:
        return {"figures": {name.replace("_", "."): {"value": v} for name, v in values.items()}}

    group = {
        "variants": {
            "a": of(judge_all=1.0, judge_colour=1.0, judge_size=1.0, far=2.0),
            "b": of(judge_all=1.0, judge_colour=0.9, judge_size=1.0, far=2.0),
        }
    }
    assert columns_of(group) == ["judge.all", "judge.colour", "far"]
    assert columns_of({"variants": {}}) == []


def test_variants_of_a_group_have_one_name_each_and_the_same_prompts():
    prompts = [PromptSet(name, (PromptRow("0", name),)) for name in "xy"]

    def of(name: str, one: PromptSet, metrics=("mean",)) -> Variant:
        return Variant("g", name, {}, name, {}, one, metrics, None)

    assert [*by_group([of("a", prompts[0]), of("b", prompts[0])])] == ["g"]
    with pytest.raises(InputError, match="two variants 'a' in the group 'g'"):
        by_group([of("a", prompts[0]), of("a", prompts[0])])
    for other in (of("b", prompts[1]), of("b", prompts[0], ("far",))):
        with pytest.raises(InputError, match="'b' of the group 'g' has other prompts or metrics"):
            by_group([of("a", prompts[0]), other])


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ('{"group": "g"}', "each point of sweep\\(\\) needs a group and a name"),
        ('{"group": "g", "name": "n", "base.steps": 0}', "config.base.steps=0: must be 1..1000"),
        ('{"group": "g", "name": "n", "base.eta": 1.5}', "config.base.eta=1.5: must be 0..1"),
        ('{"group": "g", "name": "n", "relay.form": "x"}', "relay.form=x: must be one of rele"),
        (
            '{"group": "g", "name": "n", "size": "128", "relay.strength": 2.0}',
            "strength 2.0: give a value",
        ),
        ('{"group": "g", "name": "n", "relay.stepps": 2}', "the nearest one is 'relay.steps'"),
        ('{"group": "g", "name": "n", "metrics": ("fog",)}', "no metric 'fog'"),
        ('{"group": "g", "name": "n", "num": 2}', "^$"),
    ],
)
def test_a_point_that_cannot_be_is_refused(point, said, command, tmp_path):
    if "num" in point:
        with pytest.raises(InputError, match="sweep\\(\\) sets one of weights, reference, num"):
            command(points=f'    yield {{"group": "g", "name": "m"}}\n    yield {point}\n')
        return
    with pytest.raises(InputError, match=said):
        command(points=f"    yield {point}\n")
    assert not (tmp_path / "o").exists()


def test_the_shipped_recipe_has_every_ablation_of_the_issue():
    points = recipes.sweep_points("scenes_ablations")
    groups = {point["group"] for point in points}
    assert groups >= {"steps", "guidance of the base", "expansion", "blur form, when trained"}
    assert groups >= {"relay start, when trained", "relay start, when sampled"}
    names = [point["name"] for point in points if point["group"] == "steps"]
    assert (names[0], names[-2]) == ("50 + 10", "4 + 1")
    assert {"group": "steps", "name": "20 + 10"} in points  # the recipe itself
    trained = {point["trained"] for point in points if "trained" in point}
    runs = {recipes.point_name(point) for point in recipes.sweep_points("scenes_relay")}
    assert trained == runs
    for point in points:
        recipes.sweep_flags("scenes_ablations", point, [], ())


def test_short_prompts_name_what_can_be_judged():
    rows = open_set("scenes_short", None, 20).prompts
    full = open_set("scenes", None, 20).prompts
    assert [row.id for row in rows] == [row.id for row in full]
    assert all("background" not in row.text and "large" not in row.text for row in rows)
    for row, other in zip(rows, full, strict=True):
        for word in row.text.split():
            assert word in (*other.text.replace(",", "").split(), "an", "and")
