"""Test which rounds, teachers and students a distillation accepts, and its messages."""

import described
import pytest
from described import distilled_to
from tiny_runs import rounds

from cv3jax import recipes
from cv3jax.distillation.parsing import parse_distillation
from cv3jax.distillation.settings import ENTRY
from cv3jax.distillation.teachers import check_student, check_teacher
from data_pipeline.io.errors import InputError


def plain(stage: str, *fields: str):
    """Return the settings of the tiny recipe without a cascade."""
    config = recipes.load(f"scenes_distill_{stage}:tiny", [f"--config.{field}" for field in fields])
    return parse_distillation(config)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("train.export_every=5", "config.train.export_every = 5: must be 0"),
        ("distill.rounds=()", f"config.distill.rounds = (): must be one or more of {ENTRY}"),
        (
            f"distill.rounds={rounds({8: 3, 2: 3})}",
            "config.distill.rounds: round 2 has 2 steps, but must have half of the 8 of the round"
            " before",
        ),
        (
            f"distill.rounds={rounds({2: 3, 4: 3})}",
            "config.distill.rounds: round 2 has 4 steps, but must have half of the 2 of the round"
            " before",
        ),
        (
            "distill.rounds=((2,3,1e-3,1.0,4.0),(1,3,1e-3,0.5,4.0))",
            "round 2 has w in 0.5..4, but its teacher, round 1, was trained for 1..4 only",
        ),
        (
            "distill.rounds=((2,3,1e-3,1.0,4.0),(1,3,1e-3,2.0,5.0))",
            "round 2 has w in 2..5, but its teacher, round 1, was trained for 1..4 only",
        ),
        (
            "distill.rounds=((2,3,1e-3,1.0),)",
            (
                f"config.distill.rounds[0] = (2, 3, 0.001, 1.0): must be {ENTRY}, such as (16,"
                " 10000, 1e-5, 1.0, 10.0)"
            ),
        ),
        ("distill.rounds=((2,0,1e-3,1.0,4.0),)", "config.distill.rounds[0]"),
        ("distill.rounds=((2,3,0.0,1.0,4.0),)", "config.distill.rounds[0]"),
        ("distill.rounds=((2,3,1e-3,4.0,1.0),)", "config.distill.rounds[0]"),
        ("distill.rounds=((2.5,3,1e-3,1.0,4.0),)", "config.distill.rounds[0]"),
        (
            f"distill.rounds={rounds({800: 3})}",
            "config.distill.rounds: round 1 needs a teacher of 1600 steps",
        ),
        (
            "distill.w=(5.0,)",
            "config.distill.w = (5.0,): must be one or more, each in the last round's range 1..4",
        ),
        ("distill.w=()", "config.distill.w = ()"),
        ("distill.diverged=1.0", "config.distill.diverged = 1.0: must be above 1"),
        ("distill.ema=0.0", "config.distill.ema = 0.0: must be above 0 and at most 1"),
        (
            "distill.target=eps",
            "config.distill.target = eps: must be one of landing, x0, x0_root_snr",
        ),
        ("model.w_dim=3", "config.model.w_dim = 3: must be an even number, at least 4"),
    ],
)
def test_rounds_that_cannot_be(field, said):
    with pytest.raises(InputError) as e:
        plain("base", field)
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def test_rounds_that_can_be():
    found = plain("relay").rounds
    assert [(plan.number, plan.steps, plan.name) for plan in found] == [
        (1, 2, "1_2_steps"),
        (2, 1, "2_1_steps"),
    ]


@pytest.mark.parametrize(
    ("stage", "changes", "said"),
    [
        (
            "relay",
            {"start": 500},
            (
                "HERE was trained from T_r = 500, and config.schedule.start = 40 is outside of what"
                " it was trained for; fine-tune it with that start first (cv3jax train,"
                " --config.schedule.start=40)"
            ),
        ),
        (
            "relay",
            distilled_to(4, start=500),
            (
                "HERE was trained from T_r = 500, and config.schedule.start = 40 is outside of what"
                " it was trained for; give --config.schedule.start=500"
            ),
        ),
        (
            "base",
            {"prediction": "eps"},
            (
                "config.objective.prediction = v, but HERE has eps; give"
                " --config.objective.prediction=eps"
            ),
        ),
        (
            "relay",
            {"form": "paper"},
            "config.sample.form = released, but HERE has paper; give --config.sample.form=paper",
        ),
        (
            "relay",
            {"blur": "sigma"},
            "config.schedule.blur = linear, but HERE has sigma; give --config.schedule.blur=sigma",
        ),
        ("base", {"kind": "relay"}, "HERE is a relay stage, but the recipe is of a base stage"),
        ("relay", {"kind": "base"}, "HERE is a base stage, but the recipe is of a relay stage"),
        (
            "base",
            distilled_to(8),
            (
                "HERE was distilled to 8 steps and works with no other number, but round 1 needs a"
                " teacher of 4 steps; begin config.distill.rounds with 4 steps"
            ),
        ),
        (
            "base",
            distilled_to(2),
            (
                "HERE was distilled to 2 steps and works with no other number, but round 1 needs a"
                " teacher of 4 steps; begin config.distill.rounds with 1 step"
            ),
        ),
        (
            "base",
            distilled_to(1),
            (
                "HERE was distilled to 1 step and works with no other number, but round 1 needs a"
                " teacher of 4 steps; its steps cannot be halved"
            ),
        ),
        (
            "base",
            distilled_to(4, w=(1.0, 3.0)),
            "HERE was distilled for w in 1..3, but round 1 has w in 1..4",
        ),
        (
            "base",
            distilled_to(4, model={"w_dim": 256}),
            "HERE embeds the guidance weight w in 256 dimensions, not in 512; give"
            " --config.model.w_dim=256",
        ),
    ],
)
def test_a_teacher_that_does_not_fit(stage, changes, said):
    with pytest.raises(InputError) as e:
        check_teacher(plain(stage), described.stage(stage, **changes), "HERE")
    assert str(e.value).startswith(said)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"steps": 50}, ["the teacher's own 50 steps become 4 in round 1"]),
        (distilled_to(4), []),
        (distilled_to(4, w=None), []),
        ({"model": {}}, []),
    ],
)
def test_a_teacher_that_fits(changes, words):
    assert check_teacher(plain("base"), described.stage("base", **changes), "HERE") == words


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {},
            (
                "HERE is not guidance-conditioned, so it cannot be a student; leave"
                " config.distill.student out, and the first round starts from its teacher's weights"
            ),
        ),
        (
            distilled_to(2, model={"w_dim": 256}),
            "HERE embeds the guidance weight w in 256 dimensions, not in 512; give"
            " --config.model.w_dim=256",
        ),
        (
            distilled_to(2, prediction="eps"),
            (
                "config.objective.prediction = v, but HERE has eps; give"
                " --config.objective.prediction=eps"
            ),
        ),
    ],
)
def test_a_student_that_cannot_be_distilled_further(changes, said):
    with pytest.raises(InputError) as e:
        check_student(plain("base"), described.stage("base", **changes), "HERE")
    assert str(e.value) == said


@pytest.mark.parametrize("w", [(2.0, 3.0), None])
def test_a_student_that_can_be_distilled_further(w):
    check_student(plain("base"), described.stage("base", **distilled_to(2, w)), "HERE")
