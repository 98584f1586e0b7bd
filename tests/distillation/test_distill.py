"""`cv3jax distill`: what rounds leave, where each begins and which weights it keeps; a stop on
request and on divergence.
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
from PIL import Image

from cv3jax import cli
from cv3jax.cascade.parts import load_params
from cv3jax.checkpoints import cascades, runs
from cv3jax.checkpoints.description import Distilled
from cv3jax.commands import distill
from cv3jax.distillation import build as building
from cv3jax.distillation import run as distilling
from cv3jax.distillation.monitor import Watch
from cv3jax.distillation.parity import TOLERANCE, Inputs, parity
from cv3jax.distillation.programs import round_of
from cv3jax.distillation.settings import RoundSettings
from cv3jax.training.metrics import read_lines
from data_pipeline.io.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_compiles")

STAGES = ("base", "relay")


def weights(place: Path, stage: str = "base") -> dict:
    """The parameters of a stage of a cascade, on one device."""
    directory, description = cascades.read_cascade(place)
    return load_params(directory, description, (stage,))[0][stage]


def same(ours, theirs) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("stage", STAGES)
def test_rounds_of_one_kind_share_one_compilation(stage):
    seen, updates = tiny_runs.distilled(stage).compiled, tiny_runs.UPDATES
    of_round = [seen[i : i + updates] for i in range(0, len(seen), updates)]
    counts = [steps[-1].count("jit(train_step)") for steps in of_round]
    assert counts == [1, 2, 2][: len(counts)]  # of the guided teacher, of those that are told w
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
        told = description.stages[stage]
        assert told.distilled == Distilled(steps, tiny_runs.W)
        assert told.steps == steps
        assert tiny_runs.W[0] <= told.guidance <= tiny_runs.W[1]
        assert told.w_dim == 512
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
        assert {path.name for path in (place / "previews").iterdir()} == {
            f"step_{n:07d}.png" for n in (0, tiny_runs.UPDATES)
        }
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
    """Of the files of a part, as they were written."""
    return tiny_runs.read_json(part / "manifest.json")


def test_teacher_and_student_lie_in_shards(tmp_path):
    with tiny_runs.split_small():
        work = building.build_distillation(tiny_runs.distill_config("relay"), tmp_path)
        params = building.load_stage(work, work.teacher)
    like = work.steps(0).like.params
    assert max(x.size // x.addressable_shards[0].data.size for x in jax.tree.leaves(params)) == 4
    lies = jax.tree.map(lambda x: x.sharding.spec, params)
    assert lies == jax.tree.map(lambda x: x.sharding.spec, {name: like[name] for name in lies})
    assert like.keys() - lies.keys() == {"w_proj"}


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
    """Two rounds of four updates in two sittings: SIGTERM comes in the second update of the second
    round.
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
    # its evaluations of updates 0 and 1 are there, that of 2 came before the save
    run.later = run.sit({1: FAR[1][4:]})
    return run


def test_sigterm_inside_a_round_saves_exits_0_and_goes_on(stopped):
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


def test_what_is_kept_and_what_is_said_of_it_are_one_look_s(tmp_path):
    """Killed after its best look, and gone on with others: the figures are those of the weights
    that are there.
    """
    far = {0: 5.0, 4: 2.0, 8: 1.0, 6: 1.5, 9: 1.2}

    class Told:
        def sample(self, stage, params, steps):
            return params["step"]

        def distances(self, latents, full):
            return {"all": far[int(latents)]}

        def picture(self, rows):
            return np.zeros((8, 8, 3), np.uint8)

    def look(*steps):
        watch = Watch(
            tmp_path, RoundSettings(1, 4, 9, 1e-3, (1.0, 2.0)), Told(), {}, np.zeros(()), 3.0
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
    with pytest.raises(InputError, match="round 1: the student is not its teacher"):
        differ(jax.tree.map(lambda x: 1.01 * x, student))


def test_the_average_is_over_a_share_of_the_round():
    config = tiny_runs.distill_config(
        "base", f"distill.rounds={tiny_runs.rounds({4: 200, 2: 200})}", "distill.ema=0.25"
    )
    rounds = config.rounds
    for plan in rounds:
        np.testing.assert_allclose(round_of(config, plan).decay, 1 - 1 / 50, rtol=1e-6)
    assert float(round_of(config, rounds[0]._replace(updates=2)).decay) == 0.0


def test_a_distilled_stage_is_distilled_further(tmp_path):
    """From the first round on it is told w, like its student; there is no undistilled sampler to
    compare it with.
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


def going_on(workdir: Path, student: Path, w: str) -> Hollow:
    """One round of two updates for a student of two steps."""
    run = Hollow(workdir)
    run.argv = tiny_runs.distill_argv(
        "base", workdir, *HOLLOW, f"distill.rounds=((2,2,1e-3,{w}),)", f"distill.student={student}"
    )
    return run


def test_a_student_goes_on_from_its_own_weights_and_may_learn_another_range(
    stopped, tmp_path, capsys
):
    student = tmp_path / "student"
    shutil.copytree(stopped.first / "cascade", student)
    run = going_on(tmp_path / "w", student, "1.0,6.0")
    seen = run.sit({2: [3.0, 5.0, 4.0]})
    assert f"cv3jax: base 2 steps: goes on with the student of {student}" in capsys.readouterr().err
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
    run = going_on(tmp_path / "w", stopped.first / "cascade", "1.0,3.0")
    assert run.sit({2: [3.0, 5.0, 4.0]}).updates == [(1, 1), (1, 2)]
    assert (
        "no update came nearer to the full sampler; what the round began with is kept"
        in capsys.readouterr().err
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
        "cv3jax: round 1, update 2: 3.1 from the full sampler, 3.1 times as far as at the round's"
        " start; stopped"
    )
    assert "Traceback" not in "".join(said)
    assert [line["all"] for line in read_lines(run.first / "evaluations.jsonl")] == pytest.approx(
        [1.0, 2.9, 3.1]
    )
    assert runs.steps(run.first / "checkpoints") == [1]
    assert not (run.workdir / "cascade").exists()
