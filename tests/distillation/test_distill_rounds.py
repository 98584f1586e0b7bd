"""Test the rounds of `cv3jax distill` in cheap runs.

The tests check where each round begins, which weights it keeps, and that it stops on request and on
divergence.
"""

import os
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import tiny_runs
from hollow_rounds import hollow

from cv3jax import cli
from cv3jax.cascade.parts import load_params
from cv3jax.checkpoints import cascades, runs
from cv3jax.checkpoints.description import Distilled
from cv3jax.commands import distill
from cv3jax.training.metrics import read_lines


def weights(place: Path, stage: str = "base") -> dict:
    """Return the parameters of a cascade's stage on one device."""
    directory, description = cascades.read_cascade(place)
    return load_params(directory, description, (stage,))[0][stage]


def same(ours, theirs) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


# of a hollow run: its distances, of which update 2 of round 1 has the least, and 3 of round 2
FAR = {2: [5.0, 4.0, 1.0, 3.0, 2.0], 1: [6.0, 5.0, 4.0, 4.0, 2.5, 3.0]}
HOLLOW = (
    f"distill.rounds={tiny_runs.rounds({2: 4, 1: 4})}",
    "sample.steps=2",
    "train.preview_every=1",
    "train.save_every=1",
    "mesh.data=1",
    "mesh.fsdp=1",
    "batch.per_device=8",
)


class Hollow:
    """Hold two rounds of four updates that are interrupted once.

    SIGTERM comes in the second update of the second round.
    """

    def __init__(self, workdir: Path):
        self.workdir, self.argv = workdir, tiny_runs.distill_argv("base", workdir, *HOLLOW)
        self.first, self.second = workdir / "rounds" / "1_2_steps", workdir / "rounds" / "2_1_steps"

    def sit(self, distances: dict, then=lambda plan, step: None):
        with tiny_runs.devices(1), pytest.MonkeyPatch.context() as patch:
            seen = hollow(patch, distances, then)
            distill.main(self.argv)  # returns: exit 0
        return seen

    def stamps(self, place: Path) -> dict:
        return {
            path: (path.stat().st_mtime_ns, path.read_bytes())
            for path in place.rglob("*")
            if path.is_file()
        }


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    run = Hollow(tmp_path_factory.mktemp("hollow") / "w")
    run.seen = run.sit(
        FAR,
        lambda plan, step: (plan.number, step) == (2, 2) and os.kill(os.getpid(), signal.SIGTERM),
    )
    run.before = run.stamps(run.first)
    run.saved = runs.steps(run.second / "checkpoints")
    # its evaluations of updates 0 and 1 are there, that of 2 was left to the next start
    run.later = run.sit({1: FAR[1][3:]})
    return run


def test_sigterm_inside_a_round_saves_exits_0_and_resumes(stopped):
    assert stopped.seen.updates == [(1, n) for n in (1, 2, 3, 4)] + [(2, 1), (2, 2)]
    assert stopped.saved[-1] == 2
    assert stopped.later.updates == [(2, 3), (2, 4)]
    assert stopped.stamps(stopped.first) == stopped.before  # a finished round is not touched
    assert [line["step"] for line in read_lines(stopped.second / "evaluations.jsonl")] == [
        0,
        1,
        2,
        3,
        4,
    ]


class Killed(Exception):
    """Ends a run where a kill would."""


def test_a_round_that_resumes_from_the_machines_disk_keeps_what_it_had(tmp_path):
    run = Hollow(tmp_path / "w")
    local = ("save_every=100", "local_every=1", f"local_dir={tmp_path / 'disk'}")
    run.argv += [f"--config.train.{field}" for field in local]

    def kill(plan, step):
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        run.sit({2: FAR[2][:3]}, kill)
    assert runs.steps(run.first / "checkpoints") == []
    seen = run.sit({2: FAR[2][3:], 1: FAR[1]})
    assert seen.updates[:3] == [(1, 3), (1, 4), (2, 1)]
    lines = read_lines(run.first / "evaluations.jsonl")
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    assert tiny_runs.read_json(run.first / "figures.json")["best"] == 2
    assert list((tmp_path / "disk").iterdir()) == []  # of both rounds


def test_a_finished_command_trains_nothing(stopped):
    before = stopped.stamps(stopped.workdir / "rounds")
    began = time.monotonic()
    assert stopped.sit({}).updates == []
    assert time.monotonic() - began < 20
    assert stopped.stamps(stopped.workdir / "rounds") == before


def test_each_round_starts_from_the_best_ema_before_it_with_a_fresh_optimizer(stopped):
    states, teacher = stopped.seen.states, weights(tiny_runs.trained("relay").workdir)
    # what it does not know begins as zeros
    start = {**teacher, "w_proj": jax.tree.map(np.zeros_like, states[1].params["w_proj"])}
    same(states[1].params, start)
    # an update adds 1, so these are of update 2 of 4
    jax.tree.map(
        lambda ours, x: np.testing.assert_allclose(ours, x + 2.0, rtol=1e-6),
        weights(stopped.first / "cascade"),
        start,
    )
    same(states[2].params, weights(stopped.first / "cascade"))
    same(stopped.seen.teachers[1], teacher)
    same(stopped.seen.teachers[2], weights(stopped.first / "cascade"))
    for state in states.values():
        same(state.ema, state.params)
        assert int(state.step) == 0
        assert not any(np.any(x) for x in jax.tree.leaves(optax.tree.get(state.opt_state, "mu")))
        assert int(optax.tree.get(state.opt_state, "count")) == 0
    assert not np.array_equal(*(jax.random.key_data(states[number].key) for number in (1, 2)))
    assert stopped.seen.images[1].shape == stopped.seen.images[2].shape
    # another order of the data
    assert not np.array_equal(stopped.seen.images[1], stopped.seen.images[2])


