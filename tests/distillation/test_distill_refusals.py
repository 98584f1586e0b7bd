"""What cannot be distilled is refused in one line that says what would be right, before anything is
written.
"""

import dataclasses
import shutil

import described
import pytest
import tiny_runs
from tiny_runs import rounds

from cv3jax import cli, recipes
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import Distilled
from cv3jax.commands import distill, train
from cv3jax.distillation import build as building
from cv3jax.distillation.parsing import parse_distillation
from cv3jax.distillation.settings import ENTRY
from cv3jax.distillation.teachers import check_student, check_teacher
from data_pipeline.io.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_compiles")


def plain(stage: str, *fields: str):
    """The tiny recipe, of no cascade."""
    config = recipes.load(f"scenes_distill_{stage}:tiny", [f"--config.{field}" for field in fields])
    return parse_distillation(config)


def told(steps: int, w=(1.0, 4.0), **changes) -> dict:
    """What makes it a distilled one."""
    return {
        "model": {"w_dim": 512},
        "steps": steps,
        "distilled": Distilled(steps, w),
        **changes,
    }


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("distill.rounds=()", f"config.distill.rounds is empty; give one or more of {ENTRY}"),
        (
            f"distill.rounds={rounds({8: 3, 2: 3})}",
            "config.distill.rounds: 8 steps are halved to 4, not to 2",
        ),
        (
            f"distill.rounds={rounds({2: 3, 4: 3})}",
            "config.distill.rounds: 2 steps are halved to 1, not to 4",
        ),
        (
            "distill.rounds=((2,3,1e-3,1.0,4.0),(1,3,1e-3,0.5,4.0))",
            "round 2 has w in 0.5..4, but its teacher, round 1, knows 1..4",
        ),
        (
            "distill.rounds=((2,3,1e-3,1.0,4.0),(1,3,1e-3,2.0,5.0))",
            "round 2 has w in 2..5, but its teacher, round 1, knows 1..4",
        ),
        (
            "distill.rounds=((2,3,1e-3,1.0),)",
            (
                f"config.distill.rounds[0] = (2, 3, 0.001, 1.0): must be {ENTRY}, as (16, 10000,"
                " 1e-5, 1.0, 10.0)"
            ),
        ),
        ("distill.rounds=((2,0,1e-3,1.0,4.0),)", "config.distill.rounds[0]"),
        ("distill.rounds=((2,3,0.0,1.0,4.0),)", "config.distill.rounds[0]"),
        ("distill.rounds=((2,3,1e-3,4.0,1.0),)", "config.distill.rounds[0]"),
        ("distill.rounds=((2.5,3,1e-3,1.0,4.0),)", "config.distill.rounds[0]"),
        (f"distill.rounds={rounds({800: 3})}", "config.distill.rounds: a teacher of 1600 steps"),
        (
            "distill.w=(5.0,)",
            (
                "config.distill.w = (5.0,): one weight or more to judge by, each in all rounds'"
                " range 1..4"
            ),
        ),
        ("distill.w=()", "config.distill.w = ()"),
        (
            "distill.diverged=1.0",
            (
                "config.distill.diverged = 1.0: how many times as far as at the start is too far,"
                " above 1"
            ),
        ),
        (
            "distill.ema=0.0",
            "config.distill.ema = 0.0: a share of the round, above 0 and at most 1",
        ),
        ("distill.target=eps", "config.distill.target = 'eps': one of landing, x0, x0_root_snr"),
        (
            "model.w_dim=3",
            "config.model.w_dim = 3: the student is told w; give an even width, as 512",
        ),
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
                "HERE was trained from T_r = 500, config.schedule.start = 40 is out of its"
                " distribution: fine-tune it with that start first (cv3jax train,"
                " --config.schedule.start=40)"
            ),
        ),
        (
            "relay",
            told(4, start=500),
            (
                "HERE was trained from T_r = 500, config.schedule.start = 40 is out of its"
                " distribution: give --config.schedule.start=500"
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
        ("base", {"kind": "relay"}, "HERE is a relay stage, config.schedule says base"),
        ("relay", {"kind": "base"}, "HERE is a base stage, config.schedule says relay"),
        (
            "base",
            told(8),
            (
                "HERE is distilled to 8 steps and knows no others, round 1 asks it for 4; begin"
                " with 4 student steps"
            ),
        ),
        (
            "base",
            told(2),
            (
                "HERE is distilled to 2 steps and knows no others, round 1 asks it for 4; begin"
                " with 1 student steps"
            ),
        ),
        (
            "base",
            told(1),
            (
                "HERE is distilled to 1 steps and knows no others, round 1 asks it for 4; it cannot"
                " be halved"
            ),
        ),
        ("base", told(4, w=(1.0, 3.0)), "HERE knows w in 1..3, round 1 asks it for 1..4"),
        (
            "base",
            told(4, model={"w_dim": 256}),
            "HERE is told w in 256 dimensions; give --config.model.w_dim=256",
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
        (told(4), []),
        (told(4, w=None), []),
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
                "HERE is not told w, it is no student; without config.distill.student the first"
                " round begins at its teacher"
            ),
        ),
        (told(4), "HERE has 4 steps, config.distill.rounds begins with 2"),
        (
            told(2, model={"w_dim": 256}),
            "HERE is told w in 256 dimensions; give --config.model.w_dim=256",
        ),
        (
            told(2, prediction="eps"),
            (
                "config.objective.prediction = v, but HERE has eps; give"
                " --config.objective.prediction=eps"
            ),
        ),
    ],
)
def test_a_student_that_cannot_go_on(changes, said):
    with pytest.raises(InputError) as e:
        check_student(plain("base"), described.stage("base", **changes), "HERE")
    assert str(e.value) == said


