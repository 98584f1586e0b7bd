"""Test which fields may change when a run resumes, by default or with --allow-changed.

A change that was allowed is kept and not asked for again.
"""

import copy
import dataclasses
import json
import re

import jax
import pytest
from toy_runs import CADENCE, toy_work

from cv3jax import recipes
from cv3jax.checkpoints import runs
from cv3jax.commands import train
from cv3jax.training import changes
from cv3jax.training.changes import Asked, check_allowed, check_changes, keep_history
from cv3jax.training.loop import NonFiniteLossError, train_loop
from cv3jax.training.resume import check_resume, record
from data_pipeline.io.errors import InputError

BASE = {**recipes.to_json(recipes.load("scenes_base:tiny", [])), "cascade": "runs/vae"}
BASE["data"] = {**BASE["data"], "path": "runs/scenes"}
INPUTS = {"data.path": "of the scenes", "cascade": "of the encoders"}
ROUNDS = [[4, 100, 1e-3, 1.0, 4.0]]


def asked(allowed=(), inputs=INPUTS, **fields) -> Asked:
    """Return what a command asks for, with other values of some fields.

    "__" stands for a dot.
    """
    recipe = copy.deepcopy(BASE)
    for name, value in fields.items():
        *sections, last = name.split("__")
        place = recipe
        for section in sections:
            place = place[section]
        place[last] = value
    return Asked(recipe, inputs, allowed)


def check(now: Asked, then: dict | None = None, history=()) -> list[dict]:
    then = then or {"config": BASE, "inputs": INPUTS}
    return check_changes(now, then, 7, list(history), "w holds a run with")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"optim__lr": 1e-5}, "optim.lr"),
        ({"optim__clip": 0.1}, "optim.clip"),
        ({"batch__size": 64}, "batch.size"),
        ({"data__flip": True}, "data.flip"),
        ({"objective__weighting": "min_snr"}, "objective.weighting"),
        ({"data__min_side": 64}, "data.min_side"),
    ],
)
def test_a_field_changes_where_that_is_allowed_and_only_there(fields, name):
    said = rf"w holds a run with other values of {name}; give the old .* --allow-changed {name}$"
    with pytest.raises(InputError, match=said):
        check(asked(**fields))
    (change,) = check(asked((name,), **fields))
    assert change["step"] == 7
    assert change["field"] == name
    assert change["now"] == next(iter(fields.values())) != change["was"]


def test_a_field_that_is_newer_than_a_checkpoint_had_its_default_there():
    """A run of an earlier version resumes, and cannot be changed unnoticed by such a field."""
    then = copy.deepcopy(BASE)
    for name in ("timesteps", "timestep_mean", "huber_schedule", "masked"):
        del then["objective"][name]
    old = {"config": then, "inputs": INPUTS}
    assert check(asked(), old) == []
    with pytest.raises(InputError, match=r"other values of objective\.timesteps;"):
        check(asked(objective__timesteps="logit_normal"), old)
    (change,) = check(asked(("objective.timesteps",), objective__timesteps="logit_normal"), old)
    assert (change["was"], change["now"]) == ("uniform", "logit_normal")


@pytest.mark.parametrize(
    ("fields", "name", "reason"),
    [
        ({"model__channels": 32}, "model.channels", "the parameters in the checkpoint"),
        ({"model__w_dim": 8}, "model.w_dim", "the parameters in the checkpoint"),
        ({"stage": "relay"}, "stage", "the parameters in the checkpoint"),
        ({"objective__prediction": "x0"}, "objective.prediction", "was trained with the old value"),
        ({"schedule__start": 500}, "schedule.start", "trained with the old schedule"),
        ({"schedule__blur": "linear"}, "schedule.blur", "trained with the old schedule"),
        ({"optim__kind": "lion"}, "optim.kind", "the optimizer's state"),
        ({"optim__moments": "bfloat16"}, "optim.moments", "the optimizer's state"),
        ({"optim__momentum": 0.9}, "optim.momentum", "the optimizer's state"),
        ({"optim__turns": 3}, "optim.turns", "the optimizer's state"),
        ({"optim__renew": 3}, "optim.renew", "the optimizer's state"),
        ({"text__vocab": 9}, "text.vocab", "the old text encoder"),
        ({"seed": 9}, "seed", "the random text encoder's weights are drawn from it"),
    ],
)
def test_what_the_checkpoint_is_made_of_changes_by_no_flag_and_the_reason_is_said(
    fields, name, reason
):
    with pytest.raises(InputError, match=rf"other values of {name}; .*\({name} cannot.*{reason}"):
        check(asked((name,), **fields))


