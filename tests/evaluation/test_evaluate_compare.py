"""Test the protocol and the comparison of two reports: what may differ, and what is named."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import scored

from cv3jax.commands import evaluate_tables
from cv3jax.evaluation import compare_sets, run
from cv3jax.evaluation.compare import compare
from cv3jax.evaluation.figures import Bootstrap
from cv3jax.evaluation.prompt_row import PromptRow
from cv3jax.evaluation.prompt_sets import PromptSet
from cv3jax.evaluation.protocol import differences, digest, scoring_protocol
from cv3jax.evaluation.reports import read_report
from data_pipeline.io.errors import InputError

DRAWS = Bootstrap(400)
MANY = PromptSet("many", tuple(PromptRow(f"p{i}", f"thing {i}") for i in range(12)))


@pytest.fixture
def report(monkeypatch, tmp_path):
    """Return a function that evaluates pictures of a seed, and returns the report's folder."""

    def make(name: str, metrics=("mean",), *, seed: int = 0, version: str = "1", **fields):
        prompts = fields.pop("prompts", MANY)
        count = len(prompts.prompts) * fields.get("num", 1)
        for module in (run, compare_sets):
            monkeypatch.setattr(module, "open_metric", scored.Metrics(version=version).open)
        scored.pictures(tmp_path / f"pictures_{name}", count, seed=seed)
        request = scored.request(tmp_path / name, metrics, prompts=prompts, **fields)
        run.evaluate(request, tmp_path / f"pictures_{name}")
        return tmp_path / name

    return make


def compared(a, b, metrics=None) -> dict:
    return compare(read_report(a), read_report(b), metrics, DRAWS)


def test_a_difference_is_of_pairs_with_an_interval_and_p(report):
    a, b = report("a", num=2), report("b", num=2, seed=1)
    found = compared(a, b)["metrics"]["mean"]["mean"]
    ours, theirs = (
        np.array([row["scores"]["mean"] for row in read_report(each).rows]) for each in (a, b)
    )
    assert found["difference"] == pytest.approx((ours - theirs).mean())
    assert found["low"] < found["difference"] < found["high"]
    assert 0 < found["p"] <= 1
    assert found["n"] == 24
    back = compared(b, a)["metrics"]["mean"]["mean"]
    assert back["difference"] == pytest.approx(-found["difference"])
    same = compared(a, a)["metrics"]["mean"]["mean"]
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0.0, 0.0, 0.0, 1.0)


def test_rows_pair_by_prompt_and_not_by_their_place(report):
    a, b = report("a"), report("b", seed=1)
    wanted = compared(a, b)["metrics"]
    ours, theirs = read_report(a), read_report(b)
    assert compare(ours, theirs._replace(rows=theirs.rows[::-1]), None, DRAWS)["metrics"] == wanted


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"version": "2"}, "mean: metric.versions.pillow 1 against 2"),
        ({"num": 2}, "mean: num 1 against 2"),
        (
            {"prompts": PromptSet("many", MANY.prompts[:6])},
            "mean: prompts.count 12 against 6; prompts.sha256 [0-9a-f]{64} against [0-9a-f]{64}$",
        ),
    ],
)
def test_unlike_protocols_are_refused_with_the_difference_named(fields, said, report):
    a, b = report("a"), report("b", **fields)
    with pytest.raises(InputError, match=f"^not comparable: {said}") as e:
        compared(a, b)
    assert "\n" not in str(e.value)


def test_a_distance_pairs_by_its_features_and_another_reference_is_refused(
    report, tmp_path, monkeypatch
):
    for name, count in (("r", 4), ("s", 5)):
        scored.pictures(tmp_path / name, count, seed=9)
    a = report("a", ("far",), reference=tmp_path / "r")
    b = report("b", ("far",), reference=tmp_path / "s")
    with pytest.raises(
        InputError, match=r"not comparable: far: reference\.count 4 against 5; refe"
    ):
        compared(a, b)
    same = report("c", ("far",), reference=tmp_path / "r", seed=3)
    found = compared(a, same)
    one = found["metrics"]["far"]["far"]
    assert one["difference"] == pytest.approx(one["a"]["value"] - one["b"]["value"])
    assert one["low"] < one["difference"] < one["high"]
    assert 0 < one["p"] <= 1
    assert found["without_interval"] == {}
    shutil.rmtree(same / "features")
    found = compared(a, same)
    assert found["metrics"]["far"]["far"] == {**one, "low": None, "high": None, "p": None} | {
        "difference": pytest.approx(one["difference"])
    }
    assert found["without_interval"] == {"far": f"{same} does not hold the features"}
    assert "far has no interval: " in evaluate_tables.of_comparison(found)
    monkeypatch.setattr(compare_sets, "open_metric", scored.Metrics(version="3").open)
    assert "other weights or libraries" in compared(a, a)["without_interval"]["far"]


def test_what_drew_the_pictures_may_differ_and_is_shown(report):
    record = {"base": {"steps": 20, "guidance": 3.0}, "program": "cv3jax 1"}
    a, b = report("a"), report("b", seed=1)
    ours, theirs = read_report(a), read_report(b)
    ours.content["drawing"]["made_by"] = record
    theirs.content["drawing"]["made_by"] = {**record, "base": {"steps": 4, "guidance": 3.0}}
    found = compare(ours, theirs, None, DRAWS)
    assert found["drawing"] == ["made_by.base.steps 20 against 4"]
    text = evaluate_tables.of_comparison(found)
    assert "  made_by.base.steps 20 against 4" in text
    head, first = [line for line in text.splitlines() if line.startswith(("figure", "mean "))]
    assert head.split("  ")[0] == "figure"
    assert len(head) >= len(first.rstrip()) - 2


