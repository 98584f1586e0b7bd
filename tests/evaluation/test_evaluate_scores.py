"""Test scoring: rows of each picture, killed runs, changed pictures, and which is whose."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import scored
from PIL import Image

from cv3jax.commands import evaluate_tables
from cv3jax.evaluation import run, scoring
from cv3jax.evaluation.journal import Journal
from cv3jax.evaluation.prompt_row import PromptRow
from cv3jax.evaluation.prompt_sets import PromptSet
from cv3jax.reports.pictures import save_png
from data_pipeline.expansion.result import Expansion
from data_pipeline.io.errors import FailedRunError, InputError

EXPANSION = Expansion("a red thing", "a thing, red as a cherry", "m", "0" * 64, 9)


@pytest.fixture
def metrics(monkeypatch):
    """Return a function that puts cheap metrics in place of the known ones, in batches of two."""
    monkeypatch.setattr(scoring, "BATCH", 2)

    def put(**fields) -> scored.Metrics:
        made = scored.Metrics(**fields)
        monkeypatch.setattr(run, "open_metric", made.open)
        return made

    put()
    return put


def rows(out) -> list[dict]:
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


def test_every_picture_has_a_row_with_its_prompt_its_hash_and_its_scores(metrics, tmp_path):
    files = scored.pictures(tmp_path / "p", 10)
    found = run.evaluate(scored.request(tmp_path / "o", num=2), tmp_path / "p")
    made = rows(tmp_path / "o")
    assert [row["file"] for row in made] == [file.name for file in files]
    assert [(row["number"], row["copy"]) for row in made] == [(i // 2, i % 2) for i in range(10)]
    assert [row["prompt"] for row in made[::2]] == list(scored.TEXTS)
    assert [row["category"] for row in made[::2]] == list("ababa")
    for row, file in zip(made, files, strict=True):
        mean = np.asarray(Image.open(file)).mean()
        assert row["scores"] == {"mean": mean + 2e-9, "mean.words": len(row["prompt"])}
        assert (row["seed"], row["expanded"]) == (None, None)
    assert found == json.loads((tmp_path / "o" / "report.json").read_text())
    figure = found["metrics"]["mean"]["figures"]["mean"]
    assert figure["value"] == pytest.approx(np.mean([row["scores"]["mean"] for row in made]))
    assert figure["low"] < figure["value"] < figure["high"]
    assert (figure["n"], figure["prompts"]) == (10, 5)
    by_category = found["metrics"]["mean"]["categories"]
    assert {name: one["mean"]["n"] for name, one in by_category.items()} == {"a": 6, "b": 4}


class KilledError(Exception):
    """End a run with an error that nothing of it catches."""


@pytest.mark.parametrize("names", [("mean",), ("far",), ("mean", "far")])
def test_killed_anywhere_and_run_again_it_is_the_run_that_was_never_stopped(
    names, metrics, tmp_path
):
    scored.pictures(tmp_path / "p", 5)
    scored.pictures(tmp_path / "r", 3, seed=1)
    wanted = ("scores.jsonl", "report.json", "report.html", "journal.jsonl")

    def request(out: str):
        return scored.request(tmp_path / out, names, reference=tmp_path / "r")

    whole = metrics()
    run.evaluate(request("whole"), tmp_path / "p")
    first = {name: (tmp_path / "whole" / name).read_bytes() for name in wanted}
    assert whole.batches == {("mean",): 3, ("far",): 5, ("mean", "far"): 8}[names]
    for at in range(1, whole.batches + 1):
        out = tmp_path / f"killed{at}"

        def die(batch: int, at: int = at) -> None:
            if batch == at:
                raise KilledError

        metrics(stop=die)
        with pytest.raises(KilledError):
            run.evaluate(request(out.name), tmp_path / "p")
        with (out / "journal.jsonl").open("ab") as file:
            file.write(b'{"metric": "mean", "prot')  # as a kill leaves it
        (out / "features" / "0").mkdir(parents=True)
        (out / "features" / "0" / "drawn_00000.npy.1.writing").write_bytes(b"half")
        again = metrics()
        run.evaluate(request(out.name), tmp_path / "p")
        assert again.batches == whole.batches - at + 1
        assert {name: (out / name).read_bytes() for name in wanted} == first
        assert not [*out.rglob("*.writing")]
    once_more = metrics()
    run.evaluate(request("whole"), tmp_path / "p")
    assert once_more.batches == 0
    metrics(version="2")
    changed = metrics(version="2")  # scores of another version of a library do not count
    run.evaluate(request("whole"), tmp_path / "p")
    assert changed.batches == whole.batches


def test_a_picture_that_changed_is_an_error(metrics, tmp_path):
    files = scored.pictures(tmp_path / "p", 5)
    request = scored.request(tmp_path / "o")
    run.evaluate(request, tmp_path / "p")
    shutil.copy(files[0], files[3])
    with pytest.raises(InputError, match=r"003.png has changed since it was scored \(SHA-256"):
        run.evaluate(request, tmp_path / "p")
    other = scored.request(tmp_path / "o2", ("far",), reference=tmp_path / "p")
    run.evaluate(other, tmp_path / "p")
    shutil.copy(files[1], files[2])
    with pytest.raises(InputError, match="have changed since their features"):
        run.evaluate(other, tmp_path / "p")


def test_other_prompts_of_the_same_pictures_are_scored_anew(metrics, tmp_path):
    scored.pictures(tmp_path / "p", 5)
    run.evaluate(scored.request(tmp_path / "o"), tmp_path / "p")
    (tmp_path / "o" / "report.json").unlink()  # as of a run that was killed before its report
    longer = tuple(row._replace(text=row.text + "!") for row in scored.PROMPTS.prompts)
    run.evaluate(scored.request(tmp_path / "o", prompts=PromptSet("more", longer)), tmp_path / "p")
    assert [row["scores"]["mean.words"] for row in rows(tmp_path / "o")] == [
        len(text) + 1 for text in scored.TEXTS
    ]


def test_a_damaged_journal_and_damaged_features_are_errors(metrics, tmp_path):
    scored.pictures(tmp_path / "p", 5)
    request = scored.request(tmp_path / "o", ("mean", "far"), reference=tmp_path / "p")
    run.evaluate(request, tmp_path / "p")
    (features, *_) = sorted((tmp_path / "o" / "features").rglob("*.npy"))
    data = features.read_bytes()
    features.write_bytes(data[:-1] + b"\0")
    with pytest.raises(InputError, match=r"\.npy is damaged; remove it"):
        run.evaluate(request, tmp_path / "p")
    features.unlink()
    run.evaluate(request, tmp_path / "p")
    assert features.read_bytes() == data
    journal = tmp_path / "o" / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"mean": 1', '"mean": 2', 1))
    with pytest.raises(InputError, match=r"journal.jsonl line 1 is damaged \(its checksum"):
        run.evaluate(request, tmp_path / "p")


@pytest.mark.parametrize("head", [(5, 10**13), (3, 2), (10,)])
def test_features_of_another_form_are_one_line(head, tmp_path):
    """A head may ask for terabytes, and a journal may have the hash of any file."""
    journal, key = Journal(tmp_path), ("made", "drawn", 0)
    journal.write_features(key, [str(i) for i in range(5)], np.zeros((5, 2), np.float32))
    (path,) = (tmp_path / "features").rglob("*.npy")
    data = path.read_bytes().replace(b"(5, 2), }", f"{head}, }}".encode())
    path.write_bytes(data)
    line = {**journal._features[key], "sha256": hashlib.sha256(data).hexdigest()}
    journal._append([{name: value for name, value in line.items() if name != "crc"}])
    with pytest.raises(InputError, match=r"npy holds no features") as e:
        Journal(tmp_path).features(key, None)
    assert "\n" not in str(e.value)


def indexed(folder, seed: int = 40, num: int = 1) -> None:
    """Make of a folder what `cv3jax sample --prompts` leaves."""
    lines = []
    for i in range(len(scored.TEXTS) * num):
        image = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        text = scored.TEXTS[i // num]
        record = {"format": 1, "prompt": text, "seed": seed + i, "base": {"steps": 4}}
        name = f"{len(scored.TEXTS) * num - i:05d}.png"  # the index is in another order
        save_png(folder / name, image, texts={"cv3jax": json.dumps(record)})
        line = {"file": name, "prompt": text, "seed": seed + i}
        lines.append({**line, "expansion": EXPANSION.to_json()} if i == 0 else line)
    (folder / "index.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_pictures_are_matched_by_the_index_with_their_seeds_and_expansions(metrics, tmp_path):
    indexed(tmp_path / "p", num=2)
    found = run.evaluate(scored.request(tmp_path / "o"), tmp_path / "p")
    made = rows(tmp_path / "o")
    assert found["num"] == 2
    assert [row["file"] for row in made] == [f"{10 - i:05d}.png" for i in range(10)]
    assert [row["seed"] for row in made] == list(range(40, 50))
    assert (made[0]["prompt"], made[0]["expanded"]) == (EXPANSION.prompt, EXPANSION.text)
    # the original prompt is scored, and not the one that was drawn
    assert made[0]["scores"]["mean.words"] == len(EXPANSION.prompt)
    assert found["drawing"]["made_by"] == {"base": {"steps": 4}}
    told = {"model": "m", "template_sha256": "0" * 64}
    assert found["drawing"]["expanded_by"] == [told, None]
    assert found["metrics"]["mean"]["scoring"]["seeds"]["first"] == 40


def test_without_an_index_the_records_of_the_pngs_say_seeds_and_are_held_to_the_prompts(
    metrics, tmp_path
):
    indexed(tmp_path / "p")
    (tmp_path / "p" / "index.jsonl").unlink()
    # by their names they are in the opposite order
    with pytest.raises(InputError, match="was drawn of 'a thing & another', but the set has 'a re"):
        run.evaluate(scored.request(tmp_path / "o"), tmp_path / "p")
    turned = PromptSet("turned", scored.PROMPTS.prompts[::-1])
    run.evaluate(scored.request(tmp_path / "o", prompts=turned), tmp_path / "p")
    assert [row["seed"] for row in rows(tmp_path / "o")] == [44, 43, 42, 41, 40]


def as_tiff(path) -> None:
    """Replace a picture by one of a format that is not read."""
    Image.open(path).save(path.with_suffix(".tiff"))
    path.unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: (p / "004.png").unlink(), "has 4 pictures, and 5 prompts with 1 each need 5"),
        (lambda p: shutil.copy(p / "000.png", p / "x.png"), "has 6 pictures, and 5 prompts"),
        (
            lambda p: shutil.copy(p / "000.png", p / "contact_sheet.png"),
            r"6 pictures \(contact_sheet.png is one of them: move it away\)",
        ),
        (lambda p: (p / "004.png").write_bytes(b"no"), "004.png: not a readable .* every picture"),
        (
            lambda p: (p / "004.png").write_bytes((p / "004.png").read_bytes()[:-60]),
            "004.png: damaged image data .* every picture is needed",
        ),
        (lambda p: as_tiff(p / "004.png"), r"004.tiff: .*TIFF.* every picture"),
        (lambda p: (p / "plan.json").write_text("{}"), "its pictures are not all drawn; run"),
        (lambda p: shutil.rmtree(p), "there is no such folder"),
    ],
)
def test_a_picture_that_is_missing_or_damaged_is_an_error(change, said, metrics, tmp_path):
    scored.pictures(tmp_path / "p", 5)
    change(tmp_path / "p")
    with pytest.raises(InputError, match=said) as e:
        run.evaluate(scored.request(tmp_path / "o"), tmp_path / "p")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:-1], "lists 4 pictures, and 5 prompts with 1 each need 5"),
        (lambda lines: lines[::-1], "line 1 is of 'a thing & another', but the set has 'a red"),
        (lambda lines: [*lines[:-1], "{"], "index.jsonl is damaged"),
        (lambda lines: [lines[0].replace('"00005', '"../00005'), *lines[1:]], "is damaged"),
        (lambda lines: [lines[0].replace('"00005', '"00009'), *lines[1:]], "00009.png: No such"),
    ],
)
def test_an_index_of_other_prompts_or_pictures_is_an_error(change, said, metrics, tmp_path):
    indexed(tmp_path / "p")
    index = tmp_path / "p" / "index.jsonl"
    index.write_text("\n".join(change(index.read_text().splitlines())))
    with pytest.raises(InputError, match=said):
        run.evaluate(scored.request(tmp_path / "o"), tmp_path / "p")


def test_scores_that_a_metric_cannot_give_are_left_out_and_counted(metrics, tmp_path, monkeypatch):
    scored.pictures(tmp_path / "p", 5)
    made = metrics(excluded="no words are asked for")
    usual = made._score
    made._score = lambda images, texts: {
        **usual(images, texts),
        "mean.words": np.array([np.nan if "two" in text else 1.0 for text in texts]),
    }
    found = run.evaluate(scored.request(tmp_path / "o"), tmp_path / "p")["metrics"]["mean"]
    told = evaluate_tables.of_report({"metrics": {"mean": found}})
    assert "mean has no score of 1 picture: no words are asked for" in told
    assert found["left_out"] == {"why": "no words are asked for", "pictures": 1}
    assert found["figures"]["mean.words"]["n"] == 4
    assert [row["scores"]["mean.words"] for row in rows(tmp_path / "o")] == [1, 1, None, 1, 1]
    made.more = {}
    with pytest.raises(FailedRunError, match=r"mean\.words of 002\.png is not a finite number"):
        run.evaluate(scored.request(tmp_path / "o2"), tmp_path / "p")


def test_a_single_prompt_has_figures_without_intervals(metrics, tmp_path):
    scored.pictures(tmp_path / "p", 3)
    one = PromptSet("one", (PromptRow("a", "a thing"),))
    found = run.evaluate(
        scored.request(tmp_path / "o", ("mean",), prompts=one, num=3), tmp_path / "p"
    )
    figure = found["metrics"]["mean"]["figures"]["mean"]
    assert (figure["low"], figure["high"], figure["n"]) == (None, None, 3)
    assert "–" in (tmp_path / "o" / "report.html").read_text()
