"""Test tables of reports: their cells, published figures, unlike protocols, and their form."""

import pytest
import table_reports

from cv3jax import recipes
from cv3jax.evaluation.tables import cells, settings, writing
from cv3jax.evaluation.tables.published import FIGURES
from data_pipeline.io.errors import InputError

PREFERENCES = {"aes": 5.6, "hps": 0.28, "imagereward": 0.7}
BASELINE = {"drawn_by": {"steps": [20, 10]}}
CASCADE = {"base": {"steps": 25}, "relay": {"steps": 5}}


def recipe(tmp_path, *more):
    given = [f"--config.reports={tmp_path}", *more]
    return settings.parse(recipes.to_json(recipes.load("paper_tables", given, ())))


def test_the_published_figures_are_those_of_the_paper():
    """Compare with the tables, typed row by row as they stand there."""
    rows = """
        sdxl 19.67 5.54 .288 .676 5.78 .287 .915 26.29 5.63 .291 .820
        stable_cascade 10.83 5.88 .285 .677 5.93 .285 1.029 36.59 5.89 .283 .734
        cogview3 10.33 5.97 .290 .847 6.15 .290 1.025 31.63 6.01 .294 .967
        lcm_sdxl 2.06 5.45 .279 .394 5.59 .280 .689 27.16 5.39 .281 .566
        cogview3_distill_4_1 1.47 5.87 .288 .731 6.12 .287 .968 34.03 5.99 .292 .920
        cogview3_distill_8_2 1.96 5.90 .285 .655 6.13 .288 .963 35.53 6.00 .293 .921
    """
    columns = ["time", *(f"drawbench/{m}" for m in PREFERENCES)]
    columns += [*(f"partiprompts/{m}" for m in PREFERENCES), "coco5k/fid"]
    columns += [f"coco5k/{m}" for m in PREFERENCES]
    for line in rows.strip().splitlines():
        name, *values = line.split()
        assert {c: FIGURES[name][c] for c in columns} == dict(
            zip(columns, map(float, values), strict=True)
        )
    # the ablation's best start is the model of the tables
    for column in ("drawbench/hps", "drawbench/imagereward"):
        assert FIGURES["relay_500"][column] == FIGURES["cogview3"][column]
        assert max(FIGURES[f"relay_{s}"][column] for s in (200, 400, 600, 800)) < max(
            0.2905, FIGURES["relay_500"][column]
        )


def test_cells_come_from_reports_and_the_rest_is_named_with_its_command(tmp_path):
    time = table_reports.timing(3.25)
    table_reports.write(
        tmp_path / "stable_cascade" / "drawbench",
        "drawbench",
        PREFERENCES,
        made_by=BASELINE,
        time=time,
    )
    own = recipe(tmp_path)
    made = cells.make("table1", own, cells.read_all(own))
    row = made.cells["stable_cascade"]
    assert row["steps"].text == "20+10"
    assert row["time"] == cells.Cell(3.25, published=10.83)
    assert row["drawbench/aes"] == cells.Cell(5.6, 5.59, 5.6 + 0.01, 5.88)
    assert row["partiprompts/aes"] == cells.Cell(published=5.93)
    assert made.cells["cogview3_distill_4_1"]["steps"].text == "4+1"
    assert made.protocols.keys() == {f"drawbench/{name}" for name in PREFERENCES}
    assert ("stable_cascade", "drawbench") not in made.missing
    assert ("stable_cascade", "partiprompts") in made.missing
    assert len(made.missing) == 11
    words = cells.words(own, "sdxl", "drawbench", {})
    assert words[:4] == ["cv3jax", "evaluate", "--model", "sdxl"]
    assert words[words.index("--metrics") + 1] == "aes,hps,imagereward"
    assert words[words.index("--models") + 1] == "models"
    assert "--time" in words
    assert "--reference" not in words
    assert words[-1] == str(tmp_path / "sdxl" / "drawbench")
    words = cells.words(own, "cogview3", "coco5k", {})
    assert words[words.index("--metrics") + 1] == "fid,aes,hps,imagereward"
    assert words[words.index("--reference") + 1] == "coco5k"
    assert "--models" not in words


def test_the_steps_are_those_that_the_pictures_were_drawn_with(tmp_path):
    table_reports.write(tmp_path / "c", "drawbench", PREFERENCES, made_by=CASCADE)
    own = recipe(tmp_path, f"--config.rows.cogview3.reports={tmp_path / 'c'}")
    made = cells.make("table1", own, cells.read_all(own))
    assert made.cells["cogview3"]["steps"].text == "25+5"  # not the 50+10 of the recipe
    assert made.cells["cogview3"]["drawbench/hps"].value == 0.28
    assert ("cogview3", "drawbench") in made.missing  # the time is not there
    table_reports.write(tmp_path / "cogview3" / "coco5k", "coco5k", {"fid": 30.0, **PREFERENCES})
    own = recipe(tmp_path)
    made = cells.make("table2", own, cells.read_all(own))
    assert [one for one in made.missing if one[0] == "cogview3"] == [("cogview3", "drawbench")]
    own = recipe(tmp_path, f"--config.rows.cogview3.reports={tmp_path / 'c'}")
    assert cells.words(own, "cogview3", "drawbench", cells.read_all(own))[-1] == str(tmp_path / "c")