def test_metrics_that_one_report_lacks_are_said(report, tmp_path):
    scored.pictures(tmp_path / "r", 4)
    a = report("a", ("mean", "far"), reference=tmp_path / "r")
    b, c = report("b"), report("c", ("far",), reference=tmp_path / "r")
    assert compared(a, b)["only_one_has"] == ["far"]
    assert compared(a, b, ("mean",))["metrics"].keys() == {"mean"}
    with pytest.raises(InputError, match=r"--metrics far: .*/b has no scores of it"):
        compared(a, b, ("far",))
    with pytest.raises(InputError, match=r"no metric is in both: .*/b has mean, and .*/c has far"):
        compared(b, c)


def test_a_report_that_is_not_there_or_not_its_own_is_refused(report, tmp_path):
    a = report("a")
    assert read_report(a / "report.json").rows == read_report(a).rows
    with pytest.raises(InputError, match=r"/none has no report \(No such file or directory: rep"):
        read_report(tmp_path / "none")
    (a / "scores.jsonl").write_text((a / "scores.jsonl").read_text().replace("p0", "p1"))
    with pytest.raises(InputError, match=r"scores.jsonl is not the one that report.json is of"):
        read_report(a)
    content = json.loads((a / "report.json").read_text())
    (a / "report.json").write_text(json.dumps(content | {"format": 9}))
    with pytest.raises(InputError, match=r"report.json is not a report of format 1"):
        read_report(a)
    (a / "report.json").write_text("{")
    with pytest.raises(InputError, match="its report is damaged"):
        read_report(a)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found, rows: found.pop("metrics"), "it has no metrics"),
        (lambda found, rows: found.update(scores=[]), "scores is '\\[\\]', but must be an object"),
        (lambda found, rows: found["metrics"].update(mean=[]), "mean: it is no object"),
        (lambda found, rows: found["metrics"]["mean"].pop("better"), "mean: it has no better"),
        (lambda found, rows: found["metrics"]["mean"].update(kind="set"), "reference of mean"),
        (
            lambda found, rows: found["metrics"]["mean"]["figures"]["mean"].update(value="1"),
            "mean: value is '1'",
        ),
        (lambda found, rows: rows[1].pop("copy"), "scores.jsonl line 2: it has no copy"),
        (lambda found, rows: rows[1].update(id=3), "scores.jsonl line 2: id is '3'"),
        (lambda found, rows: rows[1]["scores"].pop("mean"), "scores.jsonl line 2: it has no mean"),
        (lambda found, rows: rows[1]["scores"].update(mean=[]), "line 2: mean is"),
        (lambda found, rows: rows.append(rows[0]), "two lines of scores.jsonl are of one picture"),
    ],
)
def test_a_report_of_another_form_is_one_line(change, said, report):
    a = report("a")
    found = read_report(a)
    change(found.content, found.rows)
    scores = "".join(f"{json.dumps(row)}\n" for row in found.rows).encode()
    (a / "scores.jsonl").write_bytes(scores)
    if isinstance(found.content["scores"], dict):
        found.content["scores"]["sha256"] = hashlib.sha256(scores).hexdigest()
    (a / "report.json").write_text(json.dumps(found.content))
    with pytest.raises(InputError, match=f"its report is damaged .*{said}") as e:
        read_report(a)
    assert "\n" not in str(e.value)


def test_the_hash_is_of_canonical_json():
    assert digest({"b": 1, "a": "é"}) == digest({"a": "é", "b": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    # printf '{"a":"é","b":1}' | sha256sum
    assert digest({"b": 1, "a": "é"}).startswith("aa58fba8483623be")
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))


def test_every_part_of_a_protocol_is_in_its_hash(report):
    def of(metric=(("w", 1),), prompts=MANY, num=1, seeds=(0, 1), reference=None) -> str:
        return digest(scoring_protocol(dict(metric), prompts, num, seeds, reference))

    others = [
        of(metric=(("w", 2),)),
        of(prompts=PromptSet("many", MANY.prompts[1:])),
        of(num=2),
        of(seeds=(0, 2)),
        of(seeds=(None, None)),
        of(reference={"sha256": "0"}),
    ]
    assert len({of(), *others}) == 7
    a, b = report("a"), report("b", seed=1)
    first, second = (read_report(each).content["metrics"]["mean"] for each in (a, b))
    assert first["scoring_sha256"] == second["scoring_sha256"] == digest(first["scoring"])
    assert first["figures"]["mean"]["protocol"] == first["sha256"]


def test_seeds_count_only_where_both_sides_know_them():
    known, other = {"seeds": {"first": 0, "sha256": "a"}}, {"seeds": {"first": 5, "sha256": "b"}}
    assert differences(known, {"seeds": None}) == []
    assert differences(known, other) == ["seeds.first 0 against 5", "seeds.sha256 a against b"]
    named = {"prompts": {"name": "x", "sha256": "s"}}
    assert differences(named, {"prompts": {"name": "y", "sha256": "s"}}) == []
    assert differences({"a": 1}, {}) == ["a 1 against nothing"]
