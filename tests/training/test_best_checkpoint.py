"""Test which checkpoint is kept as the best, over kills, resumptions and other metrics."""

import dataclasses
import json
import signal

import pytest
from states import assert_equal, named_leaves, untimed
from toy_runs import CADENCE, toy, toy_work

from cv3jax import recipes
from cv3jax.checkpoints import runs
from cv3jax.training import evaluations, loop
from cv3jax.training.assessing import Assess
from cv3jax.training.evaluations import read_best
from cv3jax.training.loop import train_loop
from cv3jax.training.metrics import read_lines
from cv3jax.training.parsing import parse_stage
from cv3jax.training.train_settings import Local
from data_pipeline.io.errors import InputError, StoppedError

LOSS, SCORE = "heldout/loss", "pictures/judge.all"
BETTER = {LOSS: "lower", SCORE: "higher"}
BEST = dataclasses.replace(CADENCE, steps=12, keep=1, eval=2, best=LOSS)
VALUES = {2: 0.5, 4: 0.2, 6: 0.3, 8: 0.4, 10: 0.9, 12: 0.6}


def run(workdir, values, *, cadence=BEST, of="a", seen=None, start=0, killed=None):
    """Run `train_loop` of the toy, with a held-out loss of those values at their steps.

    start: the step from which it resumes, where the workdir has no checkpoint of it. killed: the
    step before which it ends as by a kill.
    """
    work, state = toy_work()
    count = {"step": start}

    def step(state, batch):
        with loop.jax.transfer_guard("allow"):
            count["step"] = int(state.step) + 1
        if count["step"] == killed:
            raise KilledError
        return work.step(state, batch)

    def figures(ema):
        now = count["step"] or runs.steps(workdir / "checkpoints")[-1]
        if seen is not None:
            seen.append(now)
        if isinstance(values[now], BaseException):
            raise values[now]
        return {LOSS: values[now], SCORE: 1 - values[now]}

    made = dataclasses.replace(work, step=step, assess=Assess(figures, BETTER, of))
    return train_loop(made, workdir, state, cadence, {})[0]


def steps(workdir) -> list[int]:
    return runs.steps(workdir / "checkpoints")


def evaluated(workdir) -> list[tuple[int, float]]:
    lines = read_lines(workdir / "metrics.jsonl")
    return [(line["step"], line[LOSS]) for line in lines if LOSS in line]


def test_the_best_checkpoint_stays_and_is_named(tmp_path, capsys):
    state = run(tmp_path / "run", VALUES)
    assert steps(tmp_path / "run") == [4, 12]
    best = {"step": 4, "metric": LOSS, "value": 0.2, "better": "lower", "evaluation": "a"}
    assert read_best(tmp_path / "run") == best
    runs.verify(tmp_path / "run" / "checkpoints", 4)
    assert evaluated(tmp_path / "run") == list(VALUES.items())
    said = capsys.readouterr().err
    shown = "cv3jax: step 4: heldout/loss 0.2, pictures/judge.all 0.8; the best so far"
    assert shown in said
    assert "cv3jax: step 6: heldout/loss 0.3, pictures/judge.all 0.7\n" in said
    plain = toy(tmp_path / "plain", cadence=dataclasses.replace(CADENCE, steps=12))
    assert_equal(named_leaves(state), named_leaves(plain))


@pytest.mark.parametrize(
    ("metric", "values", "left"),
    [
        (SCORE, VALUES, [4, 12]),
        (LOSS, {**VALUES, 12: 0.1}, [12]),  # what was the best before is not left over
        (LOSS, {**VALUES, 4: float("nan"), 6: 0.6}, [8, 12]),
        (LOSS, {**VALUES, 4: 0.5, 6: 0.5, 8: 0.5}, [2, 12]),  # the first of equals
        ("", VALUES, [12]),
    ],
    ids=["higher", "the last", "nan", "equal", "none"],
)
def test_better_is_as_the_metric_says(metric, values, left, tmp_path):
    run(tmp_path, values, cadence=dataclasses.replace(BEST, best=metric))
    assert steps(tmp_path) == left
    assert (read_best(tmp_path) or {}).get("step") == (left[0] if metric else None)


class KilledError(BaseException):
    """Stand for a kill: nothing in the run handles it."""