def test_the_weights_kept_are_those_nearest_to_the_full_sampler(stopped):
    figures = tiny_runs.read_json(stopped.first / "figures.json")
    assert figures["distance"] == {"1": 1.0, "3": 1.0, "all": 1.0}
    assert figures["start"] == {"step": 0, "1": 5.0, "3": 5.0, "all": 5.0, "parity": 0.0}
    last = tiny_runs.read_json(stopped.second / "figures.json")
    assert last["best"] == 3
    ours, before = weights(stopped.workdir), weights(stopped.first / "cascade")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b + 3.0, rtol=1e-6), ours, before)


def test_a_distilled_stage_is_distilled_further(tmp_path):
    """The teacher is guidance-conditioned from the first round on, like its student.

    There is no undistilled sampler to compare it with.
    """
    first = tiny_runs.distilled("base").workdir / "rounds" / "1_4_steps" / "cascade"
    run = Hollow(tmp_path / "w")
    run.argv = tiny_runs.distill_argv(
        "base",
        run.workdir,
        *HOLLOW,
        f"distill.rounds={tiny_runs.rounds({2: 1})}",
        f"cascade={first}",
    )
    seen = run.sit({2: [1.0, 0.5]})
    same(seen.states[1].params, weights(first))
    rows = tiny_runs.read_json(run.workdir / "quality.json")
    assert rows["full"] == 4
    assert [(row["steps"], row["round"]) for row in rows["rows"]] == [(2, 1)]
    assert cascades.read_cascade(run.workdir)[1].stages["base"].distilled.steps == 2


def one_more_round(workdir: Path, student: Path, w: str) -> Hollow:
    """Return one round of two updates for a student of two steps."""
    run = Hollow(workdir)
    run.argv = tiny_runs.distill_argv(
        "base", workdir, *HOLLOW, f"distill.rounds=((2,2,1e-3,{w}),)", f"distill.student={student}"
    )
    return run


def test_a_student_continues_from_its_own_weights_and_may_learn_another_range(
    stopped, tmp_path, capsys
):
    student = tmp_path / "student"
    shutil.copytree(stopped.first / "cascade", student)
    run = one_more_round(tmp_path / "w", student, "1.0,6.0")
    seen = run.sit({2: [3.0, 5.0, 4.0]})
    assert f"base 2 steps: continues from the student of {student}" in capsys.readouterr().err
    same(seen.states[1].params, weights(student))
    assert int(seen.states[1].step) == 0
    same(seen.teachers[1], weights(tiny_runs.trained("relay").workdir))
    figures = tiny_runs.read_json(run.first / "figures.json")
    assert figures["start"] == {"step": 0, "1": 3.0, "3": 3.0, "all": 3.0}  # and no parity
    assert figures["best"] == 2  # what it began with does not know these w
    left = cascades.read_cascade(run.workdir)[1].stages["base"]
    assert left.distilled == Distilled(2, (1.0, 6.0))
    shutil.rmtree(student)  # of no use to a round that has begun
    assert run.sit({}).updates == []


def test_a_student_that_only_gets_worse_is_kept_as_it_was(stopped, tmp_path, capsys):
    run = one_more_round(tmp_path / "w", stopped.first / "cascade", "1.0,3.0")
    assert run.sit({2: [3.0, 5.0, 4.0]}).updates == [(1, 1), (1, 2)]
    assert (
        "no update brought the student nearer to the full sampler; the parameters from the round's"
        " start are kept" in capsys.readouterr().err
    )
    assert tiny_runs.read_json(run.first / "figures.json")["best"] == 0
    same(weights(run.workdir), weights(stopped.first / "cascade"))


def test_a_round_that_only_gets_worse_stops_with_exit_1_and_leaves_what_it_has(tmp_path, capsys):
    run = Hollow(tmp_path / "w")
    run.argv = [*run.argv, "--config.distill.diverged=3"]
    with tiny_runs.devices(1), pytest.MonkeyPatch.context() as patch:
        seen = hollow(patch, {2: [1.0, 2.9, 3.1]})
        with pytest.raises(SystemExit) as ended:
            cli.run_command(distill.main, run.argv)
    assert ended.value.code == 1
    assert seen.updates == [(1, 1), (1, 2)]
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith(
        "cv3jax: round 1 diverged at update 2: the student is 3.1 from the full sampler, 3.1 times"
        " as far as at the round's start; remove"
    )
    assert "Traceback" not in "".join(said)
    assert [line["all"] for line in read_lines(run.first / "evaluations.jsonl")] == pytest.approx(
        [1.0, 2.9, 3.1]
    )
    assert runs.steps(run.first / "checkpoints") == [1]
    assert not (run.workdir / "cascade").exists()