def test_unlike_protocols_in_a_column_are_refused(tmp_path):
    for row, version in (("sdxl", "1"), ("cogview3", "2")):
        place = tmp_path / row / "drawbench"
        table_reports.write(place, "drawbench", PREFERENCES, version=version)
    own = recipe(tmp_path)
    with pytest.raises(InputError) as e:
        cells.make("table1", own, cells.read_all(own))
    assert str(e.value) == (
        "not comparable: table table1, SDXL against CogView3: drawbench/aes: metric.version 1"
        " against 2"
    )
    cells.make("table2", own, cells.read_all(own))  # which has other sets


def test_times_of_unlike_devices_are_refused(tmp_path):
    for row, device in (("sdxl", "A100"), ("cogview3", "H200")):
        time = table_reports.timing(1.0, device)
        table_reports.write(tmp_path / row / "drawbench", "drawbench", PREFERENCES, time=time)
    own = recipe(tmp_path)
    with pytest.raises(InputError, match="SDXL against CogView3: time: device A100 against H200"):
        cells.make("table1", own, cells.read_all(own))


def test_a_report_of_another_set_is_refused(tmp_path):
    table_reports.write(tmp_path / "sdxl" / "drawbench", "partiprompts", PREFERENCES)
    with pytest.raises(InputError, match="is of partiprompts, not drawbench"):
        cells.read_all(recipe(tmp_path))
    (tmp_path / "sdxl" / "drawbench" / "scores.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"config\.rows\.sdxl: the report .* is not the one that"):
        cells.read_all(recipe(tmp_path))


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("rows.sdxl.draw=sdxl", "rows.sdxl.draw = sdxl: begin it with --model, --checkpoint or"),
        ("rows.sdxl.draw=--model 'x", "No closing quotation"),
        ("num=0", "config.num = 0: must be 1..10000"),
        ("tables.table1.rows=('you',)", "tables.table1.rows: no row you; give some of sdxl"),
        ("tables.table1.columns=('beauty',)", "beauty is none; give steps, time or SET/FIGURE"),
        ("tables.table1.columns=('a/beauty',)", "a/beauty is none"),
        ("tables.table1.columns=('time',)", "give one that is scored"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(tmp_path, field, said):
    with pytest.raises(InputError) as e:
        recipe(tmp_path, f"--config.{field}")
    assert said in str(e.value)
    with pytest.raises(InputError, match="a recipe of tables needs reports"):
        settings.parse({})


def test_markdown_has_the_layout_of_the_paper(tmp_path):
    time = table_reports.timing(3.25)
    table_reports.write(tmp_path / "sdxl" / "drawbench", "drawbench", PREFERENCES, time=time)
    own = recipe(tmp_path)
    made = cells.make("table1", own, cells.read_all(own))
    note = {"label": "LCM-SDXL (4)", "set": "drawbench", "command": "cv3jax x", "why": "no | it"}
    lines = writing.markdown([made], own, [note]).splitlines()
    assert "arXiv 2403.05121v1" in lines[2]
    head = next(line for line in lines if line.startswith("| Model"))
    assert head.startswith("| Model | Steps | Time of 4 ↓ | DrawBench Aes ↑ | DrawBench HPS v2 ↑ |")
    assert next(line for line in lines if line.startswith("| SDXL")).startswith(
        "| SDXL | 50 | **3.25 s**; paper 19.67 s | **5.60** (5.59 to 5.61); paper 5.54 |"
    )
    assert "| not measured; paper 10.83 s |" in next(x for x in lines if x.startswith("| Stable"))
    assert lines[-4:] == ["", "```sh", "cv3jax x", "```"]
    assert all(line.count(" | ") == head.count(" | ") for line in lines if line.startswith("| "))
    assert writing.groups(made.table.columns) == [("", 2), ("DrawBench", 3), ("PartiPrompts", 3)]


def test_the_page_escapes_what_it_shows(tmp_path):
    own = recipe(tmp_path, "--config.rows.sdxl.label=<b>it</b>")
    made = cells.make("table1", own, {})
    writing.write_page(tmp_path / "t.html", [made], own, [])
    page = (tmp_path / "t.html").read_text()
    assert "&lt;b&gt;it&lt;/b&gt;" in page
    assert "<b>it" not in page
    assert page.count("not measured") == 6 * 7
    assert "paper 19.67 s" in page