@pytest.mark.parametrize("every", [1, 2])  # the newest is of step 7, or of 6
def test_an_evaluation_of_a_step_that_is_on_the_machines_disk_alone_is_made_once(every, tmp_path):
    local = Local(every, tmp_path / "disk")
    cadence = dataclasses.replace(BEST, save=0, best="", local=local)
    with pytest.raises(KilledError):
        run(tmp_path / "w", VALUES, cadence=cadence, killed=8)
    run(tmp_path / "w", VALUES, cadence=cadence, start=6)
    assert evaluated(tmp_path / "w") == list(VALUES.items())


def test_an_evaluation_that_a_kill_prevented_is_made_up_for_there_too(tmp_path):
    cadence = dataclasses.replace(BEST, save=0, best="", local=Local(2, tmp_path / "disk"))
    with pytest.raises(KilledError):
        run(tmp_path / "w", {**VALUES, 6: KilledError()}, cadence=cadence)
    run(tmp_path / "w", VALUES, cadence=cadence, start=6)
    assert evaluated(tmp_path / "w") == list(VALUES.items())


def kill_in_the_evaluation(patch) -> dict:
    return {**VALUES, 4: KilledError()}


def kill_before_the_record(patch) -> dict:
    write = evaluations.Evaluations._write

    def killed(self):
        if self._best["step"] == 4:
            raise KilledError
        write(self)

    patch.setattr(evaluations.Evaluations, "_write", killed)
    return VALUES


def kill_before_the_line(patch) -> dict:
    write = loop.MetricsLog.write

    def killed(self, step, line):
        if step == 4 and LOSS in line:
            raise KilledError
        write(self, step, line)

    patch.setattr(loop.MetricsLog, "write", killed)
    return VALUES


@pytest.mark.parametrize(
    "kill", [kill_in_the_evaluation, kill_before_the_record, kill_before_the_line]
)
def test_a_run_that_is_killed_around_an_evaluation_resumes_to_the_same(kill, tmp_path, monkeypatch):
    run(tmp_path / "whole", VALUES)
    with monkeypatch.context() as patch:
        values = kill(patch)
        with pytest.raises(KilledError):
            run(tmp_path / "killed", values)
    assert steps(tmp_path / "killed") == [2, 4]
    seen = []
    run(tmp_path / "killed", VALUES, seen=seen)
    assert seen == [4, 6, 8, 10, 12]  # that of step 4 is made up for
    lines = [untimed(read_lines(tmp_path / name / "metrics.jsonl")) for name in ("killed", "whole")]
    assert lines[0] == lines[1]
    assert steps(tmp_path / "killed") == [4, 12]
    assert read_best(tmp_path / "killed") == read_best(tmp_path / "whole")


def test_a_checkpoint_that_a_kill_left_behind_is_removed_and_the_best_is_not(tmp_path):
    run(tmp_path, {**VALUES, 12: 0.1}, cadence=dataclasses.replace(BEST, keep=9))
    assert steps(tmp_path) == [2, 4, 6, 8, 10, 12]
    seen = []
    run(tmp_path, VALUES, seen=seen)  # nothing is left to do
    assert (steps(tmp_path), seen) == ([12], [])


def test_a_stop_does_not_wait_for_the_evaluation_and_the_next_start_makes_up_for_it(tmp_path):
    work, state = toy_work()
    seen = []

    def step(state, batch):
        with loop.jax.transfer_guard("allow"):
            if int(state.step) + 1 == 4:
                signal.raise_signal(signal.SIGTERM)
        return work.step(state, batch)

    def figures(ema):
        seen.append(steps(tmp_path)[-1])
        return {LOSS: 0.5, SCORE: 0.5}

    made = dataclasses.replace(work, step=step, assess=Assess(figures, BETTER, "a"))
    with pytest.raises(StoppedError):
        train_loop(made, tmp_path, state, BEST, {})
    assert seen == [2]
    run(tmp_path, VALUES, cadence=dataclasses.replace(BEST, steps=4))
    assert evaluated(tmp_path) == [(2, 0.5), (4, 0.2)]
    assert read_best(tmp_path)["step"] == 4


