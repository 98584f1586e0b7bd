"""Test `cv3jax distill`: outputs, compilations, which weights are kept, and the first checks."""

from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_runs
from PIL import Image

from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import Distilled
from cv3jax.distillation import build as building
from cv3jax.distillation import run as distilling
from cv3jax.distillation.monitor import Watch
from cv3jax.distillation.parity import TOLERANCE, Inputs, parity
from cv3jax.distillation.programs import round_of
from cv3jax.distillation.settings import RoundSettings
from cv3jax.training.metrics import read_lines
from data_pipeline.io.errors import InputError

STAGES = ("base", "relay")


@pytest.mark.parametrize("stage", STAGES)
def test_rounds_of_one_kind_share_one_compilation(stage):
    seen, updates = tiny_runs.distilled(stage).compiled, tiny_runs.UPDATES
    of_round = [seen[i : i + updates] for i in range(0, len(seen), updates)]
    counts = [steps[-1].count("jit(train_step)") for steps in of_round]
    assert counts == [1, 2, 2][: len(counts)]  # by the guided teacher, by guidance-conditioned ones
    assert {steps[-1].count("jit(encode)") for steps in of_round} == {seen[0].count("jit(encode)")}
    for steps in of_round:
        assert steps[0] == steps[-1]  # within a round nothing is compiled after its first step


@pytest.mark.parametrize("stage", STAGES)
def test_every_round_is_kept_and_stands_in_the_tables(stage):
    run = tiny_runs.distilled(stage)
    counts, full = tiny_runs.ROUNDS[stage], tiny_runs.FULL[stage]
    assert [(one["round"], one["steps"]) for one in run.figures["rounds"]] == list(
        enumerate(counts, 1)
    )
    assert run.figures["full"] == full
    for number, steps in enumerate(counts, 1):
        place = run.workdir / "rounds" / f"{number}_{steps}_steps"
        _, description = cascades.read_cascade(place / "cascade")
        assert description.stages.keys() == {"base", "relay"}
        found = description.stages[stage]
        assert found.distilled == Distilled(steps, tiny_runs.W)
        assert found.steps == steps
        assert tiny_runs.W[0] <= found.guidance <= tiny_runs.W[1]
        assert found.w_dim == 512
        figures = tiny_runs.read_json(place / "figures.json")
        assert figures["best"] == tiny_runs.UPDATES
        assert figures["start"]["step"] == 0
        assert figures["start"]["parity"] <= TOLERANCE
        assert figures["distance"].keys() == {"1", "3", "all"}
        assert all(0 <= value < 10 for value in figures["distance"].values())
        assert [line["step"] for line in read_lines(place / "evaluations.jsonl")] == [
            0,
            tiny_runs.UPDATES,
        ]
        steps = {f"step_{n:07d}.png" for n in (0, tiny_runs.UPDATES)}
        assert {path.name for path in (place / "previews").glob("*.png")} == {
            *steps,
            "contact_sheet.png",
        }
        (row,) = (place / "previews" / "rows").iterdir()
        assert {path.name for path in row.iterdir()} == steps
        assert hashes(place / "cascade" / stage) == hashes(place / "best")
    assert hashes(run.workdir / "cascade" / stage) == hashes(place / "best")
    rows = tiny_runs.read_json(run.workdir / "quality.json")["rows"]
    undistilled = [steps for steps in counts if steps != full]
    assert sorted((row["steps"], row["round"] or 0) for row in rows) == sorted(
        [(n, 0) for n in undistilled] + [(n, i) for i, n in enumerate(counts, 1)]
    )
    assert run.figures["undistilled"].keys() == {str(n) for n in undistilled}
    text = (run.workdir / "quality.md").read_text()
    for steps in undistilled:
        lines = [line for line in text.splitlines() if line.startswith(f"| {steps} |")]
        assert ["distilled, round" in line for line in lines] == [False, True]  # beside each other
    for name in ("quality.png", "rounds.png"):
        with Image.open(run.workdir / name) as picture:
            picture.verify()


def hashes(part: Path) -> dict:
    """Return the hashes of a part's files as they were written."""
    return tiny_runs.read_json(part / "manifest.json")


def test_teacher_and_student_are_sharded(tmp_path):
    with tiny_runs.split_small():
        work = building.build_distillation(tiny_runs.distill_config("relay"), tmp_path)
        params = building.load_stage(work, work.teacher)
    like = work.programs(0).like.params
    assert max(x.size // x.addressable_shards[0].data.size for x in jax.tree.leaves(params)) == 4
    specs = jax.tree.map(lambda x: x.sharding.spec, params)
    assert specs == jax.tree.map(lambda x: x.sharding.spec, {name: like[name] for name in specs})
    assert like.keys() - specs.keys() == {"w_proj"}


def test_what_is_kept_and_what_is_said_of_it_are_one_look_s(tmp_path):
    """The run is killed after its best evaluation and resumes with worse ones.

    The reported figures must be those of the weights that are kept.
    """
    far = {0: 5.0, 4: 2.0, 8: 1.0, 6: 1.5, 9: 1.2}

    class Stub:
        def sample(self, stage, params, steps):
            return params["step"]

        def distances(self, latents, full):
            return {"all": far[int(latents)]}

        prompts = ("a star",)

        def picture(self, rows):
            return np.zeros((8, 8, 3), np.uint8)

        def at_one_weight(self, latents):
            return np.zeros((1, 8, 8, 3), np.uint8)

    def look(*steps):
        watch = Watch(
            tmp_path, RoundSettings(1, 4, 9, 1e-3, (1.0, 2.0)), Stub(), {}, np.zeros(()), 3.0
        )
        for step in steps:
            watch.look({"step": jax.numpy.float32(step)}, step, keep=step > 0)
        return watch.best()

    tmp_path.mkdir(exist_ok=True)
    assert look(0) is None
    for steps in ((4, 8), (6, 9)):
        assert look(*steps) == {"step": 8, "all": 1.0}
        like = {
            "step": jax.ShapeDtypeStruct(
                (), np.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
            )
        }
        assert float(cascades.load_part(tmp_path / "best", like)["step"]) == 8
    assert [line["step"] for line in read_lines(tmp_path / "evaluations.jsonl")] == [0, 4, 6, 9]
    assert look(0) is None  # begun anew


def test_a_student_that_is_not_its_teacher_does_not_begin(tmp_path):
    work = building.build_distillation(tiny_runs.distill_config("base"), tmp_path)
    plan, teacher = work.settings.rounds[0], building.load_stage(work, work.teacher)
    student = building.create_student(work, plan, work.teacher, teacher).params
    text, latent = work.frozen.description.t5, distilling.make_bench(work).latent

    def differ(ours):
        return parity(
            work.settings,
            work.mesh,
            plan,
            ours,
            teacher,
            0,
            Inputs(latent, (text.length, text.model["channels"]), 8),
        )

    assert differ(student) <= TOLERANCE
    with pytest.raises(InputError, match="round 1: the student does not equal its teacher"):
        differ(jax.tree.map(lambda x: 1.01 * x, student))


def test_the_average_is_over_a_share_of_the_round():
    config = tiny_runs.distill_config(
        "base", f"distill.rounds={tiny_runs.rounds({4: 200, 2: 200})}", "distill.ema=0.25"
    )
    rounds = config.rounds
    for plan in rounds:
        np.testing.assert_allclose(round_of(config, plan).decay, 1 - 1 / 50, rtol=1e-6)
    assert float(round_of(config, rounds[0]._replace(updates=2)).decay) == 0.0
