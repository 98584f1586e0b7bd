"""Test docs/scale/five-stages.md by running its commands, in their order, at a tiny size."""

import json

import five_stages
import pytest
from caption_server import CaptionServer
from five_stages import SIDES

from cv3jax.checkpoints import cascades
from cv3jax.commands import status
from cv3jax.training.metrics import read_lines
from data_pipeline.records.records import open_records

RUNS = ("base_256", "base_512", "base", "sr", "relay", "fast_base", "fast")


def command_lines(text: str) -> list[str]:
    return [line for line in text.replace("\\\n", " ").splitlines() if "cv3jax " in line]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """Return (the folder, what was printed) after every block but the first and the last."""
    root = tmp_path_factory.mktemp("five_stages")
    five_stages.write_inputs(root)
    first, *others, _plan = five_stages.blocks()
    with CaptionServer() as server:
        given = five_stages.values(root, server.url)
        assert sorted(given) == sorted(five_stages.variables(first))
        lines = [f"{name}={value}" for name, value in given.items()]
        done = five_stages.rehearse(root, "\n".join([*lines, *others]))
    (root / "stdout").write_text(done.stdout)
    (root / "stderr").write_text(done.stderr)
    assert done.returncode == 0, done.stderr[-3000:]
    return root, done


def test_the_page_has_each_step_once_and_in_order():
    lines = [line for block in five_stages.blocks() for line in command_lines(block)]
    found = [line.split("cv3jax ", 1)[1] for line in lines]
    for recipe in ("base_256", "base_512", "base_aesthetic", "sr_1024", "relay_1024"):
        assert sum(f"train --config={recipe}$SIZE " in line for line in found) == 1
    order = ["data build", "data inspect", "data recaption", "convert", "data encode", "train"]
    order += ["distill", "evaluate", "sample", "status", "plan"]
    seen = [next(name for name in order if line.startswith(f"{name} ")) for line in found]
    assert list(dict.fromkeys(seen)) == order
    # the last block, whose tables tests/aot/test_budget.py makes again
    assert command_lines(five_stages.blocks()[-1])[0].startswith("cv3jax plan ")


def test_the_datasets_have_what_the_filters_keep(rehearsal):
    root, _ = rehearsal
    sides = {}
    for name in ("found", "found_fine", "all", "fine", "held_out"):
        records = list(open_records(root / "data" / name))
        sides[name] = {min(one["width"], one["height"]) for one in records}
        assert not any(five_stages.BLOCKED in one["url"] for one in records)
        scores = [json.loads(one["scores"])["aesthetic"] for one in records]
        least = {"held_out": 4.0}.get(name, 6.0 if "fine" in name else 4.5)
        assert min(scores) >= least
        asked = name in ("all", "fine")
        assert all(one["recaption"].startswith("answer 3 of") == asked for one in records)
    assert sides["found"] == sides["all"] == set(SIDES[1:])
    assert sides["found_fine"] == sides["fine"] == set(SIDES[2:])
    assert sides["held_out"] == {SIDES[3]}
    assert (root / "data" / "found.png").is_file()
    assert json.loads((root / "data" / "fine_text" / "encoded.json").read_text())


def test_the_encoders_are_a_cascade_without_a_stage(rehearsal):
    root, done = rehearsal
    _, description = cascades.read_cascade(root / "runs" / "encoders")
    assert sorted(description.parts) == ["t5", "vae"]
    assert f"--config.cascade={root / 'runs' / 'encoders'}" in done.stderr


@pytest.mark.parametrize("name", RUNS)
def test_each_run_is_finished_and_has_its_stages(rehearsal, name):
    root, _ = rehearsal
    found = status.main([str(root / "runs" / name), "--json", str(root / f"{name}.json")])
    assert found is None
    assert json.loads((root / f"{name}.json").read_text())["runs"][0]["state"] == "finished"
    _, description = cascades.read_cascade(root / "runs" / name)
    stages = {"sr": ["base", "relay"], "relay": ["base", "relay"]}
    stages |= {"fast_base": ["base", "relay"], "fast": ["base", "relay"]}
    assert sorted(description.stages) == stages.get(name, ["base"])
    distilled = [kind for kind, one in description.stages.items() if one.distilled]
    assert sorted(distilled) == {"fast_base": ["base"], "fast": ["base", "relay"]}.get(name, [])


def test_the_held_out_loss_is_there_by_noise_level(rehearsal):
    root, _ = rehearsal
    for name, level in (("base_256", "t950"), ("base", "t050"), ("relay", "t475")):
        lines = list(read_lines(root / "runs" / name / "metrics.jsonl"))
        last = [line for line in lines if "heldout/loss" in line][-1]
        assert f"heldout/loss_{level}" in last
        assert any("images_per_second" in line for line in lines)


def test_pictures_and_scores_are_made(rehearsal):
    root, done = rehearsal
    assert len(list((root / "runs" / "pictures").glob("*.png"))) >= 4
    for name, steps in (("relay", (2, 2)), ("fast", (1, 1))):
        report = json.loads((root / "runs" / "scores" / name / "report.json").read_text())
        assert (report["pictures"], list(report["metrics"])) == (2, ["named"])
        drawn = report["drawing"]
        assert drawn["size"] == [64, 64]
        assert tuple(drawn["made_by"][stage]["steps"] for stage in ("base", "relay")) == steps
    assert f"A: {root / 'runs' / 'scores' / 'fast'}\n" in done.stdout
    assert done.stdout.count("finished") >= len(RUNS)