def test_the_seed_of_a_run_that_draws_no_encoder_may_change():
    fields = {"text__random": False, "seed": 9}
    then = {"config": asked(text__random=False).recipe}
    assert [one["field"] for one in check(asked(("seed",), **fields), then)] == ["seed"]


@pytest.mark.parametrize(
    ("entry", "fine"),
    [
        ([4, 100, 1e-5, 1.0, 4.0], True),
        ([4, 50, 1e-3, 1.0, 4.0], True),
        ([2, 100, 1e-3, 1.0, 4.0], False),
        ([4, 100, 1e-3, 2.0, 4.0], False),
    ],
)
def test_of_a_round_rate_and_length_may_change_and_what_is_learned_may_not(entry, fine):
    then = {"config": {**BASE, "distill": {"rounds": ROUNDS}}}
    now = Asked({**BASE, "distill": {"rounds": [entry]}}, allowed=("distill.rounds",))
    if fine:
        assert [one["field"] for one in check(now, then)] == ["distill.rounds"]
        return
    with pytest.raises(InputError, match=r"other values of distill.rounds.*steps and guidance"):
        check(now, then)


@pytest.mark.parametrize("name", ["data.path", "cascade", "data.cache", "objective.perceptual"])
@pytest.mark.parametrize("moved", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_the_content_of_a_path_decides_and_not_the_path(name, moved, same):
    field, known = name.replace(".", "__"), {name: "what lay there"}
    then = {"config": asked(**{field: "old"}).recipe, "inputs": known}
    inputs = known if same else {name: "something else"}
    now = asked((), inputs, **{field: "new" if moved else "old"})
    if same:
        assert check(now, then) == []
        return
    shown = name if moved else rf"{name} \(the content of old has changed\)"
    with pytest.raises(InputError, match=f"other values of {shown}"):
        check(now, then)
    allowed = dataclasses.replace(now, allowed=(name,))
    if name == "cascade":
        with pytest.raises(InputError, match="latents and text features of the old encoders"):
            check(allowed, then)
    else:
        assert [one["field"] for one in check(allowed, then)] == [name]


def test_of_a_run_that_kept_no_digests_a_moved_path_may_be_allowed():
    then = {"config": BASE}
    now = asked(("data.path", "cascade"), data__path="new", cascade="moved")
    assert [one["field"] for one in check(now, then)] == ["cascade", "data.path"]


def run(workdir, now: Asked, steps: int, **changes):
    """Check the change, keep what was allowed, and train the toy from its checkpoint."""
    resumed = check_resume(now, workdir)
    check_allowed(now, resumed.changes, workdir)
    keep_history(workdir, resumed.changes)
    work, state = toy_work(lr=now.recipe["optim"]["lr"])
    work = dataclasses.replace(work, **changes)
    cadence = dataclasses.replace(CADENCE, steps=steps)
    return train_loop(work, workdir, state, cadence, record(now, resumed, {}))[0]


def fails(state, batch):
    raise OSError("killed")


def test_a_change_is_kept_and_not_asked_for_again_whether_or_not_a_checkpoint_has_it(tmp_path):
    first = asked(train__steps=8)
    run(tmp_path, first, 4)
    lower = asked(train__steps=8, optim__lr=1e-3)
    with pytest.raises(InputError, match=r"optim\.lr; give the old"):
        run(tmp_path, lower, 8)
    assert not (tmp_path / changes.HISTORY).exists()
    allowed = dataclasses.replace(lower, allowed=("optim.lr",))
    with pytest.raises(OSError, match="killed"):
        run(tmp_path, allowed, 8, step=fails)
    expected = {"step": 4, "field": "optim.lr", "was": BASE["optim"]["lr"], "now": 1e-3}
    assert json.loads((tmp_path / changes.HISTORY).read_text()) == {"changes": [expected]}
    run(tmp_path, lower, 6)  # before any checkpoint has it
    assert runs.run_of(tmp_path / "checkpoints", 6)["changes"] == [expected]
    run(tmp_path, lower, 8)  # after
    run(tmp_path, allowed, 8)  # the command that a scheduler gives again
    (tmp_path / changes.HISTORY).unlink()
    run(tmp_path, allowed, 8)  # the checkpoints know it as well
    with pytest.raises(
        InputError, match=r"optim\.lr; give the old"
    ):  # another value is another change
        run(tmp_path, asked(train__steps=8, optim__lr=1e-4), 8)


def test_the_advice_after_a_nan_can_be_followed(tmp_path):
    work, _ = toy_work(lr=BASE["optim"]["lr"])

    def overflows(state, batch):
        bad = int(state.step) == 5  # the sixth update
        return work.step(state, batch * float("nan") if bad else batch)

    start = asked(train__steps=8)
    with pytest.raises(NonFiniteLossError) as error:
        run(tmp_path, start, 8, step=transferring(overflows))
    (name,) = re.findall(r"a lower --config\.(\S+) with --allow-changed \1", str(error.value))
    assert name == "optim.lr"
    run(tmp_path, asked((name,), train__steps=8, optim__lr=1e-3), 8)
    assert runs.steps(tmp_path / "checkpoints")[-1] == 8


def transferring(step):
    """Return a step that may look at its state."""

    def allowed(state, batch):
        with jax.transfer_guard("allow"):
            return step(state, batch)

    return allowed


@pytest.mark.parametrize("name", ["optim.clip", "optim.lrr", "data", "lr"])
def test_leave_for_a_field_that_does_not_differ_is_refused(name, tmp_path):
    for directory in (tmp_path / "none", tmp_path / "same"):
        if directory.name == "same":
            run(directory, asked(train__steps=8), 2)
        now = asked(("optim.lr", name), train__steps=8, optim__lr=1e-3)
        with pytest.raises(InputError, match=r"--allow-changed .*no checkpoint in .* leave it out"):
            run(directory, now, 8)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("optim.lr", ("optim.lr",)),
        ("optim.lr,data.path", ("optim.lr", "data.path")),
        ("--config.optim.lr, config.data.path,", ("optim.lr", "data.path")),
        ("", ()),
    ],
)
def test_the_flag_takes_fields_as_the_overrides_have_them(text, fields):
    given = ["--config=a", "--workdir", "w", "--allow-changed", text]
    assert train.parser().parse_args(given).allow_changed == fields


@pytest.mark.parametrize("name", ["stage", "init_part", "init_from"])
def test_another_part_of_the_same_cascade_is_no_changed_content(name):
    now = {"data.path": INPUTS["data.path"], "cascade": "of another part"}
    apart = dataclasses.replace(asked(inputs=now, **{name: "relay"}), resumable=())
    with pytest.raises(InputError) as e:
        check(apart)
    assert name in str(e.value)
    assert "content" not in str(e.value)
    allowed = dataclasses.replace(apart, allowed=(name,))  # then the content is compared
    with pytest.raises(InputError, match=r"cascade \(the content of runs/vae has changed\)"):
        check(allowed if name != "stage" else asked(inputs=now))
