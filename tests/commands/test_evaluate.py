"""Test `cv3jax evaluate`: drawing, pictures of a folder, comparing, and what it refuses."""

import json
import signal
import sys

import golden_models
import pytest
import scored
from painter import LINES, Painter

from cv3jax.commands import evaluate
from cv3jax.evaluation import run, scoring
from cv3jax.evaluation.metrics import registry
from cv3jax.evaluation.metrics.registry import METRICS, Spec
from cv3jax.sampling import resumable
from data_pipeline.io.errors import InputError, StoppedError


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Return a function that runs the command with cheap metrics and a painter for a cascade.

    It returns what the command printed and its figures.
    """
    (tmp_path / "p.txt").write_text("\n".join(LINES))
    monkeypatch.setattr(scoring, "BATCH", 4)
    made = scored.Metrics()
    monkeypatch.setattr(run, "open_metric", made.open)
    monkeypatch.setitem(METRICS, "mean", Spec("mean", "Mean", "picture"))
    monkeypatch.setitem(METRICS, "far", Spec("far", "Far", "set"))
    monkeypatch.setattr(resumable, "choose_mesh", lambda text, count: None)
    painters = [Painter()]
    monkeypatch.setattr(resumable, "load", lambda *args: painters[-1])

    def call(*argv: str, painter: Painter | None = None) -> tuple[str, dict]:
        if painter is not None:
            painters.append(painter)
        capsys.readouterr()
        evaluate.main([*argv, "--draws", "200", "--json", str(tmp_path / "figures.json")])
        return capsys.readouterr().out, json.loads((tmp_path / "figures.json").read_text())

    call.metrics = made
    return call


def drawn(tmp_path, out: str, *more: str) -> list[str]:
    checkpoint = str(golden_models.converted("micro"))
    given = ["--checkpoint", checkpoint, "--size", "32", "--batch", "2", "--metrics", "mean"]
    return [*given, "--prompts", str(tmp_path / "p.txt"), "--out", str(tmp_path / out), *more]


def test_it_draws_scores_and_resumes_with_the_same_files(command, tmp_path):
    text, figures = command(*drawn(tmp_path, "o", "--seed", "7"))
    out = tmp_path / "o"
    assert figures == json.loads((out / "report.json").read_text())
    assert [line.split()[0] for line in text.splitlines()] == ["figure", "mean", "mean.words"]
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == LINES
    assert [row["seed"] for row in rows] == list(range(7, 18))
    assert figures["drawing"]["made_by"]["checkpoint"]["fingerprint"]
    assert figures["drawing"]["size"] == [32, 32]
    names = ("scores.jsonl", "report.json", "report.html", "journal.jsonl")
    whole = {name: (out / name).read_bytes() for name in names}

    def stop(batch: int) -> None:
        if batch == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(StoppedError, match="SIGTERM: 5 pictures left to draw; run the same comm"):
        command(*drawn(tmp_path, "killed", "--seed", "7"), painter=Painter(stop))
    command(*drawn(tmp_path, "killed", "--seed", "7"), painter=Painter())
    assert {name: (tmp_path / "killed" / name).read_bytes() for name in names} == whole
    with pytest.raises(InputError, match="holds pictures made with other values of seed"):
        command(*drawn(tmp_path, "o", "--seed", "8"))
    names = (*names, "prompts.jsonl")
    whole["prompts.jsonl"] = (tmp_path / "killed" / "prompts.jsonl").read_bytes()
    with pytest.raises(InputError, match="o holds pictures of other prompts; give those, or"):
        command(*drawn(tmp_path, "o", "--seed", "7", "--limit", "6"))
    assert {name: (out / name).read_bytes() for name in names} == whole


def test_two_reports_are_compared(command, tmp_path):
    command(*drawn(tmp_path, "a"))
    command(*drawn(tmp_path, "b"))
    text, figures = command("--compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert figures["metrics"]["mean"]["mean"]["p"] == 1.0
    assert "A - B" in text
    text, _ = command(*drawn(tmp_path, "c", "--limit", "6"))
    with pytest.raises(InputError, match=r"not comparable: mean: prompts\.count 11 against 6; "):
        command("--compare", str(tmp_path / "a"), str(tmp_path / "c"))
    with pytest.raises(InputError, match="--out does not go with --compare"):
        command("--compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", "x")
    with pytest.raises(InputError, match="--expand-fallback does not go with --compare"):
        command("--compare", str(tmp_path / "a"), str(tmp_path / "b"), "--expand-fallback")


def test_pictures_of_a_folder_are_scored(command, tmp_path):
    scored.pictures(tmp_path / "given", 22)
    (tmp_path / "r").mkdir()
    scored.pictures(tmp_path / "r", 3)
    _, figures = command(
        *("--images", str(tmp_path / "given"), "--num", "2", "--metrics", "mean,far"),
        *("--prompts", str(tmp_path / "p.txt"), "--out", str(tmp_path / "o")),
        *("--reference", str(tmp_path / "r")),
    )
    assert figures["pictures"] == 22
    assert figures["drawing"]["made_by"] is None
    assert figures["metrics"]["far"]["figures"]["far"]["n"] == 22


def test_a_report_of_other_pictures_or_prompts_is_not_replaced(command, tmp_path):
    scored.pictures(tmp_path / "given", 11)
    common = ("--metrics", "mean", "--out", str(tmp_path / "o"))
    ours = ("--images", str(tmp_path / "given"), "--prompts", str(tmp_path / "p.txt"))
    command(*ours, *common)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()}
    (tmp_path / "q.txt").write_text("\n".join(LINES[::-1]))
    scored.pictures(tmp_path / "other", 11)
    for path in (tmp_path / "other").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    for more in (
        ("--images", str(tmp_path / "given"), "--prompts", str(tmp_path / "q.txt")),
        ("--images", str(tmp_path / "other"), "--prompts", str(tmp_path / "p.txt")),
    ):
        with pytest.raises(InputError, match="o has a report of other pictures or prompts"):
            command(*more, *common)
    assert {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()} == kept
    command(*ours, *common)  # the same ones are scored again


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--images nope", "--images nope: there is no such folder"),
        ("--images {p} --seed 1", "--seed goes with --checkpoint; the pictures are drawn already"),
        ("--images {p} --expand x", "--expand goes with --checkpoint"),
        ("--images {p} --num 0", "--num 0: must be 1..10000"),
        ("--images {p} --draws 1", "--draws 1: must be 200..100000"),
        ("--images {p} --prompts nope", "--prompts nope: no such set or file; give scenes,"),
        ("--images {p} --prompts drawbench", "drawbench is read from a file, DrawBench.csv"),
        ("--images {p} --metrics mean,beauty", "no metric 'beauty'; give some of aes, "),
        ("--images {p} --metrics ,", "give --metrics; see cv3jax evaluate --help"),
        ("--images {p} --metrics far", "far is a distance to a set of pictures; give it as --ref"),
        ("--images {p} --num 3", "has 11 pictures, and 11 prompts with 3 each need 33; give --num"),
        ("--images {p} --checkpoint x", "not allowed with argument"),
        ("", "one of the arguments --checkpoint --model --images --compare is required"),
        ("--checkpoint nope", "nope is not a checkpoint"),
        ("--checkpoint scenes --steps 3", "this stage was distilled to 4"),
        ("--checkpoint scenes --size 65", "size 65"),
        ("--checkpoint scenes --mesh rows=2", "--mesh rows=2"),
        ("--checkpoint scenes --batch 0", "--batch 0: must be 1.."),
        ("--checkpoint scenes --seed=-1", "--seed -1: must be 0.."),
        ("--checkpoint scenes --expand nope", "--expand nope: give a server"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line(given, said, command, tmp_path):
    scored.pictures(tmp_path / "given", 11)
    words = given.format(p=tmp_path / "given").split()
    for flag, value in (
        ("--prompts", str(tmp_path / "p.txt")),
        ("--metrics", "mean"),
        ("--out", str(tmp_path / "o")),
    ):
        words += [] if flag in words else [flag, value]
    with pytest.raises(InputError) as e:
        evaluate.main(words)
    assert said in str(e.value)
    assert "\n" not in str(e.value)
    assert command.metrics.batches == 0


@pytest.mark.parametrize(
    ("metrics", "more", "said"),
    [
        ("mean", ("--num", "3"), "has 11 pictures, and 11 prompts with 3 each need 33"),
        ("mean,far", (), "far is a distance to a set of pictures; give it as --reference DIR"),
    ],
)
def test_what_is_seen_at_once_is_said_before_a_metric_is_opened(
    metrics, more, said, command, tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "open_metric", lambda *args: pytest.fail("a metric was opened"))
    scored.pictures(tmp_path / "given", 11)
    with pytest.raises(InputError, match=said):
        command(
            *("--images", str(tmp_path / "given"), "--metrics", metrics, *more),
            *("--prompts", str(tmp_path / "p.txt"), "--out", str(tmp_path / "o")),
        )


def test_prompts_that_a_metric_does_not_take_are_said_before_drawing(
    command, tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "open_metric", registry.open_metric)
    said = "the metric judge takes pictures and captions of scenes: not a caption of a scene: "
    with pytest.raises(InputError, match=said):
        command(*drawn(tmp_path, "o", "--metrics", "judge"))
    assert not (tmp_path / "o" / "pictures").exists()


def test_the_help_has_the_metrics_of_the_registry():
    assert all(name in evaluate.parser().format_help() for name in METRICS)


def test_a_missing_library_is_named_with_its_extra(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    scored.pictures(tmp_path / "given", 11)
    with pytest.raises(InputError, match=r"cv3jax evaluate needs jinja2, .*cv3jax\[eval\]"):
        command(
            *("--images", str(tmp_path / "given"), "--metrics", "mean"),
            *("--prompts", str(tmp_path / "p.txt"), "--out", str(tmp_path / "o")),
        )
