"""Test the evaluations of a distillation's rounds."""

import pytest
import tiny_runs
from states import assert_equal, leaves

from cv3jax.distillation import run as distilling
from cv3jax.evaluation.scorers import Scorer
from cv3jax.training.evaluations import read_best
from cv3jax.training.metrics import read_lines
from data_pipeline.scenes import dataset


def shade(names, weights, reference) -> list[Scorer]:
    """Open a metric that is the mean value of the pictures, which may be smaller than scenes."""
    return [Scorer(names[0], "lower", lambda images, prompts: {"shade": images.mean()})]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["base", "relay"])
def test_rounds_are_evaluated_and_stay_what_they_are(stage, tmp_path):
    """They are compared with the rounds that are not evaluated."""
    held_out = tmp_path / "held_out"
    dataset.build(held_out, dataset.SceneSettings(10, 0, "heldout", size=64))
    fields = (
        "train.eval_every=2",
        "train.save_every=1",
        f"train.eval_data={held_out}",
        "train.eval_records=5",
        "train.eval_metrics=shade",
        "train.best=heldout/loss",
    )
    whole = tiny_runs.distilled(stage)
    with tiny_runs.split_small():
        chosen = tiny_runs.distill_config(stage, *fields)
        distilling.run(chosen, tmp_path / "run", scorers=shade)
    for number, steps in enumerate(tiny_runs.ROUNDS[stage], 1):
        name = f"{number}_{steps}_steps"
        ours, theirs = (place / "rounds" / name for place in (tmp_path / "run", whole.workdir))
        assert_equal(leaves(ours, tiny_runs.UPDATES), leaves(theirs, tiny_runs.UPDATES))
        lines = [line for line in read_lines(ours / "metrics.jsonl") if "heldout/loss" in line]
        assert [line["step"] for line in lines] == [2, 3]
        levels = [name for name in lines[0] if name.startswith("heldout/loss_t")]
        assert len(levels) == steps
        mean = sum(lines[0][name] for name in levels) / steps
        assert lines[0]["heldout/loss"] == pytest.approx(mean)
        assert 0 < lines[0]["pictures/shade"] < 255
        better = min(lines, key=lambda line: line["heldout/loss"])
        assert read_best(ours)["step"] == better["step"]
        figures = tiny_runs.read_json(ours / "figures.json")
        assert figures["seconds_by_kind"]["evaluation"] > 0