@pytest.mark.parametrize("w", [(2.0, 3.0), None])
def test_a_student_that_can_go_on(w):
    check_student(plain("base"), described.stage("base", **told(2, w)), "HERE")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Cascades that are not there, or are of other sizes than the rows below ask for."""
    at = tmp_path_factory.mktemp("refused")
    directory, description = cascades.read_cascade(tiny_runs.trained("relay").workdir)
    changed = {
        "bare": dataclasses.replace(description, stages={}),
        "no_t5": dataclasses.replace(description, t5=None),
    }
    base, vae = description.stages["base"], description.vae
    for name, channels, scale in (("wide", 32, 1.0), ("other_vae", 16, 2.0)):
        model = {**base.model, "w_dim": 512, "channels": channels}
        changed[name] = dataclasses.replace(
            description,
            vae=dataclasses.replace(vae, scale=scale * vae.scale),
            stages={"base": dataclasses.replace(base, **told(2, model=model))},
        )
    for name, other in changed.items():
        (at / name).mkdir()
        cascades.write_cascade(at / name, other)
    return {
        "at": at,
        "whole": directory,
        "base": tiny_runs.trained("base").workdir,
        "vae": tiny_runs.trained("vae").workdir,
    }


@pytest.mark.parametrize(
    ("stage", "fields", "said"),
    [
        (
            "base",
            ("objective.text_drop=0.1",),
            "config.objective.text_drop = 0.1: a student is taught with its text, give 0",
        ),
        ("relay", ("cascade={base}",), "{base} has no relay to distil, only base"),
        ("base", ("cascade={at}/bare",), "{at}/bare has no base to distil, only a vae"),
        (
            "base",
            ("cascade={vae}",),
            "config.cascade = {vae} has no t5: a student reads its teacher's text features",
        ),
        ("base", ("cascade={at}/nowhere",), "{at}/nowhere"),
        ("base", ("init_from={at}/bare",), "{at}/bare has no base to distil, only a vae"),
        ("base", ("distill.student={at}/nowhere",), "{at}/nowhere"),
        ("relay", ("distill.student={base}",), "{base} has no relay to go on with, only base"),
        (
            "base",
            ("distill.student={whole}",),
            "config.distill.student = {whole} is not told w, it is no student",
        ),
        (
            "base",
            ("distill.student={at}/wide",),
            "config.model.channels = 16, but config.distill.student = {at}/wide has 32",
        ),
        (
            "base",
            ("distill.student={at}/other_vae",),
            "{at}/other_vae has latents of another autoencoder: its scale is",
        ),
        (
            "base",
            ("model.channels=32",),
            (
                "config.model.channels = 32, but the teacher has 16: a student is as large; give"
                " its value"
            ),
        ),
        ("base", ("model.depth=(0,2)",), "config.model.depth = (0, 2), but the teacher has [0, 1]"),
        (
            "base",
            ("data.image_size=64",),
            "config.data gives pictures of 64 pixels a side, the teacher makes 32",
        ),
        (
            "relay",
            ("schedule.start=30",),
            "was trained from T_r = 40, config.schedule.start = 30 is out of its distribution",
        ),
        ("base", ("stage=vae",), "config.stage = 'vae': one of base, relay"),
    ],
)
def test_the_command_refuses_in_one_line(stage, fields, said, places, tmp_path, capsys):
    given = [
        f"data.path={tiny_runs.scenes()}",
        f"cascade={places['whole']}",
        *(field.format(**places) for field in fields),
    ]
    if given[-1].startswith("cascade="):
        del given[1]
    argv = [
        f"--config=scenes_distill_{stage}:tiny",
        "--workdir",
        str(tmp_path / "w"),
        *(f"--config.{field}" for field in given),
    ]
    refused(argv, capsys, said.format(**places))
    assert not list((tmp_path / "w").glob("*"))


def refused(argv: list[str], capsys, said: str) -> None:
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "round_step", lambda *_: pytest.fail("accepted"))
        with pytest.raises(SystemExit) as ended:
            cli.run_command(distill.main, argv)
    lines = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2, lines
    assert len(lines) == 1, lines
    assert said in lines[0]


def test_another_command_s_recipe_has_no_rounds(tmp_path, capsys):
    said = "the config has no distill; take a distillation recipe, such as distill_base"
    refused(tiny_runs.argv("base", tmp_path / "w"), capsys, said)


def test_a_distillation_s_recipe_is_not_trained(tmp_path):
    with pytest.raises(InputError, match="cv3jax distill runs it"):
        train.main(["--config=scenes_distill_base:tiny", "--workdir", str(tmp_path / "w")])
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            f"distill.rounds={rounds({4: 9, 2: 3, 1: 3})}",
            "1_4_steps was made with other values of distill.rounds",
        ),
        ("distill.target=x0", "1_4_steps was made with other values of distill.target"),
        ("seed=5", "1_4_steps was made with other values of seed"),
        ("optim.warmup=1", "1_4_steps was made with other values of optim.warmup"),
        ("data.random_crop=False", "1_4_steps was made with other values of data.random_crop"),
    ],
)
def test_a_finished_round_is_of_one_recipe(change, said, capsys):
    workdir = tiny_runs.distilled("base").workdir
    stamps = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    refused(tiny_runs.distill_argv("base", workdir, change), capsys, said)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == stamps


@pytest.mark.slow
def test_a_round_that_is_lost_is_not_made_up(tmp_path, capsys):
    workdir = tmp_path / "w"
    for name in ("1_4_steps", "3_1_steps"):
        (workdir / "rounds" / name).mkdir(parents=True)
        shutil.copy(
            tiny_runs.distilled("base").workdir / "rounds" / name / "figures.json",
            workdir / "rounds" / name,
        )
    refused(
        tiny_runs.distill_argv("base", workdir),
        capsys,
        f"{workdir}: round 2 is not there, but a later one is; give a new --workdir",
    )


def test_a_workdir_that_is_a_file(tmp_path, capsys):
    (tmp_path / "w").touch()
    refused(tiny_runs.distill_argv("base", tmp_path / "w"), capsys, f"--workdir {tmp_path}/w")