def test_an_evaluation_that_fails_is_said_and_costs_nothing(tmp_path, capsys):
    state = run(tmp_path / "run", {**VALUES, 4: RuntimeError("RESOURCE_EXHAUSTED")})
    assert "cv3jax: step 4: no evaluation (RuntimeError: RESOURCE_EXH" in capsys.readouterr().err
    assert [step for step, _ in evaluated(tmp_path / "run")] == [2, 6, 8, 10, 12]
    assert steps(tmp_path / "run") == [6, 12]
    plain = toy(tmp_path / "plain", cadence=dataclasses.replace(CADENCE, steps=12))
    assert_equal(named_leaves(state), named_leaves(plain))


def test_the_checkpoint_stays_when_a_later_start_chooses_by_nothing(tmp_path):
    run(tmp_path, VALUES, cadence=dataclasses.replace(BEST, steps=6))
    run(tmp_path, VALUES, cadence=dataclasses.replace(BEST, best=""))
    assert steps(tmp_path) == [4, 12]
    assert read_best(tmp_path)["step"] == 4


@pytest.mark.parametrize("change", ["metric", "records"])
def test_figures_that_cannot_be_compared_begin_anew(change, tmp_path):
    run(tmp_path, VALUES, cadence=dataclasses.replace(BEST, steps=6))
    other = (
        {"cadence": dataclasses.replace(BEST, best=SCORE)} if change == "metric" else {"of": "b"}
    )
    run(tmp_path, VALUES, **other)
    best = read_best(tmp_path)
    # of other records step 6 is evaluated again; by another metric it is not
    assert best["step"] == (8 if change == "metric" else 6)
    assert steps(tmp_path) == [best["step"], 12]


def test_a_run_taken_back_chooses_among_the_checkpoints_that_are_there(tmp_path):
    run(tmp_path, VALUES, cadence=dataclasses.replace(BEST, keep=9))
    runs.set_aside(tmp_path / "checkpoints", 2, tmp_path / "set_aside")
    run(tmp_path, {**VALUES, 4: 0.8, 6: 0.7}, cadence=dataclasses.replace(BEST, steps=6))
    assert evaluated(tmp_path) == [(2, 0.5), (4, 0.8), (6, 0.7)]
    assert read_best(tmp_path)["step"] == 2
    assert steps(tmp_path) == [2, 6]


def test_a_damaged_record_is_refused_and_a_lost_one_is_made_again(tmp_path):
    run(tmp_path, VALUES, cadence=dataclasses.replace(BEST, steps=6))
    path = tmp_path / evaluations.FILE
    before = json.loads(path.read_text())
    path.write_text('{"step": "four"}')
    with pytest.raises(InputError, match=r"best.json is damaged: it names no checkpoint"):
        run(tmp_path, VALUES)
    path.unlink()
    run(tmp_path, VALUES, cadence=dataclasses.replace(BEST, steps=8))
    assert json.loads(path.read_text()) == before
    assert steps(tmp_path) == [4, 8]


GIVEN = ("train.save_every=2", "train.eval_every=4", "train.eval_data=somewhere")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (("train.eval_every=3",), "config.train.eval_every = 3: must be a multiple of"),
        (("train.eval_every=0",), "config.train.eval_every = 0: must be a multiple of"),
        (("train.save_every=0",), "config.train.eval_every = 4: must be 0 with train.save_every"),
        (("train.eval_data=",), "config.train.best = heldout/loss: must be given with"),
        (("train.best=loss",), "config.train.best = loss: must be a name that begins with"),
        (
            ("train.best=pictures/clip", "train.eval_metrics=judge"),
            "config.train.best = pictures/clip: must be a figure of a metric of"
            " train.eval_metrics (judge)",
        ),
    ],
)
def test_a_best_checkpoint_that_cannot_be_is_refused(fields, said):
    given = (*GIVEN, "train.best=heldout/loss", *fields)
    settings = recipes.load("scenes_vae:tiny", [f"--config.{field}" for field in given])
    with pytest.raises(InputError) as e:
        parse_stage(settings)
    assert str(e.value).startswith(said)


def test_a_recipe_sets_what_is_chosen_by():
    given = [f"--config.{field}" for field in (*GIVEN, "train.best=heldout/psnr")]
    train = parse_stage(recipes.load("scenes_vae:tiny", given)).train
    cadence = loop.Cadence.of(train, None)
    assert (cadence.eval, cadence.best) == (4, "heldout/psnr")
